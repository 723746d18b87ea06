"""A campaign against the command line. Bad input to every command: exit code 2, one line that names the culprit and
says what to do, nothing left behind. Kills at random moments: the same command completes and gives the bytes of an
uninterrupted run. The short form runs with all other tests; `pytest -m campaign` runs the long one and writes its
counts into results/record."""
import io, json, os, shutil, signal, struct, time, zipfile, zlib
from collections import Counter
from fractions import Fraction
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from conftest import ROOT, call, start
from animrepro.core import rng

METHOD = "fomm"
PARAMS = """
run: {datasets: [tiny], methods: [fomm], seeds: [0]}
datasets:
  tiny: {kind: puppets, scale: smoke, size: 32, train: 4, test: 2, frames: 8}
  listed: {kind: videos, scale: smoke, size: 32, metadata: {list.csv: null}, root: web}
  packed: {kind: archive, scale: smoke, size: 32, archives: {"http://127.0.0.1:9/packed.zip": null}, root: web}
methods:
  fomm:
    smoke:
      model: {keypoints: 3, width: 8, levels: 2, ceiling: 16, padding: 3, step: 2, motion_width: 8, motion_levels: 2,
              motion_ceiling: 16, features: 8, features_ceiling: 16, blocks: 1, norm: group}
      loss: {network: pixels, levels: 3}
      train: {steps: 12, batch: 2, sources: 1, lr: 1.0e-3, save_every: 2}
landmarks: {size: 32, width: 8, steps: 3}
evaluate: {sources: [1, 2]}
"""
WEIGHTS = f"results/run/train/tiny-{METHOD}-0/weights.safetensors"


# ---- commands in processes that start at once
# ----------------------------------------------------------------------------------------

def run(folder: Path, *arguments, **how):
    "Exit code and lines on the error stream of a command."
    ended = call(folder, *arguments, **how)
    return ended.returncode, ended.stderr.splitlines()


def done(folder: Path, *arguments):
    code, lines = run(folder, *arguments)
    assert code == 0, "\n".join([f"{arguments}: exit code {code}", *lines])


def values(data: bytes) -> str:
    "What a file of torch holds. Its bytes also tell which strings were one object, which loading changes."
    flat = lambda x: {k: flat(v) for k, v in x.items()} if isinstance(x, dict) else (
        [*map(flat, x)] if isinstance(x, (list, tuple)) else
        (str(x.dtype), x.shape, x.contiguous().numpy().tobytes()) if isinstance(x, torch.Tensor) else x)
    return repr(flat(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)))


def content(folder: Path) -> dict:
    "Bytes by name of all files and links below a folder. Times and places of a run record are left out."
    found = {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b""
        for p in sorted(folder.rglob("*")) if p.is_file() or p.is_symlink()
    }
    # LOG.md tells the history of a record, so a record that was made in two goes may tell of both.
    return {
        name: values(data) if name.endswith("beside.pt") else steady(data) if name.endswith(("run.json", "scored.json"))
        or any(p in name for p in ("/runs/", "/evaluations/")) and name.endswith(".json") else data
        for name, data in found.items() if not name.endswith(("evidence.json", "LOG.md"))
    }


def steady(record: bytes) -> bytes:
    return json.dumps({
        k: v
        for k, v in json.loads(record).items()
        if k not in ("seconds", "peak_memory_gib", "resumed_at", "commits", "command")
    }).encode()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    "A project with data, weights, scores, a picture and a video."
    from animrepro.data.puppets import render, sample_identity, sample_motion
    from animrepro.data.video import write_video
    folder = tmp_path_factory.mktemp("campaign") / "project"
    folder.mkdir()
    (folder / "params.yaml").write_text(PARAMS)
    for command in STAGES.values(): done(folder, *command)
    frames = render(sample_identity(0), sample_motion(0, 40), 64).frames
    write_video(folder / "driving.mp4", frames, Fraction(25))
    Image.fromarray(frames[0]).save(folder / "source.png")
    done(folder, "animate", WEIGHTS, "--driving", "driving.mp4", "--codes", "made.codes")
    return folder


# ---- bad input
# ----------------------------------------------------------------------------------------------------------------------

def data(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def shortened(path, share=None, less=0):
    "Cuts a file."
    whole = path.read_bytes()
    path.write_bytes(whole[:int(len(whole) * share) if share else len(whole) - less])


def params(old: str, new: str):
    return lambda p: data(p / "params.yaml", (p / "params.yaml").read_text().replace(old, new, 1))


def told(about=None, tensors=None):
    "Weights that say `about` of themselves: text, or values that replace those of the good file."
    def spoil(p):
        from safetensors import safe_open
        from safetensors.torch import save_file
        with safe_open(p / WEIGHTS, "pt") as f:
            good, state = json.loads(f.metadata()["animrepro"]), {k: f.get_tensor(k) for k in f.keys()}
        text = about if isinstance(about, str) else json.dumps({
            k: v
            for k, v in {
                **good,
                **(about or {})
            }.items() if v is not ...
        })
        save_file(tensors(state) if tensors else state, p / WEIGHTS, {"animrepro": text})
    return spoil


def coded(tensors=lambda s: s, **about):
    "A file of motion codes that says `about` of itself, or whose tensors are changed."
    def spoil(p):
        from safetensors import safe_open
        from safetensors.torch import save_file
        with safe_open(p / "made.codes", "pt") as f:
            good, state = json.loads(f.metadata()["animrepro codes"]), {k: f.get_tensor(k) for k in f.keys()}
        save_file(tensors(state), p / "made.codes", {"animrepro codes": json.dumps({**good, **about})})
    return spoil


def sized(**config):
    return lambda p: told(
        dict(config={
            **json.loads((p / WEIGHTS).parent.joinpath("run.json").read_text())["config"]["model"], "size": 32,
            **config
        }))(p)


def store(change):
    "A frame store whose members `change` replaces (None takes one out)."
    def spoil(p):
        path = p / "data/tiny.zip"
        with zipfile.ZipFile(path) as archive: members = {n: archive.read(n) for n in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in {**members, **change(members)}.items():
                if content is not None: archive.writestr(name, content)
    return spoil


def index(**change): return store(lambda m: {"index.json": json.dumps({**json.loads(m["index.json"]), **change})})


def flipped(p):
    path = p / "data/tiny.zip"
    whole = bytearray(path.read_bytes())
    for at in range(60, len(whole) // 2, 40): whole[at] ^= 16
    path.write_bytes(whole)


def png(width: int, height: int) -> bytes:
    "A PNG file that claims a size and holds next to nothing."
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(
        b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def notebook(source: str, tags=("parameters",)):
    cells = [dict(cell_type="code", metadata=dict(tags=list(tags)), source=source, outputs=[], execution_count=None)]
    return lambda p: data(p / "n.ipynb", json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=4)))


def encrypted(p):
    "A zip archive whose only member says that it is encrypted."
    data(p / "web/packed.zip")
    with zipfile.ZipFile(p / "web/packed.zip", "w") as archive: archive.writestr("train/a.mp4", b"x" * 100)
    whole = bytearray((p / "web/packed.zip").read_bytes())
    whole[6] |= 1
    whole[whole.index(b"PK\1\2") + 8] |= 1
    data(p / "web/packed.zip", bytes(whole))


def unpackable(change):
    def spoil(p):
        data(p / "web/packed.zip")
        with zipfile.ZipFile(p / "web/packed.zip", "w") as archive: change(archive)
    return spoil


def compressed(p):
    unpackable(lambda a: a.writestr("train/a.mp4", b"x" * 100))(p)
    whole = bytearray((p / "web/packed.zip").read_bytes())
    whole[8], whole[whole.index(b"PK\1\2") + 10] = 97, 97  # no compression of this number is known
    data(p / "web/packed.zip", bytes(whole))


ANIMATE = ["animate", WEIGHTS, "--source", "source.png", "--driving", "driving.mp4", "--out", "out/made.mp4"]
RECEIVE = ["animate", WEIGHTS, "--source", "source.png", "--from-codes", "made.codes", "--out", "out/made.mp4"]
TRAIN, EVALUATE = ["train", "tiny", METHOD, "--out", "out"], ["evaluate", WEIGHTS, "tiny", "--out", "out"]
RESUME, LANDMARKS = ["train", "tiny", METHOD, "--out", "kept", "--resume"], ["landmarks", "--out", "out"]
LISTED, PACKED = ["data", "prepare", "listed"], ["data", "prepare", "packed"]
MINE, SWEEP = ["data", "prepare", "mine", "--root", "clips"], ["sweep", "n.ipynb", "--out", "out.ipynb"]
nothing = lambda p: None


def but(command: list, **given) -> list:
    "The command with other values of its options, or of an argument that is named by the value that it has."
    words = list(command)
    for name, value in given.items(): words[words.index(f"--{name}") + 1] = value
    return words


# name: (what is done to a copy of the project, command, what the answer must name)
BAD = {
    # animate: videos
    "no video": (nothing, but(ANIMATE, driving="none.mp4"), "none.mp4"),
    "video cut at half": (lambda p: shortened(p / "driving.mp4", 0.5), ANIMATE, "driving.mp4"),
    "video cut at 99 %": (lambda p: shortened(p / "driving.mp4", 0.99), ANIMATE, "driving.mp4"),
    "video without its last byte": (lambda p: shortened(p / "driving.mp4", less=1), ANIMATE, "driving.mp4"),
    "empty video": (lambda p: data(p / "driving.mp4"), ANIMATE, "driving.mp4"),
    "text as video": (lambda p: data(p / "driving.mp4", "no video" * 99), ANIMATE, "driving.mp4"),
    "picture as video": (nothing, but(ANIMATE, driving="source.png"), "source.png"),
    "folder without frames as video": (lambda p: (p / "frames").mkdir(), but(ANIMATE, driving="frames"), "frames"),
    "frames of two sizes": (
        lambda p: [data(p / f"frames/{i}.png", (p / "source.png").read_bytes()) for i in range(3)]
        + [Image.new("RGB", (9, 9)).save(p / "frames/1.png")], but(ANIMATE, driving="frames"), "frames"),
    "video of absurd size": (
        lambda p: data(p / "a.y4m", "YUV4MPEG2 W60000 H60000 F25:1 Ip A1:1 C420jpeg\nFRAME\n" + "x" * 999),
        but(ANIMATE, driving="a.y4m"), "a.y4m"),
    "video of absurd rate": (
        lambda p: data(p / "a.y4m", "YUV4MPEG2 W16 H16 F9000000:1 Ip A1:1 C420jpeg\n"
                       + ("FRAME\n" + "x" * 384) * 3), but(ANIMATE, driving="a.y4m"), "frames per second"),
    "empty --driving": (nothing, but(ANIMATE, driving=""), "--driving"),
    "name that is not UTF-8": (nothing, but(ANIMATE, driving=os.fsdecode(b"caf\xe9.mp4")), "caf"),
    # animate: pictures
    "no picture": (nothing, but(ANIMATE, source="none.png"), "none.png"),
    "text as picture": (lambda p: data(p / "source.png", "no picture"), ANIMATE, "source.png"),
    "half a picture": (lambda p: shortened(p / "source.png", 0.5), ANIMATE, "source.png"),
    "folder as picture": (nothing, but(ANIMATE, source="data"), "data"),
    "picture of absurd size": (lambda p: data(p / "source.png", png(60000, 60000)), ANIMATE, "source.png"),
    "picture that is only a little too large": (
        lambda p: data(p / "source.png", png(12000, 12000)), ANIMATE, "source.png"),
    # animate: weights
    "no weights": (lambda p: (p / WEIGHTS).unlink(), ANIMATE, WEIGHTS),
    "half of the weights": (lambda p: shortened(p / WEIGHTS, 0.5), ANIMATE, WEIGHTS),
    "text as weights": (lambda p: data(p / WEIGHTS, "no weights"), ANIMATE, WEIGHTS),
    "folder as weights": (nothing, ["animate", "data", *ANIMATE[2:]], "data"),
    "weights that say nothing": (told("{}"), ANIMATE, WEIGHTS),
    "weights that say no JSON": (told("{method: fomm"), ANIMATE, WEIGHTS),
    "weights that say a list": (told("[1, 2]"), ANIMATE, WEIGHTS),
    "weights that say it too deep": (told("[" * 99999), ANIMATE, WEIGHTS),
    "weights without a method": (told(dict(method=...)), ANIMATE, "method"),
    "weights of an unknown method": (told(dict(method="sora")), ANIMATE, "sora"),
    "weights whose seed is a path": (told(dict(seed="../../evil")), EVALUATE, "seed"),
    "weights whose variant is a path": (told(dict(variant="../../evil")), EVALUATE, "variant"),
    "weights whose configuration is a list": (told(dict(config=[1])), ANIMATE, "config"),
    "weights of size 0": (sized(size=0), ANIMATE, "size"),
    "weights of other widths": (sized(width=16), ANIMATE, WEIGHTS),
    "weights of absurd width": (sized(width=8000, ceiling=8000), ANIMATE, WEIGHTS),
    "weights out of range": (sized(blocks=10**9), ANIMATE, "blocks"),
    "weights of a diverged training": (
        told(tensors=lambda s: {k: v * float("nan") if v.is_floating_point() else v for k, v in s.items()}),
        ANIMATE, WEIGHTS),
    "weights without a tensor": (told(tensors=lambda s: dict(list(s.items())[1:])), ANIMATE, WEIGHTS),
    # animate: outputs and options
    "output that is the input": (nothing, but(ANIMATE, out="driving.mp4"), "driving.mp4"),
    "output that is the source by another name": (nothing, but(ANIMATE, out="data/../source.png"), "source.png"),
    "output that is a folder": (nothing, but(ANIMATE, out="data"), "data"),
    "output below a file": (nothing, but(ANIMATE, out="source.png/made.mp4"), "source.png"),
    "output of unknown format": (nothing, but(ANIMATE, out="out/made.xyz"), ".xyz"),
    "output with an endless name": (nothing, but(ANIMATE, out="out" * 99 + ".mp4"), "shorter"),
    "frames into a folder that holds something": (nothing, [*ANIMATE, "--frames", "data"], "data"),
    "mode that the model lacks": (nothing, [*ANIMATE, "--mode", "avd"], "avd"),
    "attention of a model without": (nothing, [*ANIMATE, "--top-k", "4"], "--top-k"),
    # animate: motion codes
    "no codes": (lambda p: (p / "made.codes").unlink(), RECEIVE, "made.codes"),
    "half of the codes": (lambda p: shortened(p / "made.codes", 0.5), RECEIVE, "made.codes"),
    "video as codes": (lambda p: shutil.copy(p / "driving.mp4", p / "made.codes"), RECEIVE, "made.codes"),
    "weights as codes": (lambda p: shutil.copy(p / WEIGHTS, p / "made.codes"), RECEIVE, "made.codes"),
    "codes as weights": (nothing, ["animate", "made.codes", *ANIMATE[2:]], "made.codes"),
    "codes of another method": (coded(method="lia"), RECEIVE, "made.codes: motion codes of lia"),
    "codes of other weights": (coded(weights="0" * 64), RECEIVE, "made.codes: motion codes of other weights"),
    "codes of another size": (coded(size=48), RECEIVE, "made.codes: motion codes of frames of 48 pixels"),
    "codes of no rate": (coded(fps="1/0"), RECEIVE, "made.codes"),
    "codes that lack frames": (coded(lambda s: {k: v[:9] for k, v in s.items()}), RECEIVE, "made.codes"),
    "codes that lack keypoints": (coded(lambda s: {k: v[:, :2].contiguous() for k, v in s.items()}), RECEIVE,
                                  "made.codes"),
    "codes that are not finite": (coded(lambda s: {k: v / 0 for k, v in s.items()}), RECEIVE, "made.codes"),
    "codes and a video": (nothing, [*RECEIVE, "--driving", "driving.mp4"], "made.codes"),
    "codes from codes": (nothing, [*RECEIVE, "--codes", "more.codes"], "made.codes"),
    "neither codes nor video": (nothing, [*RECEIVE[:4], *RECEIVE[6:]], "--from-codes"),
    "nothing to write": (nothing, ANIMATE[:6], "--out"),
    "codes of a video cut at half": (lambda p: shortened(p / "driving.mp4", 0.5),
                                     [*ANIMATE[:2], *ANIMATE[4:6], "--codes", "out/more.codes"], "driving.mp4"),
    "codes onto the video": (nothing, [*ANIMATE, "--codes", "driving.mp4"], "driving.mp4"),
    "codes onto the output": (nothing, [*ANIMATE, "--codes", "out/made.mp4"], "made.mp4"),
    # train: what is asked for
    "unknown method": (nothing, ["train", "tiny", "sora"], "sora"),
    "unknown data set": (nothing, ["train", "none", METHOD], "none"),
    "data set that is a path": (nothing, ["train", "../tiny", METHOD], "../tiny"),
    "negative seed": (nothing, [*TRAIN, "--seed", "-1"], "--seed"),
    "no steps": (nothing, [*TRAIN, "--steps", "0"], "--steps"),
    "output of training that is a file": (nothing, but(TRAIN, out="source.png"), "source.png"),
    "no weights to start from": (nothing, [*TRAIN, "--init", "none.safetensors"], "none.safetensors"),
    "state of another program": (
        lambda p: __import__("torch").save({"epoch": 3}, (data(p / "kept/state.pt"), p / "kept/state.pt")[1]),
        RESUME, "state.pt"),
    "damaged state": (lambda p: data(p / "kept/state.pt", "text"), RESUME, "state.pt"),
    "no project": (lambda p: (p / "params.yaml").unlink(), TRAIN, "params.yaml"),
    "broken YAML": (params("run:", "run: ["), TRAIN, "params.yaml"),
    "YAML that is a list": (lambda p: data(p / "params.yaml", "[1, 2]"), TRAIN, "params.yaml"),
    "YAML of megabytes": (lambda p: data(p / "params.yaml", PARAMS + "#" * 2**21), TRAIN, "params.yaml"),
    "YAML that grows": (
        lambda p: data(p / "params.yaml", "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi"))),
        TRAIN, "params.yaml"),
    "YAML that is too deep": (lambda p: data(p / "params.yaml", "a: " + "[" * 9999), TRAIN, "params.yaml"),
    "method without section": (params("  fomm:", "  tpsmm:"), TRAIN, "methods.fomm"),
    "method section that is null": (
        lambda p: data(p / "params.yaml", PARAMS.split("methods:\n  fomm")[0]
                       + "methods:\n  fomm:\nlandmarks: {}\nevaluate: {}\n"), TRAIN, "methods.fomm"),
    "method section that is a list": (
        lambda p: data(p / "params.yaml", PARAMS.split("methods:\n  fomm")[0]
                       + "methods:\n  fomm: [1]\nlandmarks: {}\nevaluate: {}\n"), TRAIN, "methods.fomm"),
    "size of the model beside that of the data": (params("model: {", "model: {size: 64, "), TRAIN, "size"),
    **{f"training with {new}": (params(old, new), TRAIN, new.split(":")[0]) for old, new in (
        ("steps: 12", "steps: -5"), ("batch: 2", "batch: 0"), ("batch: 2", "batch: two"), ("lr: 1.0e-3", "lr: -1.0"),
        ("lr: 1.0e-3", "lr: .nan"), ("lr: 1.0e-3", "lr: 1e-3"), ("lr: 1.0e-3", "betas: [0.9]"),
        ("lr: 1.0e-3", "betas: [2.0, 0.9]"), ("save_every: 2", "save_every: 0"), ("sources: 1", "sources: 0"),
        ("sources: 1", "sources: 8"), ("sources: 1", "accumulate: 0"), ("sources: 1", "flip: 2.0"),
        ("sources: 1", "jitter: -1.0"), ("sources: 1", "drop_at: [7.0]"), ("sources: 1", "precision: fp8"),
        ("sources: 1", "stepz: 3"), ("levels: 3", "levels: 0"), ("levels: 3", "perceptual: -1.0"),
        ("keypoints: 3", "keypoints: 0"), ("width: 8", "width: -8"), ("width: 8", "width: 99999999"),
        ("levels: 2", "levels: 0"), ("step: 2", "step: 0"), ("blocks: 1", "blocks: -1"),
        ("norm: group", "norm: batched"))},
    "training that diverges": (params("lr: 1.0e-3", "lr: 1.0e+6"), TRAIN, "diverged"),
    # the frame store
    "store that is text": (lambda p: data(p / "data/tiny.zip", "no store"), TRAIN, "tiny.zip"),
    "store cut at half": (lambda p: shortened(p / "data/tiny.zip", 0.5), TRAIN, "tiny.zip"),
    "store with flipped bits": (flipped, TRAIN, "tiny.zip"),
    "store without index": (store(lambda m: {"index.json": None}), TRAIN, "tiny.zip"),
    "store whose index is a list": (store(lambda m: {"index.json": "[]"}), TRAIN, "tiny.zip"),
    "store whose clips are null": (index(clips=[None, None]), TRAIN, "tiny.zip"),
    "store of size 0": (index(size=0), TRAIN, "tiny.zip"),
    "store without pictures": (store(lambda m: {n: None for n in m if n.endswith(".png")}), TRAIN, "tiny.zip"),
    "store with odd pictures": (store(lambda m: {n: png(7, 7) for n in m if n.endswith(".png")}), TRAIN, "tiny.zip"),
    "store without record": (lambda p: (p / "data/tiny.json").unlink(), TRAIN, "tiny.json"),
    "store with a record that is null": (lambda p: data(p / "data/tiny.json", "null"), TRAIN, "tiny.json"),
    # evaluate, calibrate, probe, landmarks
    "as many sources as frames": (nothing, [*EVALUATE, "-s", "8"], "8 sources"),
    "more sources than frames": (nothing, [*EVALUATE, "-s", "99"], "99 sources"),
    "no sources": (nothing, [*EVALUATE, "-s", "0"], "--sources"),
    "empty list of sources": (params("sources: [1, 2]", "sources: []"), EVALUATE, "sources"),
    "no frames to score": (params("sources: [1, 2]", "max_frames: -1"), EVALUATE, "max_frames"),
    "batch of 0 in evaluation": (params("sources: [1, 2]", "batch: 0"), EVALUATE, "batch"),
    "cross-identity frames of 0": (params("sources: [1, 2]", "cross_every: 0"), EVALUATE, "cross_every"),
    "no weights to evaluate": (nothing, ["evaluate", "none.safetensors", "tiny"], "none.safetensors"),
    "calibration of no clips": (nothing, ["calibrate", "tiny", "--clips", "0"], "--clips"),
    "calibration of fewer than no frames": (nothing, ["calibrate", "tiny", "--frames", "-1"], "--frames"),
    "calibration of an unknown data set": (nothing, ["calibrate", "none"], "none"),
    "probe without weights": (nothing, ["probe", "none.safetensors", "tiny"], "none.safetensors"),
    "landmark network of width 0": (params("width: 8, steps: 3}", "width: 0, steps: 3}"), LANDMARKS, "width"),
    "landmark training of no steps": (params("width: 8, steps: 3}", "width: 8, steps: 0}"), LANDMARKS, "steps"),
    # data
    "unknown data set without folder": (nothing, ["data", "prepare", "mine"], "--root"),
    "no folder": (nothing, ["data", "prepare", "mine", "--root", "none"], "none"),
    "empty folder name": (nothing, ["data", "prepare", "mine", "--root", ""], "--root"),
    "empty folder": (lambda p: (p / "clips").mkdir(), MINE, "clips"),
    "folder of broken clips": (lambda p: data(p / "clips/a.mp4", "text"), MINE, "a.mp4"),
    "folder of clips cut at 99 %": (
        lambda p: data(p / "clips/a.mp4", (p / "driving.mp4").read_bytes()[:-40]), MINE, "a.mp4"),
    "folder of names that are not UTF-8": (
        lambda p: data(p / os.fsdecode(b"clips/caf\xe9.mp4"), (p / "driving.mp4").read_bytes()), MINE, "UTF-8"),
    "name of a data set that is a path": (nothing, ["data", "prepare", "../mine", "--root", "data"], "../mine"),
    **{f"puppets with {new}": (params(old, new), ["data", "prepare", "tiny"], new.split(":")[0]) for old, new in (
        ("size: 32", "size: 0"), ("train: 4", "train: 0"), ("frames: 8", "frames: 1"), ("test: 2", "seed: -1"),
        ("kind: puppets", "kind: puppies"), ("train: 4", "train: many"))},
    "no list of clips": (nothing, LISTED, "list.csv"),
    "list of clips that is binary": (lambda p: data(p / "list.csv", rng(0).bytes(999)), LISTED, "list.csv"),
    "list of clips with NUL": (lambda p: data(p / "list.csv", "video_id,start\n\0,\0\n"), LISTED, "list.csv"),
    "list of clips with a giant field": (
        lambda p: data(p / "list.csv", "video_id,start\n" + "x" * 2**20), LISTED, "list.csv"),
    "list of clips that is short of columns": (
        lambda p: data(p / "list.csv", "video_id,start\na,1\n"), LISTED, "list.csv"),
    "list of clips with short rows": (
        lambda p: data(p / "list.csv", "video_id,start,end,bbox,fps,width,height,partition\na\n"), LISTED, "web"),
    "archive that is text": (lambda p: data(p / "web/packed.zip", "no archive"), PACKED, "packed.zip"),
    "archive cut at half": (
        lambda p: (unpackable(lambda a: a.writestr("a.mp4", rng(0).bytes(9999)))(p),
                   shortened(p / "web/packed.zip", 0.5)), PACKED, "packed.zip"),
    "archive that leads out of its folder": (
        unpackable(lambda a: a.writestr("../../evil.mp4", b"x")), PACKED, "packed.zip"),
    "encrypted archive": (encrypted, PACKED, "packed.zip"),
    "archive of unknown compression": (compressed, PACKED, "packed.zip"),
    "archive without clips": (unpackable(lambda a: a.writestr("readme.txt", b"x")), PACKED, "web"),
    "crop of no video": (nothing, ["data", "crop", "none.mp4", "--out", "out"], "none.mp4"),
    "crop into a file": (nothing, ["data", "crop", "driving.mp4", "--out", "source.png"], "source.png"),
    "crop to no size": (nothing, ["data", "crop", "driving.mp4", "--out", "out", "--size", "0"], "--size"),
    # convert, sweep, weights, evidence
    "no checkpoint": (nothing, ["convert", "lia", "none.pt", "--out", "out.safetensors"], "none.pt"),
    "text as checkpoint": (
        lambda p: data(p / "a.pt", "text"), ["convert", "lia", "a.pt", "--out", "out.safetensors"], "a.pt"),
    "checkpoint converted onto itself": (
        lambda p: data(p / "a.pt", "text"), ["convert", "lia", "a.pt", "--out", "a.pt"], "a.pt"),
    "no notebook": (nothing, ["sweep", "none.ipynb", "--out", "out.ipynb"], "none.ipynb"),
    "notebook that is text": (lambda p: data(p / "n.ipynb", "text"), SWEEP, "n.ipynb"),
    "notebook whose cells are null": (lambda p: data(p / "n.ipynb", '{"cells": [null]}'), SWEEP, "n.ipynb"),
    "notebook without parameters": (notebook("a = 1", ()), SWEEP, "n.ipynb"),
    "notebook with a magic among the parameters": (notebook("%time a = 1"), SWEEP, "n.ipynb"),
    "notebook with a call among the parameters": (notebook("a = open('x')"), SWEEP, "n.ipynb"),
    "notebook with two names at once": (notebook("a, b = 1, 2"), SWEEP, "n.ipynb"),
    "parameter that the notebook lacks": (notebook("a = 1"), [*SWEEP, "-p", "b", "2"], "'b'"),
    "parameter of another type": (notebook("a = 1"), [*SWEEP, "-p", "a", "x"], "'x'"),
    "notebook executed onto itself": (notebook("a = 1"), but(SWEEP, out="n.ipynb"), "n.ipynb"),
    "unknown network": (nothing, ["weights", "--fetch", "none"], "none"),
    "tables without an evaluation": (
        lambda p: shutil.rmtree(p / f"results/run/evaluate/tiny-{METHOD}-0"), ["tables"], METHOD),
    "record without a project": (lambda p: (p / "params.yaml").unlink(), ["record"], "params.yaml"),
    "unknown command": (nothing, ["dance"], "dance"),
    "unknown option": (nothing, [*ANIMATE, "--fast"], "--fast"),
    "missing option": (nothing, ANIMATE[:2], "--source"),
}


def names(folder: Path) -> dict:
    "Size and time of change of everything below a folder: cheaper than its content, and a write changes it."
    return {
        os.fsencode(p.relative_to(folder)): (p.lstat().st_size, p.lstat().st_mtime_ns)
        for p in folder.rglob("*") if not p.is_dir() or not any(p.iterdir())
    }


def answer(project: Path, folder: Path, name: str) -> str | None:
    "What is wrong with the answer to a bad input; None where all is well."
    spoil, command, word = BAD[name]
    shutil.copytree(project, folder)
    spoil(folder)
    before = names(folder)
    code, lines = run(folder, *command)
    said = [l for l in lines if l.startswith("animrepro: ")]
    after = names(folder)
    # the cache of downloads
    made = sorted(n for n in after.keys() | before.keys()
                  if after.get(n) != before.get(n) and not n.startswith(b"web/"))
    shutil.rmtree(folder)
    if code != 2: return f"{name}: exit code {code}: {lines[-3:]}"
    if len(said) != 1 or lines[-1] != said[0] or any("Traceback" in l for l in lines):
        return f"{name}: not one line: {lines[-3:]}"
    if word not in said[0]: return f"{name}: does not name {word}: {said[0]}"
    if ";" not in said[0] and not any(w in said[0] for w in ("--help", "Invalid value", "No such", "Missing")):
        return f"{name}: says nothing of what to do: {said[0]}"
    if made: return f"{name}: left {made}"


def test_bad_input(project, tmp_path):
    broken = [wrong for i, name in enumerate(BAD) if (wrong := answer(project, tmp_path / str(i), name))]
    print(f"{len(BAD)} bad inputs, {len(BAD) - len(broken)} answered in one line with exit code 2")
    assert len(BAD) >= 60 and not broken, "\n".join(broken)


# ---- kills
# ----------------------------------------------------------------------------------------------------------------------

STAGES = {
    "data": ["data", "prepare", "tiny"],
    "training": ["train", "tiny", METHOD, "--resume"],
    "baseline": ["evaluate", "copy", "tiny"],
    "evaluation": ["evaluate", WEIGHTS, "tiny"],
    "tables": ["tables"],
    "record": ["record"],
}
ENDS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT, "full disk": None}
HIT = ("data", "training", "evaluation", "tables", "record")


def interrupt(folder: Path, command: list, how: str, share: float, seconds: float, largest: int) -> int:
    """Exit code of a command that is ended after a share of the time that it takes, or by a disk with room for that
    share of its largest file."""
    if ENDS[how] is None: return run(folder, *command, limit=4096 + int(share * largest))[0]
    process = start(folder, *command)
    process.join(share * seconds)
    if process.exitcode is None:
        try: os.kill(process.pid, ENDS[how])
        except ProcessLookupError: pass
    process.join(300)
    return process.exitcode


def campaign(tmp_path: Path, each: int, ways=tuple(ENDS)) -> tuple[Counter, list[str]]:
    """Ends every stage `each` times in each of the ways. Gives the number of kills by (stage, way, whether it hit
    the work) and what went wrong."""
    counts, broken, before = Counter(), [], tmp_path / "before"
    before.mkdir()
    (before / "params.yaml").write_text(PARAMS)
    for stage, command in STAGES.items():
        after = tmp_path / f"after-{stage}"
        shutil.copytree(before, after)
        begun = time.monotonic()
        done(after, *command)
        seconds, whole = time.monotonic() - begun, content(after)
        largest = max((len(v) for k, v in whole.items() if not (before / k).exists()), default=4096)
        for how in ways if stage in HIT else ():
            for number in range(each):
                folder, share = tmp_path / f"{stage}-{how.replace(' ', '-')}-{number}", rng(
                    0, "campaign", stage, how, number).random()
                shutil.copytree(before, folder)
                code, name = interrupt(folder, command, how, share, seconds,
                                       largest), f"{stage}, {how} at {share:.2f}"
                counts[stage, how, code != 0] += 1
                if how == "full disk" and code not in (0, 2): broken.append(f"{name}: exit code {code}")
                half = [
                    k for k, v in content(folder).items()
                    if k in whole and v != whole[k] and Path(k).name != "scores.csv" and k not in content(before)
                ]
                again, lines = run(folder, *command)
                end = content(folder)
                if half: broken.append(f"{name}: half-written {half}")
                if again: broken.append(f"{name}: then exit code {again}: {lines[-2:]}")
                elif end != whole:
                    broken.append(
                        f"{name}: then other bytes:"
                        f" {sorted(k for k in end.keys() | whole.keys() if end.get(k) != whole.get(k))}"
                    )
                shutil.rmtree(folder)
        print(stage, {how: sum(n for (s, h, _), n in counts.items() if (s, h) == (stage, how))
                      for how in ways}, *broken, sep="\n", flush=True)
        shutil.rmtree(before)
        before = after
    return counts, broken


def test_kills(tmp_path):
    counts, broken = campaign(tmp_path, 1, ("SIGKILL", "full disk"))
    print(f"{sum(counts.values())} kills, {sum(n for (*_, hit), n in counts.items() if hit)} hit the work")
    assert not broken, "\n".join(broken)


@pytest.mark.campaign
def test_long_campaign(project, tmp_path):
    "Writes its counts to results/record/campaign.json and, as a table, campaign.md."
    wrong = [w for i, name in enumerate(BAD) if (w := answer(project, tmp_path / str(i), name))]
    counts, broken = campaign(tmp_path, 5)
    rows = [
        dict(stage=stage, end=how, kills=counts[stage, how, True] + counts[stage, how, False],
             hit=counts[stage, how, True]) for stage in HIT for how in ENDS
    ]
    report = dict(bad_inputs=len(BAD), answered=len(BAD) - len(wrong), kills=sum(r["kills"] for r in rows),
                  hit=sum(r["hit"] for r in rows), lost=len(broken), by_stage=rows)
    head = (
        f"{report['answered']} of {len(BAD)} bad inputs answered with exit code 2 and one line, nothing left."
        f" {report['kills']} kills, of which {report['hit']} came before the command was done; {len(broken)} lost a"
        " byte."
    )
    table = ["| stage | " + " | ".join(ENDS) + " |", "|---" * (len(ENDS) + 1) + "|"]
    table += [
        f"| {stage} | " + " | ".join(f"{r['kills']} ({r['hit']})" for r in rows if r["stage"] == stage) + " |"
        for stage in HIT
    ]
    print(head, *table, sep="\n")
    assert not wrong + broken and report["kills"] >= 100, "\n".join(wrong + broken)
    assert {how for (_, how, hit) in counts if hit} == set(ENDS), "an end that hits no work tests nothing"
    (ROOT / "results/record/campaign.json").write_text(json.dumps(report, indent=1) + "\n")
    (ROOT / "results/record/campaign.md").write_text("\n".join(
        [head, "", *table, "", "Kills by stage, and in brackets how many hit the work. Made by `pytest -m campaign`."])
                                                     + "\n")
