"""MRAA: its checkpoints converted and compared, its axes against LAPACK, its AVD network, its variants.

GOLDEN holds what the authors' code computed in float64. The comparison with that code itself needs a clone of
github.com/snap-research/articulated-animation, whose folder ANIMREPRO_REFERENCE_MRAA names; `python tests/test_mraa.py`
then prints GOLDEN anew."""
import hashlib, importlib, os, sys, types
from dataclasses import replace
from pathlib import Path
import pytest, torch, yaml
from torch import nn
from animrepro.avd import AvdConfig, train_avd
from animrepro.core import torch_generator
from animrepro.data.pairs import Batch
from animrepro.losses import Criterion
from animrepro.models.contract import create_model
from animrepro.models.mraa import Mraa, MraaParams, as_vectors, from_vectors, half_turn, principal_axes
from animrepro.models.official import read_config
from animrepro.warp import resize_flow
from test_official import (changed, convert, converted, draw as draw_like, edited, equal_in_double, equal_in_levels,
    functions, pictures, refused)

VARIABLE = "ANIMREPRO_REFERENCE_MRAA"
SMALL = yaml.safe_load("""
dataset_params: {frame_shape: null}
model_params:
  num_regions: 4
  num_channels: 3
  estimate_affine: true
  revert_axis_swap: true
  bg_predictor_params: {block_expansion: 8, max_features: 32, num_blocks: 3, bg_type: affine}
  region_predictor_params: {temperature: 0.1, block_expansion: 8, max_features: 32, scale_factor: 0.25, num_blocks: 3,
                            pca_based: true}
  generator_params:
    {block_expansion: 8, max_features: 32, num_down_blocks: 2, num_bottleneck_blocks: 2, skips: true,
     pixelwise_flow_predictor_params:
       {block_expansion: 8, max_features: 32, num_blocks: 3, scale_factor: 0.25, use_deformed_source: true,
        use_covar_heatmap: true, estimate_occlusion_map: true}}
  avd_network_params: {id_bottle_size: 16, pose_bottle_size: 16}
""")


def draw(network: str, name: str, like: torch.Tensor) -> torch.Tensor:
    """Random content for a tensor of the authors'; the background's affine map stays near the identity, regions are
    spread over the picture."""
    values = draw_like(network, name, like)
    if name == "fc.weight": return 0.1 * values
    if name == "fc.bias": return 0.3 * values + torch.tensor([1.0, 0, 0, 0, 1, 0])
    return 3 * values if name == "regions.weight" else values


def theirs(settings: dict, folder: Path) -> dict:
    "A checkpoint in the authors' layout with drawn weights, made by reading the table of names backwards."
    (folder / "made.yaml").write_text(yaml.safe_dump(settings))
    model = create_model("mraa", read_config("mraa", folder / "made.yaml", 64))
    places, networks = model.state_dict() | dict(model.named_buffers()), {}
    for network, names in Mraa.official.names.items():
        tensors = {
            there + k.removeprefix(here): v
            for there, here in names.items()
            for k, v in places.items() if k.startswith(here)
        }
        networks[network] = {
            k: v.clone() if k.endswith("down.weight") else draw(network, k, v)
            for k, v in tensors.items()
        }
    return networks | {"epoch": 99}


@torch.no_grad()
def ours(model, source, start, driving) -> dict[str, torch.Tensor]:
    """All that is compared: regions, background, and for reconstruction and each mode of transfer regions and what
    `render` gives."""
    prepared, motion, first = model.encode(source[:, None]), model.motion(driving), model.motion(start)
    found = {"background": model.background(source, driving)[:, :2]} if model.background is not None else {}
    for name in ("reconstruction", *model.modes):
        move = motion if name == "reconstruction" else model.transfer(prepared, motion, first, name)
        rendering = model.render(prepared, move, extras=True)
        found |= {
            f"{name} points": move.points,
            f"{name} affines": move.affines,
            f"{name} covariances": move.covariances,
            f"{name} frame": rendering.frame
        }
        found |= {f"{name} {k}": rendering.extras[k] for k in ("flow", "occlusion")}
    return found


class Reference:
    "The authors' networks, built from a configuration, with drawn weights."
    def __init__(self, settings: dict):
        if not os.environ.get(VARIABLE): pytest.skip(f"{VARIABLE} names no clone of the authors' repository")
        self.folder, params = Path(os.environ[VARIABLE]), settings["model_params"]
        common = {k: params[k] for k in ("num_regions", "num_channels")}
        self.background = params["bg_predictor_params"]["bg_type"] != "zero"
        self.networks = {
            "region_predictor": self.of("region_predictor").RegionPredictor(**common,
                                                                            estimate_affine=params["estimate_affine"],
                                                                            **params["region_predictor_params"]),
            "bg_predictor": self.of("bg_motion_predictor").BGMotionPredictor(num_channels=3,
                                                                             **params["bg_predictor_params"]),
            "generator": self.of("generator").Generator(**common, revert_axis_swap=params["revert_axis_swap"],
                                                        **params["generator_params"]),
            "avd_network": self.of("avd_network").AVDNetwork(params["num_regions"],
                                                             revert_axis_swap=params["revert_axis_swap"],
                                                             **params["avd_network_params"])
        }
        for network, net in self.networks.items():
            net.load_state_dict({
                k: v if k.endswith("down.weight") else draw(network, k, v)
                for k, v in net.state_dict().items()
            })
            net.eval()

    def of(self, module: str):
        """A module of the authors'. Other repositories call their package `modules` too, so it is forgotten at once;
        a fake stands for their batch normalisation over several GPUs."""
        fake = types.ModuleType("sync_batchnorm")
        fake.SynchronizedBatchNorm2d = nn.BatchNorm2d
        before = dict(sys.modules)
        sys.path.insert(0, str(self.folder)); sys.modules["sync_batchnorm"] = fake
        try: return importlib.import_module(f"modules.{module}")
        finally:
            sys.path.remove(str(self.folder))
            for name in [
                    n for n in sys.modules
                    if n not in before and (n == "sync_batchnorm" or n.split(".")[0] == "modules")
            ]:
                del sys.modules[name]

    def checkpoint(self) -> dict: return {k: v.state_dict() for k, v in self.networks.items()} | {"epoch": 99}

    def to(self, dtype):
        for net in self.networks.values(): net.to(dtype)
        return self

    @torch.no_grad()
    def run(self, source, start, driving) -> dict[str, torch.Tensor]:
        "The counterpart of `ours`."
        detect, background, generate, avd = self.networks.values()
        at_source, at_start, at_driving = detect(source), detect(start), detect(driving)
        still = background(source, driving)
        found, transfer = {
            "background": still[:, :2]
        } if self.background else {}, functions(self.folder / "animate.py", "get_animation_region_params")
        for name, mode in {
                "reconstruction": "standard",
                "absolute": "standard",
                "relative": "relative",
                "avd": "avd"
        }.items():
            move, bg = transfer(at_source, at_driving, at_start, mode, avd), still if name == "reconstruction" else None
            flow = generate.pixelwise_flow_predictor(source, move, at_source, bg)
            found |= {
                f"{name} points": move["shift"],
                f"{name} affines": move["affine"],
                f"{name} covariances": move["covar"]
            }
            found |= {
                f"{name} frame": generate(source, move, at_source, bg)["prediction"],
                f"{name} occlusion": flow["occlusion_map"]
            }
            found[f"{name} flow"] = resize_flow(flow["optical_flow"], *source.shape[-2:])
        return found


# ---- with the authors' code
# ----------------------------------------------------------------------------------------------------------

FLOW = "generator_params__pixelwise_flow_predictor_params__"
NARROW = dict(region_predictor_params__block_expansion=8, region_predictor_params__max_features=48,
              bg_predictor_params__block_expansion=8, bg_predictor_params__max_features=48,
              generator_params__block_expansion=8, generator_params__max_features=32) | {
                  f"{FLOW}block_expansion": 8,
                  f"{FLOW}max_features": 48
              }
CASES = {  # name: the authors' file, what is changed beside the widths
    "vox": ("vox256", {}),
    "taichi": ("taichi256", {"region_predictor_params__num_blocks": 4}),
    "ted": ("ted-youtube384", {"num_regions": 20, "bg_predictor_params__num_blocks": 3}),
    "mgif": ("mgif256", {f"{FLOW}num_blocks": 4, "generator_params__num_down_blocks": 3}),
    "regression": (
        "vox256",
        {
            "region_predictor_params__pca_based": False,
            "region_predictor_params__scale_factor": 0.5,
            f"{FLOW}scale_factor": 0.5,
        },
    ),
}


def published(name: str) -> dict:
    "A configuration of the authors' repository."
    if not os.environ.get(VARIABLE): pytest.skip(f"{VARIABLE} names no clone of the authors' repository")
    return yaml.safe_load((Path(os.environ[VARIABLE]) / "config" / f"{name}.yaml").read_text())


@pytest.mark.parametrize("case", CASES)
def test_equals_the_authors_code(case, tmp_path):
    name, changes = CASES[case]
    settings = changed(published(name), **NARROW, **changes)
    settings["dataset_params"]["frame_shape"] = None
    their = Reference(settings)
    model = converted("mraa", their.checkpoint(), settings, tmp_path, "--size", 128)
    images = pictures(3, 128).split(1)
    expected, found = their.to(torch.float64).run(*images), ours(model.double(), *images)
    equal_in_double(expected, found)
    images = [x.float() for x in images]
    equal_in_levels(their.to(torch.float32).run(*images), ours(model.float(), *images))


@pytest.mark.parametrize("name", ["vox256", "taichi256", "ted384", "ted-youtube384", "mgif256"])
def test_published_configurations_have_the_same_tensors(name, tmp_path):
    "At full width, so also the number of weights."
    settings = published(name)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings))
    their = Reference(settings)
    model = create_model("mraa", read_config("mraa", tmp_path / "c.yaml", 384 if "ted" in name else None))
    count = lambda module: sum(p.numel() for p in module.parameters())
    assert sum(map(count, their.networks.values())) == count(model)


# ---- golden numbers
# ------------------------------------------------------------------------------------------------------------------

def look_at(found: dict[str, torch.Tensor]) -> dict[str, list]:
    "Of each result the mean, two numbers, and a digest of all at four digits."
    flat = {k: v.double().flatten() for k, v in found.items()}
    digest = lambda x: hashlib.sha256((x * 1e4).round().long().numpy().tobytes()).hexdigest()[:12]
    return {
        k: [
            *(round(x, 10) for x in (v.mean().item(), v[int(len(v) * 0.37)].item(), v[int(len(v) * 0.89)].item())),
            digest(v)
        ]
        for k, v in flat.items()
    }


GOLDEN = {
    "background": [0.3531879153, 0.0146885859, -0.0262157757, "9a611285944d"],
    "reconstruction points": [-0.3702824601, -0.3910065111, -0.3052052986, "f56a0ae7ae0d"],
    "reconstruction affines": [-0.0035671368, -0.0111314563, 0.0632560872, "0b9a7affab5b"],
    "reconstruction covariances": [0.0364959696, 0.0094075564, -0.0154174326, "bc228cac9926"],
    "reconstruction frame": [0.4418425037, 0.2930785923, 0.2645978853, "8b602719c55b"],
    "reconstruction occlusion": [0.5078974751, 0.4856602904, 0.5011306064, "3cc9e69828e7"],
    "reconstruction flow": [0.0924432013, -0.4787453583, 1.2958366933, "0d1195788404"],
    "absolute points": [-0.3702824601, -0.3910065111, -0.3052052986, "f56a0ae7ae0d"],
    "absolute affines": [-0.0035671368, -0.0111314563, 0.0632560872, "0b9a7affab5b"],
    "absolute covariances": [0.0364959696, 0.0094075564, -0.0154174326, "bc228cac9926"],
    "absolute frame": [0.4458444179, 0.28729554, 0.2595365046, "91a298ad651f"],
    "absolute occlusion": [0.5088527421, 0.5216962972, 0.4911992308, "a6fc24a635bc"],
    "absolute flow": [0.0936625033, -0.4657210253, 1.2721136955, "0d7f17136d7a"],
    "relative points": [-0.2500111044, 0.1047666382, -0.6155708708, "16aba7e08280"],
    "relative affines": [0.0217410634, -0.0071145793, 0.3137459377, "c0bc73182fd8"],
    "relative covariances": [0.0364959696, 0.0094075564, -0.0154174326, "bc228cac9926"],
    "relative frame": [0.493948811, 0.6571799368, 0.5959914061, "7015ff34f0ad"],
    "relative occlusion": [0.504850232, 0.5044150528, 0.4809639658, "ec76c85ace56"],
    "relative flow": [0.0395104017, -0.4143724807, 1.087125327, "d90de5632904"],
    "avd points": [-0.1430210887, -0.183059654, -0.2155547653, "f868aa03919a"],
    "avd affines": [0.0198796106, -0.0204033152, 0.6661330542, "cdbed025bf5b"],
    "avd covariances": [0.0989754179, 0.0605007793, -0.0180413292, "65158dbf63f8"],
    "avd frame": [0.4847809331, 0.6250914385, 0.2423942824, "2a187226a015"],
    "avd occlusion": [0.5023307467, 0.4597294484, 0.5426737117, "d7bd91da41f8"],
    "avd flow": [-0.0217138597, -0.6618671134, 1.4581500882, "43f5ab664c8a"],
}


def test_golden_numbers(tmp_path):
    model = converted("mraa", theirs(SMALL, tmp_path), SMALL, tmp_path, "--size", 64)
    found = look_at(ours(model.double(), *pictures(3, 64).split(1)))
    assert found.keys() == GOLDEN.keys()
    for name, (*numbers, digest) in GOLDEN.items():
        assert (found[name][:3], found[name][3]) == (pytest.approx(numbers, abs=1e-7), digest), name


def test_golden_numbers_are_the_authors():
    for name, numbers in look_at(Reference(SMALL).to(torch.float64).run(*pictures(3, 64).split(1))).items():
        assert GOLDEN[name] == numbers, name


# ---- through the door
# ----------------------------------------------------------------------------------------------------------------

def test_networks_that_may_be_missing(tmp_path):
    made = theirs(SMALL, tmp_path)
    model = converted("mraa", {
        k: v
        for k, v in made.items() if k not in ("bg_predictor", "avd_network")
    }, SMALL, tmp_path, "--size", 64)
    assert (model.modes, model.background, model.config.avd_width) == (("absolute", "relative"), None, 0)
    without = changed(SMALL, bg_predictor_params__bg_type="zero")
    assert converted("mraa", made | {"bg_predictor": {}}, without, tmp_path, "--size", 64).background is None


BAD = {  # what is wrong: changes of the configuration, changes of the checkpoint, words of the message
    "fixed Gaussians": ({f"{FLOW}use_covar_heatmap": False}, {}, ["use_covar_heatmap is off"]),
    "no occlusion": ({f"{FLOW}estimate_occlusion_map": None}, {}, ["estimate_occlusion_map is off"]),
    "no affine maps": (
        dict(estimate_affine=False, region_predictor_params__pca_based=False),
        {},
        ["estimate_affine is off"],
    ),
    "perspective": (dict(bg_predictor_params__bg_type="perspective"), {}, ["bg_type"]),
    "two scales": ({f"{FLOW}scale_factor": 0.5}, {}, ["different values of scale_factor"]),
    "regression of a PCA checkpoint": (dict(region_predictor_params__pca_based=False), {}, ["detector.jacobian"]),
    "more regions": (dict(num_regions=5), {}, ["the model's is"]),
    "tensor missing": ({}, {"final__bias": None}, ["final.bias", "trained with"]),
    "AVD of another size": (
        {},
        {"network": "avd_network", "decoder__9__bias": torch.zeros(7)},
        ["decoder.9.bias has shape [7]"],
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what, tmp_path, capsys):
    changes, tensors, words = BAD[what]
    tensors = dict(tensors)
    torch.save(edited(theirs(SMALL, tmp_path), tensors.pop("network", "generator"), **tensors), tmp_path / "bad.pth")
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(changed(SMALL, **changes)))
    refused(capsys, tmp_path, ["mraa", tmp_path / "bad.pth", "--config", tmp_path / "bad.yaml", "--size", 64], *words)


# ---- what the method promises
# --------------------------------------------------------------------------------------------------------

def test_axes_are_those_of_lapack_and_have_gradients():
    factors = torch.randn(5000, 2, 2, generator=torch_generator(0, "axes"), dtype=torch.float64)
    covariances = factors @ factors.mT + 1e-4 * torch.eye(2, dtype=torch.float64)
    u, s, _ = torch.linalg.svd(covariances)
    assert (principal_axes(covariances) - u * s.sqrt()[:, None]).abs().max() < 1e-9
    hard = torch.stack(
        [torch.zeros(2, 2),
         torch.eye(2),
         torch.tensor([[1.0, 0], [0, 0]]),
         torch.tensor([[0.0, 0], [0, 1]])]).requires_grad_()
    axes = principal_axes(hard)
    axes.sum().backward()
    assert hard.grad.isfinite().all() and torch.linalg.inv(axes).isfinite().all()
    assert torch.allclose(axes @ axes.mT, hard, atol=1e-6)
    random = covariances[:20].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda c: principal_axes((c + c.mT) / 2), random)


def test_signs_of_axes_do_not_matter():
    model = create_model("mraa", Mraa.smallest).eval()
    sources, driving = pictures(2, 32, torch.float32)[:, None].split(1)
    with torch.no_grad():
        source, motion = model.encode(sources), model.motion(driving[:, 0])
        turned = replace(motion, affines=-motion.affines)
        for mode in ("absolute", "relative"):
            frames = [model.render(source, model.transfer(source, m, motion, mode)).frame for m in (motion, turned)]
            assert torch.allclose(*frames, atol=1e-5)
    assert half_turn(-torch.eye(2)) == -1 and half_turn(torch.eye(2)) == 1


@pytest.mark.parametrize(
    "change", [dict(affine="regression"),
               dict(background=False),
               dict(avd_width=0),
               dict(norm="batch", down=3)])
def test_variants_train(change):
    model = create_model("mraa", Mraa.smallest | change).train()
    images = pictures(4, 32, torch.float32)
    batch = Batch(images[:2, None], images[2:], None, torch.tensor([1, 2]), 0, progress=0.2)
    rendering, terms = model(batch, Criterion(Mraa.Loss(levels=3)))
    sum(terms.values()).backward()
    assert rendering.frame.shape == (2, 3, 32, 32) and set(terms) == {"perceptual", "equivariance", "jacobian"}
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_code_is_as_long_as_it_says():
    model = create_model("mraa")
    assert model.motion_numbers() == 10 * 5 + 6 and create_model("mraa", dict(affine="regression",
                                                                              background=False)).motion_numbers() == 60


def test_avd_learns_the_shape_of_regions():
    "Stretched regions come back nearer to what they were than they went."
    draw = torch_generator(0, "avd")
    def people(count, frames):
        build, turn = 0.1 + 0.3 * torch.rand(count, 1, 3, 2, generator=draw), 0.5 * torch.randn(
            count, frames, 3, generator=draw)
        rotation = torch.stack([torch.stack([turn.cos(), -turn.sin()], -1),
                                torch.stack([turn.sin(), turn.cos()], -1)], -2)
        places = torch.tensor([[-0.5, 0.0], [0.0, 0.4], [0.5, 0.0]]) * build / 0.25 + 0.1 * torch.randn(
            count, frames, 1, 2, generator=draw)
        # (count, frames, 9, 2)
        return torch.cat([places[..., None, :], (rotation * build[..., None, :]).mT], -2).flatten(2, 3)
    model = create_model("mraa", Mraa.smallest | dict(regions=3, avd_width=32, avd_shape=16, avd_pose=16))
    losses = train_avd(model.avd.train(), list(people(200, 8)), AvdConfig(steps=300, batch=64, lr=1e-2), seed=0)
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])
    one, two = from_vectors(people(1, 1)[0]), from_vectors(people(1, 1)[0])
    twice = replace(two, points=two.points + 1)
    assert model.avd.distance(as_vectors(twice),
                              as_vectors(two)).item() == pytest.approx(1) and one.affines.shape == (1, 3, 2, 2)


if __name__ == "__main__":
    print("GOLDEN = {")
    for name, numbers in look_at(Reference(SMALL).to(torch.float64).run(*pictures(3, 64).split(1))).items():
        print(f"    {name!r}: {numbers!r},".replace("'", '"'))
    print("}")
