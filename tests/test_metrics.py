"""Properties of the metrics that a reader of the notebooks need not see: scale, masks, determinism, errors."""
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from animrepro.core import UserError, save_network, to_float, torch_generator
from animrepro.metrics.correspondence import end_point_error, reduce_flow
from animrepro.data.puppets import correspondence, render, sample_identity, sample_motion
from animrepro.metrics.landmarks import (Detection, LandmarkConfig, LandmarkNet, akd, disturbed, evaluate_landmarks,
    landmark_scores, load_landmarks, mkr, save_landmarks, to_pixels, train_landmarks)
from animrepro.metrics.perceptual import BACKBONES, Lpips, load_lpips
from animrepro.metrics.protocol import IW, LIA, PROTOCOLS, TPSMM, Measure, Panel, calibrate, load_panel
from animrepro.data.store import FrameStore, StoreWriter
from animrepro.evaluate import EvaluateConfig, Instruments, evaluate, reconstruct_clip, summarise
from animrepro.metrics.fid import Fid
from animrepro.metrics.pixel import PSNR_CAP, blurred, jitter, l1, noised, psnr, shifted
from animrepro.models.contract import create_model
from animrepro.stats import bootstrap_mean
from animrepro.warp import make_grid
from animrepro.weights import find_weights

torch.set_num_threads(1)


def picture(n=2, size=64, seed=0):
    return blurred(torch.rand(n, 3, size, size, generator=torch_generator(seed, "picture")), 1.5)


# pixel

def test_one_value_per_frame_and_no_leak_between_frames():
    target = picture(3)
    pred = target.clone()
    pred[1] = noised(pred[1:2], 0.1)[0]
    for metric in (l1, psnr):
        values = metric(pred, target)
        assert values.shape == (3,) and values[0] == values[2] != values[1]
        assert torch.allclose(values[1:2], metric(pred[1:2], target[1:2]))


def test_psnr_is_the_textbook_value_and_capped():
    a, b = picture(), picture(seed=1)
    assert torch.allclose(psnr(a, b), -10 * (a - b).double().square().mean((1, 2, 3)).log10().float(), atol=1e-4)
    assert torch.allclose(psnr(a, a), torch.full((2,), PSNR_CAP))
    assert PSNR_CAP == pytest.approx(58.92, abs=0.01)


def test_l1_is_on_255_scale():
    assert l1(torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)).item() == 255


def test_jitter_is_the_error_of_the_change_between_neighbours():
    true, pred = picture(4), picture(4, seed=1)
    plain = 255 * ((pred[1:] - pred[:-1]) - (true[1:] - true[:-1])).abs().mean((1, 2, 3))
    values = jitter(pred, true, [3, 4, 6, 7])
    assert values.isnan().tolist() == [True, False, True, False] and torch.allclose(values[[1, 3]], plain[[0, 2]],
                                                                                    atol=1e-4)
    assert jitter(pred[:1], true[:1], [0]).isnan().all()
    assert torch.allclose(jitter(true + 0.1, true, range(4))[1:], torch.tensor(0.0), atol=1e-4)
    with pytest.raises(UserError, match="do not fit"): jitter(pred, true[:3], range(4))


def test_jitter_does_not_depend_on_the_batch_and_leaves_gaps_out():
    frames = to_float(render(sample_identity(1), sample_motion(1, 12), 32).frames)
    tables = [
        reconstruct_clip(create_model("copy"), frames, EvaluateConfig(batch=n), Instruments(), None,
                         torch.device("cpu")) for n in (1, 3, 16)
    ]
    assert all(t.equals(tables[0]) for t in tables)
    one = tables[0].query("sources == 1").set_index("frame")["jitter"]
    assert one.index.tolist() == [1, 2, 3, 5, 7, 9, 10, 11] and one.dropna().index.tolist() == [2, 3, 10, 11]
    assert one[2] == pytest.approx(l1(frames[1:2], frames[2:3]).item(), abs=1e-3)


def test_shapes_must_be_equal():
    for metric in (l1, psnr):
        with pytest.raises(UserError, match="do not fit"): metric(torch.zeros(3, 8, 8), torch.zeros(3, 8, 8))
        with pytest.raises(UserError, match="do not fit"): metric(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 9))


def test_distortions():
    image = picture(1)
    # a flat picture stays flat up to its border
    assert torch.allclose(blurred(torch.full((1, 3, 16, 16), 0.3), 2), torch.tensor(0.3))
    assert blurred(image, 40).shape == image.shape
    assert torch.equal(shifted(image, 3)[..., 3:], image[..., :-3]) and torch.equal(
        shifted(image, -3)[..., :-3], image[..., 3:])
    assert torch.equal(noised(image, 0.1, 5), noised(
        image, 0.1, 5)) and not torch.equal(noised(image, 0.1, 5), noised(image, 0.1, 6))


# perceptual

lpips_here = pytest.mark.skipif(load_lpips()[0] is None, reason="AlexNet weights are not on this machine")


@pytest.fixture
def no_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("ANIMREPRO_WEIGHTS", str(tmp_path / "named"))
    monkeypatch.setenv("ANIMREPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    return tmp_path


def test_missing_weights_are_one_line_and_no_substitute(no_weights):
    metric, reason = load_lpips()
    assert metric is None and "alexnet: not available: " in reason and "\n" not in reason
    assert "alexnet-features.pth" in reason and str(no_weights / "named") in reason
    with pytest.raises(UserError, match="not available"): Lpips()


@pytest.mark.parametrize("name", ["alexnet-features.pth", "alexnet-owt-7be5be79.pth"])
def test_a_wrong_file_is_an_error(no_weights, name):
    folder = no_weights / "cache" / "weights"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(b"not a network")
    with pytest.raises(UserError, match="not the expected file"): find_weights("alexnet")
    with pytest.raises(UserError, match="not the expected file"): load_lpips()


def test_module_imports_without_lpips_and_torchvision():
    code = (
        "import sys; sys.modules['lpips'] = sys.modules['torchvision'] = None\nimport animrepro.metrics.perceptual,"
        " animrepro.metrics.pixel, animrepro.metrics.correspondence, animrepro.stats\nassert not {'pandas',"
        " 'matplotlib', 'seaborn', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@lpips_here
def test_lpips_values():
    before = torch.random.get_rng_state()
    metric, reason = load_lpips()
    image = picture(1)
    assert reason == "" and torch.equal(before, torch.random.get_rng_state())
    curve = torch.cat([metric(blurred(image, s), image) for s in (0, 0.5, 1, 2, 4)])
    assert curve[0] == 0 and (curve.diff() > 0).all()
    pair = torch.cat([image, picture(1, seed=1)]), torch.cat([blurred(image, 1), image])
    assert torch.allclose(metric(*pair), torch.cat([metric(a[None], b[None]) for a, b in zip(*pair)]), atol=1e-5)
    ramp = (make_grid(64, 64)[..., 0] + 1) / 2
    # Golden value, taken with a network that gives 0.780 and 0.091 on the example pictures of the LPIPS repository.
    golden = metric(ramp.expand(1, 3, 64, 64), (ramp * (8 * ramp).floor() / 8).expand(1, 3, 64, 64)).item()
    assert golden == pytest.approx(0.2390, abs=2e-4)
    with pytest.raises(UserError, match="too small"): metric(image[..., :30], image[..., :30])
    assert metric(image[..., :31, :31], image[..., :31, :31]).item() == 0



@pytest.mark.parametrize("net", BACKBONES)
def test_every_backbone_of_lpips_rises_with_distortion(net):
    metric, reason = load_lpips(net=net)
    if metric is None: pytest.skip(reason)
    image = picture(1)
    for distort, levels in ((blurred, (0, 1, 2, 4)), (noised, (0, 0.05, 0.1, 0.2))):
        curve = torch.cat([metric(distort(image, level), image) for level in levels])
        assert curve[0] < 1e-3 and (curve.diff() > 0).all()


# protocols

class Toy:
    "Two keypoints at (mean red, mean green) in levels, the second one faint; its embedding is the mean colour."
    def detect(self, images):
        points = 255 * images[:, :2].flatten(2).mean(2)
        return Detection(points[:, None].expand(-1, 2, 2), torch.tensor([0.9, 0.3]).expand(len(images), 2))


def rows(*lengths):
    "Rows of clips of these lengths, with a value in each column that depends on clip and frame."
    columns = {m.column for p in PROTOCOLS.values() for m in p.measures}
    return pd.concat([
        pd.DataFrame(dict(clip=f"clip{i}", sources=1, frame=range(n),
                          **dict.fromkeys(columns, 10.0 * i + np.arange(n)))) for i, n in enumerate(lengths)
    ])


def test_frame_and_video_weighted_means_differ_on_clips_of_unequal_length():
    table = rows(4, 20)
    frame, clip = (p.value(table, p.measures[0]) for p in (TPSMM, LIA))
    assert frame.value == pytest.approx(table.l1_float.mean() / 255) and clip.value == pytest.approx(
        table.groupby("clip").l1_float.mean().mean() / 255)
    assert abs(frame.value - clip.value) * 255 > 2
    same = rows(7, 7)
    assert TPSMM.value(same, TPSMM.measures[0]).value == pytest.approx(LIA.value(same, LIA.measures[0]).value)


def test_l1_is_counted_in_the_units_of_the_paper():
    table = rows(3)
    iw, tpsmm = (next(p.value(table, m).value for m in p.measures if m.metric == "l1") for p in (IW, TPSMM))
    assert iw == pytest.approx(255 * tpsmm)


@pytest.mark.parametrize("measure, expected", [(Measure("akd", "toy", "float"), (3.7**2 + 4.7**2)**0.5),
                                               (Measure("akd", "toy"), 41**0.5),
                                               (Measure("akd", "toy", "truncated"), 5),
                                               (Measure("akd", "toy", "truncated", "per_coordinate"), 3.5),
                                               (Measure("l1"), 3), (Measure("l1", shown="float"), 2.8),
                                               (Measure("l1", shown="truncated"), 7 / 3)])
def test_what_an_instrument_is_shown_and_how_it_counts(measure, expected):
    target = torch.full((2, 3, 8, 8), 100.25 / 255)
    target = (target * 255).floor() / 255
    prediction = target + torch.tensor([3.7, 4.7, 0]).view(1, 3, 1, 1) / 255 + 1e-4 / 255
    values = Panel((measure,), {"toy": Toy()}).score(prediction, target)[measure.column]
    assert values == pytest.approx([expected] * 2, abs=1e-3)


def test_thresholds_and_squares():
    class Faint(Toy):
        def detect(self, images):
            found = super().detect(images)
            return Detection(found.points, torch.where(images.mean() > 0.5, found.confidence, torch.tensor([0.9,
                                                                                                            0.05])))
    dark, bright = torch.full((1, 3, 4, 4), 0.4), torch.full((1, 3, 4, 4), 0.6)
    lost = Panel(tuple(Measure("mkr", "toy", threshold=t) for t in (0.1, 0.5)), {"toy": Faint()}).score(dark, bright)
    assert lost["mkr_toy_0.1"] == [0.5] and lost["mkr_toy"] == [0]  # the faint joint counts at 0.1 only
    aed = Panel((Measure("aed", "mean", distance="squared"), Measure("aed", "mean")), {
        "mean": lambda x: x.mean((2, 3))
    }).score(dark, bright)
    assert aed["aed_mean_squared"] == pytest.approx(3 * 0.2**2, rel=1e-2) and aed["aed_mean"] == pytest.approx(
        (3 * 0.2**2)**0.5, rel=1e-2)


def test_each_network_looks_once_at_what_it_is_shown():
    looks = []
    class Counting(Toy):
        def detect(self, images):
            looks.append(len(images))
            return super().detect(images)
    Panel(tuple(Measure(m, "toy", threshold=t) for m in ("akd", "mkr") for t in (0.1, 0.5)), {
        "toy": Counting()
    }).score(picture(2), picture(2, seed=1))
    assert looks == [2, 2]


def test_papers_measure_as_their_code_does():
    """FOMM family and LIA: per coordinate, truncated, squared; IW: MTCNN, two thresholds, levels; nobody has two
    columns of one name."""
    for p in PROTOCOLS.values(): assert len({m.column for m in p.measures}) == len(p.measures)
    for p in (TPSMM, LIA):
        assert p.every_frame and p.max_frames is None and p.sources == (1,)
        assert {(m.distance, m.shown) for m in p.measures if m.metric == "akd"} == {("per_coordinate", "truncated")}
        assert {m.distance for m in p.measures if m.metric == "aed"} == {"squared"}
        assert next(m for m in p.measures if m.metric == "l1") == Measure("l1", shown="float", unit=255)
    assert {m.threshold
            for m in IW.measures if m.network == "openpose"} == {0.1, 0.5} and any(m.network == "mtcnn"
                                                                                   for m in IW.measures)
    assert {m.network for m in LIA.measures} == {"", "alex", "face68", "rtpose", "openface"}


def test_missing_networks_leave_their_columns_out_and_say_so(no_weights):
    panel = load_panel(TPSMM.measures)
    scores = panel.score(picture(2), picture(2, seed=1))
    assert list(scores) == ["l1_float"] and len(panel.missing) == 4 and all("not available" in line and "\n" not in line
                                                                            for line in panel.missing)
    table = TPSMM.summarise(pd.DataFrame(dict(clip="a", sources=1, **scores)))
    assert table.metric.tolist() == ["l1_float"] and table.frames.tolist() == [2]


def test_calibration_starts_at_the_floor_and_rises():
    clips = [to_float(clip(seed).frames) for seed in range(3)]
    table = calibrate(clips, Panel((Measure("l1"), Measure("psnr")), {}))
    l1s = table[table.metric == "l1"].set_index(["distortion", "level"]).value
    assert l1s["none", 0] == 0 and all(l1s[name].is_monotonic_increasing
                                       for name in ("blur", "shift", "noise")) and l1s["other", 1] > l1s["blur", 1]
    assert (table[table.metric == "psnr"].value <= PSNR_CAP + 1e-3).all() and set(table.frames) == {12}


# landmarks

TINY = LandmarkConfig(size=32, width=8, steps=3, batch=4)


def clip(seed=500_000, size=32):
    return render(sample_identity(seed), sample_motion(seed, 4), size)


def test_training_is_repeatable_whatever_the_global_generator_did():
    losses = []
    first = train_landmarks(TINY, lambda step, loss: losses.append((step, loss)))
    torch.rand(7)
    second = train_landmarks(TINY)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))
    assert [step for step, _ in losses] == [0, 1, 2] and np.isfinite([loss for _, loss in losses]).all()
    assert not torch.equal(first.heatmap.weight,
                           LandmarkNet(LandmarkConfig(**{
                               **vars(TINY), "seed": 1
                           })).heatmap.weight)


def test_training_reaches_every_parameter():
    net = LandmarkNet(TINY)
    points, logits = net(torch.rand(2, 3, 32, 32, generator=torch_generator(0, "frames")))
    (points.square().sum() + logits.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_detection_per_frame_and_size():
    net, frames = LandmarkNet(TINY).eval(), to_float(clip().frames)
    whole = net.detect(frames)
    assert torch.allclose(whole.points[1:2], net.detect(frames[1:2]).points, atol=1e-4)
    double = net.detect(frames.repeat_interleave(2, -1).repeat_interleave(2, -2))
    # the same place in pixels twice as small
    assert torch.allclose((double.points + 0.5) / 2, whole.points + 0.5, atol=1e-4)
    # centres of the first column and the last row
    assert to_pixels(torch.tensor([-1 + 1 / 8, 1 - 1 / 4]), 4, 8).tolist() == [0, 3]


def test_disturbed_stays_in_range_and_is_seeded():
    frames = to_float(clip().frames)
    one = disturbed(frames, 3)
    assert one.shape == frames.shape and one.min() >= 0 and one.max() <= 1
    assert torch.equal(one, disturbed(frames, 3)) and not torch.equal(one, disturbed(frames, 4))


def test_landmark_file(tmp_path):
    net, path = LandmarkNet(TINY).eval(), tmp_path / "net.safetensors"
    save_landmarks(net, path)
    frames = to_float(clip().frames)
    loaded = load_landmarks(path)
    assert loaded.config == TINY and torch.equal(loaded.detect(frames).points, net.detect(frames).points)
    with pytest.raises(UserError, match="no such file"): load_landmarks(tmp_path / "absent.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    with pytest.raises(UserError, match="holds no network of landmarks"): load_landmarks(foreign)
    save_file({"x": torch.zeros(1)}, foreign, metadata={"kind": "animrepro-landmarks", "config": "{}"})
    with pytest.raises(UserError, match="does not hold what it says"): load_landmarks(foreign)
    save_network(foreign, net, "landmarks", landmarks="[]")
    with pytest.raises(UserError, match="other landmarks"): load_landmarks(foreign)
    assert list(tmp_path.glob(".*")) == []


def test_landmark_config_errors():
    with pytest.raises(UserError, match="landmarks"): LandmarkNet(LandmarkConfig(size=40))


def test_report_counts_visible_points_only():
    class Oracle:
        "Right about visible points, wrong by 100 pixels about hidden ones."
        def detect(self, frames):
            points = to_pixels(torch.from_numpy(truth.landmarks), 32, 32) + torch.tensor([3.0, 4])
            points[~torch.from_numpy(truth.visible)] += 100
            return Detection(points, torch.from_numpy(truth.visible).float())

    truth = clip(500_003)
    assert not truth.visible.all()
    report = evaluate_landmarks(Oracle(), [truth])
    assert (report.error, report.error_per_coordinate) == pytest.approx((5, 3.5), rel=1e-5)
    assert report.visibility_accuracy == 1 and report.frames == 4
    with pytest.raises(UserError, match="no clip"): evaluate_landmarks(Oracle(), [])


def test_akd_and_mkr():
    true = torch.zeros(2, 3, 2)
    pred = true + torch.tensor([[3.0, 4], [6, 8], [100, 100]])
    both = torch.tensor([[True, True, False], [False] * 3])
    assert akd(pred, true, both)[0] == 7.5 and akd(pred, true, both)[1].isnan()
    assert akd(pred, true, both, per_coordinate=True)[0] == 5.25
    seen = torch.tensor([[True, True, True, False], [False] * 4])
    found = torch.tensor([[True, False, False, True], [True] * 4])
    assert mkr(found, seen)[0] == pytest.approx(2 / 3) and mkr(found, seen)[1].isnan()


def test_scores_of_equal_frames():
    frames = to_float(clip().frames)
    distance, missing = landmark_scores(LandmarkNet(TINY).eval(), frames, frames, threshold=0)
    assert distance.tolist() == missing.tolist() == [0] * 4
    none, rate = landmark_scores(LandmarkNet(TINY).eval(), frames, frames, threshold=1.1)
    assert none.isnan().all() and rate.isnan().all()


# correspondence


def test_end_point_error_ignores_hidden_places():
    true = make_grid(32, 32).expand(1, -1, -1, -1)
    valid = make_grid(32, 32)[None, ..., 0] > 0
    spoiled = torch.where(valid[..., None], true, torch.nan)
    wrong_where_hidden = torch.where(valid[..., None], true, true + 1)
    assert end_point_error(wrong_where_hidden, spoiled, valid).item() == pytest.approx(0, abs=1e-5)
    assert end_point_error(wrong_where_hidden, true, ~valid).item() == pytest.approx(16 * 2**0.5, rel=1e-5)


def test_end_point_error_in_pixels_of_each_axis():
    true = torch.zeros(1, 8, 32, 2)
    assert end_point_error(torch.tensor([1.0, 0]).expand(1, 4, 8, 2), true, torch.ones(1, 8, 32)).item() == 16
    assert end_point_error(torch.tensor([0.0, 1]).expand(1, 4, 8, 2), true, torch.ones(1, 8, 32)).item() == 4


def test_reduced_flow_takes_valid_pixels_and_needs_half():
    flow = torch.arange(4.0).view(1, 2, 2, 1).expand(-1, -1, -1, 2)
    for mask, value, valid in [([1, 1, 0, 0], 0.5, True), ([1, 0, 0, 0], 0, False), ([0, 1, 1, 1], 2, True)]:
        reduced, ok = reduce_flow(flow, torch.tensor(mask).view(1, 2, 2), 1, 1)
        assert reduced.flatten().tolist() == [value] * 2 and ok.item() is valid


def test_end_point_error_shapes():
    with pytest.raises(UserError, match="do not fit"):
        end_point_error(torch.zeros(2, 4, 4, 2), torch.zeros(1, 8, 8, 2), torch.ones(1, 8, 8))


# statistics

def test_bootstrap_against_a_plain_loop():
    draw = np.random.default_rng(0)
    clips = np.repeat(np.arange(12), draw.integers(3, 20, 12))
    values = draw.normal(size=12)[clips] + draw.normal(size=len(clips))
    for weighting in ("clip", "frame"):
        groups = [values[clips == c] for c in range(12)]
        mean = (lambda g: np.mean([x.mean()
                                   for x in g])) if weighting == "clip" else (lambda g: np.concatenate(g).mean())
        resampled = [mean([groups[i] for i in draw.integers(0, 12, 12)]) for _ in range(4000)]
        i = bootstrap_mean(values, clips, seed=1, resamples=4000, weighting=weighting)
        assert i.value == pytest.approx(mean(groups)) and (i.clips, i.frames) == (12, len(values))
        assert [i.low, i.high] == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.05)


def test_bootstrap_order_of_rows_does_not_matter():
    draw = np.random.default_rng(0)
    clips, values = draw.integers(0, 9, 200).astype(str), draw.normal(size=200)
    order = draw.permutation(200)
    a, b = bootstrap_mean(values, clips, 3), bootstrap_mean(values[order], clips[order], 3)
    assert [a.value, a.low, a.high] == pytest.approx([b.value, b.low, b.high])


def test_bootstrap_nan_rows_and_empty_clips():
    i = bootstrap_mean([1, np.nan, 3, np.nan], ["a", "a", "b", "c"], seed=0)
    assert (i.value, i.clips, i.frames) == (2, 2, 2)
    nothing = bootstrap_mean([np.nan, np.nan], ["a", "b"], seed=0)
    assert np.isnan(nothing.value) and nothing.clips == nothing.frames == 0


def test_bootstrap_level_and_errors():
    draw = np.random.default_rng(0)
    clips, values = np.arange(50), draw.normal(size=50)
    wide, narrow = bootstrap_mean(values, clips, 0, level=0.99), bootstrap_mean(values, clips, 0, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high
    with pytest.raises(UserError, match="weighting"): bootstrap_mean(values, clips, 0, weighting="video")


def test_end_point_error_of_true_puppet_flow():
    identity, motion = sample_identity(500_001), sample_motion(500_001, 20)
    flow, valid = (torch.from_numpy(a)
                   for a in correspondence(identity, motion, np.array([0, 0]), np.array([0, 19]), 64))
    exact = end_point_error(flow, flow, valid)
    assert exact.tolist() == [0, 0]
    coarse = end_point_error(reduce_flow(flow, valid, 16, 16)[0], flow, valid)
    assert (coarse < 1e-4).all()
    still = end_point_error(make_grid(16, 16).expand(2, -1, -1, -1), flow, valid)
    assert still[0] < 0.3 < still[1]


def test_protocols_score_every_frame_before_rounding(tmp_path):
    with StoreWriter(tmp_path / "p.zip", 32) as writer:
        for i, n in enumerate((5, 17)):
            writer.add(f"clip{i}", "test", render(sample_identity(i), sample_motion(i, n), 32).frames, 25)
    store, copy = FrameStore(tmp_path / "p.zip"), create_model("copy")
    panel = Panel(tuple(m for m in TPSMM.measures if not m.network), {}, {"toy": Fid(lambda x: x.mean((2, 3)))})
    config = EvaluateConfig(sources=TPSMM.sources, max_frames=TPSMM.max_frames, every_frame=TPSMM.every_frame)
    rows = evaluate(copy, store, config, panel, puppets=False)
    assert rows.groupby("clip").frame.count().to_dict() == {
        "clip0": 5,
        "clip1": 17
    } and (rows[rows.frame == 0].l1_float == 0).all()
    by_hand = [[(f - frames[0]).abs().mean().item() for f in frames]
               for frames in (to_float(store.frames(c, range(store.clips[c].frames))) for c in (0, 1))]
    tpsmm, lia = (p.summarise(rows, panel.sets) for p in (TPSMM, LIA))
    assert tpsmm.value[0] == pytest.approx(np.concatenate(by_hand).mean(), rel=1e-4) and lia.value[0] == pytest.approx(
        np.mean([np.mean(x) for x in by_hand]), rel=1e-4)
    assert tpsmm.metric.tolist() == ["l1_float", "toy"] and tpsmm.frames.tolist() == [22, 22]
    clean = evaluate(copy, store, EvaluateConfig(), Instruments(), puppets=False)
    assert 0 not in clean.frame.tolist()
    scores = summarise(clean, {"fid": panel.sets["toy"]}, dataset="d", scale="s", method="copy", variant="full", seed=0,
                       steps=0, run="r")
    assert scores.query("metric == 'fid'").frames.tolist() == [22]
