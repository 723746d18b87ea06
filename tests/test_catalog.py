"Data sets from entry to store: puppets, actions (local, served, broken) and a user's own folder."
import http.server, socket, threading
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from animrepro.core import UserError, sha256
from animrepro.data import catalog
from animrepro.data.catalog import (ActionsEntry, FolderEntry, PuppetsEntry, actions_files, actions_hashes, clip_paths,
    dataset_entry, list_actions, prepare, prepared, puppet_clips, region_labels, split_names)
from animrepro.data.puppets import PARTS, REGIONS, render, sample_identity, sample_motion
from animrepro.data.store import FrameStore
from animrepro.data.video import write_video

SHARED = Path(__file__).parents[2] / "shared" / "data"


def movie(frames=6, h=40, w=48, shift=0):
    t, y, x = np.mgrid[:frames, :h, :w]
    return np.stack(
        [128 + 80 * np.sin((x + 2 * t + shift) / 9), 128 + 80 * np.sin((y - t) / 7), 128 + 40 * np.sin(
            (x + y) / 11)], -1).astype(np.uint8)


def refused(call, *words):
    with pytest.raises(UserError) as caught: call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words: assert str(word) in message


@pytest.fixture(autouse=True)
def no_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("ANIMREPRO_ACTIONS", raising=False)
    monkeypatch.setenv("ANIMREPRO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def site(tmp_path):
    "A folder in the layout of the actions data set, and its hashes."
    root = tmp_path / "site"
    for i, name in enumerate(("train/a.jpg", "train/b.jpg", "test/c.jpg")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(list(movie(5, 32, 32, i)), 1)).convert("RGBA").save(root / name, format="png")
    return root, {p.relative_to(root).as_posix(): sha256(p) for p in sorted(root.rglob("*.jpg"))}


@pytest.fixture
def server(site):
    "The site on 127.0.0.1; gives its address and the list of paths that were asked for."
    asked = []
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args): super().__init__(*args, directory=str(site[0]))
        def log_message(self, *args): asked.append(self.path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


# Entries

def test_entries():
    section = {
        "puppets": {
            "kind": "puppets",
            "train": 4,
            "test": 2
        },
        "mine": {
            "kind": "folder",
            "root": "old"
        },
        "actions": {
            "kind": "actions",
            "root": None
        }
    }
    assert dataset_entry("puppets", section) == PuppetsEntry("puppets", train=4, test=2)
    assert dataset_entry("mine", section, "new").root == "new" and dataset_entry("actions", section,
                                                                                 "there").root == "there"
    assert dataset_entry("free", section, Path("there")) == FolderEntry("folder", root="there")


@pytest.mark.parametrize("name, mapping, root, words", [
    ("other", {"kind": "puppets"}, None, ["other", "--root DIR"]),
    ("a", {"kind": "puppet"}, None, ["datasets.a", "'puppet'", "puppets"]),
    ("a", {"size": 64}, None, ["datasets.a", "kind"]),
    ("a", None, None, ["datasets.a", "kind"]),
    ("a", {"kind": "puppets", "trian": 3}, None, ["datasets.a", "train"]),
    ("a", {"kind": "puppets", "train": "many"}, None, ["datasets.a.train", "many"]),
    ("a", {"kind": "puppets", "train": 0}, None, ["datasets.a.train", "out of range"]),
    ("a", {"kind": "puppets", "size": 0}, None, ["datasets.a.size", "out of range"]),
    ("a", {"kind": "puppets"}, "somewhere", ["leave --root out"]),
    ("a", {"kind": "folder"}, None, ["root is missing"]),
    ("a", {"kind": "folder", "root": "x", "test": 1.0}, None, ["datasets.a.test", "out of range"]),
    ("a", {"kind": "folder", "root": "x", "fit": "stretch"}, None, ["datasets.a.fit"]),
    ("../a", {"kind": "puppets"}, None, ["not a usable name"]),
    ("", {"kind": "puppets"}, None, ["not a usable name"]),
])
def test_wrong_entries(name, mapping, root, words):
    refused(lambda: dataset_entry(name, {"a": mapping}, root), *words)


# Puppets

def test_puppets(tmp_path):
    entry = PuppetsEntry("puppets", size=32, train=3, test=2, frames=4, seed=7)
    report = prepare("puppets", entry, tmp_path / "p.zip")
    store = FrameStore(tmp_path / "p.zip")
    assert report.clips == {"train": 3, "test": 2} and report.frames == {"train": 12, "test": 8} and not report.skipped
    assert len(store.split("train")) == 3 and len(store.split("test")) == 2
    seeds = {s: [store.clips[i].meta["identity"] for i in store.split(s)] for s in ("train", "test")}
    assert not set(seeds["train"]) & set(seeds["test"])
    for i, clip in enumerate(store.clips):
        truth = render(sample_identity(clip.meta["identity"]), sample_motion(clip.meta["motion"], 4), 32)
        assert np.array_equal(store.frames(i), truth.frames)
        for name, members in REGIONS.items():
            label = 1 + list(REGIONS).index(name)
            assert np.array_equal(
                store.regions(i, 2) == label, np.isin(truth.parts[2], [PARTS.index(p) for p in members]))
    assert region_labels(np.uint8([0])) == 0


def test_puppet_seeds():
    entries = [PuppetsEntry("puppets", train=500, test=50, seed=seed) for seed in (0, 1)]
    clips = [c for e in entries for c in puppet_clips(e)]
    for key in ("identity", "motion"): assert len({c["meta"][key] for c in clips}) == 1100
    tests = lambda train: [
        c for c in puppet_clips(PuppetsEntry("puppets", train=train, test=5)) if c["split"] == "test"
    ]
    assert tests(3) == tests(400)


def test_processes_change_nothing(tmp_path, monkeypatch):
    entry = PuppetsEntry("puppets", size=16, train=5, test=1, frames=2)
    prepare("a", entry, tmp_path / "a.zip")
    monkeypatch.setattr(catalog, "CLIPS_PER_PROCESS", 3)
    monkeypatch.setattr(catalog.os, "cpu_count", lambda: 2)
    prepare("a", entry, tmp_path / "b.zip")
    assert sha256(tmp_path / "a.zip") == sha256(tmp_path / "b.zip")


# Actions

def test_published_counts():
    names = list(actions_hashes())
    assert {s: sum(n.startswith(f"{s}/") for n in names) for s in ("train", "test")} == catalog.ACTIONS_PUBLISHED
    assert len(set(actions_hashes().values())) == 72 and all(len(d) == 64 for d in actions_hashes().values())


def test_actions_from_a_folder(site, monkeypatch):
    root, hashes = site
    clips = list(list_actions(ActionsEntry("actions", size=32, root=str(root)), hashes).clips)
    assert [(c["name"], c["split"], c["frames"].shape, c["fps"]) for c in clips] == [("c", "test", (5, 32, 32, 3), 25),
                                                                                     ("a", "train", (5, 32, 32, 3), 25),
                                                                                     ("b", "train", (5, 32, 32, 3), 25)]
    assert np.array_equal(clips[1]["frames"], movie(5, 32, 32, 0))
    monkeypatch.setenv("ANIMREPRO_ACTIONS", str(root))
    assert actions_files(ActionsEntry("actions"), hashes)["test/c.jpg"] == root / "test/c.jpg"
    assert next(list_actions(ActionsEntry("actions", size=16), hashes).clips)["frames"].shape == (5, 16, 16, 3)


def test_actions_changed_or_missing(site, tmp_path):
    root, hashes = site
    entry = ActionsEntry("actions", root=str(root))
    with open(root / "train/b.jpg", "ab") as f: f.write(b"\0")
    refused(lambda: list_actions(entry, hashes), "train/b.jpg: differs")
    (root / "train/b.jpg").unlink()
    refused(lambda: list_actions(entry, hashes), "train/b.jpg: missing", "3 files")
    refused(lambda: list_actions(ActionsEntry("actions", root=str(tmp_path / "none")), hashes), "no such folder")
    refused(lambda: prepare("actions", entry, tmp_path / "out.zip"), "missing")
    assert not (tmp_path / "out.zip").exists()


def test_actions_served(site, server):
    url, asked = server
    entry = ActionsEntry("actions", size=32, url=url)
    assert {c["name"] for c in list_actions(entry, site[1]).clips} == {"a", "b", "c"} and len(asked) == 3
    list_actions(entry, site[1])
    assert len(asked) == 3, "a cached file was fetched again"


def test_actions_not_served(site, server, tmp_path):
    root, hashes = site
    entry = ActionsEntry("actions", url=server[0])
    (root / "train/b.jpg").unlink()
    refused(lambda: list_actions(entry, hashes), "train/b.jpg", "404", "--root")
    (root / "train/b.jpg").write_bytes(b"an error page")
    refused(lambda: list_actions(entry, hashes), "train/b.jpg", "SHA-256", "--root")
    left = sorted(p.name for p in (tmp_path / "cache").rglob("*") if p.is_file())
    assert left == ["a.jpg", "c.jpg"], "only whole, checked files are kept"


def test_no_network(site):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    refused(lambda: prepare("actions", ActionsEntry("actions", url=f"http://127.0.0.1:{port}"), "never.zip"),
            "cannot be reached", "--root", "ANIMREPRO_ACTIONS")
    assert not Path("never.zip").exists()


# A user's own folder

def test_mixed_folder(tmp_path):
    root = tmp_path / "mine"
    (root / "sub").mkdir(parents=True)
    write_video(root / "clip2.mp4", movie(), 24)
    write_video(root / "clip10.gif", movie(7), 10)
    write_video(root / "sub" / "deep.mov", movie(8), 30)
    (root / "frames").mkdir()
    for t, frame in enumerate(movie(12)): Image.fromarray(frame).save(root / "frames" / f"{t}.png")
    (root / "strips").mkdir()
    for i in range(2): Image.fromarray(np.concatenate(list(movie(9, 32, 32, i)), 1)).save(root / "strips" / f"{i}.jpg")
    (root / "zero.mp4").touch()
    (root / "text.avi").write_text("no video")
    (root / "cut.mp4").write_bytes((root / "clip2.mp4").read_bytes()[:1500])
    (root / "readme.txt").write_text("not looked at")
    Image.fromarray(movie(1)[0]).save(root / "cover.png")
    write_video(root / "single.mp4", movie(1), 25)
    report = prepare("mine", dataset_entry("mine", {}, root), tmp_path / "out" / "mine.zip")
    store = FrameStore(tmp_path / "out" / "mine.zip")
    found = {c.name: (c.frames, c.fps) for c in store.clips}
    assert found == {
        "clip2.mp4": (6, 24),
        "clip10.gif": (7, 10),
        "sub/deep.mov": (8, 30),
        "frames": (12, 25),
        "strips/0.jpg": (9, 25),
        "strips/1.jpg": (9, 25)
    }
    assert report.clips == {"train": 5, "test": 1} and store.size == 64 and store.regions(0, 0) is None
    assert len(report.skipped) == 5 and all(
        any(n in line for line in report.skipped)
        for n in ("zero.mp4", "text.avi", "cut.mp4", "cover.png", "single.mp4"))
    assert "5 skipped" in str(report) and prepared(tmp_path / "out" / "mine.zip") == report


def test_links_neither_double_nor_leak_clips(tmp_path):
    root = tmp_path / "mine"
    for name in ("train/a.mp4", "test/b.mp4"):
        (root / name).parent.mkdir(parents=True)
        write_video(root / name, movie(), 25)
    (root / "train/loop").symlink_to(root)
    (root / "train/b.mp4").symlink_to(root / "test/b.mp4")
    report = prepare("mine", FolderEntry("folder", root=str(root), size=16), tmp_path / "m.zip")
    assert {
        c.name: c.split
        for c in FrameStore(tmp_path / "m.zip").clips
    } == {
        "train/a.mp4": "train",
        "test/b.mp4": "test"
    }
    assert report.skipped and all("is a link" in line for line in report.skipped)


def test_given_splits(tmp_path):
    root = tmp_path / "mine"
    for name in ("train/a.mp4", "train/b.mp4", "test/a.mp4", "other/c.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(root / name, movie(), 25)
    report = prepare("mine", FolderEntry("folder", root=str(root), size=16, fit="pad"), tmp_path / "m.zip")
    assert {
        c.name: c.split
        for c in FrameStore(tmp_path / "m.zip").clips
    } == {
        "train/a.mp4": "train",
        "train/b.mp4": "train",
        "test/a.mp4": "test"
    }
    assert len(report.skipped) == 1 and "other/c.mp4" in report.skipped[0]


def test_split_is_by_name():
    names = [f"clip{i}.mp4" for i in range(50)]
    split = split_names(names, 0.2, 0)
    assert split == split_names(names[::-1], 0.2, 0) and list(split.values()).count("test") == 10
    assert split != split_names(names, 0.2, 1)
    more = split_names([*names, "new.mp4"], 0.2, 0)
    assert sum(more[n] != split[n] for n in names) <= 1
    assert set(split_names(names, 0.0, 0).values()) == {"train"} and split_names(["one"], 0.5, 0) == {"one": "train"}
    assert sorted(split_names(["a", "b"], 0.01, 0).values()) == ["test", "train"]


def test_no_clip_at_all(tmp_path):
    root = tmp_path / "mine"
    refused(lambda: prepare("mine", dataset_entry("mine", {}, root), tmp_path / "m.zip"), "mine: no such folder")
    root.mkdir()
    refused(lambda: prepare("mine", dataset_entry("mine", {}, root), tmp_path / "m.zip"), "no readable clip", "0 files")
    (root / "a.mp4").write_text("no video")
    refused(lambda: prepare("mine", dataset_entry("mine", {}, root), tmp_path / "m.zip"), "no readable clip", "a.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_frames_next_to_nothing_else(tmp_path):
    for t, frame in enumerate(movie(3)): Image.fromarray(frame).save(tmp_path / f"{t}.png")
    assert len(clip_paths(tmp_path)[0]) == 3
    refused(lambda: prepare("mine", FolderEntry("folder", root=str(tmp_path)), tmp_path / "m.zip"), "no readable clip",
            "single picture")


def test_output_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    refused(
        lambda: prepare("p", PuppetsEntry("puppets", size=16, train=1, test=1, frames=2), tmp_path / "file" / "p.zip"),
        "p.zip", "cannot be written")


def test_not_prepared(tmp_path):
    refused(lambda: prepared(tmp_path / "none.zip"), "make it with `animrepro data prepare none`")
    (tmp_path / "bad.json").write_text("{}")
    refused(lambda: prepared(tmp_path / "bad.zip"), "not the record")


# Real files

@pytest.mark.skipif(not (SHARED / "actions").is_dir(), reason="no copy of the actions data in ../shared/data/actions")
def test_real_actions(tmp_path):
    report = prepare("actions", ActionsEntry("actions", root=str(SHARED / "actions")), tmp_path / "actions.zip")
    assert report.clips == {"train": 57, "test": 15} and report.published == {"Monkey-Net": report.clips}
    assert {c.frames for c in FrameStore(tmp_path / "actions.zip").clips} <= set(range(51, 147))


@pytest.mark.skipif(not (SHARED / "clips").is_dir(), reason="no real clips in ../shared/data/clips")
def test_real_folder(tmp_path):
    report = prepare("clips", FolderEntry("folder", root=str(SHARED / "clips" / "ted")), tmp_path / "clips.zip")
    assert report.clips == {"train": 2, "test": 1} and sum(report.frames.values()) == 423 and len(report.skipped) == 3
