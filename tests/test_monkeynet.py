"""Monkey-Net against its authors' code. Golden numbers, which that code computed in float64, are always checked. With a
clone of github.com/AliaksandrSiarohin/monkey-net, which ANIMREPRO_REFERENCE_MONKEYNET names, everything that both sides
compute is compared, in several configurations, and `python tests/test_monkeynet.py` prints GOLDEN anew."""
import ast, copy, importlib, os, sys, types
from pathlib import Path
import numpy as np, pytest, torch, torch.nn.functional as F, yaml
from torch import nn
from animrepro.checkpoint import load_weights
from animrepro.cli import main
from animrepro.converter import translate
from animrepro.core import load_params, rng, to_uint8
from animrepro.data.pairs import Batch
from animrepro.losses import Criterion, LossConfig
from animrepro.models.contract import create_model
from animrepro.models.monkeynet import MonkeyNet, draw_gaussians
from animrepro.models.official import read_config
from animrepro.train import method_config
from animrepro.warp import edge_convention

VARIABLE = "ANIMREPRO_REFERENCE_MONKEYNET"
SETTINGS = yaml.safe_load("""
dataset_params: {root_dir: data, image_shape: [64, 64, 3]}
model_params:
  common_params: {num_kp: 4, kp_variance: matrix, num_channels: 3}
  kp_detector_params: {temperature: 0.1, block_expansion: 8, max_features: 32, num_blocks: 3, scale_factor: 0.5,
                       clip_variance: 0.001}
  generator_params:
    block_expansion: 8
    max_features: 32
    num_blocks: 4
    num_refinement_blocks: 2
    interpolation_mode: trilinear
    dense_motion_params: {block_expansion: 8, max_features: 32, num_blocks: 3, use_mask: true, use_correction: true,
                          scale_factor: 0.5, num_group_blocks: 2,
                          mask_embedding_params: {use_heatmap: true, use_deformed_source_image: true,
                                                  heatmap_type: difference, norm_const: 100}}
    kp_embedding_params: {scale_factor: 0.5, use_heatmap: true, norm_const: 100, heatmap_type: difference}
  discriminator_params: {kp_embedding_params: {norm_const: 100}, block_expansion: 32, max_features: 256, num_blocks: 4}
""")
NARROW = dict(kp_detector_params__block_expansion=8, kp_detector_params__max_features=48,
              generator_params__block_expansion=8, generator_params__max_features=32,
              generator_params__dense_motion_params__block_expansion=8,
              generator_params__dense_motion_params__max_features=48)
# the authors' files, and a size of pictures
CASES = {"vox": 128, "vox-full": 128, "moving-gif": 128, "taichi": 64, "shapes": 64, "bair": 64}


def changed(settings: dict, **changes) -> dict:
    "A copy of a configuration; `a__b=1` sets model_params.a.b, None removes it."
    settings = copy.deepcopy(settings)
    for path, value in changes.items():
        *folders, last = path.split("__")
        section = settings["model_params"]
        for name in folders: section = section[name]
        if value is None: section.pop(last)
        else: section[last] = value
    return settings


def draw(name: str, shape: tuple) -> torch.Tensor:
    "Random content for a tensor of the authors', the same on every machine."
    noise = rng(0, "monkeynet", name).uniform(-1, 1, shape)
    if name.endswith("num_batches_tracked"): return torch.tensor(7)
    if name.endswith("running_var") or name.endswith("weight") and len(shape) == 1: noise = 1 + 0.5 * noise
    else: noise = noise * (0.3 if len(shape) == 1 else (3 / np.prod(shape[1:])) ** 0.5)
    return torch.from_numpy(np.asarray(noise)).float()


def pictures(count: int, size: int) -> torch.Tensor:
    "Smooth pictures `(count, 3, size, size)` in [0, 1], in double precision."
    coarse = torch.from_numpy(rng(0, "pictures").uniform(0, 1, (count, 3, 8, 8)))
    return F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False).clamp(0, 1)


def layout(settings: dict, folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """A checkpoint in the authors' layout with drawn weights, made by reading our table of names backwards; every
    kernel has an axis of time."""
    (folder / "made.yaml").write_text(yaml.safe_dump(settings))
    state, networks = create_model("monkeynet", read_config("monkeynet", folder / "made.yaml")).state_dict(), {}
    for network, names in MonkeyNet.official.names.items():
        there = {
            theirs + k.removeprefix(ours): v
            for theirs, ours in names.items()
            for k, v in state.items() if k.startswith(ours)
        }
        networks[network] = {
            k: draw(k, tuple(v[:, :, None].shape if v.dim() == 4 else v.shape))
            for k, v in there.items()
        }
    return networks | {"optimizer_generator": {"state": {}}, "epoch": 3, "it": 99}


def converted(networks: dict, settings: dict, folder: Path, *more) -> MonkeyNet:
    "What `animrepro convert` makes of a checkpoint, loaded."
    torch.save(networks, folder / "c.pth.tar")
    (folder / "c.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit) as stop:
        main([
            "convert", "monkeynet",
            str(folder / "c.pth.tar"), "--config",
            str(folder / "c.yaml"), "--out",
            str(folder / "c.safetensors"), *map(str, more)
        ])
    assert not stop.value.code
    return load_weights(folder / "c.safetensors")


@torch.no_grad()
def ours(model: MonkeyNet, source, start, driving) -> dict[str, torch.Tensor]:
    "All that is compared: keypoints, and for reconstruction and each mode of transfer what `render` gives."
    prepared, motion, first = model.encode(source[:, None]), model.motion(driving), model.motion(start)
    found = {"keypoints": motion.points, "covariances": motion.covariances}
    for name, move in {
            "reconstruction": motion,
            **{
                mode: model.transfer(prepared, motion, first, mode)
                for mode in model.modes
            }
    }.items():
        rendering = model.render(prepared, move, extras=True)
        found |= {f"{name} frame": rendering.frame} | {f"{name} {k}": rendering.extras[k] for k in ("flow", "deformed")}
    return found


# ---- the authors' side
# ---------------------------------------------------------------------------------------------------------------

class Reference:
    """The authors' networks, built from a configuration. Three things that torch has under other names or with other
    defaults today stand in: `gesv`, `align_corners`, a norm with compiled needs."""
    def __init__(self, settings: dict):
        if not os.environ.get(VARIABLE): pytest.skip(f"{VARIABLE} names no clone of the authors' repository")
        self.folder, params = Path(os.environ[VARIABLE]), settings["model_params"]
        common, of = params["common_params"], self.of
        self.networks = {"kp_detector": of("keypoint_detector").KPDetector(**params["kp_detector_params"], **common),
                         "generator": of("generator").MotionTransferGenerator(**params["generator_params"], **common),
                         "discriminator": of("discriminator").Discriminator(**params["discriminator_params"], **common)}

    def of(self, module: str):
        "A module of the authors'."
        fake, before = types.ModuleType("sync_batchnorm"), dict(sys.modules)
        fake.SynchronizedBatchNorm3d = nn.BatchNorm3d
        sys.path.insert(0, str(self.folder)); sys.modules["sync_batchnorm"] = fake
        try: return importlib.import_module(f"modules.{module}")
        finally:
            sys.path.remove(str(self.folder))
            for name in [
                    n for n in sys.modules
                    if n not in before and (n == "sync_batchnorm" or n.split(".")[0] == "modules")
            ]:
                del sys.modules[name]

    def fill(self) -> "Reference":
        "Draws all weights."
        for net in self.networks.values():
            net.load_state_dict({k: draw(k, tuple(v.shape)) for k, v in net.state_dict().items()})
            net.eval()
        return self

    def to(self, dtype) -> "Reference":
        for net in self.networks.values(): net.to(dtype)
        return self

    def relative(self, *keypoints):
        """Their `normalize_kp` with the arguments that all their configurations have, without running the script it
        is in."""
        path = self.folder / "transfer.py"
        space, node = {
            "torch": torch
        }, next(n for n in ast.parse(path.read_text()).body
                if isinstance(n, ast.FunctionDef) and n.name == "normalize_kp")
        exec(compile(ast.Module([node], []), str(path), "exec"), space)
        return space["normalize_kp"](*keypoints, move_location=True)

    @torch.no_grad()
    def run(self, source, start, driving, align_corners: bool = True) -> dict[str, torch.Tensor]:
        """The counterpart of `ours`. In their code pictures have an axis of time, here of one frame or, for
        `normalize_kp`, of two."""
        detect, generate = self.networks["kp_detector"], self.networks["generator"]
        with as_it_was(align_corners):
            at_source, at_both, at_driving = (detect(x)
                                              for x in (source[:, :,
                                                               None], torch.stack([start, driving], 2), driving[:, :,
                                                                                                                None]))
            found = {"keypoints": at_driving["mean"][:, 0], "covariances": at_driving["var"][:, 0]}
            moved = {k: v[:, 1:] for k, v in self.relative(at_both, at_source).items()}
            for name, move in {"reconstruction": at_driving, "absolute": at_driving, "relative": moved}.items():
                out = generate(source[:, :, None], kp_driving=move, kp_source=at_source)
                flow = generate.dense_motion_module(source[:, :, None], move, at_source)[..., :2].permute(0, 4, 1, 2, 3)
                flow = F.interpolate(flow, (1, *source.shape[-2:]),
                                     mode=generate.interpolation_mode)[:, :, 0].permute(0, 2, 3, 1)
                found |= {
                    f"{name} frame": out["video_prediction"][:, :, 0],
                    f"{name} flow": edge_convention(flow) if align_corners else flow,
                    f"{name} deformed": out["video_deformed"][:, :, 0]
                }
        return found


class as_it_was:
    "`torch.gesv` is back and `grid_sample` has the default that is asked for."
    def __init__(self, align_corners: bool = True): self.align_corners = align_corners
    def __enter__(self):
        self.sample = sample = F.grid_sample
        torch.gesv = lambda b, a: (torch.linalg.solve(a, b), None)
        F.grid_sample = lambda *args, **how: sample(*args, **{"align_corners": self.align_corners} | how)
    def __exit__(self, *error):
        del torch.gesv
        F.grid_sample = self.sample


def published(name: str) -> dict:
    "A configuration of the authors' repository."
    if not os.environ.get(VARIABLE): pytest.skip(f"{VARIABLE} names no clone of the authors' repository")
    return yaml.safe_load((Path(os.environ[VARIABLE]) / "config" / f"{name}.yaml").read_text())


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_authors_code(case, align_corners, tmp_path):
    settings = changed(published(case), **NARROW)
    settings["dataset_params"].pop("image_shape", None)
    their = Reference(settings).fill()
    networks = {k: v.state_dict() for k, v in their.networks.items()}
    model = converted(networks, settings, tmp_path, "--size", CASES[case], *["--no-align-corners"] *
                      (not align_corners))
    images = pictures(3, CASES[case]).split(1)
    expected, found = their.to(torch.float64).run(*images, align_corners), ours(model.double(), *images)
    apart = {k: (found[k] - expected[k]).abs().max().item() for k in expected}
    print({k: f"{v:.0e}" for k, v in apart.items()})
    assert found.keys() == expected.keys() and max(apart.values()) <= 1e-7, apart
    assert expected["absolute frame"].std() > 0.02 and (
        expected["absolute frame"] - expected["relative frame"]).abs().max() > 0.02, "too dull a case to tell anything"
    images = [x.float() for x in images]
    expected, found = their.to(torch.float32).run(*images, align_corners), ours(model.float(), *images)
    levels = {
        k: int(abs(to_uint8(found[k]).astype(int) - to_uint8(expected[k])).max())
        for k in expected if k.endswith("frame")
    }
    assert max(levels.values()) <= 1, levels


@pytest.mark.parametrize("name", [*CASES, "actions", "nemo"])
def test_published_configurations_have_the_same_tensors(name, tmp_path):
    "At full width: names and shapes, so also the number of weights."
    settings = published(name)
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(settings))
    fields = read_config("monkeynet", tmp_path / "p.yaml")
    assert fields["size"] == {"vox": 256, "vox-full": 256, "moving-gif": 128}.get(name, 64)
    with torch.device("meta"): their, our = Reference(settings), MonkeyNet(MonkeyNet.Config(**fields))
    networks = {k: v.state_dict() for k, v in their.networks.items() if k != "discriminator"}
    shapes = {
        translate(MonkeyNet.official.names[n], k): v.shape
        for n, state in MonkeyNet.official.arrange(networks).items()
        for k, v in state.items()
    }
    assert shapes == {k: v.shape for k, v in our.state_dict().items()}


def test_losses_of_the_paper_scale_are_the_authors():
    """The terms of both sides and the gradient that keypoints get from a discriminator that is shown them, on one
    prediction."""
    their, config = Reference(published("vox")), method_config(load_params().methods, "monkeynet", "paper").loss
    networks = their.fill().to(torch.float64).networks
    criterion = Criterion(config, beside=10).double()
    state = {k: v.squeeze(2) if v.dim() == 5 else v for k, v in networks["discriminator"].state_dict().items()}
    names = {
        f"down_blocks.{i}.{part}.": f"{part}s.{i}."
        for i in range(4)
        for part in ("conv", "norm")
    } | {
        "conv.": "head."
    }
    criterion.discriminator.load_state_dict({translate(names, k): v for k, v in state.items()})
    (prediction, target), losses, grads = pictures(2, 128).split(1), their.of("losses"), []
    points = torch.from_numpy(rng(0, "points").uniform(-0.8, 0.8, (1, 10, 2))).requires_grad_()
    covariances = 0.02 * torch.eye(2, dtype=torch.float64).expand(1, 10, 2, 2)
    keypoints = {"mean": points[:, None], "var": covariances[:, None]}
    with as_it_was():
        fake, real = (networks["discriminator"](x[:, :, None], keypoints, keypoints) for x in (prediction, target))
        weights = published("vox")["train_params"]["loss_weights"]
        expected = losses.generator_loss(fake, real, None, weights)
        judged = losses.discriminator_loss(fake, real, weights)[0]
    grads.append(torch.autograd.grad(sum(expected).sum(), points)[0])
    beside = draw_gaussians(type("K", (), {"points": points, "covariances": covariances}), 128, 128, 100.0)
    terms = criterion.reconstruction(prediction, target, beside)
    grads.append(torch.autograd.grad(sum(terms.values()), points)[0])
    assert terms["pixel"].item() == pytest.approx(
        expected[0].item(), abs=1e-9) and terms["adversarial"].item() == pytest.approx(expected[-1].item(), abs=1e-9)
    assert terms["feature_matching"].item() == pytest.approx(sum(expected[1:-1]).item(), abs=1e-7)
    assert criterion.judge(prediction, target, beside=beside).item() == pytest.approx(judged.item(), abs=1e-9)
    assert grads[0].abs().max() > 1e-4 and torch.allclose(*grads, atol=1e-9)


# ---- golden numbers
# ------------------------------------------------------------------------------------------------------------------

# Computed by the authors' code in float64 from SETTINGS and drawn weights: what `look_at` takes of each result.
GOLDEN = {
    "keypoints": [
        -0.0090347317, -0.2304611648, -0.2957432558, -0.2477106682, 0.2784098536, 0.2401464491, -0.2657135972
    ],
    "covariances": [
        0.1958102546, -0.0907788841, 0.0842991117, 0.0971687772, -0.1765357163, -0.8324670945, -0.464756263
    ],
    "reconstruction frame": [
        0.5636817326, 0.3235096771, 0.8871795442, 0.8097914489, 0.3973333403, 57.9590261773, 61.0658626222
    ],
    "reconstruction flow": [
        0.342462028, -0.237656554, 0.1733914793, -0.0602381088, 1.2768540582, 116.8172656775, 27.1994220863
    ],
    "reconstruction deformed": [0.3429960648, 0.7543537395, 0.4719597136, 0.0, 0.0, 15.3524002145, 24.4582274052],
    "absolute frame": [
        0.5636817326, 0.3235096771, 0.8871795442, 0.8097914489, 0.3973333403, 57.9590261773, 61.0658626222
    ],
    "absolute flow": [
        0.342462028, -0.237656554, 0.1733914793, -0.0602381088, 1.2768540582, 116.8172656775, 27.1994220863
    ],
    "absolute deformed": [0.3429960648, 0.7543537395, 0.4719597136, 0.0, 0.0, 15.3524002145, 24.4582274052],
    "relative frame": [
        0.5639603772, 0.2682013695, 0.8839703473, 0.8071362279, 0.4353205142, 66.6890490756, 55.5273985538
    ],
    "relative flow": [
        0.4649117425, -0.3384427311, 0.3323339953, 0.1398942739, 1.4912803846, 123.2024590986, 21.7259171015
    ],
    "relative deformed": [0.2734578726, 0.7657758523, 0.8276135704, 0.0, 0.0, -0.7301448688, 24.4828901846],
}


def look_at(found: dict[str, torch.Tensor]) -> dict[str, list]:
    """The mean of each result, four numbers from all over, and how its numbers weigh against a fixed pattern, which
    a swap of channels would change."""
    def look(v):
        pattern = torch.from_numpy(rng(0, "pattern").uniform(-1, 1, len(v)))
        return [
            v.mean(), *(v[int(len(v) * place)] for place in (0.11, 0.37, 0.63, 0.89)), (v * pattern).sum(),
            (v.square() * pattern.flip(0)).sum()
        ]
    return {k: [round(x.item(), 10) for x in look(v.double().flatten())] for k, v in found.items()}


def test_golden_numbers(tmp_path):
    found = look_at(ours(converted(layout(SETTINGS, tmp_path), SETTINGS, tmp_path).double(), *pictures(3, 64).split(1)))
    assert found.keys() == GOLDEN.keys()
    for name, numbers in GOLDEN.items(): assert found[name] == pytest.approx(numbers, abs=1e-7), name


def test_golden_numbers_are_the_authors():
    their = Reference(SETTINGS).fill().to(torch.float64)
    for name, numbers in look_at(their.run(*pictures(3, 64).split(1))).items():
        assert GOLDEN[name] == pytest.approx(numbers, abs=1e-9), name


# ---- through the door
# ----------------------------------------------------------------------------------------------------------------

REFUSED = {  # what is wrong: changes to the good file, words of the message
    "another spread": (dict(common_params__kp_variance="single"), ["kp_variance", "matrix"]),
    "no correction": (dict(generator_params__dense_motion_params__use_correction=False), ["use_correction"]),
    "two scales": (dict(kp_detector_params__scale_factor=0.25), ["different values of scale_factor"]),
    "two heights": (dict(generator_params__kp_embedding_params__norm_const=10), ["different values of norm_const"]),
    "no height": (
        dict(
            generator_params__dense_motion_params__mask_embedding_params__norm_const="mean",
            generator_params__kp_embedding_params__norm_const="mean",
        ),
        ["'mean' is neither"],
    ),
    "plain heatmaps": (
        dict(generator_params__kp_embedding_params__heatmap_type="gaussian"),
        ["heatmap_type", "difference"],
    ),
    "no moved pictures": (
        dict(generator_params__dense_motion_params__mask_embedding_params__use_deformed_source_image=False),
        ["use_deformed_source_image is off"],
    ),
    "a name of nothing": (dict(generator_params__num_bloks=3), ["did you mean 'num_blocks'"]),
    "other widths": (dict(generator_params__block_expansion=16), ["bad.pth.tar", "the model's is"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_configurations(what, tmp_path, capsys):
    change, words = REFUSED[what]
    torch.save(layout(SETTINGS, tmp_path), tmp_path / "bad.pth.tar")
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(changed(SETTINGS, **change)))
    with pytest.raises(SystemExit) as stop:
        main([
            "convert", "monkeynet",
            str(tmp_path / "bad.pth.tar"), "--config",
            str(tmp_path / "bad.yaml"), "--out",
            str(tmp_path / "w.safetensors")
        ])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and len(said.splitlines()) == 1 and all(w in said for w in words), said
    assert not (tmp_path / "w.safetensors").exists()


# ---- training
# ----------------------------------------------------------------------------------------------------------------------

def test_the_losses_of_the_paper_train_keypoints_through_the_discriminator():
    """One step of the paper's losses on a small model: every weight gets a gradient, and the discriminator is shown
    as many maps as there are keypoints."""
    model = create_model("monkeynet", MonkeyNet.smallest | {"size": 64})
    config = LossConfig(perceptual=0.0, pixel=10.0, adversarial=1.0, feature_matching=1.0,
                        matching=(10.0, 10.0, 10.0, 1.0), discriminator="least_squares", discriminator_width=8)
    criterion = Criterion(config, beside=model.beside)
    nn.init.normal_(model.dense.head.weight, std=0.01)  # starts at zero, and lets nothing through
    images = pictures(2, 64).float()
    rendering, terms = model(Batch(images[:, None], images.flip(0), None, torch.tensor([1, 2]), 0), criterion)
    sum(terms.values()).backward()
    assert rendering.beside.shape == (2, 4, 64, 64) and set(terms) == {"pixel", "adversarial", "feature_matching"}
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
    criterion.requires_grad_(True)
    criterion.judge(rendering.frame, images, beside=rendering.beside).backward()
    assert all(p.grad is not None for p in criterion.discriminator.parameters())


if __name__ == "__main__":
    print("GOLDEN = {")
    for name, numbers in look_at(Reference(SETTINGS).fill().to(torch.float64).run(*pictures(3, 64).split(1))).items():
        print(f"    {name!r}: {numbers},".replace("'", '"'))
    print("}")
