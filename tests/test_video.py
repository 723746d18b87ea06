"Videos and pictures as users have them: all kinds, rotated, broken, empty, misnamed."
import os
from fractions import Fraction
from pathlib import Path
import av, numpy as np, pytest
from PIL import Image
from animrepro.core import UserError, rng
from animrepro.data.video import (FORMATS, VideoWriter, fit_square, frame_files, frame_rate, is_strip, iterate_frames,
    probe, read_frames, read_image, write_video)

SHARED = Path(__file__).parents[2] / "shared" / "data"


def movie(frames=12, h=48, w=64):
    "A smooth moving pattern `uint8 (T, H, W, 3)`."
    t, y, x = np.mgrid[:frames, :h, :w]
    return np.stack(
        [128 + 80 * np.sin((x + 2 * t) / 9), 128 + 80 * np.sin((y - t) / 7), 128 + 40 * np.sin(
            (x + y) / 11)], -1).astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(255 ** 2 / max(((a.astype(float) - b) ** 2).mean(), 1e-9))


def encode(path, frames, codec, pixels="yuv420p", rate=25, **options):
    with av.open(str(path), "w", options=options) as box:
        out = box.add_stream(codec, rate=rate, width=frames.shape[2], height=frames.shape[1], pix_fmt=pixels)
        for frame in frames: box.mux(out.encode(av.VideoFrame.from_ndarray(frame)))
        box.mux(out.encode(None))
    return path


def cut(path, share):
    data = path.read_bytes()
    out = path.with_name(f"cut{share}_{path.name}")
    out.write_bytes(data[:int(len(data) * share)])
    return out


def refused(call, *words):
    with pytest.raises(UserError) as caught: call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words: assert str(word) in message
    return message


@pytest.mark.parametrize(
    "rate", [Fraction(30000, 1001),
             Fraction(24000, 1001),
             Fraction(25),
             Fraction(60),
             Fraction(10), 29.97002997, 12.5])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_rate_and_count_survive(tmp_path, suffix, rate):
    path = write_video(tmp_path / f"a{suffix}", movie(37), rate)
    back = read_frames(path)
    assert back.fps == Fraction(rate).limit_denominator(1001) == frame_rate(path)
    assert back.frames.shape == (37, 48, 64, 3) and back.frames.dtype == np.uint8
    assert probe(path).frames == 37 and probe(path).size == (48, 64)
    assert psnr(back.frames, movie(37)) > 35
    if suffix == ".mkv": assert np.array_equal(back.frames, movie(37))


@pytest.mark.parametrize("count", [1, 2, 30])
@pytest.mark.parametrize("suffix", list(FORMATS))
def test_still_frames_are_not_merged(tmp_path, suffix, count):
    frames = np.repeat(movie(1), count, 0)
    assert len(read_frames(write_video(tmp_path / f"a{suffix}", frames, 25)).frames) == count


@pytest.mark.parametrize("rate", [10, 25, 30, 50])
def test_gif(tmp_path, rate):
    path = write_video(tmp_path / "a.gif", movie(30), rate)
    back = read_frames(path)
    assert back.fps == rate and len(back.frames) == 30 and psnr(back.frames, movie(30)) > 30


def test_gif_too_fast(tmp_path):
    refused(lambda: write_video(tmp_path / "a.gif", movie(), 60), "a.gif", "at most 50")


def test_gif_with_uneven_delays(tmp_path):
    images = [Image.fromarray(f) for f in movie(4)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=[100, 200, 300, 200])
    assert read_frames(tmp_path / "a.gif").fps == 5 and probe(tmp_path / "a.gif").frames == 4


@pytest.mark.parametrize("h, w", [(47, 63), (1, 1), (48, 63), (47, 64)])
def test_odd_sizes(tmp_path, h, w):
    frames = movie(5, h, w)
    for suffix in FORMATS:
        back = read_frames(write_video(tmp_path / f"a{suffix}", frames, 25)).frames
        assert back.shape[:1] + back.shape[3:] == (5, 3) and psnr(back[:, :h, :w], frames) > 28
        assert back.shape[1:3] == ((h + h % 2, w + w % 2) if suffix in (".mp4", ".mov") else (h, w))


@pytest.mark.parametrize("codec, suffix", [("libvpx-vp9", ".webm"), ("mpeg4", ".avi"), ("libx264", ".mp4"),
                                           ("libx264", ".mov")])
def test_containers_and_cuts(tmp_path, codec, suffix):
    noise = rng(0, "noise").integers(0, 256, (37, 48, 64, 3), dtype=np.uint8)
    path = encode(tmp_path / f"a{suffix}", noise, codec, **({"movflags": "+faststart"} if codec == "libx264" else {}))
    assert probe(path).frames == 37 and read_frames(path).fps == 25
    for share in (0.5, 0.8):
        for call in (lambda: probe(cut(path, share)), lambda: read_frames(cut(path, share))):
            refused(call, f"cut{share}", "readable frames")
    refused(lambda: read_frames(cut(path, 0.001)))


def test_header_at_the_end_is_lost(tmp_path):
    refused(lambda: probe(cut(encode(tmp_path / "a.mp4", movie(37), "libx264"), 0.7)), "not a video")


def test_limit_reads_the_start_of_a_broken_file(tmp_path):
    path = cut(write_video(tmp_path / "a.mp4", rng(0).integers(0, 256, (37, 48, 64, 3), dtype=np.uint8), 25), 0.7)
    count = int(refused(lambda: probe(path)).split("after ")[1].split()[0])
    assert 3 < count < 37 and len(read_frames(path, limit=3).frames) == 3


@pytest.mark.parametrize("codec, suffix", [("libx264", ".mp4"), ("libx264", ".mkv"), ("libvpx-vp9", ".webm"),
                                           ("mpeg4", ".avi"), ("libx264", ".mov")])
@pytest.mark.parametrize("share", [0.95, 0.99, 0.999])
def test_the_last_frames_are_missed(tmp_path, codec, suffix, share):
    noise = rng(0, "noise").integers(0, 256, (60, 48, 64, 3), dtype=np.uint8)
    path = encode(tmp_path / f"a{suffix}", noise, codec,
                  **({
                      "movflags": "+faststart"
                  } if suffix in (".mp4", ".mov") else {}))
    assert probe(path).frames == 60
    refused(lambda: probe(cut(path, share)), f"cut{share}", "readable frames")


def test_bounds(tmp_path, monkeypatch):
    import animrepro.data.video as video
    path = write_video(tmp_path / "a.mp4", movie(12), 25)
    for bound, value, call, words in (("LONGEST", 11, lambda: probe(path), "more than 11 frames"),
                                      ("ROOM", 48 * 64 * 3 * 11, lambda: read_frames(path), "do not fit into memory"),
                                      ("LARGEST", 48 * 64 - 1, lambda: probe(path),
                                       "too large"), ("FASTEST", 24, lambda: frame_rate(path), "frames per second")):
        monkeypatch.setattr(video, bound, value)
        refused(call, "a.mp4", words)
        monkeypatch.undo()


def test_cut_gif(tmp_path):
    refused(lambda: probe(cut(write_video(tmp_path / "a.gif", movie(), 25), 0.6)), "readable frames")


def test_damage_in_the_middle(tmp_path):
    path = encode(tmp_path / "a.mp4", rng(0).integers(0, 256, (37, 48, 64, 3), dtype=np.uint8), "libx264")
    data = bytearray(path.read_bytes())
    data[len(data) // 2:len(data) // 2 + 2000] = rng(1).bytes(2000)
    path.write_bytes(data)
    refused(lambda: probe(path), "readable frames")


def test_not_videos(tmp_path):
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video\n" * 50)
    (tmp_path / "empty").mkdir()
    Image.fromarray(movie(1)[0]).save(tmp_path / "still.png")
    with av.open(str(tmp_path / "sound.mp4"), "w") as box:
        out = box.add_stream("aac", rate=16000)
        sound = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        sound.rate, sound.pts = 16000, 0
        for plane in sound.planes: plane.update(bytes(plane.buffer_size))
        box.mux(out.encode(sound))
        box.mux(out.encode(None))
    for name, word in dict(zero="empty", text="not a video", sound="no video").items():
        refused(lambda: read_frames(tmp_path / f"{name}.mp4"), f"{name}.mp4", word)
        refused(lambda: frame_rate(tmp_path / f"{name}.mp4"), f"{name}.mp4", word)
    refused(lambda: read_frames(tmp_path / "missing.mp4"), "missing.mp4: no such file")
    refused(lambda: read_frames(tmp_path / "empty"), "no pictures in this folder")
    refused(lambda: read_frames(tmp_path / "still.png"), "single picture of 64 x 48")


def test_sound_longer_than_pictures_is_no_damage(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as box:
        video, audio = box.add_stream("libx264", rate=25, width=64, height=48,
                                      pix_fmt="yuv420p"), box.add_stream("aac", rate=16000)
        for i in range(48):
            sound = av.AudioFrame(format="fltp", layout="mono", samples=1024)
            sound.rate, sound.pts = 16000, 1024 * i
            for plane in sound.planes: plane.update(bytes(plane.buffer_size))
            box.mux(audio.encode(sound))
        for frame in movie(10): box.mux(video.encode(av.VideoFrame.from_ndarray(frame)))
        box.mux(video.encode(None)); box.mux(audio.encode(None))
    assert probe(tmp_path / "a.mp4").frames == 10


@pytest.mark.parametrize("matrix, turns", [((0, 1, 0, -1, 0, 0), -1), ((0, -1, 0, 1, 0, 0), 1),
                                           ((-1, 0, 0, 0, -1, 0), 2)])
def test_rotation(tmp_path, matrix, turns):
    pack = lambda m: b"".join((v << 16).to_bytes(4, "big", signed=True) for v in m)
    path = write_video(tmp_path / "a.mp4", movie(3), 25)
    plain, data, unit = read_frames(path).frames, path.read_bytes(), pack((1, 0, 0, 0, 1, 0))
    at = data.index(unit, data.index(b"tkhd"))
    (tmp_path / "r.mp4").write_bytes(data[:at] + pack(matrix) + data[at + len(unit):])
    assert np.array_equal(read_frames(tmp_path / "r.mp4").frames, np.rot90(plain, turns, (1, 2)))


def test_folder_in_natural_order(tmp_path):
    frames = movie(12)
    for t, frame in enumerate(frames): Image.fromarray(frame).save(tmp_path / f"frame{t}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / ".frame3.png").write_text("left by a file manager")
    assert [p.name for p in frame_files(tmp_path)] == [f"frame{t}.png" for t in range(12)]
    video = read_frames(tmp_path)
    assert np.array_equal(video.frames, frames) and video.fps == 25 and probe(tmp_path).frames == 12
    Image.fromarray(frames[0, :20]).save(tmp_path / "frame7.png")
    refused(lambda: read_frames(tmp_path), "frame 7 is 64 x 20")
    (tmp_path / "frame7.png").write_text("broken")
    refused(lambda: read_frames(tmp_path), "frame7.png", "not a picture")


@pytest.mark.parametrize("suffix, kind", [(".png", "PNG"), (".jpg", "JPEG"), (".jpg", "PNG")])
def test_strip(tmp_path, suffix, kind):
    frames = fit_square(movie(9), 48)
    Image.fromarray(np.concatenate(list(frames), 1)).convert("RGBA" if kind == "PNG" else "RGB").save(
        tmp_path / f"a{suffix}", format=kind)
    assert is_strip(tmp_path / f"a{suffix}")
    back = read_frames(tmp_path / f"a{suffix}").frames
    assert back.shape == (9, 48, 48, 3) and psnr(back, frames) > 28


def test_iterator_keeps_one_frame(tmp_path):
    path = write_video(tmp_path / "a.mp4", movie(37), 25)
    stream = iterate_frames(path, size=32)
    assert next(stream).shape == (32, 32, 3) and sum(1 for _ in stream) == 36


def test_pictures(tmp_path):
    base = movie(1)[0]
    Image.fromarray(base).quantize(64).save(tmp_path / "palette.png")
    Image.fromarray(base[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(base[..., 0].astype(np.uint16) * 257).save(tmp_path / "grey16.png")
    Image.fromarray(base).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(np.dstack([base, np.zeros_like(base[..., 0])])).save(tmp_path / "clear.png")
    Image.fromarray(base).convert("1").save(tmp_path / "one_bit.png")
    for path in tmp_path.iterdir(): assert read_image(path).shape == (48, 64, 3) and read_image(path).dtype == np.uint8
    assert np.array_equal(read_image(tmp_path / "grey.png"), read_image(tmp_path / "grey16.png"))
    assert (read_image(tmp_path / "clear.png") == 255).all()
    assert read_image(tmp_path / "grey.png", 16).shape == (16, 16, 3)


@pytest.mark.parametrize("orientation, change", [(1, lambda a: a), (2, np.fliplr), (3, lambda a: np.rot90(a, 2)),
                                                 (6, lambda a: np.rot90(a, -1)), (8, np.rot90)])
def test_exif(tmp_path, orientation, change):
    exif = Image.Exif(); exif[0x0112] = orientation
    Image.fromarray(movie(1)[0]).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), change(movie(1)[0]))


def test_broken_pictures(tmp_path):
    Image.fromarray(movie(1)[0]).save(tmp_path / "a.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "a.png").read_bytes()[:-400])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "zero.png").touch()
    refused(lambda: read_image(tmp_path / "half.png"), "half.png")
    refused(lambda: read_image(tmp_path / "text.png"), "not a picture")
    refused(lambda: read_image(tmp_path / "zero.png"), "zero.png")
    refused(lambda: read_image(tmp_path / "none.png"), "no such file")
    refused(lambda: read_image(tmp_path), str(tmp_path))


def test_fit_square():
    frames = movie(2, 40, 64)
    assert np.array_equal(fit_square(frames, 40), frames[:, :, 12:52])
    padded = fit_square(frames, 64, "pad")
    assert np.array_equal(padded[:, 12:52], frames) and not padded[:, :12].any() and not padded[:, 52:].any()
    stripes = np.tile(np.uint8([0, 255]), 32)[None, :, None].repeat(64, 0).repeat(3, -1)
    assert abs(fit_square(stripes, 16).astype(int) - 127).max() < 12
    assert fit_square(frames[None], 16, "resize").shape == (1, 2, 16, 16, 3)


def test_writer_leaves_nothing_when_it_fails(tmp_path):
    refused(lambda: write_video(tmp_path / "none.mp4", [], 25), "none.mp4: no frames")
    refused(lambda: write_video(tmp_path / "two.mp4", [movie(1)[0], movie(1, 32, 32)[0]], 25),
            "frame 1 is uint8 (32, 32, 3)")
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "stop.mp4", 25) as out:
        out.add(movie(1)[0])
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    refused(lambda: VideoWriter(tmp_path / "a.xyz", 25), ".xyz", ".mp4")
    refused(lambda: VideoWriter(tmp_path / "a.mp4", 0), "a.mp4")
    (tmp_path / "file").touch()
    refused(lambda: write_video(tmp_path / "file" / "a.mp4", movie(), 25), "cannot be written")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_no_permission(tmp_path):
    path = write_video(tmp_path / "a.mp4", movie(), 25)
    path.chmod(0)
    refused(lambda: read_frames(path), "a.mp4")
    tmp_path.chmod(0o500)
    refused(lambda: write_video(tmp_path / "b.mp4", movie(), 25), "cannot be written")


@pytest.mark.skipif(not (SHARED / "clips").is_dir(), reason="no real clips in ../shared/data/clips")
@pytest.mark.parametrize("path", sorted((SHARED / "clips").glob("*/*")), ids=lambda p: f"{p.parent.name}-{p.name}")
def test_real_clips(path):
    if path.suffix == ".png":
        assert read_image(path, 64).shape == (64, 64, 3)
        return
    with av.open(str(path)) as box: declared = box.streams.video[0].frames
    found = probe(path)
    assert found.frames == declared > 100 and found.fps in (10, 24, 25) and found.size == (256, 256)
