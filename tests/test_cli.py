"""The command line with good and bad input, as a user meets it: exit codes, one line of error, nothing half-written."""
import json, os, shutil, subprocess, sys
from pathlib import Path
import pytest, torch
from PIL import Image
from conftest import call
from animrepro.checkpoint import load_weights, read_about, save_weights
from animrepro.core import sha256
from animrepro.data.puppets import render, sample_identity, sample_motion
from animrepro.data.video import probe, write_video

ANIMREPRO = str(Path(sys.executable).parent / "animrepro")
PARAMS = """
run: {datasets: [tiny], methods: [implicit_warping], seeds: [0]}
datasets:
  tiny: {kind: puppets, scale: smoke, size: 32, train: 4, test: 2, frames: 8}
methods:
  implicit_warping:
    smoke:
      model: {levels: 2, width: 8, ceiling: 16, features: 16, values: 16, blocks: 1, keypoints: 4, extra: 3}
      loss: {levels: 3}
      train: {steps: 3, batch: 2, lr: 1.0e-3}
landmarks: {size: 32, width: 8, steps: 3}
evaluate: {sources: [1, 2]}
"""


def fresh(folder, *args):
    "In a process that inherits nothing, as from a shell. Most tests fork theirs (`call`), which is ten times as fast."
    return subprocess.run([ANIMREPRO, *map(str, args)], cwd=folder, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    "A project with a prepared data set, trained weights, a picture and a video of 30000/1001 frames per second."
    folder = tmp_path_factory.mktemp("project")
    (folder / "params.yaml").write_text(PARAMS)
    for args in (["data", "prepare",
                  "tiny"], ["landmarks"], ["train", "tiny", "implicit_warping", "--out",
                                           "run"], ["evaluate", "run/weights.safetensors", "tiny", "--out", "scores"]):
        done = fresh(folder, *args)
        assert done.returncode == 0, done.stderr
    frames = render(sample_identity(0), sample_motion(0, 9), 48).frames
    write_video(folder / "driving.mp4", frames, 30000 / 1001)
    Image.fromarray(frames[0]).save(folder / "source.png")
    return folder


def refused(done, *words):
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, f"exit code {done.returncode}\n{done.stderr}"
    assert len(lines) == 1 and lines[0].startswith("animrepro: ") and "Traceback" not in done.stderr, done.stderr
    for word in words: assert word in lines[0], lines[0]


def animate(project, out, weights="run/weights.safetensors", source="source.png", driving="driving.mp4", *more):
    return call(project, "animate", weights, "--source", source, "--driving", driving, "--out", out, *more)


def test_pipeline_leaves_rows_and_scores(project):
    assert {p.name for p in (project / "scores").iterdir()} == {"rows.parquet", "scores.csv", "scored.json"}
    scored, trained = (json.loads((project / name).read_text()) for name in ("scores/scored.json", "run/run.json"))
    assert scored["weights"] == sha256(
        project / "run"
        / "weights.safetensors") and scored["data"] == trained["data"] == sha256(project / "data" / "tiny.zip")
    assert scored["split"] == "test" and {"commit", "clean", "evaluate", "instruments", "seconds"} <= set(scored)
    assert (project / "scores/scores.csv").read_text().startswith(
        "dataset,scale,method,variant,seed,sources,metric,value,low,high,clips,frames,steps,run\n")


def test_scores_on_other_data_do_not_take_the_place_of_a_run(project, tmp_path):
    foreign = tmp_path / "weights.safetensors"
    model, about = load_weights(project / "run/weights.safetensors"), read_about(project / "run/weights.safetensors")
    kept = {k: v for k, v in about.items() if k not in ("config", "method")}
    save_weights(foreign, model, about["method"], **kept | {"scale": "paper"})
    refused(call(project, "evaluate", foreign, "tiny"), "scale paper", "--out")


def test_protocols_of_papers_keep_to_the_split(monkeypatch, tmp_path):
    from animrepro import cli as commands, evaluate
    def asked(*args): raise KeyError(args[-1])
    monkeypatch.setattr(evaluate, "evaluate", asked)
    with pytest.raises(KeyError, match="valid"):
        commands.measure_as("IW", None, None, evaluate.EvaluateConfig(), tmp_path, "valid", torch.device("cpu"))


def test_animate_keeps_count_and_rate(project, tmp_path):
    done = animate(project, tmp_path / "out.mp4", "run/weights.safetensors", "source.png", "driving.mp4", "--frames",
                   tmp_path / "frames", "--mode", "relative", "--source", "source.png")
    assert done.returncode == 0, done.stderr
    made, asked = probe(tmp_path / "out.mp4"), probe(project / "driving.mp4")
    assert made.frames == asked.frames == 9 and made.fps == asked.fps
    assert [p.name for p in sorted((tmp_path / "frames").iterdir())] == [f"{t:05d}.png" for t in range(9)]


def test_animate_writes_gif_and_top_k(project, tmp_path):
    done = animate(project, tmp_path / "out.gif", "run/weights.safetensors", "source.png", "driving.mp4", "--top-k",
                   "4", "--precision", "bf16")
    assert done.returncode == 0 and "bf16: " in done.stderr and " dB" in done.stderr
    assert Image.open(tmp_path / "out.gif").n_frames == 9


def test_without_a_compiler_one_line_says_so(project, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "nothing compiled before"))
    done = fresh(project, "animate", "run/weights.safetensors", "--source", "source.png", "--driving", "driving.mp4",
                 "--out", tmp_path / "out.mp4", "--compile")
    assert done.returncode == 2 and "no C++ compiler" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out.mp4").exists()


def test_codes_alone_are_enough_for_the_same_frames(project, tmp_path):
    codes = tmp_path / "c.codes"
    shown = lambda name: [(tmp_path / name / f"{t:05d}.png").read_bytes() for t in range(9)]
    direct = animate(project, tmp_path / "direct.mp4", "run/weights.safetensors", "source.png", "driving.mp4",
                     "--frames", tmp_path / "direct", "--mode", "relative")
    sent = call(project, "animate", "run/weights.safetensors", "--driving", "driving.mp4", "--codes", codes)
    assert direct.returncode == sent.returncode == 0, direct.stderr + sent.stderr
    assert f"9 frames in {codes.stat().st_size} bytes, {4 * 3 * 32} bits per frame" in sent.stdout
    drawn = call(project, "animate", "run/weights.safetensors", "--source", "source.png", "--from-codes", codes,
                 "--out", tmp_path / "sent.mp4", "--frames", tmp_path / "sent", "--mode", "relative")
    assert drawn.returncode == 0, drawn.stderr
    assert shown("sent") == shown("direct") and probe(tmp_path / "sent.mp4") == probe(tmp_path / "direct.mp4")


def spoil(project, tmp_path, what):
    "A broken copy of an input."
    bad = tmp_path / what
    good = {"video.mp4": project / "driving.mp4", "weights.safetensors": project / "run/weights.safetensors"}.get(what)
    data = good.read_bytes()
    bad.write_bytes(data[:len(data) // 2])
    return bad


BAD = {
    "missing video": lambda p, t: dict(driving="nowhere.mp4"),
    "truncated video": lambda p, t: dict(driving=spoil(p, t, "video.mp4")),
    "empty video": lambda p, t: dict(driving=(t / "empty.mp4", (t / "empty.mp4").touch())[0]),
    "text as video": lambda p, t: dict(driving=(t / "text.mp4", (t / "text.mp4").write_text("no video"))[0]),
    "missing picture": lambda p, t: dict(source="nowhere.png"),
    "text as picture": lambda p, t: dict(source=(t / "text.png", (t / "text.png").write_text("no picture"))[0]),
    "missing weights": lambda p, t: dict(weights="nowhere.safetensors"),
    "truncated weights": lambda p, t: dict(weights=spoil(p, t, "weights.safetensors")),
    "text as weights": lambda p, t: dict(weights=(t / "text.safetensors",
                                                  (t / "text.safetensors").write_text("no weights"))[0]),
    "picture as weights": lambda p, t: dict(weights="source.png"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_to_animate(project, tmp_path, what):
    out, given = tmp_path / "out" / "made.mp4", BAD[what](project, tmp_path)
    refused(animate(project, out, **given), Path(str(list(given.values())[0])).name)
    assert not out.exists() and not list(tmp_path.glob("out/.*"))


def test_weights_of_tensors_that_are_not_ours(project, tmp_path):
    import torch
    from safetensors.torch import save_file
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    refused(animate(project, tmp_path / "out.mp4", tmp_path / "foreign.safetensors"), "foreign.safetensors",
            "not of this project")


def test_pickled_code_is_not_run(project, tmp_path):
    import pickle
    class Bomb:
        def __reduce__(self): return os.system, (f"touch {tmp_path}/exploded",)
    (tmp_path / "bomb.safetensors").write_bytes(pickle.dumps(Bomb()))
    refused(animate(project, tmp_path / "out.mp4", tmp_path / "bomb.safetensors"), "bomb.safetensors")
    assert not (tmp_path / "exploded").exists()


def test_mode_that_the_method_lacks(project, tmp_path):
    refused(
        animate(project, tmp_path / "out.mp4", "run/weights.safetensors", "source.png", "driving.mp4", "--mode", "avd"),
        "absolute or relative")
    assert not (tmp_path / "out.mp4").exists()


def test_unknown_format_and_place(project, tmp_path):
    refused(animate(project, tmp_path / "out.xyz"), ".xyz")
    (tmp_path / "file").touch()
    refused(animate(project, tmp_path / "file" / "out.mp4"), "cannot be written")


def test_device_that_is_not_here(project, tmp_path):
    import torch
    if torch.cuda.is_available(): pytest.skip("this machine has a GPU")
    refused(
        animate(project, tmp_path / "out.mp4", "run/weights.safetensors", "source.png", "driving.mp4", "--device",
                "cuda"), "--device cpu")


@pytest.mark.parametrize(
    "old, new, words",
    [("steps: 3, batch: 2", "stepz: 3, batch: 2",
      ["params.yaml: methods.implicit_warping.smoke.train", "did you mean 'steps'"]),
     ("lr: 1.0e-3", "lr: 1e-3", ["write 1.0e-4, not 1e-4"]),
     ("levels: 2", "levles: 2", ["params.yaml: methods.implicit_warping: model", "did you mean 'levels'"]),
     ("run:", "rum:", ["did you mean 'run'"]),
     ("datasets: [tiny]", "datasets: [tiny", ["params.yaml", "not valid YAML"]), ])
def test_mistakes_in_params(project, tmp_path, old, new, words):
    (tmp_path / "params.yaml").write_text(PARAMS.replace(old, new, 1))
    shutil.copytree(project / "data", tmp_path / "data")
    refused(call(tmp_path, "train", "tiny", "implicit_warping"), *words)
    assert not (tmp_path / "results").exists()


def test_unprepared_data_unknown_method_and_no_project(project, tmp_path):
    refused(call(project, "train", "nothing", "implicit_warping"), "nothing.zip", "animrepro data prepare")
    refused(call(project, "train", "tiny", "explicit_warping"), "explicit_warping")
    refused(call(project, "data", "prepare", "nothing"), "nothing", "--root")
    refused(call(tmp_path, "data", "prepare", "tiny"), "no params.yaml")


def test_click_errors_are_one_line_too(project):
    refused(call(project, "animate"), "animrepro animate: Missing argument")
    refused(call(project, "evaluate", "copy", "tiny", "--sources", "0"), "sources")
    refused(call(project, "dance"), "dance")


def test_full_disk(project, tmp_path):
    "A limit on the size of files stands in for a disk without room."
    limited = f"ulimit -f 1; trap '' XFSZ; exec {ANIMREPRO} train tiny implicit_warping --out {tmp_path}/run"
    done = subprocess.run(["bash", "-c", limited], cwd=project, capture_output=True, text=True)
    refused(done, "cannot be written")
    assert not list(tmp_path.glob("run/weights*")) and not list(tmp_path.glob("run/.*"))


def test_own_folder_becomes_a_data_set(project, tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "mine").mkdir()
    for i in range(4):
        write_video(tmp_path / f"mine/clip{i}.mp4", render(sample_identity(i), sample_motion(i, 6), 48).frames, 10)
    (tmp_path / "mine/broken.mp4").write_text("no video")
    done = call(tmp_path, "data", "prepare", "family", "--root", "mine")
    assert done.returncode == 0 and "broken.mp4" in done.stderr and (tmp_path / "data/family.zip").exists(), done.stderr


def test_real_clips_are_animated(project, shared, tmp_path):
    "A talking head of another size, made to move by a real video; frame count and rate are the video's."
    driving = shared / "data/clips/vox/driving1.mp4"
    done = animate(project, tmp_path / "out.mp4", "run/weights.safetensors", shared / "data/clips/vox/macron.png",
                   driving)
    assert done.returncode == 0, done.stderr
    made, asked = probe(tmp_path / "out.mp4"), probe(driving)
    assert (made.frames, made.fps) == (asked.frames, asked.fps)


def test_samples_can_be_animated(project, tmp_path):
    "The first commands of README, with weights at hand."
    written = call(project, "samples", tmp_path / "try").stdout.split()
    assert [Path(p).name for p in written] == ["puppet-1.png", "puppet-2.png", "puppet-3.png", "driving.mp4"]
    done = call(project, "animate", "run/weights.safetensors", "--source", written[0], "--source", written[1],
                "--driving", written[3], "--out", tmp_path / "out.mp4")
    assert done.returncode == 0 and (tmp_path / "out.mp4").stat().st_size > 1000
