"""A stranger's method: the class of the lesson in 40_models.contract, put into a module of its own, goes from training
to figures without another line of code."""
import importlib, json, sys
import numpy as np, pandas as pd, pytest, torch, yaml
import animrepro.models
from conftest import ROOT
from animrepro.checkpoint import load_weights
from animrepro.core import UserError, load_params
from animrepro.data.catalog import dataset_entry, prepare
from animrepro.data.store import FrameStore
from animrepro.evaluate import EvaluateConfig, Instruments, evaluate, save_rows, save_table, summarise
from animrepro.figures.frames import colour_of, continuity_figure, marker_of
from animrepro.figures.scores import curves_figure, sources_figure
from animrepro.figures.write import write_figures
from animrepro.models.contract import create_model, method_class, methods
from animrepro.evidence import place, title_of
from animrepro.tables import write_tables
from animrepro.train import check_run, method_config, train

PARAMS = """
run: {datasets: [tiny], methods: [fomm, one_map], seeds: [0]}
datasets: {tiny: {kind: puppets, scale: smoke, size: 32, train: 4, test: 3, frames: 8, seed: 7}}
methods:
  one_map: {smoke: {model: {width: 8}, loss: {levels: 2}, train: {steps: 4, batch: 2, sources: 1}}}
landmarks: {}
evaluate: {sources: [1, 2]}
"""


def lesson() -> str:
    "The import cell and the class of the lesson: the whole method."
    cells = [
        "".join(c["source"])
        for c in json.loads((ROOT / "nbs" / "40_models.contract.ipynb").read_text(encoding="utf8"))["cells"]
    ]
    at = next(i for i, cell in enumerate(cells) if "class OneMap(Animator)" in cell)
    return f"{cells[at - 1]}\n\n{cells[at]}\n"


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    "A module `one_map` that animrepro.models finds, as if a notebook had exported it."
    folder = tmp_path_factory.mktemp("strangers")
    (folder / "one_map.py").write_text(lesson(), encoding="utf8")
    animrepro.models.__path__.append(str(folder))
    importlib.invalidate_caches()
    yield "one_map"
    animrepro.models.__path__.remove(str(folder))
    sys.modules.pop("animrepro.models.one_map", None)


@pytest.fixture(scope="module")
def project(stranger, tmp_path_factory):
    "A project that trains and scores it beside FOMM."
    root, known = tmp_path_factory.mktemp("project"), yaml.safe_load(PARAMS)
    known["methods"]["fomm"] = {
        "smoke": dict(model={
            k: v
            for k, v in method_class("fomm").smallest.items() if k != "size"
        }, loss=dict(levels=2), train=dict(steps=2, batch=2, sources=1))
    }
    (root / "params.yaml").write_text(yaml.safe_dump(known))
    params, data, run = load_params(root / "params.yaml"), root / "data" / "tiny.zip", root / "results" / "run"
    check_run(params)
    prepare("tiny", dataset_entry("tiny", params.datasets), data)
    store, models = FrameStore(data), {"copy": create_model("copy")}
    for method in params.run.methods:
        models[method] = load_weights(
            train(store, method, method_config(params.methods, method, "smoke"), 0, run / "train" / f"tiny-{method}-0"))
    for method, model in models.items():
        rows, folder = evaluate(model, store, EvaluateConfig(sources=(1, 2)), Instruments(),
                                puppets=True), run / "evaluate" / f"tiny-{method}-0"
        save_rows(folder / "rows.parquet", rows)
        save_table(
            folder / "scores.csv",
            summarise(rows, dataset="puppets", scale="smoke", method=method, variant="full", seed=0, steps=2,
                      run=f"puppets-smoke-{method}-0"))
    return root


def test_the_lesson_is_short():
    assert len([line for line in lesson().splitlines() if line.strip()]) < 60


def test_a_new_method_is_known_by_its_name_alone(stranger):
    assert list(
        methods())[-1] == stranger and title_of(stranger) == "One affine map" and colour_of(stranger) == "#7F7F7F"
    with pytest.raises(UserError, match="no such method; known are .*, one_map$"): method_class("two_maps")


def test_a_new_method_is_in_tables_and_figures(project):
    write_tables(project)
    write_figures(project)
    run = project / "results" / "run"
    for table in ("iw_table1", "iw_table2", "cross", "gains"):
        assert "One affine map" in (run / "tables" / f"{table}.md").read_text(encoding="utf8"), table
    gains = pd.read_csv(run / "tables" / "gains.csv")
    assert {("fomm", "method=one_map"), ("one_map", "method=copy")} <= set(zip(gains["method"], gains["minus"]))
    assert {f"tiny_{name}.png"
            for name in ("reconstruction", "sources", "continuity", "curves", "gap", "probe")
            } <= {p.name
                  for p in (run / "figures").iterdir()}
    assert "one_map" in json.loads((run / "tables" / "headline.json").read_text())["puppets-smoke"]


def test_many_methods_are_told_apart(stranger):
    "Every method of the registry at once: own colour, own mark, and a legend that stays on the page."
    names = [m for m in methods() if m != "copy"]
    assert len({(colour_of(m), marker_of(m)) for m in names}) == len(names) >= 5 and sorted(names, key=place) == names
    scores = pd.DataFrame([
        dict(method=m, seed=0, sources=n, metric=k, value=5.0, low=4.0, high=7.0) for m in (*names, "copy")
        for n in (1, 2, 3) for k in ("psnr", "jitter")
    ])
    lines, copy = scores[scores.method != "copy"], scores[scores.method == "copy"]
    curve = pd.DataFrame(dict(step=np.arange(5), perceptual=np.linspace(2, 1, 5)))
    for fig in (sources_figure(lines, copy, lines), curves_figure({(m, 0): curve for m in names})):
        fig.canvas.draw()
        box, page = fig.legends[0].get_window_extent(), fig.bbox
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and {t.get_text()
                                                            for t in fig.legends[0].get_texts()
                                                            } >= {title_of(m)
                                                                  for m in names}
