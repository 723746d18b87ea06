"A receiver that has sources and motion codes draws the frames of the direct way, with every method and in every mode."
import shutil
import numpy as np, pytest, torch
from animrepro.animate import (animate_frames, bits_per_frame, compare, draw_codes, motion_codes, quick_copy,
                               read_codes, received, send)
from animrepro.core import to_float
from animrepro.data.puppets import render, sample_identity, sample_motion
from animrepro.data.video import read_frames, write_video
from animrepro.models.contract import create_model, methods

# Numbers of a file beyond those that a method counts: the background of reconstruction is not sent, and what follows
# from the rest is: a covariance's fourth number, a covariance beside its axes, six of a rotation's nine.
BEYOND = {
    "tpsmm": lambda c: -6 * c.background,
    "mraa": lambda c: -6 * c.background + c.regions * (5 if c.affine == "pca" else 4),
    "monkeynet": lambda c: c.keypoints,
    "fv2v": lambda c: 6,
}


@pytest.fixture(params=methods())
def model(request):
    return create_model(request.param, methods()[request.param].smallest).eval()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    "A lossless video of 11 frames: a batch, and one that is not full."
    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    return write_video(path, render(sample_identity(1), sample_motion(1, 11), 32).frames, 30000 / 1001)


def test_the_receiver_draws_the_same_frames(model, clip, tmp_path):
    sources = to_float(render(sample_identity(2), sample_motion(2, 2), 32).frames[:2])
    assert send(model, 32, clip, tmp_path / "clip.codes").frames == 11
    about, tensors = read_codes(tmp_path / "clip.codes", model, 32)
    assert about.fps == "30000/1001" and about.method == model.name
    codes = received(tensors, quick_copy(model), 32)
    for mode in model.modes:
        direct = list(animate_frames(model, sources, read_frames(clip).frames, mode))
        sent = list(draw_codes(quick_copy(model), sources, codes, mode))
        assert len(sent) == 11 and np.array_equal(direct, sent), mode


def test_a_file_costs_what_the_method_counts(model, clip, tmp_path):
    send(model, 32, clip, tmp_path / "clip.codes")
    numbers = model.motion_numbers() + BEYOND.get(model.name, lambda c: 0)(getattr(model, "config", None))
    assert bits_per_frame(tmp_path / "clip.codes") == 32 * numbers


def test_no_picture_is_sent(model, clip, tmp_path):
    send(model, 32, clip, tmp_path / "clip.codes")
    _, tensors = read_codes(tmp_path / "clip.codes", model, 32)
    assert all(v[0].numel() < 32 * 32 for v in tensors.values())


def test_the_first_code_is_where_relative_motion_starts(clip):
    model = quick_copy(create_model("fomm", methods()["fomm"].smallest).eval())
    sources = to_float(render(sample_identity(2), sample_motion(2, 2), 32).frames[:1])
    code, = motion_codes(model, read_frames(clip).frames, batch=11)
    whole = list(draw_codes(model, sources, [code], "relative"))
    late = list(draw_codes(model, sources, [code[5:]], "relative"))
    with torch.inference_mode():
        source = model.encode(sources[None])
        still = model.render(source, model.transfer(source, code[5:6], code[5:6], "relative")).frame
    assert (to_float(late[0]) - still[0]).abs().max() < 1 / 255 and not np.array_equal(whole[5], late[0])


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_a_compiled_copy_draws_the_same_frames(clip):
    "With a batch that it was compiled for, and one of another size."
    model, frames = create_model("copy"), list(read_frames(clip).frames)
    quick = quick_copy(model, compiled=True)
    _, psnr = compare(quick, model, to_float(np.stack(frames[:2])), frames[:8])
    drawn = list(animate_frames(model, to_float(np.stack(frames[:2])), frames, quick=quick))
    assert psnr > 58 and np.array_equal(drawn, list(animate_frames(model, to_float(np.stack(frames[:2])), frames)))
