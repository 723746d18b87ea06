"The model contract over every registered method, and what Implicit Warping promises beyond it."
import re, subprocess, sys, typing
from dataclasses import replace
import pytest, torch
from animrepro.avd import AvdConfig
from animrepro.core import UserError, load_params, torch_generator, typed
from animrepro.data.pairs import Batch
from animrepro.inference import for_inference
from animrepro.keypoints import hull_size
from animrepro.losses import Criterion
from animrepro.models.contract import create_model, methods
from animrepro.evaluate import EvaluateConfig
from animrepro.metrics.landmarks import LandmarkConfig
from animrepro.pose import PoseConfig
from animrepro.train import TrainConfig, check_run, method_config

METHODS = methods()
TRAINABLE = sorted(set(METHODS) - {"copy"})
SMALL = {name: cls.smallest for name, cls in METHODS.items()}


def code(motion): return next(iter(vars(motion).values()))


def pictures(*shape, seed=0): return torch.rand(*shape, generator=torch_generator(seed, "pictures"))


@pytest.fixture(params=METHODS)
def model(request):
    return create_model(request.param, SMALL[request.param]).eval()


@torch.no_grad()
def test_frames_have_the_shape_of_the_driving_ones(model):
    for s in (1, 3):
        frame = model.reconstruct(pictures(2, s, 3, 32, 32), pictures(2, 3, 32, 32, seed=1)).frame
        assert frame.shape == (2, 3, 32, 32) and frame.min() >= 0 and frame.max() <= 1


@torch.no_grad()
def test_a_frame_does_not_depend_on_its_company(model):
    sources, driving = pictures(3, 2, 3, 32, 32), pictures(3, 3, 32, 32, seed=1)
    together, alone = model.reconstruct(sources, driving).frame[1:2], model.reconstruct(sources[1:2],
                                                                                        driving[1:2]).frame
    assert torch.allclose(together, alone, atol=1e-5)


@torch.no_grad()
def test_sources_encoded_once_serve_all_frames(model):
    sources, driving = pictures(1, 2, 3, 32, 32), pictures(4, 3, 32, 32, seed=1)
    source = model.encode(sources)
    at_once = model.render(source, model.motion(driving)).frame
    each = torch.cat([model.reconstruct(sources, d[None]).frame for d in driving])
    assert torch.allclose(at_once, each, atol=1e-5)


@torch.no_grad()
def test_order_of_sources_does_not_matter_where_claimed(model):
    if not model.set_invariant: pytest.skip(f"{model.name} claims no invariance")
    sources, driving = pictures(1, 3, 3, 32, 32), pictures(1, 3, 32, 32, seed=1)
    assert torch.allclose(
        model.reconstruct(sources, driving).frame,
        model.reconstruct(sources[:, [2, 0, 1]], driving).frame, atol=1e-5)


@torch.no_grad()
def test_relative_transfer_of_no_movement_keeps_the_source_pose(model):
    sources, driving = pictures(1, 1, 3, 32, 32), pictures(1, 3, 32, 32, seed=1)
    if "relative" not in model.modes: pytest.skip(f"{model.name} has no relative mode")
    source, motion = model.encode(sources), model.motion(driving)
    still = model.render(source, model.transfer(source, motion, motion, "relative")).frame
    assert still.shape == (1, 3, 32, 32)
    moved = model.transfer(source, motion, motion, "relative")
    assert torch.allclose(code(moved), code(model.motion(sources[:, 0])), atol=1e-5)


@torch.no_grad()
def test_motion_codes_are_indexed_by_frames(model):
    driving, source = pictures(4, 3, 32, 32, seed=1), model.encode(pictures(1, 1, 3, 32, 32))
    some, alone = (model.render(source, code).frame
                   for code in (model.motion(driving)[1:3], model.motion(driving[1:3])))
    assert torch.allclose(some, alone, atol=1e-5)


def test_every_method_says_who_it_is():
    assert all(cls.title and len(cls.title) < 30 and re.fullmatch("#[0-9A-Fa-f]{6}", cls.colour)
               for cls in METHODS.values())
    assert all(
        len({getattr(cls, what)
             for cls in METHODS.values()}) == len(METHODS) for what in ("title", "order", "colour"))
    assert [name for name, cls in METHODS.items() if cls.__module__ != f"animrepro.models.{name}"] == ["copy"]


@pytest.mark.parametrize("name", TRAINABLE)
def test_presets_of_params_are_those_that_the_method_names(name):
    sections = load_params().methods[name]
    assert set(sections) - {"ablation"} == set(METHODS[name].presets)  # sweeps train some methods only
    for scale in sections:
        typed(METHODS[name].Config, method_config(load_params().methods, name, scale).model, f"{name}.{scale}")


@pytest.mark.parametrize("name, bad", [("tpsmm", dict(dropout_rise=0.0)), ("tpsmm", dict(point_spread=1.5)),
                                       ("tpsmm", dict(step=3)), ("implicit_warping", dict(features=18))])
def test_values_that_would_fail_in_the_middle_are_refused(name, bad):
    with pytest.raises(UserError, match=next(iter(bad))): create_model(name, SMALL[name] | bad)


def test_keypoints_in_one_place_have_no_relative_mode():
    with pytest.raises(UserError, match="--mode absolute"): hull_size(torch.zeros(1, 5, 2))


@pytest.mark.parametrize("name", ["fomm", "tpsmm"])
def test_crowding_is_paid_and_reaches_the_detector(name):
    model, drawn = create_model(name, SMALL[name]), pictures(4, 3, 32, 32)
    batch = Batch(drawn[:2, None], drawn[2:], None, torch.tensor([1, 2]), 0)
    def terms(**weights): return model(batch, Criterion(METHODS[name].Loss(levels=2, **weights)))[1]
    assert "crowding" not in terms()
    once, twice = (terms(crowding=weight)["crowding"] for weight in (1.0, 2.0))
    assert 0 < once and torch.allclose(2 * once, twice)
    twice.backward()
    assert any(p.grad is not None and p.grad.any() for p in model.detector.parameters())


def test_unknown_methods_are_refused_before_anything_runs():
    params = load_params()
    check_run(params)
    def refused(words, **changes):
        with pytest.raises(UserError, match=words): check_run(replace(params, **changes))
    refused("run.methods: tpsm: no such method; known are copy, implicit_warping",
            run=replace(params.run, methods=("tpsm", )))
    refused("run.datasets: pupets: no such data set", run=replace(params.run, datasets=("pupets",)))
    refused("methods.tpsmm.quick: is missing", methods=params.methods | {"tpsmm": {}},
            run=replace(params.run, methods=("tpsmm", ), datasets=("puppets", )))
    section = {"quick": {"model": {"transform": 3}}}
    refused("did you mean 'transforms'", methods=params.methods | {"tpsmm": section},
            run=replace(params.run, methods=("tpsmm", ), datasets=("puppets", )))


@torch.no_grad()
def test_every_mode_gives_frames_and_others_are_refused(model):
    source, motion = model.encode(pictures(1, 2, 3, 32, 32)), model.motion(pictures(3, 3, 32, 32, seed=1))
    start = motion[:1]
    for mode in model.modes:
        assert model.render(source, model.transfer(source, motion, start, mode)).frame.shape == (3, 3, 32, 32)
    for mode in {"absolute", "relative", "avd"} - set(model.modes):
        with pytest.raises(UserError, match=f"no mode {mode}"): model.transfer(source, motion, start, mode)


@pytest.mark.parametrize("name", TRAINABLE)
def test_gradients_reach_every_weight(name):
    model = create_model(name, SMALL[name])
    regions = torch.zeros(2, 2, 32, 32, dtype=torch.uint8); regions[:, :, 8:14, 8:20] = 1
    batch = Batch(pictures(2, 2, 3, 32, 32), pictures(2, 3, 32, 32, seed=1), regions, torch.tensor([1, 2]), 0,
                  progress=0.2)
    criterion = Criterion(model.Loss(levels=3, adversarial=1.0))
    # Layers that start at zero (the head of TPSMM's background, of Monkey-Net's flow) let gradients through from the
    # second step on.
    # Pictures of noise have large ones, so steps are small.
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    for _ in range(2):
        optimizer.zero_grad()
        sum(model(batch, criterion)[1].values()).backward()
        optimizer.step()
    assert [
        n for n, p in model.named_parameters()
        if n.split(".")[0] not in model.later and (p.grad is None or not p.grad.abs().sum())
    ] == []


@pytest.mark.parametrize("name", TRAINABLE)
def test_motion_codes_pass_through_mixed_precision_unharmed(name):
    "Positions in bfloat16 would be rounded to an eighth of a pixel at 64 x 64."
    model = create_model(name, SMALL[name]).eval()
    with torch.autocast("cpu", torch.bfloat16): points = code(model.motion(pictures(2, 3, 32, 32)))
    assert points.dtype == torch.float32 and not torch.equal(points, points.bfloat16().float())


@pytest.mark.parametrize(
    "change",
    [dict(multi_mask=False),
     dict(background=False),
     dict(down=3, step=4),
     dict(dropout="paper", regulariser=0.0)])
def test_tpsmm_variants_train(change):
    model = create_model("tpsmm", SMALL["tpsmm"] | change)
    batch = Batch(pictures(2, 1, 3, 32, 32), pictures(2, 3, 32, 32, seed=1), None, torch.tensor([1, 2]), 0,
                  progress=0.2)
    rendering, terms = model(batch, Criterion(model.Loss(levels=3)))
    sum(terms.values()).backward()
    assert rendering.frame.shape == (2, 3, 32, 32) and ("background" in terms) == model.config.background


@torch.no_grad()
def test_one_source_twice_is_one_source(model):
    "Averaging over sources, and attention over equal keys, change nothing if all sources are equal."
    sources, driving = pictures(1, 1, 3, 32, 32), pictures(2, 3, 32, 32, seed=1)
    if getattr(model.config if hasattr(model, "config") else None, "extra", 0):
        pytest.skip("extra keys weigh less among more keys")
    assert torch.allclose(
        model.reconstruct(sources, driving).frame,
        model.reconstruct(sources.expand(1, 2, -1, -1, -1), driving).frame, atol=1e-5)


@pytest.mark.parametrize("name", TRAINABLE)
def test_weights_are_a_function_of_the_seed(name):
    first, second, other = (create_model(name, SMALL[name], seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[k], second[k]) for k in first) and any(not torch.equal(first[k], other[k])
                                                                        for k in first)


@torch.no_grad()
def test_a_copy_for_inference_draws_the_same_frames(monkeypatch):
    """With every quick layer in use, for that the thresholds of width and size are lowered; norms of every kind; the
    model itself stays as it was."""
    for name in ("animrepro.inference.FEWEST_CHANNELS", "animrepro.inference.FEWEST_PIXELS",
                 "animrepro.stylegan.FEWEST_CHANNELS", "animrepro.stylegan.UP_FROM"):
        monkeypatch.setattr(name, 2)
    monkeypatch.setattr("animrepro.hourglass.FOLDED_FROM_AT_HAND", 2)
    norms = {
        "fomm": dict(norm="batch", generator_norm="batch"),
        "tpsmm": dict(norm="instance", inpainting_norm="instance", resnet_norm="batch")
    }
    for name in TRAINABLE:
        model = create_model(name, SMALL[name] | norms.get(name, {}))
        for norm in model.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.running_mean.uniform_(-0.3, 0.3, generator=torch_generator(0, name)), norm.running_var.uniform_(
                    0.5, 2, generator=torch_generator(1, name))
        before = {k: v.clone() for k, v in model.state_dict().items()}
        sources, driving = pictures(1, 2, 3, 32, 32), pictures(3, 3, 32, 32, seed=1)
        difference = (for_inference(model).reconstruct(sources, driving).frame
                      - model.eval().reconstruct(sources, driving).frame).abs().max()
        assert difference < 0.5 / 255, name
        assert all(torch.equal(v, before[k])
                   for k, v in model.state_dict().items()) and all(p.requires_grad for p in model.parameters())


@torch.no_grad()
def test_chunks_and_top_k_of_all_keys_change_nothing(monkeypatch):
    model = create_model("implicit_warping", SMALL["implicit_warping"]).double().eval()
    sources, driving = pictures(1, 2, 3, 32, 32).double(), pictures(1, 3, 32, 32, seed=1).double()
    whole = model.reconstruct(sources, driving, extras=True)
    monkeypatch.setattr("animrepro.attention.CHUNK_ELEMENTS", 300)
    chunked = model.reconstruct(sources, driving, extras=True)
    model.top_k = 2 * 64 + 2
    nearly_all = model.reconstruct(sources, driving)
    assert torch.allclose(whole.frame, chunked.frame) and torch.allclose(whole.extras["flow"], chunked.extras["flow"])
    assert torch.allclose(whole.frame, nearly_all.frame, atol=1e-3)


@torch.no_grad()
def test_dropped_keys_are_not_looked_at():
    from animrepro.attention import attend
    q, k, v = pictures(1, 5, 8), pictures(1, 9, 8, seed=1), pictures(1, 9, 4, seed=2)
    keep = torch.ones(1, 9, dtype=torch.bool); keep[0, 3:6] = False
    rest = torch.cat([k[:, :3], k[:, 6:]], 1), torch.cat([v[:, :3], v[:, 6:]], 1)
    assert torch.allclose(attend(q, k, v, keep), attend(q, *rest), atol=1e-6)
    assert torch.allclose(attend(q, k, v, keep, top_k=6), attend(q, *rest), atol=1e-6)


@pytest.mark.paper
def test_eight_sources_at_512_fit_into_six_gib():
    "The paper's architecture, one 512 × 512 frame from 8 sources, forward on the CPU: peak memory of a fresh process."
    code = """
import resource, sys, torch, yaml
from animrepro.models.contract import create_model
config = yaml.safe_load(open('params.yaml'))['methods']['implicit_warping']['paper']['model']
model = create_model('implicit_warping', dict(config, size=512)).eval()
with torch.inference_mode():
    frame = model.reconstruct(torch.rand(1, 8, 3, 512, 512), torch.rand(1, 3, 512, 512)).frame
assert frame.shape == (1, 3, 512, 512)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == 'darwin' else 2**20))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=__file__.rsplit("/", 2)[0], capture_output=True, text=True,
                          timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 6


# ---- parameters
# ----------------------------------------------------------------------------------------------------------------------

def bare_numbers(kind) -> bool:
    "Whether a type admits a number without a range."
    if kind in (int, float): return True
    return typing.get_origin(kind) is not typing.Annotated and any(map(bare_numbers, typing.get_args(kind)))


@pytest.mark.parametrize("config", [
    *(kind for cls in METHODS.values() for kind in (cls.Config, cls.Loss)), TrainConfig, AvdConfig, PoseConfig,
    LandmarkConfig, EvaluateConfig
], ids=lambda c: f"{c.__module__.split('.')[-1]}.{c.__name__}")
def test_every_number_of_a_config_has_a_range(config):
    assert [n for n, kind in typing.get_type_hints(config, include_extras=True).items() if bare_numbers(kind)] == []


@pytest.mark.parametrize("method, field", [("fv2v", dict(size=0)), ("fv2v", dict(pose_blocks=[3, 0])),
                                           ("fv2v", dict(variance=0.0)), ("mraa", dict(regions=0)),
                                           ("mraa", dict(temperature=0.0)), ("monkeynet", dict(alpha=-1.0)),
                                           ("monkeynet", dict(down=-1))])
def test_a_number_out_of_range_is_refused(method, field):
    with pytest.raises(UserError, match=f"{next(iter(field))}.*out of range"): create_model(method, field)
