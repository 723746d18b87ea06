"""Data sets from the web, end to end: each of the papers' lists against a server on this machine, with all that goes
wrong out there."""
import http.server, io, json, os, platform, shutil, signal, sys, tarfile, threading, time, zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np, pytest, yaml
from click.testing import CliRunner
from PIL import Image
from animrepro import core
from animrepro.cli import cli
from animrepro.core import UserError, clear_parts, sha256
from animrepro.data import video, web
from animrepro.data.catalog import (ArchiveEntry, PicturesEntry, Shard, VideosEntry, dataset_entry, merge, prepare,
    prepared)
from animrepro.data.store import FrameStore
from animrepro.data.video import write_video

H, W = 48, 96  # of the videos: the left half tells the frame number, the right half does not change


def level(t): return 30 + 3 * (t % 64)


def movie(frames=40, h=H, w=W):
    clip = np.full((frames, h, w, 3), 220, np.uint8)
    clip[:, :, :w // 2] = np.array([level(t) for t in range(frames)])[:, None, None, None]
    return clip


class Web:
    """A folder served on 127.0.0.1. `moods[path]`: status codes to answer with, first to last (the last one stays),
    or 'halve' to hang up once in the middle."""
    def __init__(self, root: Path):
        self.root, self.moods, self.asked, self.busy, self.most, self.slow = root, {}, [], 0, 0, lambda path: None
        self.lock = threading.Lock()
        root.mkdir()
        outer = self
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self): outer.answer(self)
            def log_message(self, *args): pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, to):
        path, start = to.path.split("?")[0][1:], int(to.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        self.asked.append((path, start))
        with self.lock:
            self.busy += 1
            self.most = max(self.most, self.busy)
        self.slow(path)
        with self.lock: self.busy -= 1  # before the answer: whoever has it may ask for the next at once
        mood = self.moods.get(path, [])
        code = mood.pop(0) if len(mood) > 1 else (mood or [200])[0]
        file = self.root / path
        if code == 200 and not file.is_file(): code = 404
        if code in (200, "halve"):
            data = file.read_bytes()
            to.send_response(206 if start else 200)
            to.send_header("Content-Type", "video/mp4" if path.endswith("mp4") else "application/octet-stream")
            if start: to.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            to.send_header("Content-Length", str(len(data) - start))
            to.end_headers()
            to.wfile.write(data[start:start + (len(data) - start) // 2] if code == "halve" else data[start:])
        else: to.send_error(code)

    def times(self, path): return sum(p == path for p, _ in self.asked)


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setattr(web, "PAUSE", 0.01)
    monkeypatch.setenv("ANIMREPRO_CACHE", str(tmp_path / "cache"))
    served = Web(tmp_path / "site")
    yield served
    served.server.shutdown()


@pytest.fixture
def run(tmp_path, site, monkeypatch):
    """Runs `animrepro data prepare NAME --root root` with the given entry of params.yaml; gives the result of the
    command."""
    monkeypatch.setattr(core, "project_root", lambda: tmp_path)
    def command(name, entry):
        params = dict(run=dict(datasets=[], methods=[], seeds=[]), datasets={name: entry}, methods={}, landmarks={},
                      evaluate={})
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        return CliRunner().invoke(
            cli, ["data", "prepare", name, "--root", str(tmp_path / "root")], catch_exceptions=False)
    return command


def refused(call, *words):
    with pytest.raises(UserError) as caught: call()
    assert "\n" not in str(caught.value)
    for word in words: assert word in str(caught.value)


def reasons(root):
    return {m["clip"]: m["reason"] for m in map(json.loads, (root / "missing.jsonl").read_text().splitlines())}


def half_written(root):
    return [p for p in root.rglob("*") if p.name.startswith(".") or p.suffix == ".part" or p.suffix == ".mp4"]


def shows(store, i, first, step=1):
    "Whether clip i begins with frame `first` of the left half of a movie and goes on in steps."
    means = [store.frame(i, t).mean() for t in range(store.clips[i].frames)]
    return np.allclose(means, [level(first + step * t) for t in range(len(means))], atol=4)


# Lists with boxes: VoxCeleb1, TaiChiHD, TED-talks

COLUMNS = "video_id,start,end,bbox,fps,width,height,partition"
LEFT = "0-0-96-96"  # of a frame of 192 x 96, twice the size of our videos
FORMS = {  # head of the list, a row made from a video's name, the name of its clip
    "vox": (COLUMNS + ",person_id", "{video},{start},{end},{box},25,192,96,{split},id10005",
            "id10005#{video}#{start:06d}#{end:06d}"),
    "taichi": (COLUMNS, "{video},{start},{end},{box},25.0,192,96,{split}", "{video}#{start:06d}#{end:06d}"),
    "ted": (COLUMNS, "{video}#016609#016737,{start},{end},{box},25.0,192,96,{split}",
            "016737#016609#{video}#{start:06d}#{end:06d}"),
}


@pytest.mark.parametrize("form", FORMS)
def test_lists_with_boxes(form, site, run, tmp_path):
    head, row, name = FORMS[form]
    for video in ("good", "slow", "flaky", "changed", "refused", "trouble", "-minus"):
        write_video(site.root / f"{video}.mp4", movie(), 25)
    whole = (site.root / "good.mp4").read_bytes()
    (site.root / "torn.mp4").write_bytes(whole[:-100])
    site.moods = {
        "refused.mp4": [403],
        "trouble.mp4": [500],
        "slow.mp4": [200, "halve", 200],
        "flaky.mp4": [500, 403, 200]
    }
    rows = [("good", 5, 15, LEFT, "train"), ("good", 20, 30, LEFT, "test"), ("good", 5, 15, LEFT, "train"),
            ("slow", 0, 8, LEFT, "train"), ("flaky", 3, 9, LEFT, "train"), ("-minus", 0, 40, "96-0-192-96", "test"),
            ("dead", 0, 8, LEFT, "train"), ("changed", 0, 8, LEFT, "train"), ("torn", 2, 38, LEFT, "test"),
            ("good", 1, 3, "", "train"), ("good", 30, 50, LEFT, "train"), ("refused", 0, 8, LEFT, "train"),
            ("trouble", 0, 8, LEFT, "test")]
    text = "\n".join([head, *(row.format(video=v, start=s, end=e, box=b, split=p) for v, s, e, b, p in rows)])
    (site.root / "list.csv").write_text(text + "\n")
    (tmp_path / "known.sha256").write_text(f"{sha256(site.root / 'good.mp4')}  good.mp4\n{'0' * 64}  changed.mp4\n")
    entry = dict(kind="videos", size=32, metadata={f"{site.address}/list.csv": sha256(site.root / "list.csv")},
                 address=site.address + "/{id}.mp4", hashes=str(tmp_path / "known.sha256"),
                 published={"A paper": {"train": 9, "test": 3}})
    done = run(form, entry)
    names = [name.format(video=v, start=s, end=e) for v, s, e, _, _ in rows]
    store, root = FrameStore(tmp_path / "data" / f"{form}.zip"), tmp_path / "root"
    assert done.exit_code == 0 and "published by A paper: train 9, test 3" in done.output and "7 skipped" in done.output
    assert [(c.name, c.split, c.frames) for c in store.clips] == [(names[0], "train", 10), (names[1], "test", 10),
                                                                  (names[3], "train", 8), (names[4], "train", 6),
                                                                  (names[5], "test", 40)]
    assert all(shows(store, i, first) for i, first in enumerate((5, 20, 0, 3))) and np.allclose(
        store.frames(4), 220, atol=4), "the right frames, and the right half of them"
    told = reasons(root)
    for i, word in ((6, "HTTP Error 404"), (7, "SHA-256"), (8, "broken after"), (9, "cannot be used"),
                    (10, "ends after 10 of its 20"), (11, "HTTP Error 403"), (12, "HTTP Error 500")):
        assert word in told.pop(names[i]), names[i]
    assert not told and prepared(tmp_path / "data" / f"{form}.zip").clips == {"train": 3, "test": 2}
    assert site.times("dead.mp4") == 1 < web.TRIES <= site.times(
        "trouble.mp4"), "what is gone is asked for once, what may pass as often as allowed"
    assert any(start for path, start in site.asked if path == "slow.mp4"), "a broken transfer goes on where it stopped"
    assert not half_written(root) and (
        root / "videos.sha256").read_text().count("  ") == 4, "SHA-256 of the videos that were of use"

    site.asked.clear()
    write_video(site.root / "dead.mp4", movie(), 25)
    again = run(form, entry)
    assert again.exit_code == 0 and len(FrameStore(
        tmp_path / "data" / f"{form}.zip").clips) == 6 and names[6] not in reasons(root), "a video that came back"
    assert not {"slow.mp4", "flaky.mp4", "-minus.mp4"} & {path
                                                          for path, _ in site.asked}, "what is done is not done again"


def test_rates_and_sizes_of_today(site, tmp_path):
    "A list made for 25 frames per second and a width of 192; the video now has 50 and 48."
    write_video(site.root / "v.mp4", movie(60, 24, 48), 50)
    (tmp_path / "l.csv").write_text(f"{COLUMNS}\nv,5,15,{LEFT},25,192,96,train\n")
    report = prepare(
        "v",
        VideosEntry("videos", size=16, metadata={str(tmp_path / "l.csv"): None}, address=site.address + "/{id}.mp4",
                    root=str(tmp_path / "root")), tmp_path / "v.zip")
    store = FrameStore(tmp_path / "v.zip")
    assert report.frames == {
        "train": 20
    } and shows(store, 0, 10) and store.clips[0].fps == 50 and store.clips[0].meta["video"] == "v"


def test_lists_that_cannot_be_used(site, tmp_path):
    def entry(text, **more):
        (tmp_path / "l.csv").write_text(text)
        return VideosEntry("videos", metadata={str(tmp_path / "l.csv"): None}, root=str(tmp_path / "root"),
                           address=site.address + "/{id}", **more)
    make = lambda e: prepare("v", e, tmp_path / "v.zip")
    refused(lambda: make(entry("a,b\n1,2\n")), "column video_id is missing")
    refused(lambda: make(entry(f"{COLUMNS}\nx,0,0,{LEFT},10.0,192,96,train\n")), "none of 1 clips",
            "the list gives no frames", "missing.jsonl")
    refused(lambda: make(entry(f"{COLUMNS}\n../../x,0,9,{LEFT},10.0,192,96,train\n")), "is no name of a clip")
    refused(lambda: make(entry(f"{COLUMNS}\nx,0,9,{LEFT},10.0,192,96,../train\n")), "is no name of a clip")
    refused(lambda: make(entry(f"{COLUMNS}\nx,0,9,{LEFT},10.0,192,96,train\n", hashes="no.file")),
            "no.file: cannot be read")
    refused(lambda: make(VideosEntry("videos", metadata={"none.csv": None}, root=str(tmp_path))),
            "none.csv: no such file")
    refused(lambda: make(VideosEntry("videos", metadata={f"{site.address}/none.csv": None}, root=str(tmp_path))),
            "answers 404", f"or save the list as {tmp_path}")
    (site.root / "new.csv").write_text("other")
    refused(lambda: make(VideosEntry("videos", metadata={f"{site.address}/new.csv": "0" * 64}, root=str(tmp_path))),
            "the file changed", "or save the list")
    refused(lambda: dataset_entry("v", {"v": {"kind": "videos"}}), "metadata is missing")
    refused(lambda: dataset_entry("v", {"v": {
        "kind": "videos",
        "metadata": {
            "a": None
        },
        "address": "http://x"
    }}), "{id}")
    assert not (tmp_path / "v.zip").exists()


# TalkingHead-1KH

def test_minutes_of_talkinghead(site, run, tmp_path, monkeypatch):
    monkeypatch.setitem(video.FORMATS, ".mp4", ("libx264", "yuv420p", {"crf": "18", "g": "7", "sc_threshold": "0"}))
    # 100 seconds; a key frame every 3.5, so minute 1 begins with frame 126
    write_video(site.root / "a_b.mp4", movie(200), 2)
    (site.root / "torn.mp4").write_bytes((site.root / "a_b.mp4").read_bytes()[:3000])
    write_video(site.root / "changed.mp4", movie(), 2)
    site.moods = {"trouble.mp4": [500]}
    with zipfile.ZipFile(site.root / "data_list.zip", "w") as z:
        lines = ["a_b_0000,96,192,4,11,0,0,96,96", "a_b_0001,96,192,10,19,0,0,96,96", "a_b_0002,96,192,0,9,0,0,96,96",
                 "a_b_0000,96,192,1,8,,,,", "dead_0000,96,192,0,9,0,0,96,96", "torn_0000,96,192,0,99,0,0,96,96",
                 "changed_0000,96,192,0,9,0,0,96,96", "trouble_0000,96,192,0,9,0,0,96,96"]
        z.writestr("data_list/train_video_tubes.txt", "\n".join(lines) + "\n")
        z.writestr("data_list/val_video_tubes.txt", "a_b_0000,96,192,20,29,96,0,192,96\n")
        z.writestr("data_list/train_video_ids.txt", "a_b\n")
    (tmp_path / "known").write_text(f"{'0' * 64}  changed.mp4\n")
    done = run(
        "thkh",
        dict(kind="videos", layout="tubes", size=32, metadata={f"{site.address}/data_list.zip": None},
             address=site.address + "/{id}.mp4", hashes=str(tmp_path / "known")))
    store = FrameStore(tmp_path / "data/thkh.zip")
    assert done.exit_code == 0 and [(c.name, c.split, c.frames) for c in store.clips] == [
        ("a_b_0000_S4_E11_L0_T0_R96_B96", "train", 8), ("a_b_0001_S10_E19_L0_T0_R96_B96", "train", 10),
        ("a_b_0000_S20_E29_L96_T0_R192_B96", "test", 10)]
    assert shows(store, 0, 4) and shows(store, 1, 126 + 10) and np.allclose(store.frames(2), 220, atol=4)
    told = " ".join(f"{clip} {reason}" for clip, reason in sorted(reasons(tmp_path / "root").items()))
    for word in ("number 3", "cannot be used", "HTTP Error 404", "torn", "SHA-256", "HTTP Error 500"):
        assert word in told
    assert len(reasons(tmp_path / "root")) == 6
    refused(lambda: web.read_tubes(tmp_path / "known"), "not a zip archive")


# VoxCeleb2

def annotation(boxes, first=10):
    head = (
        "Identity  : \tid1\nReference : \tv\nOffset    : \t0\nFV Conf   : \t16.1\t(1)\nASD Conf  : \t5.1\n\nFRAME \tX"
        " \tY \tW \tH \n"
    )
    return head + "".join(f"{first + t:06d} \t" + " \t".join(f"{v:.3f}" for v in box) + " \n"
                          for t, box in enumerate(boxes))


def test_tracks_of_voxceleb2(site, run, tmp_path, monkeypatch):
    monkeypatch.setattr(web, "VOX_SHORTEST", 8)
    monkeypatch.setattr(web, "VOX_SMALLEST", 20)
    for name in ("v", "changed"): write_video(site.root / f"{name}.mp4", movie(40, 60, 120), 25)
    (site.root / "torn.mp4").write_bytes((site.root / "v.mp4").read_bytes()[:2500])
    site.moods = {"trouble.mp4": [500]}
    still, small, border = (0.1, 0.25, 0.25, 0.5), (0.1, 0.25, 0.05, 0.1), (0, 0.25, 0.25, 0.5)
    files = {"id1/v/00001": [still] * 12 + [(0.6, 0.25, 0.25, 0.5)] * 10 + [still] * 3, "id1/v/00002": [small] * 10,
             "id1/v/00003": [border] * 10, "id2/dead/00001": [still] * 10, "id2/torn/00001": [still] * 30,
             "id2/changed/00001": [still] * 10, "id2/trouble/00001": [still] * 10}
    with zipfile.ZipFile(site.root / "vox2_dev_txt.zip", "w") as z:
        for file, boxes in files.items(): z.writestr(f"txt/{file}.txt", annotation(boxes))
        z.writestr("txt/id1/v/00009.txt", "Identity : id1\n")
    with zipfile.ZipFile(site.root / "vox2_test_txt.zip", "w") as z:
        z.writestr("txt/id9/v/00001.txt", annotation([still] * 9, 0))
    (tmp_path / "known").write_text(f"{'0' * 64}  changed.mp4\n")
    lists = {f"{site.address}/vox2_dev_txt.zip": None, f"{site.address}/vox2_test_txt.zip": None}
    done = run(
        "vox2",
        dict(kind="videos", layout="tracks", size=16, metadata=lists, address=site.address + "/{id}.mp4",
             hashes=str(tmp_path / "known")))
    store = FrameStore(tmp_path / "data/vox2.zip")
    assert done.exit_code == 0 and [(c.name, c.split, c.frames)
                                    for c in store.clips] == [("id1#v#00001#000", "train", 12),
                                                              ("id1#v#00001#001", "train", 10),
                                                              ("id9#v#00001#000", "test", 9)]
    assert shows(store, 0, 10) and np.allclose(store.frames(1), 220, atol=4) and shows(store, 2, 0)
    told = reasons(tmp_path / "root")
    for clip, word in (("id1#v#00002#000", "pixels, less than 20"), ("id1#v#00003#000", "over the border"),
                       ("id1#v#00009", "no boxes"), ("id2#dead#00001#000", "404"), ("id2#torn#00001#000", "broken"),
                       ("id2#changed#00001#000", "SHA-256"), ("id2#trouble#00001#000", "500")):
        assert word in told.pop(clip), clip
    assert not told, "a run of three frames is no clip, and no loss"


# MGif

def walk(seed):
    frames = [Image.fromarray(f) for f in np.random.default_rng(seed).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)]
    out = io.BytesIO()
    frames[0].save(out, "gif", save_all=True, append_images=frames[1:], duration=100)
    return out.getvalue()


def packed(path, files):
    with tarfile.open(path, "w:gz") as t:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))


def test_archives_of_mgif(site, run, tmp_path, monkeypatch):
    packed(
        site.root / "gif.tar.gz", {
            "moving-gif/train/0.gif": walk(0),
            "moving-gif/train/1.gif": walk(1),
            "moving-gif/train/2.gif": b"lost",
            "moving-gif/test/3.gif": walk(3)
        })
    whole = (site.root / "gif.tar.gz").read_bytes()
    (site.root / "torn.tar.gz").write_bytes(whole[:len(whole) // 2])
    shutil.copy(site.root / "gif.tar.gz", site.root / "changed.tar.gz")
    packed(site.root / "evil.tar.gz", {"../../out.txt": b"out"})
    (site.root / "link").write_text(json.dumps(dict(href=f"{site.address}/gif.tar.gz")))
    site.moods = {"trouble.tar.gz": [500], "gif.tar.gz": [503, "halve", 200]}
    monkeypatch.setattr(web, "YANDEX", f"{site.address}/link")
    at = lambda name: f"{site.address}/{name}.tar.gz"
    entry = dict(
        kind="archive", size=32, archives={
            "https://yadi.sk/d/mgif": sha256(site.root / "gif.tar.gz"),
            at("torn"): None,
            at("changed"): "0" * 64,
            at("dead"): None,
            at("trouble"): None,
            at("evil"): None
        })
    done = run("mgif", entry)
    store, root = FrameStore(tmp_path / "data/mgif.zip"), tmp_path / "root"
    assert done.exit_code == 0 and [(c.name, c.split, c.frames, c.fps)
                                    for c in store.clips] == [("test/3.gif", "test", 4, 10),
                                                              ("train/0.gif", "train", 4, 10),
                                                              ("train/1.gif", "train", 4, 10)]
    told = reasons(root)
    for name, word in (("torn.tar.gz", "not a whole"), ("changed.tar.gz", "SHA-256"), ("dead.tar.gz", "404"),
                       ("trouble.tar.gz", "500"), ("evil.tar.gz", "not a whole")):
        assert word in told.pop(name), name
    assert len(told) == 1 and next(iter(told)).endswith("train/2.gif") and not list(
        tmp_path.rglob("out.txt")) and not [p for p in root.iterdir() if p.name.startswith(".")]
    assert [start > 0 for path, start in site.asked
            if path == "gif.tar.gz"] == [False, False, True], "refused, broken off, and then the rest"
    site.asked.clear()
    assert run("mgif", entry).exit_code == 0 and not site.times("gif.tar.gz") and not site.times("link")


def test_no_archive_at_all(site, tmp_path):
    make = lambda: prepare(
        "m", ArchiveEntry("archive", archives={f"{site.address}/none.zip": None}, root=str(tmp_path / "root")), tmp_path
        / "m.zip")
    refused(make, "answers 404", "or save the archive in")
    with zipfile.ZipFile(tmp_path / "root" / "none.zip", "w") as z:
        z.writestr("a/0.gif", walk(0)); z.writestr("a/1.gif", walk(1))
    assert prepare("m", ArchiveEntry("archive", archives={f"{site.address}/none.zip": None},
                                     root=str(tmp_path / "root")), tmp_path / "m.zip").clips == {
                                         "train": 1,
                                         "test": 1
                                     }, "saved by hand"


def test_an_archive_larger_than_the_disk_is_not_unpacked(tmp_path, monkeypatch):
    for name, kind in (("a.zip", "zip"), ("b.tar", "tar")):
        monkeypatch.undo()
        (tmp_path / "content").mkdir(exist_ok=True)
        (tmp_path / "content/zeros").write_bytes(bytes(10**6))
        shutil.make_archive(str(tmp_path / name.split(".")[0]), kind, tmp_path / "content")
        monkeypatch.setattr(web.shutil, "disk_usage", lambda path: type("Usage", (), dict(free=10**6 - 1)))
        with pytest.raises(UserError, match="larger than the free space"):
            web.unpack(f"http://127.0.0.1:9/{name}", tmp_path)
        assert not (tmp_path / f"{name}.unpacked").exists()


# FFHQ, GermanPublicTV

def test_pictures(tmp_path):
    root = tmp_path / "ffhq"
    (root / "00000").mkdir(parents=True)
    for i in (2, 10): Image.new("RGB", (50, 40), (i, 100, 100)).save(root / "00000" / f"{i}.png")
    (root / "broken.png").write_text("no")
    write_video(root / "tv.mp4", movie(), 25)
    report = prepare("ffhq", PicturesEntry("pictures", root=str(root), size=16), tmp_path / "f.zip")
    store = FrameStore(tmp_path / "f.zip")
    assert report.clips == {
        "test": 3
    } and [c.name for c in store.clips] == ["tv.mp4", "00000/2.png", "00000/10.png"] and len(report.skipped) == 1
    assert np.array_equal(store.frame(1, 0), store.frame(1, 1)) and store.frame(
        2, 0)[0, 0].tolist() == [10, 100, 100] and store.clips[1].meta["still"]
    refused(lambda: dataset_entry("ffhq", {"ffhq": {"kind": "pictures"}}), "root is missing", "--root DIR")
    refused(lambda: prepare("f", PicturesEntry("pictures", root=str(tmp_path / "none")), tmp_path / "g.zip"),
            "no such folder")
    (tmp_path / "empty").mkdir()
    refused(lambda: prepare("f", PicturesEntry("pictures", root=str(tmp_path / "empty")), tmp_path / "g.zip"),
            "no readable picture")
    assert prepare("f", PicturesEntry("pictures", root=str(root), size=16, limit=2), tmp_path / "g.zip").clips == {
        "test": 1
    }


# Many videos

def pieces(*videos): return [web.Piece(v, v, "train", 0, 8, (0, 0, W // 2, H), (W, H), 25) for v in videos]


def test_workers_share_the_work(site, tmp_path):
    for i in range(6): write_video(site.root / f"{i}.mp4", movie(10), 25)
    site.slow = lambda path: time.sleep(0.1)
    assert not web.gather(pieces(*"012345"), web.Source(site.address + "/{id}.mp4", keep=True), tmp_path / "root", 16,
                          workers=3)
    assert 1 < site.most <= 3 and len(list((tmp_path / "root/videos").iterdir())) == 6
    assert not web.gather(pieces(*"012345"), web.Source("http://127.0.0.1:9/{id}.mp4"), tmp_path / "root", 24,
                          workers=3), "kept videos serve another size"


def test_interrupted_and_resumed(site, tmp_path):
    for name in "ab": write_video(site.root / f"{name}.mp4", movie(10), 25)
    def interrupt(path):
        if path != "b.mp4": return
        while not (tmp_path / "root/16/train/a.mkv").is_file(): time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
    site.slow = interrupt
    source = web.Source(site.address + "/{id}.mp4")
    # a shell's background job starts with the signal ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt): web.gather(pieces(*"ab"), source, tmp_path / "root", 16, workers=2)
    signal.signal(signal.SIGINT, before)
    assert [p.name for p in (tmp_path / "root/16/train").iterdir()] == ["a.mkv"]
    site.slow = lambda path: None
    site.asked.clear()
    clear_parts.cache_clear()  # as in a new process
    (tmp_path / f"root/16/train/.b.{2**30}@{platform.node()}.part.mkv").write_bytes(b"what kill -9 leaves")
    assert not web.gather(pieces(*"ab"), source, tmp_path / "root", 16, workers=2) and not site.times("a.mp4")
    assert sorted(p.name for p in (tmp_path / "root/16/train").iterdir()) == ["a.mkv", "b.mkv"
                                                                              ] and not half_written(tmp_path / "root")


def test_room_is_asked_for_first(site, tmp_path, monkeypatch):
    monkeypatch.setattr(web.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 10**8))
    refused(lambda: web.gather(pieces("a"), web.Source(site.address + "/{id}.mp4"), tmp_path / "root", 16),
            "are needed", "0.1 GB are free")
    assert not site.asked


def test_a_part_of_the_list(site, tmp_path):
    for i in range(4): write_video(site.root / f"{i}.mp4", movie(10), 25)
    (tmp_path / "l.csv").write_text("\n".join([
        COLUMNS, *(f"{i},0,8,{LEFT},25,192,96,{'train' if i < 3 else 'test'}" for i in (0, 1, 2, 3)),
        f"0,1,9,{LEFT},25,192,96,train"
    ]))
    entry = VideosEntry("videos", size=16, metadata={str(tmp_path / "l.csv"): None}, address=site.address + "/{id}.mp4",
                        root=str(tmp_path / "root"), limit=1)
    assert prepare("v", entry, tmp_path / "v.zip").clips == {
        "train": 2,
        "test": 1
    } and {path
           for path, _ in site.asked} == {"0.mp4", "3.mp4"}


def test_shards_of_a_list_make_the_store_of_the_whole(site, tmp_path):
    """Three workers with a list whose clips of one video stand apart; a video is gone, and so is the second worker's
    first attempt."""
    for i in range(5): write_video(site.root / f"{i}.mp4", movie(20 + i), 25)
    rows = [(i, start) for start in (0, 9) for i in range(6)]
    (tmp_path / "l.csv").write_text("\n".join(
        [COLUMNS, *(f"{i},{start},{start + 8},{LEFT},25,192,96,{'train' if i < 4 else 'test'}" for i, start in rows)]))
    entry = lambda root: VideosEntry("videos", size=16, metadata={str(tmp_path / "l.csv"): None}, address=site.address +
                                     "/{id}.mp4", root=str(tmp_path / root))
    whole, asked = prepare("v", entry("one"), tmp_path / "whole.zip"), site.asked[:]
    site.asked.clear()
    shared, out = entry("shared"), tmp_path / "v.zip"
    for i in (1, 3): prepare("v", shared, Shard(i, 3).path(out), Shard(i, 3))
    refused(lambda: merge("v", shared, out, 3), "v.2-of-3.zip: missing", "animrepro data prepare v --shard 2/3")
    prepare("v", shared, Shard(2, 3).path(out), Shard(2, 3))
    merged = merge("v", shared, out, 3)
    assert sorted(site.asked) == sorted(asked), "each video is asked for by one worker"
    assert out.read_bytes() == (tmp_path / "whole.zip").read_bytes() and merged.skipped == whole.skipped and len(
        merged.skipped) == 2
    assert (merged.clips, merged.frames) == (whole.clips, whole.frames) and merged.clips == {"train": 8, "test": 2}
    assert not list(tmp_path.glob("*-of-*")), "shards are gone when their bytes are in the whole"


def test_missing_package(site, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yt_dlp", None)
    refused(lambda: web.fetch_video(f"{site.address}/a.mp4", tmp_path / "a.mp4"), "yt-dlp is not installed",
            "pip install")
    refused(lambda: web.gather(pieces("a"), web.Source(), tmp_path / "root", 16), "yt-dlp is not installed")


# Plain files

def test_fetch(site, tmp_path):
    (site.root / "f").write_bytes(bytes(1000))
    (tmp_path / "f.part").write_bytes(bytes(1200))
    site.moods["f"] = [416, 200]
    assert web.fetch(f"{site.address}/f",
                     tmp_path / "f").stat().st_size == 1000, "a rest that is longer than the file is thrown away"
    assert web.fetch(f"{site.address}/f", tmp_path / "f") and site.times("f") == 2, "what is there is not fetched"
    (tmp_path / "f").write_bytes(b"damaged")
    assert web.fetch(f"{site.address}/f", tmp_path / "f", sha256(site.root / "f")).stat().st_size == 1000
    site.moods["f"] = [500]
    refused(lambda: web.fetch(f"{site.address}/f", tmp_path / "g"), "the server answers 500")
    refused(lambda: web.fetch("http://127.0.0.1:9/f", tmp_path / "g"), "cannot be reached")
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["f"]


def test_processes_that_want_the_same_file_fetch_it_once(site, tmp_path):
    (site.root / "f").write_bytes(os.urandom(3000))
    site.slow = lambda path: time.sleep(0.2)
    with ThreadPoolExecutor(4) as pool:  # a lock is an open file's, so threads stand for processes
        list(pool.map(lambda _: web.fetch(f"{site.address}/f", tmp_path / "f"), range(4)))
    assert site.times("f") == 1 and (tmp_path / "f").read_bytes() == (site.root / "f").read_bytes()
    assert not half_written(tmp_path)


@pytest.mark.parametrize("hashes", [None, {"mine": "0" * 64}])
def test_videos_that_the_user_put_there_stay(tmp_path, hashes):
    video = tmp_path / "videos" / "mine.mp4"
    video.parent.mkdir()
    write_video(video, movie(), 25)
    piece = web.Piece("mine#0", "mine", "train", 0, 10, (0, 0, 96, 96), (192, 96))
    web.fetch_and_cut("mine", [piece], web.Source(hashes=hashes), tmp_path, 32, threading.Event())
    assert video.is_file()


# The published lists

def test_published_lists(shared):
    lists = shared / "data" / "metadata"
    if not lists.is_dir(): pytest.skip("no copies of the published lists in ../shared/data/metadata")
    (vox, lost), (taichi, none), (ted, all_lost) = (web.read_boxes(lists / f"{name}-metadata.csv")
                                                    for name in ("vox", "taichi", "ted"))
    count = lambda pieces, split: sum(p.split == split for p in pieces)
    assert (count(vox, "train"), count(vox, "test"), lost) == (19240, 524, []), "19,550 and 525 rows, 311 of them twice"
    assert (count(taichi, "train"), count(taichi, "test"), none) == (3049, 285, [])
    assert not ted and len(all_lost) == 1320, "the list in the repository has no frames; that of issue 12 is needed"
    assert {p.split for p in vox} == {"train", "test"} and all(64 <= p.end - p.start <= 1024 for p in vox)
    assert 600e9 < web.disk_need(vox, 256, 4) < 700e9
