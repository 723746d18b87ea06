"`animrepro bench`, its table and its figure, on the smallest models: that they are whole, not how fast anything is."
import json, os
import pandas as pd, pytest, torch
from PIL import Image
from animrepro.authors import REPOSITORIES, checkout, their_frame
from animrepro.bench import COLUMNS, Setting, bench as measure
from animrepro.cli import main
from animrepro.core import UserError
from animrepro.models.contract import methods
from animrepro.evidence import read_evidence
from animrepro.tables import read_speed, write_blocks
from animrepro.train import MethodConfig

METHODS = {name: cls for name, cls in methods().items() if name != "copy"}

PARAMS = """
run: {datasets: [tiny], methods: [fomm], seeds: [0]}
datasets: {tiny: {kind: puppets, scale: smoke, size: 32, train: 4, test: 2, frames: 8}}
methods:
  fomm:
    smoke:
      model: {keypoints: 3, width: 8, levels: 2, ceiling: 16, padding: 3, step: 2, motion_width: 8, motion_levels: 2,
              motion_ceiling: 16, features: 8, features_ceiling: 16, blocks: 1, norm: group}
      loss: {network: pixels, levels: 3}
      train: {steps: 20, batch: 4, sources: 1}
landmarks: {}
evaluate: {sources: [1]}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    (folder / "params.yaml").write_text(PARAMS)
    return folder


def bench(project, *args) -> int:
    "Exit code of `animrepro bench` in the project."
    before = os.getcwd()
    os.chdir(project)
    try:
        with pytest.raises(SystemExit) as stop: main(["bench", *args])
    finally: os.chdir(before)
    return stop.value.code or 0


@pytest.fixture(scope="module")
def measured(project):
    "The table of one method's frames and training steps."
    assert bench(project, "fomm", "--scale", "smoke", "--size", "32", "--train", "--keypoints",
                 "--device", "cpu") == 0
    return pd.read_csv(project / "results" / "run" / "speed.csv")


@pytest.mark.skipif(torch.cuda.is_available(), reason="training would take the GPU")
def test_table_and_figure_are_whole(project, measured):
    assert tuple(measured) == COLUMNS
    assert measured["work"].tolist() == ["frame", "training step"] and measured["batch"].tolist() == [1, 4]
    for column in ("seconds", "spread", "per_second", "gflop", "limit", "memory_gib", "convolution_rate"):
        assert (measured[column] > 0).all(), column
    frame = measured.iloc[0]
    assert 1 / frame["seconds"] == pytest.approx(frame["per_second"], rel=1e-4)
    assert frame["limit"] == pytest.approx(
        frame["seconds"] / frame["gflop"] * max(frame["convolution_rate"], frame["product_rate"]), rel=1e-4)
    assert measured["gflop"][1] > 3 * 4 * frame["gflop"], "four pictures, forward and backward"
    with Image.open(project / "results" / "run" / "speed.png") as picture: picture.load()
    assert not list((project / "results" / "run").glob(".*part*"))


@pytest.mark.parametrize("args, word", [
    (["nobody", "--scale", "smoke"], "nobody"),
    (["fomm", "--scale", "huge"], "methods.fomm.huge"),
    (["--scale", "huge"], "--scale huge"),
    (["fomm", "--precision", "fp8"], "fp8"),
])
def test_bad_input(project, tmp_path, capsys, args, word):
    assert bench(project, *args, "--out", str(tmp_path / "speed.csv")) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("animrepro: ") and word in said[0]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_clone_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ANIMREPRO_REFERENCE_FOMM", str(tmp_path))
    with pytest.raises(UserError, match="name a clone of github.com/AliaksandrSiarohin"): checkout("fomm")


@pytest.mark.skipif(torch.cuda.is_available(), reason="training would take the GPU")
def test_the_record_shows_the_table(project, measured, tmp_path):
    "Markdown, LaTeX and CSV; from the CSV of the record the same bytes follow again."
    (tmp_path / "run").mkdir()
    measured.to_csv(tmp_path / "run" / "speed.csv", index=False)
    cost = json.loads((project / "results" / "run" / "speed.json").read_text())
    assert cost["fomm_low"] <= cost["fomm"] <= cost["fomm_high"] and (cost["few"], cost["many"]) == (10, 40)
    (tmp_path / "run" / "speed.json").write_text(json.dumps(cost))
    write_blocks(tmp_path / "record" / "tables", read_evidence(tmp_path / "run"), None)
    write_blocks(tmp_path / "again", read_evidence(tmp_path / "record"), None)
    for kind in ("md", "tex", "csv", "json"):
        first, again = tmp_path / "record" / "tables" / f"speed.{kind}", tmp_path / "again" / f"speed.{kind}"
        assert first.read_bytes() == again.read_bytes(), kind
    text = (tmp_path / "again" / "speed.md").read_text()
    assert "FOMM" in text and "times the limit" in text and "training step" in text
    assert f"{cost['fomm']:.2f} [{cost['fomm_low']:.2f}, {cost['fomm_high']:.2f}]" in text
    assert len(read_speed(tmp_path / "record")) == 2
    assert not (tmp_path / "nothing").exists() and read_speed(tmp_path / "nothing").empty


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_measured(method, monkeypatch):
    monkeypatch.setattr("animrepro.bench.memory_of", lambda *about: 0.1)
    setting = Setting(method, MethodConfig(METHODS[method].smallest), 32)
    row, = measure(setting, {"convolution": 1.0, "product": 2.0}, rounds=2)
    assert row["gflop"] > 0 and row["limit"] == pytest.approx(2.0 * row["seconds"] / row["gflop"])


@pytest.mark.parametrize("method", REPOSITORIES)
def test_authors_draw_a_frame(method):
    if not (folder := checkout(method)): pytest.skip(f"ANIMREPRO_REFERENCE_{method.upper()} names no clone")
    source, driving = torch.rand(2, 1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(): frame = their_frame(method, folder, source, driving)()
    assert frame.shape == (1, 3, 128, 128) and frame.isfinite().all()
