"""Running a notebook and saving it is no change. JupyterLab, opened by `make lab`, saves a notebook as it is to be
stored; the git filter that `make setup` installs does the same for other editors, whenever git looks at the file."""
import json, runpy, shutil, subprocess
import pytest
from conftest import BIN, ROOT

NBS = ROOT / "nbs"
NOTEBOOKS = sorted(p for p in NBS.rglob("*.ipynb") if not any(part[0] in "._" for part in p.relative_to(NBS).parts))
clean = runpy.run_path(str(ROOT / ".ci" / "clean"))["clean"]


def as_saved(text: str) -> dict:
    "A notebook after running: counts, the kernel's description, times of execution, the state of widgets."
    saved = json.loads(text)
    saved["metadata"] |= {"language_info": {"name": "python", "version": "3.99"}, "widgets": {"state": {}}}
    for i, cell in enumerate(saved["cells"]):
        cell["metadata"]["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
        if cell["cell_type"] != "code": continue
        cell["execution_count"] = i
        for output in cell["outputs"]:
            if "execution_count" in output: output["execution_count"] = i
        data = {"application/vnd.jupyter.widget-view+json": {"model_id": "0"}, "text/plain": ["Studio()"]}
        cell["outputs"].append({"output_type": "display_data", "data": data, "metadata": {}})
    return saved


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.relative_to(NBS).as_posix())
def test_what_saving_adds_is_taken_away(path):
    text = path.read_text(encoding="utf8")
    assert clean(as_saved(text), path.relative_to(ROOT).as_posix()) == text


@pytest.fixture
def clone(tmp_path):
    "A repository with three notebooks, set up as `make setup` does, and git in it."
    git = lambda *words: subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True, text=True
                                        ).stdout
    names = ["index.ipynb", "apps/animate.ipynb", "ablations/91_iw_sources.ipynb"]
    for name in (".gitattributes", ".gitconfig", ".ci/clean", *(f"nbs/{n}" for n in names)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    git("init", "-q")
    (tmp_path / ".git" / "info" / "exclude").write_text(".venv\n.ipynb_checkpoints\n")
    (tmp_path / ".venv").symlink_to(BIN.parent)
    git("config", "include.path", "../.gitconfig")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "one")
    return tmp_path, git, names


def test_jupyterlab_saves_what_is_stored(clone):
    "Run all, save: then `git status` is empty."
    from jupyter_server.services.contents.largefilemanager import LargeFileManager
    from traitlets.config import PyFileConfigLoader
    root, git, names = clone
    manager = LargeFileManager(root_dir=str(root / "nbs"),
                               config=PyFileConfigLoader(str(ROOT / ".ci" / "jupyter_server_config.py")).load_config())
    for name in names:
        content = as_saved((root / "nbs" / name).read_text(encoding="utf8"))
        manager.save(dict(type="notebook", format="json", content=content), name)
        assert (root / "nbs" / name).read_bytes() == (ROOT / "nbs" / name).read_bytes()
    assert git("status", "--porcelain") == ""


def test_other_editors_have_nothing_to_commit(clone):
    root, git, names = clone
    for name in names:
        path = root / "nbs" / name
        path.write_text(json.dumps(as_saved(path.read_text(encoding="utf8")), indent=1) + "\n")
    assert git("diff") == ""
    git("add", ".")
    assert git("status", "--porcelain") == ""
