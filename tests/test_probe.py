"The probe finds what was put into a code, and nothing that was not."
import numpy as np, pytest
from animrepro.core import UserError, rng
from animrepro.data.catalog import PuppetsEntry, prepare
from animrepro.data.store import FrameStore, StoreWriter
from animrepro.models.contract import create_model
from animrepro.probe import TRAITS, Sample, concentration, directions, explained, fit, probe, sample, score


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "16 training and 8 test clips of puppets, small."
    path = tmp_path_factory.mktemp("probe") / "puppets.zip"
    prepare("puppets", PuppetsEntry("puppets", size=32, train=16, test=8, frames=16), path)
    return FrameStore(path)


@pytest.fixture(scope="module")
def samples(store):
    "Training and test frames with the codes of a small LIA."
    model = create_model("lia", dict(size=32, width=16, directions=4, ceiling=16, multiplier=0.03)).eval()
    return sample(model, store, "train", 2), sample(model, store, "test", 1)


def coded(s: Sample, **codes) -> Sample: return Sample(s.clips, codes, s.truth)


def test_truth_in_the_code_is_found_under_any_linear_mixture(samples):
    mix = rng(0, "test").normal(size=(3, 5))
    made = [coded(s, motion=np.hstack([s.truth[k] for k in ("yaw", "brow", "mouth_open")]) @ mix + 7) for s in samples]
    value = score(*made).set_index("target").value
    assert (value[["yaw", "brow", "mouth_open"]] > 0.99).all() and value["glasses"] < 0.5


def test_a_trait_in_the_code_is_a_leak(samples):
    noise = [rng(i, "noise").normal(size=(len(s.clips), 3)) for i, s in enumerate(samples)]
    leaking, clean = (score(*(coded(s, motion=n + k * s.truth["skin"])
                              for s, n in zip(samples, noise))).set_index("target") for k in (20, 0))
    assert leaking.low["skin"] > 0.5 > clean.value["skin"] and leaking.kind["skin"] == "identity"


def test_codes_of_lia_are_three_and_the_control_is_as_long_as_the_motion(samples):
    sizes = {name: code.shape[1] for name, code in samples[1].codes.items()}
    assert sizes == {"motion": 4, "appearance": 16, "random": 4}
    assert np.abs(samples[1].codes["random"] - samples[1].codes["motion"]).max() > 0.01


def test_the_interval_is_over_clips_and_not_over_frames():
    clips = np.repeat(np.arange(10), 100)
    y = rng(0, "level").normal(size=10)[clips][:, None]
    guess = y + np.repeat(rng(1, "level").normal(size=10) * np.arange(10) / 5, 100)[:, None]
    by_clip, by_frame = (explained(y, guess, y.mean(0), c) for c in (clips, np.arange(1000)))
    assert by_clip.value == pytest.approx(
        by_frame.value) and by_clip.high - by_clip.low > 3 * (by_frame.high - by_frame.low)


def test_a_long_code_of_noise_is_held_back_by_the_penalty():
    draw, clips = rng(0, "long"), np.repeat(np.arange(30), 2)
    x, y = draw.normal(size=(60, 50)), draw.normal(size=(60, 1))
    assert np.abs(fit(x, y, clips)(draw.normal(size=(200, 50)))).std() < 0.5 * y.std()


def test_a_direction_that_is_a_parameter_is_named_and_identity_is_not_seen(samples):
    held = samples[1]
    table, chance = directions(coded(held, motion=np.hstack([-3 * held.truth["roll"], held.truth["wall"]])))
    assert table.roll[1] == pytest.approx(-1) and table.drop(
        columns="spread").loc[2:].abs().to_numpy().max() < 1e-6 and 0 < chance < 1
    assert table.spread[1] > 0 and table.spread[2] < 1e-6 and set(TRAITS).isdisjoint(table)
    assert 1 / 13 < concentration(table) <= 1


def test_clips_that_are_not_puppets_are_refused(tmp_path):
    with StoreWriter(tmp_path / "mine.zip", 32) as writer:
        for split in ("train", "test"): writer.add(split, split, np.zeros((3, 32, 32, 3), np.uint8), 25)
    with pytest.raises(UserError, match="is no puppet"):
        probe(
            create_model("fomm", dict(width=8, levels=2, ceiling=16, motion_width=8, motion_levels=2,
                                      motion_ceiling=16)).eval(), FrameStore(tmp_path / "mine.zip"))
