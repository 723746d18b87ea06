"""Ablation notebooks as commands: a wrong parameter is refused before anything runs, a file is whole or not there, and
a verdict knows which way is better."""
import ast, json, os
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest
from conftest import ROOT
from animrepro.core import UserError
from animrepro.evaluate import METRICS
from animrepro.stats import Interval
from animrepro.sweep import (MEASURES, Bench, compare, notebook_parameters, open_bench, paired_gain, parse_parameter,
    run_notebook, run_variant, verdict)

ABLATIONS = sorted((ROOT / "nbs" / "ablations").glob("*.ipynb"))


@pytest.fixture
def notebook(tmp_path):
    "A notebook with two parameters; it fails for steps = 0."
    cell = lambda source, **metadata: dict(cell_type="code", id=f"c{len(source)}", execution_count=None, metadata=
                                           metadata, outputs=[], source=source)
    cells = [cell("steps = 3\nname = ''", tags=["parameters"]), cell("12 // steps, name")]
    content = dict(cells=cells,
                   metadata=dict(kernelspec=dict(name="python3", display_name="python3", language="python")),
                   nbformat=4, nbformat_minor=5)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "small.ipynb").write_text(json.dumps(content))
    return tmp_path / "in" / "small.ipynb"


def test_unknown_parameter_is_refused(notebook, tmp_path):
    with pytest.raises(UserError, match="no parameter 'step'; did you mean 'steps'"):
        run_notebook(notebook, tmp_path / "out" / "run.ipynb", {"step": "4"})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text, default, value", [("4", 3, 4), ("4", 1.0, 4.0), ("0,1", [0], [0, 1]), ("[2]", [0], [2]),
                                                  ("5", [0], [5]), ("7", "", "7"), ("False", True, False)])
def test_values_have_the_type_of_the_default(text, default, value):
    found = parse_parameter("p", text, default)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text, default", [("many", 3), ("4.5", 3), ("1", True), ("a,b", [0]), ("", 3)])
def test_values_of_another_type_are_refused(text, default):
    with pytest.raises(UserError, match="not like its default"): parse_parameter("p", text, default)


def test_run_then_failure_keeps_the_failed_notebook(notebook, tmp_path):
    out = tmp_path / "out" / "run.ipynb"
    run_notebook(notebook, out, {"steps": "4", "name": "a \"quoted\" \\ name"})
    cells = json.loads(out.read_text())["cells"]
    assert ["".join(o["data"]["text/plain"]) for c in cells for o in c["outputs"]] == [repr((3, 'a "quoted" \\ name'))]
    before = out.read_bytes()
    with pytest.raises(UserError, match="ZeroDivisionError.*run.failed.ipynb") as error:
        run_notebook(notebook, out, {"steps": "0"})
    assert "\n" not in str(error.value)
    assert out.read_bytes() == before, "a failed run must not touch the result of an earlier one"
    assert "ZeroDivisionError" in out.with_name("run.failed.ipynb").read_text()
    assert sorted(p.name for p in out.parent.iterdir()) == ["run.failed.ipynb", "run.ipynb"]
    run_notebook(notebook, out)
    assert [p.name for p in out.parent.iterdir()] == ["run.ipynb"], "a success clears what an earlier failure left"


def test_no_notebook(tmp_path):
    with pytest.raises(UserError, match="no such notebook"): notebook_parameters(tmp_path / "none.ipynb")
    (tmp_path / "text.ipynb").write_text("text")
    with pytest.raises(UserError, match="not a notebook"): notebook_parameters(tmp_path / "text.ipynb")


def test_ablations_have_parameters_that_can_be_set():
    assert ABLATIONS
    for path in ABLATIONS:
        assert {"store", "out", "steps", "seeds", "scale"} <= set(notebook_parameters(path)), path.name


def test_a_sweep_stage_depends_on_all_that_its_notebook_imports():
    "The stage lists what animrepro.sweep imports. That must cover the notebook, whose imports DVC cannot see."
    from test_house import Notebook, below, imported, parse
    covered = below(["animrepro.sweep"])
    staged = (ROOT / "nbs" / "ablations" / "dvc.yaml").read_text(encoding="utf8")
    for nb in map(Notebook, [path for path in ABLATIONS if path.name in staged]):
        used = below({n for c in nb.code for n in imported(ast.Module(parse(c), []), [])})
        assert used <= covered, f"{nb.name}: {sorted(p.name for p in used - covered)}"


# ---- several methods, and metrics of both directions
# ---------------------------------------------------------------------------------

def made_up(offsets: dict) -> SimpleNamespace:
    """What `compare` reads of a bench: made-up rows of runs (variant, seed), which score `offsets` more than the
    same hard and easy clips. Two sources add one."""
    frames = pd.MultiIndex.from_product(
        [(1, 2), [f"clip{i:02}" for i in range(12)], range(5)], names=["sources", "clip",
                                                                       "frame"]).to_frame(index=False)
    hard = np.random.default_rng(0).normal(size=60)
    rows = lambda offset: frames.assign(psnr=20 + offset + np.tile(hard, 2) +
                                        (frames.sources == 2), akd=lambda t: t.psnr / 10).astype(
                                            dict(psnr="float32", akd="float32"))
    return SimpleNamespace(tables={run: rows(offset) for run, offset in offsets.items()})


@pytest.fixture
def bench():
    "k2 of one method and k5 of another; k2 scores 1 more with either seed."
    return made_up({("k2", 0): 1.0, ("k2", 1): 1.2, ("k5", 0): 0.0, ("k5", 1): 0.2, ("copy", 0): -5.0})


def test_a_gain_is_positive_where_the_first_is_better(bench):
    higher, seeds, barred = compare(bench, ("k2", 1), ("k5", 1), "psnr")
    assert higher.value == pytest.approx(1, abs=1e-4) and higher.low > 0 and seeds == pytest.approx(
        [1, 1], abs=1e-4) and higher.clips == 12 and not barred
    lower, seeds, _ = compare(bench, ("k2", 1), ("k5", 1), "akd")  # the same numbers, but less is better
    assert lower.value == pytest.approx(
        -0.1, abs=1e-4) and lower.low <= lower.value <= lower.high < 0 and seeds == pytest.approx([-0.1, -0.1],
                                                                                                  abs=1e-4)
    assert compare(bench, ("k5", 2), ("k2", 1), "akd")[0].value == pytest.approx(0, abs=1e-4)


def test_a_verdict_of_a_distance_turns_the_sign_once(bench):
    words = {m: verdict("k2 is better", *compare(bench, ("k2", 1), ("k5", 1), m), m) for m in ("psnr", "akd")}
    assert words["psnr"].startswith("k2 is better: reproduced (gain +1.00 dB, 95 % interval")
    assert words["akd"].startswith("k2 is better: not tested (the base is clearly worse than copying in this metric;")
    assert "by seed -0.100, -0.100)." in words["akd"]
    judged = verdict("k2 is better", *paired_gain(bench, ("k2", 1), ("k5", 1), "akd"), metric="akd")
    assert judged.startswith("k2 is better: contradicted (gain -0.100 px, 95 % interval")


@pytest.mark.parametrize("metric, numbers", [("psnr", "gain +0.01 dB,"), ("l1", "gain +0.01 levels,"),
                                             ("akd", "gain +0.012 px,"), ("mkr", "gain +0.0123,"),
                                             ("lpips", "gain +0.0123,")])
def test_a_verdict_prints_unit_and_digits(metric, numbers):
    assert numbers in verdict("c", Interval(0.0123, 0.01, 0.02, 40, 99), [0.0123, 0.0123], "", metric)


def test_rows_without_a_value_are_left_out_of_both_sides(bench):
    bench.tables["k2", 0].loc[lambda t: t["clip"] == "clip00", "akd"] = np.nan
    bench.tables["k5", 0].loc[lambda t: t["clip"] == "clip01", "akd"] = np.nan
    gain, seeds, _ = compare(bench, ("k2", 1), ("k5", 1), "akd")
    assert (gain.clips, gain.frames) == (10, 10 * 5 * 2) and gain.value == pytest.approx(-0.1, abs=1e-4)


def test_a_base_worse_than_the_copy_gets_no_verdict():
    offsets = {("k2", 0): 1.0, ("k2", 1): 1.2, ("k5", 0): 0.0, ("k5", 1): 0.2}
    told = {name: verdict("k2 is better", *compare(made_up(offsets | copy), ("k2", 1), ("k5", 1)))
            for name, copy in dict(worse={("copy", 0): 0.5}, none={}).items()}
    assert "not tested (the base does not clearly beat copying (-0.40 [-1.67, +0.87] dB)" in told["worse"]
    assert "not tested (no copy" in told["none"]


def test_variants_without_a_common_seed_cannot_be_compared():
    with pytest.raises(UserError, match="no seed in common"):
        compare(made_up({("a", 0): 0, ("b", 1): 0, ("copy", 0): -5}), ("a", 1), ("b", 1))


def test_every_metric_has_a_direction():
    assert set(MEASURES) == set(METRICS) - {"fid", "video_fid"}, "but for distances of whole sets"
    assert {m for m, measure in MEASURES.items() if measure.better > 0} == {m for m in METRICS if "psnr" in m}


@pytest.fixture
def two_methods(tmp_path, monkeypatch):
    "A bench of two methods whose training only writes down what it was asked for."
    from animrepro.train import signature
    calls = []
    def train(store, method, config, seed, folder, **about):
        mark = signature(method, config, seed, store)
        calls.append((method, folder.name, about["variant"], mark))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights.safetensors").write_text(method)
        (folder / "run.json").write_text(json.dumps(dict(signature=mark, modules=about["modules"])))
    def score(bench, model, folder):
        pd.DataFrame(dict(clip=["a", "a", "b"], frame=[1, 2, 1], sources=1,
                          psnr=[20.0, 21.0, 22.0])).to_parquet(folder / "rows.parquet")
    for name, fake in dict(train=train, score=score, load_weights=lambda path: None).items():
        monkeypatch.setattr(f"animrepro.sweep.{name}", fake)
    monkeypatch.setattr("animrepro.sweep.load_lpips", lambda: (None, "not here"))
    datasets = {"smoke": dict(kind="puppets", scale="smoke", size=16, train=1, test=1, frames=4, seed=7)}
    first = open_bench("", ["implicit_warping", "copy"], "smoke", tmp_path, [1], datasets)
    reopen = lambda methods: Bench(first.path, methods, "smoke", first.evaluate, first.instruments, tmp_path)
    return SimpleNamespace(bench=first, reopen=reopen, calls=calls)


def test_a_bench_holds_variants_of_several_methods(two_methods):
    from animrepro.train import MethodConfig
    bench, calls = two_methods.bench, two_methods.calls
    run_variant(bench, "implicit_warping", "k5", MethodConfig(), 0)
    run_variant(bench, "copy", "k2", MethodConfig(), 0)
    assert [c[:3] for c in calls] == [("implicit_warping", "k5-0", "k5"), ("copy", "k2-0", "k2")]
    scores = pd.read_csv(bench.out / "scores.csv")
    assert scores[["method", "variant"]].drop_duplicates().values.tolist() == [["copy", "copy"],
                                                                               ["implicit_warping", "k5"],
                                                                               ["copy", "k2"]]
    assert scores.run.tolist() == [
        "puppets-smoke-copy-copy-0", "puppets-smoke-implicit_warping-k5-0", "puppets-smoke-copy-k2-0"
    ]
    assert compare(bench, ("k2", 1), ("k5", 1)).interval.value == 0


def test_a_run_is_taken_up_only_by_the_same_method(two_methods):
    from animrepro.train import MethodConfig
    run_variant(two_methods.bench, "implicit_warping", "k5", MethodConfig(), 0)
    run_variant(two_methods.reopen(("copy", "implicit_warping")), "implicit_warping", "k5", MethodConfig(), 0)
    assert len(two_methods.calls) == 1, "the order in which methods are named changes nothing"
    run_variant(two_methods.reopen(("implicit_warping", "copy")), "copy", "k5", MethodConfig(), 0)
    assert [c[0] for c in two_methods.calls] == ["implicit_warping", "copy"]


def test_a_name_is_of_one_method_and_a_method_is_announced(two_methods):
    from animrepro.train import MethodConfig
    run_variant(two_methods.bench, "implicit_warping", "full", MethodConfig(), 0)
    with pytest.raises(UserError, match="full with seed 0 was run before"):
        run_variant(two_methods.bench, "copy", "full", MethodConfig(), 0)
    with pytest.raises(UserError, match="fomm is not a method of this bench"):
        run_variant(two_methods.bench, "fomm", "k2", MethodConfig(), 0)
    assert len(two_methods.calls) == 1


# ---- beside the authors' code
# --------------------------------------------------------------------------------------------------------

def test_reference_is_trained_beside_ours(tmp_path):
    """Notebook 94 with those of the authors' repositories that the variables of tests/test_official.py name. Of the
    others it says what to clone, and trains our side."""
    from test_official import VARIABLES
    notebook = ROOT / "nbs" / "ablations" / "94_reference.ipynb"
    (tmp_path / "clones").mkdir()
    repositories = dict(fomm="first-order-model", tpsmm="Thin-Plate-Spline-Motion-Model")
    named = {m: os.environ[VARIABLES[m]] for m in repositories if os.environ.get(VARIABLES[m])}
    for m, clone in named.items(): (tmp_path / "clones" / repositories[m]).symlink_to(clone, target_is_directory=True)
    values = dict(out=str(tmp_path / "out"), steps="2", seeds="0", timed="1",
                  reference=str(tmp_path / "clones") if named else "")
    done = json.loads(run_notebook(notebook, tmp_path / "run.ipynb", values).read_text())
    said = "".join(t for c in done["cells"] if c["cell_type"] == "code" for o in c["outputs"]
                   for t in o.get("text", []))
    assert [f"clone {r}" in said for r in repositories.values()] == [m not in named for m in repositories]
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert set(scores.variant) == {
        "copy", *repositories, *(f"{m}-{name}" for m in named for name in ("published", "scheduled", "same")),
        *["tpsmm-wide"] * ("tpsmm" in named)
    }
    if not named:
        with pytest.raises(UserError, match="holds neither of first-order-model"):
            run_notebook(notebook, tmp_path / "again.ipynb", values | dict(reference=str(tmp_path / "clones")))
        return
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*/weights.safetensors")}
    run_notebook(notebook, tmp_path / "again.ipynb", values)
    assert before == {p: p.stat().st_mtime_ns for p in before}, "a run that exists is not trained again"
