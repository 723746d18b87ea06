"""Faces, from an entry to the labels that training reads, and from a video to clips of heads: with a stub in the place
of the detector, and with MTCNN on real clips."""
import sys
import numpy as np, pytest, torch
from click.testing import CliRunner
from animrepro.attention import drop_regions
from animrepro.core import UserError, sha256
from animrepro.data import faces
from animrepro.data.catalog import FolderEntry, Prepared, dataset_entry, prepare, prepared
from animrepro.data.pairs import Draw, Pairs, collate
from animrepro.data.puppets import render, sample_identity, sample_motion
from animrepro.data.store import FrameStore
from animrepro.data.video import probe, read_frames, write_video

FACE = np.float32([[-0.3, -0.2], [0.3, -0.2], [0, 0.1], [-0.2, 0.4], [0.2, 0.4]])


@pytest.fixture
def stub(monkeypatch):
    "A detector that sees FACE in every frame but the first of a clip; gives the shapes it was asked for."
    asked = []
    def detect(frames):
        asked.append(frames.shape)
        return np.stack([np.full_like(FACE, np.nan)] + [FACE] * (len(frames) - 1))
    monkeypatch.setattr(faces, "load_detector", lambda: detect)
    return asked


@pytest.fixture
def no_package(monkeypatch):
    # None in sys.modules makes an import fail as if the package were not installed.
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)


@pytest.fixture
def videos(tmp_path):
    "A folder of two clips, of 6 and 7 frames."
    for i in range(2):
        write_video(tmp_path / "mine" / f"{i}.mp4", render(sample_identity(i), sample_motion(i, 6 + i), 48).frames, 25)
    return tmp_path / "mine"


# Regions

def test_regions_lie_on_their_features():
    labels, centre = faces.face_regions(FACE, 64), (2 * np.arange(64) + 1) / 64 - 1
    assert labels.dtype == np.uint8 and set(np.unique(labels)) == {0, 1, 2, 3} and list(
        faces.FEATURES) == ["eyes", "nose", "mouth"]
    at = lambda x, y: labels[np.abs(centre - y).argmin(), np.abs(centre - x).argmin()]
    assert [at(x, y) for x, y in FACE] == [1, 1, 2, 3, 3] and at(0, 0.4) == 3, "a wide mouth has no hole"
    assert at(0, -0.2) == at(0, 0.9) == at(-0.9, 0) == 0
    assert np.array_equal(labels, labels[:, ::-1])


@pytest.mark.parametrize("shrink", [0.5, 0.25])
def test_regions_scale_with_the_face(shrink):
    count = lambda labels: np.bincount(labels.ravel(), minlength=4)[1:]
    large, small = count(faces.face_regions(FACE, 256)), count(faces.face_regions(shrink * FACE, 256))
    assert np.allclose(small / large, shrink ** 2, rtol=0.1)


def test_a_turned_head_keeps_its_regions():
    turned = FACE * [0.2, 1]
    assert np.bincount(faces.face_regions(
        turned, 64).ravel())[1] > 50 and not faces.face_regions(np.full((5, 2), np.nan), 64).any()


# The option

def test_entries_with_regions():
    section = {
        "puppets": {
            "kind": "puppets"
        },
        "mine": {
            "kind": "folder",
            "root": "a",
            "regions": "faces"
        },
        "actions": {
            "kind": "actions"
        }
    }
    assert dataset_entry("mine", section).regions == "faces" and dataset_entry("mine", section,
                                                                               regions="none").regions == "none"
    assert dataset_entry("new", section, "b", "faces") == FolderEntry("folder", root="b", regions="faces")
    assert dataset_entry("actions", section, regions="faces").regions == "faces" and dataset_entry(
        "actions", section).regions == "none"
    with pytest.raises(UserError, match="leave --regions out"): dataset_entry("puppets", section, regions="faces")
    with pytest.raises(UserError, match="regions"):
        dataset_entry("mine", {"mine": {"kind": "folder", "root": "a", "regions": "hands"}})


def test_labels_reach_training(videos, stub, tmp_path):
    report = prepare("mine", FolderEntry("folder", root=str(videos), size=32, regions="faces"), tmp_path / "m.zip")
    store = FrameStore(tmp_path / "m.zip")
    assert sorted(stub) == [(6, 32, 32, 3), (7, 32, 32, 3)]
    for i, clip in enumerate(store.clips):
        assert not store.regions(i, 0).any(), "a frame without a face has no region"
        for t in range(1, clip.frames): assert np.array_equal(store.regions(i, t), faces.face_regions(FACE, 32))
    assert report.faceless == 2 and "; no face in 2 of 13 frames" in str(report) and prepared(
        tmp_path / "m.zip") == report
    batch = collate([Pairs(store, "train", Draw(1), 0)[0, i] for i in range(8)])
    assert batch.regions.shape == (8, 1, 32, 32) and batch.regions.dtype == torch.uint8 and set(
        batch.regions.unique().tolist()) == {0, 1, 2, 3}
    kept = drop_regions(batch.regions, batch.seeds, 1.0, 8, 8)
    assert 0 < kept.float().mean() < 1, "semantic dropout hides these regions"


def test_without_the_option_nothing_is_sought(videos, stub, no_package, tmp_path):
    report = prepare("mine", FolderEntry("folder", root=str(videos), size=32), tmp_path / "m.zip")
    assert not stub and report.faceless is None and "face" not in str(report) and FrameStore(
        tmp_path / "m.zip").regions(0, 1) is None


def test_records_of_older_data_sets_are_read(tmp_path):
    (tmp_path /
     "old.json").write_text('{"name": "old", "entry": {}, "clips": {}, "frames": {}, "published": null, "skipped": []}')
    assert prepared(tmp_path / "old.zip") == Prepared("old", {}, {}, {}, None, [])


def test_missing_package(videos, no_package, tmp_path):
    with pytest.raises(UserError) as caught:
        prepare("mine", FolderEntry("folder", root=str(videos), regions="faces"), tmp_path / "m.zip")
    assert "facenet-pytorch is not installed" in str(caught.value) and "pip install" in str(
        caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "m.zip").exists() and not (tmp_path / "m.json").exists()


def test_command(videos, stub, tmp_path, monkeypatch):
    from animrepro import core
    from animrepro.cli import cli
    (tmp_path / "params.yaml").write_text(
        "run: {datasets: [], methods: [], seeds: []}\ndatasets: {}\nmethods: {}\nlandmarks: {}\nevaluate: {}\n")
    monkeypatch.setattr(core, "project_root", lambda: tmp_path)
    done = CliRunner().invoke(
        cli,
        ["data", "prepare", "mine", "--root", str(videos), "--regions", "faces"], catch_exceptions=False)
    assert done.exit_code == 0 and "no face in 2 of 13 frames" in done.output and FrameStore(
        tmp_path / "data/mine.zip").regions(0, 1).any()
    assert CliRunner().invoke(
        cli,
        ["data", "prepare", "mine", "--root", str(videos), "--regions", "hands"]).exit_code == 2


# The detector

@pytest.fixture(scope="module")
def detect():
    pytest.importorskip("facenet_pytorch")
    return faces.load_detector(torch.device("cpu"))


def test_weights_are_no_pickled_code(detect):
    # facenet-pytorch calls torch.load without weights_only, so we rely on torch's default; the files must be loadable
    # that way.
    import facenet_pytorch
    from pathlib import Path
    files = sorted((Path(facenet_pytorch.__file__).parent / "data").glob("*.pt"))
    assert [f.name for f in files] == ["onet.pt", "pnet.pt", "rnet.pt"]
    for f in files: assert all(isinstance(w, torch.Tensor) for w in torch.load(f, weights_only=True).values())


@pytest.mark.parametrize("size", [16, 64, 128])
def test_frames_without_a_face(detect, size):
    noise = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    points = detect(np.concatenate([np.zeros_like(noise), noise]))
    assert points.shape == (6, 5, 2) and points.dtype == np.float32 and np.isnan(points).all()


def test_a_face_among_frames_without(detect):
    rendered = render(sample_identity(0), sample_motion(0, 4, "wide"), 64)
    points = detect(np.concatenate([np.zeros_like(rendered.frames), rendered.frames]))
    assert np.isnan(points[:4]).all() and not np.isnan(points[4:]).any()
    assert (points[4:, 0, 0]
            < points[4:, 1, 0]).all() and (points[4:, :2, 1].max(1)
                                           < points[4:, 3:, 1].min(1)).all(), "left eye first, mouth below the eyes"


def test_batches_change_nothing_that_matters(detect, monkeypatch):
    frames = render(sample_identity(1), sample_motion(1, 5, "wide"), 64).frames
    whole = detect(frames)
    monkeypatch.setattr(faces, "BATCH", 2)
    assert np.allclose(detect(frames), whole, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("name, size, share", [("vox/driving1.mp4", 64, 0.9), ("vox/driving3.mov", 256, 0.9),
                                               ("ted/driving1.mp4", 256, 0.9), ("ted/driving1.mp4", 64, 0.8)])
def test_real_faces(detect, shared, name, size, share):
    if not (shared / "data" / "clips" / name).is_file(): pytest.skip(f"no {name} in ../shared/data/clips")
    frames = read_frames(shared / "data" / "clips" / name, size).frames[::15][:12]
    points = detect(frames)
    seen = ~np.isnan(points).any((1, 2))
    assert seen.mean() >= share and np.array_equal(points, detect(frames), equal_nan=True)
    mtcnn = detect.args[0]
    for frame, found in zip(frames[seen], points[seen]):
        labels = faces.face_regions(found, size)
        assert {1, 3} <= set(np.unique(labels)), "eyes and mouth have regions"
        x0, y0, x1, y1 = box(mtcnn, frame)
        y, x = ((2 * np.argwhere(labels) + 1) / size - 1).T
        pixel = 2 / size  # the face of the smallest has eight of them
        inside = (x0 - pixel <= x) & (x <= x1 + pixel) & (y0 - pixel <= y) & (y <= y1 + pixel)
        assert inside.mean() > 0.9, "regions stay inside the detector's box of the face"


def box(mtcnn, frame) -> np.ndarray:
    "Corners of the largest face's box, in [-1, 1]."
    side = max(len(frame), faces.SIDE)
    enlarged = torch.nn.functional.interpolate(
        torch.from_numpy(frame).movedim(-1, 0)[None].float(), (side, side), mode="bilinear").movedim(1, -1)
    return (2 * mtcnn.detect(enlarged)[0][0][0].astype(float) + 1) / side - 1


def test_real_folder_is_the_same_twice(detect, shared, tmp_path, monkeypatch):
    source = shared / "data" / "clips" / "vox" / "driving1.mp4"
    if not source.is_file(): pytest.skip("no vox clips in ../shared/data/clips")
    video = read_frames(source, 128)
    write_video(tmp_path / "mine" / "a.mp4", video.frames[:40:2], video.fps)
    monkeypatch.setattr(faces, "load_detector", lambda: detect)
    entry = FolderEntry("folder", root=str(tmp_path / "mine"), regions="faces")
    reports = [prepare("mine", entry, tmp_path / f"{i}.zip") for i in range(2)]
    assert reports[0] == reports[1] and reports[0].faceless <= 2 and sha256(tmp_path / "0.zip") == sha256(
        tmp_path / "1.zip")


# Heads cut out of videos

class White:
    "In the place of MTCNN: sees each white square of a frame as a face (those in the left and the right half are two)."
    def detect(self, pictures):
        boxes = []
        for picture in pictures:
            found, half = [], picture.shape[1] // 2
            for x0 in (0, half):
                y, x = np.nonzero(picture[:, x0:x0 + half].min(-1) > 200)
                if len(x): found.append([x0 + x.min(), y.min(), x0 + x.max() + 1, y.max() + 1])
            boxes.append(np.float32(found) if found else None)
        return boxes, [None if b is None else np.ones(len(b)) for b in boxes]


def scene(places, h=160, w=320, side=40):
    "A frame for each list of places (left, top) of white squares, over a ground that brightens from left to right."
    frames = np.zeros((len(places), h, w, 3), np.uint8) + (np.arange(w) // 4)[:, None].astype(np.uint8)
    for frame, here in zip(frames, places):
        for x, y in here: frame[y:y + side, x:x + side] = 255
    return frames


def heads(tmp_path, places, **options):
    write_video(tmp_path / "talk.mkv", scene(places), 10)
    return [
        read_frames(p) for p in faces.crop(White(), tmp_path / "talk.mkv", tmp_path / "heads",
                                           **dict(size=48, shortest=10, smallest=20) | options)
    ]


def test_a_head_that_moves_is_cut_as_a_steady_square(tmp_path):
    [head] = heads(tmp_path, [[(60 + t, 50)] for t in range(18)])
    assert head.frames.shape == (18, 48, 48, 3) and head.fps == 10
    # The tube is 57 x 40, the square 57 x 1.2 = 68 from 88.5 - 34: the face begins 5.5 + t pixels into it.
    column = [np.flatnonzero(f[24].min(-1) > 200).min() * 68 / 48 for f in head.frames]
    assert np.allclose(column, [5.5 + t for t in range(18)], atol=2)
    assert np.ptp(head.frames[:, 2, 2].astype(int)) < 6, "the ground stands still"


def test_two_heads_and_a_change_of_scene(tmp_path):
    assert [len(h.frames) for h in heads(tmp_path, [[(60, 50), (220, 60)]] * 12)] == [12, 12]
    assert [len(h.frames) for h in heads(tmp_path, [[(10, 10)]] * 15 + [[(100, 90)]] * 12)] == [15, 12]


def test_gaps_are_bridged_and_pauses_are_not(tmp_path):
    def seen(gap): return [[(60, 50)]] * 12 + [[]] * gap + [[(60, 50)]] * 12
    assert [len(h.frames) for h in heads(tmp_path, seen(4))] == [28], "half a second of 10 frames per second"
    assert [len(h.frames) for h in heads(tmp_path, seen(8))] == [12, 12]


def test_at_the_border_the_square_moves_inside(tmp_path):
    [head] = heads(tmp_path, [[(0, 0)]] * 12)
    white = head.frames[5].min(-1) > 200
    assert white[0, 0] and np.isclose(white.sum(0).max(),
                                      white.sum(1).max(), atol=1) and np.isclose(white[0].sum(), 40,
                                                                                 atol=2), "not stretched"


def test_too_short_too_small(tmp_path):
    for places, options in (([[(60, 50)]] * 9, {}), ([[(60, 50)]] * 12, dict(smallest=41)), ([[]] * 12, {})):
        with pytest.raises(UserError, match="talk.mkv: no face"): heads(tmp_path, places, **options)
    assert not (tmp_path / "heads").exists()


def test_long_runs_are_divided():
    runs = faces.follow([np.array([[0, 0, 10, 10.]])] * 25, longest=10)
    assert [(r.start, r.end) for r in runs] == [(0, 10), (10, 20), (20, 25)]


@pytest.mark.parametrize("name, width, frames", [("vox/driving2.mp4", 480, 70), ("ted/driving1.mp4", 256, 40)])
def test_real_heads(detect, shared, tmp_path, name, width, frames):
    if not (shared / "data" / "clips" / name).is_file(): pytest.skip(f"no {name} in ../shared/data/clips")
    video = read_frames(shared / "data" / "clips" / name, limit=frames)
    wide = np.pad(video.frames, ((0, 0), (0, 0), (width - 256, 0), (0, 0)), "edge")[::2]
    write_video(tmp_path / "talk.mp4", wide, video.fps / 2)
    mtcnn = detect.args[0]
    [path] = faces.crop(mtcnn, tmp_path / "talk.mp4", tmp_path / "heads", size=128, shortest=frames // 4, smallest=40)
    count = probe(path).frames
    assert count >= 0.9 * len(wide) and probe(path).size == (128, 128)
    points = detect(read_frames(path).frames[::4])
    seen = points[~np.isnan(points).any((1, 2))]
    assert len(seen) >= 0.8 * len(points) and np.abs(seen).max() < 0.9, "eyes, nose and mouth lie inside the crop"
    assert 0.15 < np.linalg.norm(seen[:, 0] - seen[:, 1], axis=-1).mean() < 1, "and the face fills a good part of it"
