"Regions of faces, from an entry to the labels that training reads: with a stub in the place of the detector, and with MTCNN on real clips."
import sys
import numpy as np, pytest, torch
from click.testing import CliRunner
from animrepro.attention import drop_regions
from animrepro.core import UserError, sha256
from animrepro.data import faces
from animrepro.data.catalog import FolderEntry, Prepared, dataset_entry, prepare, prepared
from animrepro.data.pairs import Pairs, collate
from animrepro.data.puppets import render, sample_identity, sample_motion
from animrepro.data.store import FrameStore
from animrepro.data.video import read_frames, write_video

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
    for i in range(2): write_video(tmp_path / "mine" / f"{i}.mp4", render(sample_identity(i), sample_motion(i, 6 + i), 48).frames, 25)
    return tmp_path / "mine"


# Regions

def test_regions_lie_on_their_features():
    labels, centre = faces.face_regions(FACE, 64), (2 * np.arange(64) + 1) / 64 - 1
    assert labels.dtype == np.uint8 and set(np.unique(labels)) == {0, 1, 2, 3} and list(faces.FEATURES) == ["eyes", "nose", "mouth"]
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
    assert np.bincount(faces.face_regions(turned, 64).ravel())[1] > 50 and not faces.face_regions(np.full((5, 2), np.nan), 64).any()


# The option

def test_entries_with_regions():
    section = {"puppets": {"kind": "puppets"}, "mine": {"kind": "folder", "root": "a", "regions": "faces"}, "actions": {"kind": "actions"}}
    assert dataset_entry("mine", section).regions == "faces" and dataset_entry("mine", section, regions="none").regions == "none"
    assert dataset_entry("new", section, "b", "faces") == FolderEntry("folder", root="b", regions="faces")
    assert dataset_entry("actions", section, regions="faces").regions == "faces" and dataset_entry("actions", section).regions == "none"
    with pytest.raises(UserError, match="leave --regions out"): dataset_entry("puppets", section, regions="faces")
    with pytest.raises(UserError, match="regions"): dataset_entry("mine", {"mine": {"kind": "folder", "root": "a", "regions": "hands"}})


def test_labels_reach_training(videos, stub, tmp_path):
    report = prepare("mine", FolderEntry("folder", root=str(videos), size=32, regions="faces"), tmp_path / "m.zip")
    store = FrameStore(tmp_path / "m.zip")
    assert sorted(stub) == [(6, 32, 32, 3), (7, 32, 32, 3)]
    for i, clip in enumerate(store.clips):
        assert not store.regions(i, 0).any(), "a frame without a face has no region"
        for t in range(1, clip.frames): assert np.array_equal(store.regions(i, t), faces.face_regions(FACE, 32))
    assert report.faceless == 2 and "; no face in 2 of 13 frames" in str(report) and prepared(tmp_path / "m.zip") == report
    batch = collate([Pairs(store, "train", 1, 0)[0, i] for i in range(8)])
    assert batch.regions.shape == (8, 1, 32, 32) and batch.regions.dtype == torch.uint8 and set(batch.regions.unique().tolist()) == {0, 1, 2, 3}
    kept = drop_regions(batch.regions, batch.seeds, 1.0, 8, 8)
    assert 0 < kept.float().mean() < 1, "semantic dropout hides these regions"


def test_without_the_option_nothing_is_sought(videos, stub, no_package, tmp_path):
    report = prepare("mine", FolderEntry("folder", root=str(videos), size=32), tmp_path / "m.zip")
    assert not stub and report.faceless is None and "face" not in str(report) and FrameStore(tmp_path / "m.zip").regions(0, 1) is None


def test_records_of_older_data_sets_are_read(tmp_path):
    (tmp_path / "old.json").write_text('{"name": "old", "entry": {}, "clips": {}, "frames": {}, "published": null, "skipped": []}')
    assert prepared(tmp_path / "old.zip") == Prepared("old", {}, {}, {}, None, [])


def test_missing_package(videos, no_package, tmp_path):
    with pytest.raises(UserError) as caught: prepare("mine", FolderEntry("folder", root=str(videos), regions="faces"), tmp_path / "m.zip")
    assert "facenet-pytorch is not installed" in str(caught.value) and "pip install" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "m.zip").exists() and not (tmp_path / "m.json").exists()


def test_command(videos, stub, tmp_path, monkeypatch):
    from animrepro import core
    from animrepro.cli import cli
    (tmp_path / "params.yaml").write_text("run: {datasets: [], methods: [], seeds: []}\ndatasets: {}\nmethods: {}\nlandmarks: {}\nevaluate: {}\n")
    monkeypatch.setattr(core, "project_root", lambda: tmp_path)
    done = CliRunner().invoke(cli, ["data", "prepare", "mine", "--root", str(videos), "--regions", "faces"], catch_exceptions=False)
    assert done.exit_code == 0 and "no face in 2 of 13 frames" in done.output and FrameStore(tmp_path / "data/mine.zip").regions(0, 1).any()
    assert CliRunner().invoke(cli, ["data", "prepare", "mine", "--root", str(videos), "--regions", "hands"]).exit_code == 2


# The detector

@pytest.fixture(scope="module")
def detect():
    pytest.importorskip("facenet_pytorch")
    return faces.load_detector(torch.device("cpu"))


def test_weights_are_no_pickled_code(detect):
    # facenet-pytorch calls torch.load without weights_only, so we rely on torch's default; the files must be loadable that way.
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
    rendered = render(sample_identity(0), sample_motion(0, 4), 64)
    points = detect(np.concatenate([np.zeros_like(rendered.frames), rendered.frames]))
    assert np.isnan(points[:4]).all() and not np.isnan(points[4:]).any()
    assert (points[4:, 0, 0] < points[4:, 1, 0]).all() and (points[4:, :2, 1].max(1) < points[4:, 3:, 1].min(1)).all(), "left eye first, mouth below the eyes"


def test_batches_change_nothing_that_matters(detect, monkeypatch):
    frames = render(sample_identity(1), sample_motion(1, 5), 64).frames
    whole = detect(frames)
    monkeypatch.setattr(faces, "BATCH", 2)
    assert np.allclose(detect(frames), whole, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("name, size, share", [("vox/driving1.mp4", 64, 0.9), ("vox/driving3.mov", 256, 0.9), ("ted/driving1.mp4", 256, 0.9), ("ted/driving1.mp4", 64, 0.8)])
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
    enlarged = torch.nn.functional.interpolate(torch.from_numpy(frame).movedim(-1, 0)[None].float(), (side, side), mode="bilinear").movedim(1, -1)
    return (2 * mtcnn.detect(enlarged)[0][0][0].astype(float) + 1) / side - 1


def test_real_folder_is_the_same_twice(detect, shared, tmp_path, monkeypatch):
    source = shared / "data" / "clips" / "vox" / "driving1.mp4"
    if not source.is_file(): pytest.skip("no vox clips in ../shared/data/clips")
    video = read_frames(source, 128)
    write_video(tmp_path / "mine" / "a.mp4", video.frames[:40:2], video.fps)
    monkeypatch.setattr(faces, "load_detector", lambda: detect)
    entry = FolderEntry("folder", root=str(tmp_path / "mine"), regions="faces")
    reports = [prepare("mine", entry, tmp_path / f"{i}.zip") for i in range(2)]
    assert reports[0] == reports[1] and reports[0].faceless <= 2 and sha256(tmp_path / "0.zip") == sha256(tmp_path / "1.zip")
