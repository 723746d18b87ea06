"The panel of directions, as somebody meets it who moves a slider."
import io
import numpy as np, pytest
from PIL import Image
from animrepro.apps import panel
from animrepro.checkpoint import save_weights
from animrepro.core import UserError
from animrepro.models.contract import create_model

MODEL = dict(size=32, width=16, directions=4, ceiling=16, multiplier=0.03)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    "Weights of an untrained LIA with four directions, whose flow heads do not start at zero."
    path = tmp_path_factory.mktemp("apps") / "lia.safetensors"
    save_weights(path, create_model("lia", MODEL), "lia")
    return path


def pixels(shown) -> np.ndarray: return np.asarray(Image.open(io.BytesIO(shown.image.value)))


@pytest.mark.parametrize("direction", range(4))
def test_a_slider_changes_the_picture_and_goes_back(weights, direction):
    shown = panel(weights, 1, span=3.0)
    before, own = pixels(shown), shown.sliders[direction].value
    shown.sliders[direction].value = own + 2
    assert (pixels(shown) != before).any()
    shown.sliders[direction].value = own
    assert np.array_equal(pixels(shown), before)


def test_buttons_draw_once_and_know_both_poses(weights, monkeypatch):
    shown, drawn = panel(weights, 1), []
    first, render = shown.image.value, shown.model.render
    monkeypatch.setattr(shown.model, "render", lambda *a: drawn.append(1) or render(*a))
    shown.buttons["reference"].click()
    assert [s.value for s in shown.sliders] == [0] * 4 and shown.image.value != first
    shown.buttons["own pose"].click()
    assert shown.image.value == first and len(drawn) == 2


def test_a_picture_of_any_size_is_taken_and_encoded_once(weights, tmp_path, monkeypatch):
    path, encoded = tmp_path / "mine.png", []
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 90, 3), np.uint8)).save(path)
    from animrepro.models.lia import Lia
    encode = Lia.encode
    monkeypatch.setattr(Lia, "encode", lambda *a: encoded.append(1) or encode(*a))
    shown = panel(weights, path)
    for slider in shown.sliders: slider.value += 0.5 * slider.max
    assert pixels(shown).shape == (32, 32, 3) and len(encoded) == 1


def test_what_cannot_be_shown_is_named(weights, tmp_path):
    with pytest.raises(UserError, match="none.png"): panel(weights, tmp_path / "none.png")
    other = tmp_path / "fomm.safetensors"
    save_weights(
        other,
        create_model(
            "fomm",
            dict(keypoints=3, width=8, levels=2, ceiling=16, padding=3, step=2, motion_width=8, motion_levels=2,
                 motion_ceiling=16, features=8, features_ceiling=16, blocks=1, norm="group")), "fomm")
    with pytest.raises(UserError, match="weights of fomm, not of lia"): panel(other, 1)
