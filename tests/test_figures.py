"write_figures makes every file that the README and the claims refer to."
import json
import pytest
from PIL import Image
from animrepro.core import UserError, load_params
from animrepro.data.catalog import dataset_entry, prepare
from animrepro.data.store import FrameStore
from animrepro.evaluate import EvaluateConfig, Instruments, evaluate, save_table, summarise
from animrepro.checkpoint import load_weights
from animrepro.figures import write_figures
from animrepro.models.contract import create_model
from animrepro.train import method_config, train

PARAMS = """
run: {datasets: [tiny], methods: [implicit_warping], seeds: [0, 1]}
datasets: {tiny: {kind: puppets, scale: smoke, size: 32, train: 4, test: 3, frames: 8, seed: 7}}
methods:
  implicit_warping:
    smoke:
      model: {keypoints: 5, width: 16, levels: 2, ceiling: 16, features: 16, values: 16, blocks: 1, extra: 4}
      loss: {network: pixels, levels: 2}
      train: {steps: 2, batch: 2}
landmarks: {}
evaluate: {sources: [1, 2, 3]}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    "A project with data, two trainings and scores, all tiny."
    root = tmp_path_factory.mktemp("project")
    (root / "params.yaml").write_text(PARAMS)
    params, data = load_params(root / "params.yaml"), root / "data" / "tiny.zip"
    prepare("tiny", dataset_entry("tiny", params.datasets), data)
    store, config, run = FrameStore(data), method_config(params.methods, "implicit_warping", "smoke"), root / "results" / "run"
    models = {("copy", 0): create_model("copy")}
    for seed in (0, 1): models["implicit_warping", seed] = load_weights(train(store, "implicit_warping", config, seed, run / "train" / f"tiny-implicit_warping-{seed}"))
    for (method, seed), model in models.items():
        rows = evaluate(model, store, EvaluateConfig(), Instruments(), puppets=True)
        save_table(run / "evaluate" / f"tiny-{method}-{seed}" / "scores.csv", summarise(rows, dataset="puppets", scale="smoke", method=method, variant="full", seed=seed, steps=2, run="r"))
    return root


@pytest.fixture(scope="module")
def figures(project):
    write_figures(project)
    return project / "results" / "run" / "figures"


def test_every_figure_is_there(figures):
    pictures = ("reconstruction", "choice", "strengths", "sparsity", "curves", "sources")
    assert {p.name for p in figures.iterdir()} == {f"tiny_{n}.png" for n in pictures} | {"tiny_animation.gif", "tiny_sparsity.json", "tiny_strengths.json"}
    for name in pictures:
        with Image.open(figures / f"tiny_{name}.png") as picture: assert min(picture.size) > 150 and round(picture.info["dpi"][0]) == 150


def test_animation_has_all_frames_and_loops(figures):
    with Image.open(figures / "tiny_animation.gif") as gif: assert (gif.n_frames, gif.info["loop"], gif.info["duration"]) == (8, 0, 80)
    assert (figures / "tiny_animation.gif").stat().st_size < 1_500_000


def test_numbers_beside_the_pictures(figures):
    sparsity = json.loads((figures / "tiny_sparsity.json").read_text())
    assert sparsity["keys"] == 3 * 8 * 8 + 4 and 1 <= sparsity["keys_for_90_percent"] <= sparsity["keys"]
    assert {"psnr_full", *(f"psnr_top_{k}" for k in (1, 2, 4, 8, 16))} <= set(sparsity)
    strengths = json.loads((figures / "tiny_strengths.json").read_text())
    assert strengths["compared"] <= strengths["on_a_landmark"] <= strengths["keypoints"] == 5 and {"correlation", "low", "high"} <= set(strengths)


def test_figures_are_deterministic(project, figures):
    before = {p.name: p.read_bytes() for p in figures.iterdir()}
    write_figures(project)
    assert before == {p.name: p.read_bytes() for p in figures.iterdir()}


def test_what_is_missing_is_named(project):
    scores = project / "results" / "run" / "evaluate" / "tiny-copy-0" / "scores.csv"
    kept = scores.read_text()
    scores.unlink()
    try:
        with pytest.raises(UserError, match="tiny-copy-0.*run `animrepro evaluate`"): write_figures(project)
    finally: scores.write_text(kept)
