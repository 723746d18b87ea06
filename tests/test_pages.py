"What a visitor reads: links lead somewhere, the map names every notebook, lines fit a screen."
import json, re
from pathlib import Path
import pytest
from conftest import ROOT

NBS = ROOT / "nbs"
NOTEBOOKS = sorted(p for p in NBS.rglob("*.ipynb") if not any(part[0] in "._" for part in p.relative_to(NBS).parts))
FIGURES = ROOT / "results" / "record" / "figures"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "results" / "record").rglob("*.md"))]
# Notebooks and tests whose code was wrapped at 120 columns. The others follow when they are next rewritten.
WRAPPED = ["82_readme.ipynb", "89_studio.ipynb", "apps/animate.ipynb", "apps/study.ipynb", "index.ipynb"]


def prose(path: Path) -> str:
    "Markdown of a page, or of the cells and the stored Markdown outputs of a notebook, without code."
    if path.suffix == ".md": text = path.read_text(encoding="utf8")
    else:
        cells = json.loads(path.read_text(encoding="utf8"))["cells"]
        shown = [
            o["data"]["text/markdown"] for c in cells for o in c.get("outputs", [])
            if "text/markdown" in o.get("data", {})
        ]
        text = "\n\n".join("".join(s) for s in [c["source"] for c in cells if c["cell_type"] == "markdown"] + shown)
    return re.sub(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$", "", text, flags=re.S)


def anchors(path: Path) -> set:
    "Places in a page that a link may name: `<a id>` and headings, as GitHub spells them."
    text = path.read_text(encoding="utf8") if path.suffix == ".md" else prose(path)
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return set(re.findall(r'<a id="([^"]+)"',
                          text)) | {re.sub(r"[^\w -]", "", h.lower()).strip().replace(" ", "-")
                                    for h in heads}


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    broken = []
    for target in re.findall(r"\]\(([^()\s]+(?:\([^()\s]*\)[^()\s]*)*)\)", prose(path)):
        if re.match(r"(https?|mailto):", target): continue
        name, _, place = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or not file.is_relative_to(ROOT): broken.append(f"{target}: no such file")
        elif place and file.suffix in (".md", ".ipynb") and place not in anchors(file):
            broken.append(f"{target}: no such place there")
    assert not broken, f"{path.relative_to(ROOT)}: links are relative to the file that has them\n  " + "\n  ".join(
        broken)


def test_the_map_names_every_notebook():
    linked = {(NBS / t).resolve() for t in re.findall(r"\]\(([^)\s]+\.ipynb)\)", prose(NBS / "index.ipynb"))}
    missing = [p.relative_to(NBS).as_posix() for p in NOTEBOOKS if p not in linked and p.name != "index.ipynb"]
    assert not missing, f"nbs/index.ipynb links every notebook; it lacks {', '.join(missing)}"


def test_every_figure_of_record_is_shown():
    shown = "".join(p.read_text(encoding="utf8") for p in [*PAGES, *NOTEBOOKS])
    figures = [p.name for p in FIGURES.glob("*") if p.suffix in (".png", ".gif")]
    assert [name for name in figures if name not in shown] == []


def shown_of_record(path: Path) -> set:
    "Names of the figures of record that a notebook embeds."
    pictures = re.findall(r"!\[[^\]]+\]\(([^()\s]+)\)", prose(path))
    return {file.name for t in pictures if (file := (path.parent / t).resolve()).parent == FIGURES and file.is_file()}


def test_notebooks_show_what_trained_models_do():
    shown = {p.relative_to(NBS).as_posix(): shown_of_record(p) for p in NOTEBOOKS}
    assert len(set().union(*shown.values())) >= 20
    need = [name for name in shown if re.match(r"4[1-8]_models\.|papers/", name)]
    assert need and [name for name in need if not shown[name]] == []


def test_ablations_end_on_their_record():
    for path in sorted((NBS / "ablations").glob("*.ipynb")):
        last = "".join(json.loads(path.read_text(encoding="utf8"))["cells"][-1]["source"])
        assert last.startswith("## On record\n"), f"{path.name} ends on the table and the figures of its record"
        assert re.search(r"\]\(\.\./\.\./results/record/(tables/\w+\.md|scores\.csv)\)", last), path.name


def test_lines_fit_a_screen():
    long = [
        f"{name}: {line[:60]} … ({len(line)})" for name in WRAPPED
        for c in json.loads((NBS / name).read_text(encoding="utf8"))["cells"] if c["cell_type"] == "code"
        for line in "".join(c["source"]).splitlines() if len(line) > 120
    ]
    assert not long, "lines of code have 120 columns at most\n  " + "\n  ".join(long)
