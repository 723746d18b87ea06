"""The authors' checkpoints, converted and compared. Three layers:

- always: checkpoints in the authors' layout, made of random weights, go through `animrepro convert`; bad input is
  refused;
- always: GOLDEN holds what the authors' code computed from such weights in float64;
- with the authors' code: everything that both sides compute is compared, in several configurations.

The last needs clones of github.com/yoyo-nb/Thin-Plate-Spline-Motion-Model,
github.com/AliaksandrSiarohin/first-order-model and github.com/wyhsirius/LIA, whose folders ANIMREPRO_REFERENCE_TPSMM,
ANIMREPRO_REFERENCE_FOMM and ANIMREPRO_REFERENCE_LIA name. `python tests/test_official.py` then prints GOLDEN anew."""
import argparse, ast, copy, math, os, pickle, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest, torch, torch.nn.functional as F, yaml
from torch import nn
from animrepro.authors import their_lia, their_networks
from animrepro.checkpoint import load_weights, read_about
from animrepro.cli import main
from animrepro.core import rng, to_uint8
from animrepro.dictionary import direction_sweep
from animrepro.inference import for_inference
from animrepro.models.contract import create_model, method_class
from animrepro.models.lia import Motion as LiaMotion
from animrepro.converter import translate
from animrepro.models.lia import lia_config, lia_tensors
from animrepro.models.official import officials, read_config
from animrepro.warp import edge_convention, resize_flow

ANIMREPRO = str(Path(sys.executable).parent / "animrepro")
NAMES = {method: official.names for method, official in officials().items()}
VARIABLES = {m: f"ANIMREPRO_REFERENCE_{m.upper()}" for m in ("tpsmm", "fomm", "lia")}

# ---- configurations and weights
# ------------------------------------------------------------------------------------------------------

TPSMM = """
dataset_params: {frame_shape: null}
model_params:
  common_params: {num_tps: 3, num_channels: 3, bg: true, multi_mask: true}
  generator_params: {block_expansion: 8, max_features: 32, num_down_blocks: 3}
  dense_motion_params: {block_expansion: 8, max_features: 32, num_blocks: 3, scale_factor: 0.25}
  avd_network_params: {id_bottle_size: 16, pose_bottle_size: 16}
"""
FOMM = """
dataset_params: {frame_shape: [64, 64, 3]}
model_params:
  common_params: {num_kp: 4, num_channels: 3, estimate_jacobian: true}
  kp_detector_params: {temperature: 0.1, block_expansion: 8, max_features: 32, scale_factor: 0.25, num_blocks: 3}
  generator_params:
    {block_expansion: 8, max_features: 32, num_down_blocks: 2, num_bottleneck_blocks: 2, estimate_occlusion_map: true,
     dense_motion_params: {block_expansion: 8, max_features: 32, num_blocks: 3, scale_factor: 0.25}}
  discriminator_params: {scales: [1]}
"""
SMALL = {
    "tpsmm": yaml.safe_load(TPSMM),
    "fomm": yaml.safe_load(FOMM),
    "lia": {
        "size": 64,
        "narrow": 32,
        "width": 16,
        "directions": 5
    }
}


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


def draw(network: str, name: str, like: torch.Tensor) -> torch.Tensor:
    "Random content for a tensor of the authors': strong enough for lively pictures, the same on every machine."
    shape, noise = tuple(like.shape), lambda: rng(0, "official", network, name).uniform(-1, 1, tuple(like.shape))
    if name.endswith("num_batches_tracked"): return torch.tensor(7)
    if name.endswith("running_var") or name.endswith("weight") and len(shape) == 1: values = 1 + 0.5 * noise()
    elif len(shape) == 1:
        values = 0.3 * noise() + (np.tile([1, 0, 0, 1], shape[0] // 4) if name == "jacobian.bias" else 0)
    else:
        values = noise() * (3 / np.prod(shape[1:]))**0.5 * (0.1 if name == "jacobian.weight" else
                                                            3 if name.startswith("fg_encoder.fc") else 1)
    if name == "bg_encoder.fc.bias": values += [1, 0, 0, 0, 1, 0]
    if name.startswith("bg_encoder.fc"): values = values * (0.1 if len(shape) == 2 else 1)
    return torch.from_numpy(np.asarray(values)).float()


def lia_layout(size: int = 256, narrow: int = 1, width: int = 512, directions: int = 20) -> dict[str, tuple]:
    "Names and shapes of the authors' tensors; `narrow` divides the widths of their layers."
    count = lambda size: min(512, 16384 // size) // narrow
    down, up, found = [size >> i
                       for i in range(int(math.log2(size)) - 1)], [8 << i for i in range(int(math.log2(size)) - 2)], {}
    def conv(at, i, o, kernel, first=0):
        found.update({f"{at}.{first}.weight": (o, i, kernel, kernel), f"{at}.{first + 1}.bias": (1, o, 1, 1)})
    def modulated(at, i, o, kernel):
        found.update({
            f"{at}.weight": (1, o, i, kernel, kernel),
            f"{at}.modulation.weight": (i, width),
            f"{at}.modulation.bias": (i, )
        })
    def styled(at, i, o):
        modulated(f"{at}.conv", i, o, 3)
        found.update({f"{at}.noise.weight": (1,), f"{at}.activate.bias": (1, o, 1, 1)})
    conv("enc.net_app.convs.0", 3, count(size), 1)
    for n, (a, b) in enumerate(zip(down, down[1:]), 1):
        at = f"enc.net_app.convs.{n}"
        conv(f"{at}.conv1", count(a), count(a), 3); conv(f"{at}.conv2", count(a), count(b), 3, 1)
        found |= {
            f"{at}.skip.1.weight": (count(b), count(a), 1, 1),
            f"{at}.conv2.0.kernel": (4, 4),
            f"{at}.skip.0.kernel": (4, 4)
        }
    found |= {
        f"enc.net_app.convs.{len(down)}.weight": (width, count(4), 4, 4),
        "dec.direction.weight": (width, directions),
        "dec.input.input": (1, count(4), 4, 4)
    }
    for n, o in enumerate([width] * 4 + [directions]):
        found |= {f"enc.fc.{n}.weight": (o, width), f"enc.fc.{n}.bias": (o,)}
    styled("dec.conv1", count(4), count(4)); conv("dec.to_rgb1.conv", count(4), 3, 1)
    for n, s in enumerate(up):
        styled(f"dec.convs.{2 * n}", count(s // 2), count(s)); styled(f"dec.convs.{2 * n + 1}", count(s), count(s))
        modulated(f"dec.to_flows.{n}.conv", count(s), 3, 1); conv(f"dec.to_rgbs.{n}.conv", count(s), 3, 1)
        found |= {
            f"dec.convs.{2 * n}.conv.blur.kernel": (4, 4),
            f"dec.to_flows.{n}.upsample.kernel": (4, 4),
            f"dec.to_rgbs.{n}.upsample.kernel": (4, 4)
        }
    return found | {
        f"dec.{head}.bias": (1, 3, 1, 1)
        for head in ["to_rgb1", *(f"to_{what}.{n}" for what in ("rgbs", "flows") for n in range(len(up)))]
    }


def draw_lia(name: str, shape: tuple) -> torch.Tensor:
    "Random content for a tensor of LIA. Its layers scale weights themselves; the blur is what it is."
    line = torch.tensor([1.0, 3, 3, 1])
    if name.endswith("kernel"): return line[:, None] * line / 64 * (1 if name.startswith("enc") else 4)
    values = rng(0, "official", "gen", name).uniform(-1, 1, shape) * (0.3 if name.endswith("bias") else 3**0.5)
    return torch.from_numpy(values + name.endswith("modulation.bias")).float()


def theirs_lia(settings: dict) -> dict:
    "A checkpoint as LIA's trainer saves it, with drawn weights."
    return {
        "gen": {
            k: draw_lia(k, shape)
            for k, shape in lia_layout(**settings).items()
        },
        "g_optim": {},
        "args": argparse.Namespace(lr=0.002, dataset="vox")
    }


def theirs(method: str, settings: dict, folder: Path, skip: tuple = ()) -> dict:
    """A checkpoint in the authors' layout with drawn weights. That of tpsmm and fomm is made by reading the table of
    names backwards."""
    if method == "lia": return theirs_lia(settings)
    (folder / "made.yaml").write_text(yaml.safe_dump(settings))
    model = create_model(method, read_config(method, folder / "made.yaml"))
    places = {k: v for k, v in model.state_dict().items()} | dict(model.named_buffers())
    networks = {}
    for network, names in NAMES[method].items():
        if network in skip: continue
        names = {
            there + k.removeprefix(here): v
            for there, here in names.items()
            for k, v in places.items() if k.startswith(here)
        }
        networks[network] = {
            k: v.clone() if k.endswith("down.weight") else draw(network, k, v)
            for k, v in names.items()
        }
    return {
        k: v
        for k, v in networks.items() if v
    } | {
        "optimizer": {
            "state": {},
            "param_groups": [{
                "lr": 2e-4,
                "params": [0]
            }]
        },
        "epoch": 99
    }


def convert(capsys, *args) -> tuple[int, str]:
    "Exit code and error stream of `animrepro convert`."
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop: main(["convert", *map(str, args)])
    return stop.value.code or 0, capsys.readouterr().err


def converted(method: str, networks: dict, settings: dict, folder: Path, *more) -> nn.Module:
    "What `animrepro convert` makes of a checkpoint, loaded."
    torch.save(networks, folder / "c.pth.tar")
    (folder / "c.yaml").write_text(yaml.safe_dump(settings))
    config = [] if method == "lia" else ["--config", folder / "c.yaml"]
    with pytest.raises(SystemExit) as stop:
        main(["convert", method, *map(str, [folder / "c.pth.tar", *config, "--out", folder / "c.safetensors", *more])])
    assert not stop.value.code
    return load_weights(folder / "c.safetensors")


def pictures(count: int, size: int, dtype=torch.float64) -> torch.Tensor:
    "Smooth pictures `(count, 3, size, size)` in [0, 1], drawn on the CPU."
    coarse = torch.from_numpy(rng(0, "pictures").uniform(0, 1, (count, 3, 8, 8)))
    return F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False).clamp(0, 1).to(dtype)


# ---- our side and theirs
# -------------------------------------------------------------------------------------------------------------

SWEEP = [-3.0, 0.5, 2.0]  # steps along direction 1 of LIA

@torch.no_grad()
def ours(model, source, start, driving) -> dict[str, torch.Tensor]:
    """All that is compared: keypoints or magnitudes, and for reconstruction and each mode of transfer what `render`
    gives."""
    prepared, motion, first = model.encode(source[:, None]), model.motion(driving), model.motion(start)
    if lia := isinstance(motion, LiaMotion):
        found = {"magnitudes": motion.magnitudes, "directions": model.dictionary.directions()}
    else: found = {"keypoints": motion.points.flatten(1, -2)}
    if getattr(motion, "jacobians", None) is not None: found["jacobians"] = motion.jacobians
    if getattr(model, "background", None) is not None: found["background"] = model.predict_background(prepared, motion)
    moves = {"reconstruction": motion} | {mode: model.transfer(prepared, motion, first, mode) for mode in model.modes}
    if lia:
        moves |= {
            "reference": model.reference(prepared),
            "sweep": LiaMotion(direction_sweep(prepared.magnitudes[0, 0], 1, motion.magnitudes.new_tensor(SWEEP)))
        }
    for name, move in moves.items():
        rendering = model.render(prepared, move, extras=True)
        found |= {f"{name} {k}": v for k, v in {"frame": rendering.frame, **rendering.extras}.items()}
    return found


def functions(path: Path, name: str):
    "One function of a script of the authors', without running the script and what it imports."
    from scipy.spatial import ConvexHull
    node = next(n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef) and n.name == name)
    space = {"np": np, "torch": torch, "ConvexHull": ConvexHull}
    exec(compile(ast.Module([node], []), str(path), "exec"), space)
    return space[name]


class Reference:
    "The authors' networks, built from a configuration."
    def __init__(self, method: str, folder: Path, settings: dict):
        self.method, self.folder, self.settings = method, folder, settings
        self.networks = their_networks(method, folder, settings["model_params"])

    def fill(self):
        "Draws all weights; the blur before downsampling is fixed."
        for network, net in self.networks.items():
            net.load_state_dict({
                k: v if k.endswith("down.weight") else draw(network, k, v)
                for k, v in net.state_dict().items()
            })
            net.eval()
        return self

    def checkpoint(self) -> dict: return {k: v.state_dict() for k, v in self.networks.items()} | {"epoch": 99}

    def to(self, dtype):
        for net in self.networks.values(): net.to(dtype)
        return self

    @torch.no_grad()
    def run(self, source, start, driving, align_corners: bool = True) -> dict[str, torch.Tensor]:
        """The counterpart of `ours`. Before torch 1.3 `grid_sample` had align_corners=True where nothing was said,
        as FOMM's code does."""
        sample = F.grid_sample
        F.grid_sample = lambda *args, **how: sample(*args, **{"align_corners": align_corners} | how)
        try:
            return self.tpsmm(source, start, driving) if self.method == "tpsmm" else self.fomm(
                source, start, driving, align_corners)
        finally: F.grid_sample = sample

    def tpsmm(self, source, start, driving):
        detect, dense, inpaint = (self.networks[k]
                                  for k in ("kp_detector", "dense_motion_network", "inpainting_network"))
        at_source, at_start, at_driving = detect(source), detect(start), detect(driving)
        found = {"keypoints": at_driving["fg_kp"]}
        background = self.networks["bg_predictor"](source, driving) if "bg_predictor" in self.networks else None
        if background is not None: found["background"] = background
        moves = {
            "reconstruction": at_driving,
            "absolute": at_driving,
            "relative": functions(self.folder / "demo.py", "relative_kp")(at_source, at_driving, at_start)
        }
        if "avd_network" in self.networks: moves["avd"] = self.networks["avd_network"](at_source, at_driving)
        for name, move in moves.items():
            motion = dense(source_image=source, kp_driving=move, kp_source=at_source,
                           bg_param=background if name == "reconstruction" else None)
            found[f"{name} frame"] = inpaint(source, motion)["prediction"]
            found[f"{name} flow"] = edge_convention(resize_flow(motion["deformation"], *source.shape[-2:], True))
            found[f"{name} contributions"] = motion["contribution_maps"]
            found |= {f"{name} mask{i}": mask for i, mask in enumerate(motion["occlusion_map"])}
        return found

    def fomm(self, source, start, driving, align_corners):
        detect, generate = self.networks["kp_detector"], self.networks["generator"]
        at_source, at_start, at_driving = detect(source), detect(start), detect(driving)
        found = {
            "keypoints": at_driving["value"]
        } | ({
            "jacobians": at_driving["jacobian"]
        } if "jacobian" in at_driving else {})
        relative = functions(self.folder / "animate.py", "normalize_kp")(at_source, at_driving, at_start, True, True,
                                                                         "jacobian" in at_driving)
        for name, move in {"reconstruction": at_driving, "absolute": at_driving, "relative": relative}.items():
            out = generate(source, kp_driving=move, kp_source=at_source)
            flow = resize_flow(
                generate.dense_motion_network(source, move, at_source)["deformation"], *source.shape[-2:])
            found |= {
                f"{name} frame": out["prediction"],
                f"{name} contributions": out["mask"],
                f"{name} flow": edge_convention(flow) if align_corners else flow
            }
            if "occlusion_map" in out: found[f"{name} occlusion"] = out["occlusion_map"]
        return found


class LiaReference:
    "The authors' generator."
    def __init__(self, folder: Path, **sizes): self.net = their_lia(folder, **sizes).eval()

    def fill(self):
        "Draws all weights."
        self.net.load_state_dict({k: draw_lia(k, tuple(v.shape)) for k, v in self.net.state_dict().items()})
        return self

    def checkpoint(self) -> dict: return {"gen": self.net.state_dict()}

    def to(self, dtype):
        self.net.to(dtype)
        return self

    @torch.no_grad()
    def run(self, source, start, driving) -> dict[str, torch.Tensor]:
        "The counterpart of `ours`. What is read where is seen at `grid_sample`; masks are seen behind their layer."
        net, (source, start, driving) = self.net, (2 * x - 1 for x in (source, start, driving))
        first, still = net.enc.enc_motion(start), net.enc.enc_motion(source)
        found = {"magnitudes": net.enc.enc_motion(driving), "directions": net.get_direction()}
        code, _, features = net.enc(source, None)
        sweep = torch.zeros(len(SWEEP), still.shape[1], dtype=source.dtype)
        sweep[:, 1] = sweep.new_tensor(SWEEP)
        moves = {
            "reconstruction": lambda: net(source, driving),
            "absolute": lambda: net(source, driving),
            "relative": lambda: net(source, driving, first),
            "reference": lambda: net(source, None),
            "sweep": lambda: torch.cat(
                [net.synthesis(code, [still, step[None], torch.zeros_like(still)], features) for step in sweep])
        }
        masks, flows, sample = [], [], F.grid_sample
        def look(features, grid):
            flows.append(grid)
            return sample(features, grid, align_corners=False)
        hooks = [
            layer.register_forward_hook(lambda layer, args, out: masks.append(out[2][:, 2:].sigmoid()))
            for layer in net.dec.to_flows
        ]
        F.grid_sample = look
        try:
            for name, move in moves.items():
                masks.clear(); flows.clear()
                found[f"{name} frame"] = ((move() + 1) / 2).clamp(0, 1)
                levels = len(net.dec.to_flows)
                found[f"{name} flow"] = torch.cat(flows[levels - 1::levels])
                found |= {f"{name} mask{i}": torch.cat(masks[i::levels]) for i in range(levels)}
        finally:
            F.grid_sample = sample
            for hook in hooks: hook.remove()
        return found


def reference(method: str, settings: dict) -> Reference | LiaReference:
    if not os.environ.get(VARIABLES[method]):
        pytest.skip(f"{VARIABLES[method]} names no clone of the authors' repository")
    folder = Path(os.environ[VARIABLES[method]])
    return LiaReference(folder, **settings) if method == "lia" else Reference(method, folder, settings)


def published(method: str, name: str) -> dict:
    "A configuration of the authors' repository."
    if not os.environ.get(VARIABLES[method]):
        pytest.skip(f"{VARIABLES[method]} names no clone of the authors' repository")
    return yaml.safe_load((Path(os.environ[VARIABLES[method]]) / "config" / f"{name}.yaml").read_text())


# ---- with the authors' code
# ----------------------------------------------------------------------------------------------------------

NARROW = {
    "tpsmm": dict(generator_params__block_expansion=8, generator_params__max_features=32,
                  dense_motion_params__block_expansion=8, dense_motion_params__max_features=48)
}
NARROW["fomm"] = dict(kp_detector_params__block_expansion=8, kp_detector_params__max_features=48,
                      generator_params__block_expansion=8, generator_params__max_features=32,
                      generator_params__dense_motion_params__block_expansion=8,
                      generator_params__dense_motion_params__max_features=48)
CASES = {  # name: method, the authors' file, what is changed beside the widths, size, align_corners
    "vox": ("tpsmm", "vox-256", {}, 128, True),
    "taichi": (
        "tpsmm",
        "taichi-256",
        dict(common_params__num_tps=5, common_params__multi_mask=False, dense_motion_params__num_blocks=4),
        64,
        True,
    ),
    "ted": (
        "tpsmm",
        "ted-384",
        dict(common_params__num_tps=2, dense_motion_params__num_blocks=3, dense_motion_params__scale_factor=0.5),
        96,
        True,
    ),
    "mgif": (
        "tpsmm",
        "mgif-256",
        dict(
            common_params__num_tps=5,
            dense_motion_params__num_blocks=3,
            dense_motion_params__kp_variance=0.02,
            avd_network_params=None,
        ),
        64,
        True,
    ),
    "bare": (
        "tpsmm",
        "mgif-256",
        dict(
            common_params__num_tps=10,
            common_params__multi_mask=False,
            dense_motion_params__num_blocks=3,
            generator_params__num_down_blocks=2,
        ),
        64,
        True,
    ),
    "fomm vox": ("fomm", "vox-256", {}, 128, True),
    "fomm vox today": ("fomm", "vox-256", {}, 128, False),
    "fomm vox-adv": (
        "fomm",
        "vox-adv-256",
        dict(kp_detector_params__num_blocks=3, generator_params__dense_motion_params__num_blocks=4),
        64,
        True,
    ),
    "fomm mgif": (
        "fomm",
        "mgif-256",
        dict(
            kp_detector_params__num_blocks=3,
            kp_detector_params__pad=3,
            generator_params__dense_motion_params__num_blocks=3,
        ),
        64,
        True,
    ),
    "fomm zero order": (
        "fomm",
        "taichi-256",
        dict(
            common_params__estimate_jacobian=False,
            kp_detector_params__num_blocks=3,
            generator_params__dense_motion_params__num_blocks=3,
            generator_params__estimate_occlusion_map=False,
            kp_detector_params__scale_factor=0.5,
            generator_params__dense_motion_params__scale_factor=0.5,
        ),
        64,
        False,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_authors_code(case, tmp_path):
    method, name, changes, size, align_corners = CASES[case]
    settings = changed(published(method, name), **NARROW[method], **changes)
    settings["dataset_params"]["frame_shape"] = None
    their = reference(method, settings).fill()
    model = converted(method, their.checkpoint(), settings, tmp_path, "--size", size, *["--no-align-corners"] *
                      (not align_corners))
    images = pictures(3, size).split(1)
    expected, found = their.to(torch.float64).run(*images, align_corners), ours(model.double(), *images)
    equal_in_double(expected, found)
    images = [x.float() for x in images]
    expected = their.to(torch.float32).run(*images, align_corners)
    for side in (model.float(), for_inference(model)): equal_in_levels(expected, ours(side, *images))


def equal_in_double(expected: dict, found: dict):
    "Everything within 1e-7, and frames that differ from each other, or nothing was told."
    assert found.keys() == expected.keys()
    apart = {k: (found[k].flatten() - expected[k].flatten()).abs().max().item() for k in expected}
    print({k: f"{v:.0e}" for k, v in apart.items()})
    assert max(apart.values()) <= 1e-7, apart
    frames = [v for k, v in expected.items() if k.endswith("frame")]
    assert min(
        f.std()
        for f in frames) > 0.02 and (frames[1] - frames[2]).abs().max() > 0.02, "too dull a case to tell anything"


def equal_in_levels(expected: dict, found: dict):
    "Frames in single precision within one level of 256."
    levels = {
        k: int(abs(to_uint8(found[k]).astype(int) - to_uint8(expected[k])).max())
        for k in expected if k.endswith("frame")
    }
    assert max(levels.values()) <= 1, levels


@pytest.mark.parametrize("size, narrow, width, directions", [(32, 32, 16, 5), (128, 16, 48, 20), (64, 1, 512, 20)])
def test_equals_the_authors_code_lia(size, narrow, width, directions, tmp_path):
    "The last case has the published widths."
    settings = dict(size=size, narrow=narrow, width=width, directions=directions)
    their = reference("lia", settings).fill()
    model = converted("lia", their.checkpoint(), settings, tmp_path)
    images = pictures(3, size).split(1)
    equal_in_double(their.to(torch.float64).run(*images), ours(model.double(), *images))
    images = [x.float() for x in images]
    expected = their.to(torch.float32).run(*images)
    for side in (model.float(), for_inference(model)): equal_in_levels(expected, ours(side, *images))


def test_published_lia_has_the_same_tensors():
    "At full width, on the meta device. Idle in theirs are a colour head at 4 × 4 and the strengths of noise."
    for size in (256, 512):
        with torch.device("meta"):
            their = reference("lia", {"size": size}).net
            model = method_class("lia")(method_class("lia").Config(**lia_config(their.state_dict(), "meta")))
        assert {k: tuple(v.shape) for k, v in their.state_dict().items()} == lia_layout(size)
        shapes = {
            translate(NAMES["lia"]["gen"], k): v.shape
            for k, v in lia_tensors(their.state_dict()).items() if not k.endswith("kernel")
        }
        assert shapes == {k: v.shape for k, v in model.state_dict().items()}
        idle = sum(p.numel() for k, p in their.named_parameters() if "to_rgb1" in k or "noise" in k)
        assert sum(p.numel() for p in their.parameters()) == sum(p.numel() for p in model.parameters()) + idle
        if size == 256: assert idle == 1555


def test_speed_of_lia(tmp_path):
    """Time per frame of 256 × 256, the source encoded already, in turns; in time of this process, because other
    processes disturb clocks on the wall."""
    their = reference("lia", {}).fill()
    model = converted("lia", their.checkpoint(), {}, tmp_path)
    source, start, driving = pictures(3, 256, torch.float32).split(1)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            prepared, (code, _, features) = model.encode(source[:, None]), their.net.enc(2 * source - 1, None)
            sides = {
                "theirs": lambda:
                (their.net.synthesis(code, [their.net.enc.enc_motion(2 * driving - 1)], features) + 1) / 2,
                "ours": lambda: model.render(prepared, model.motion(driving)).frame,
                "theirs, as their demo": lambda: their.net(2 * source - 1, 2 * driving - 1)
            }
            times = {name: [] for name in sides}
            for _ in range(4):
                for name, side in sides.items():
                    begin = time.process_time(); frame = side(); times[name].append(time.process_time() - begin)
            best = {name: min(took) for name, took in times.items()}
            equal_in_levels({"frame": sides["theirs"]()}, {"frame": sides["ours"]()})
    finally: torch.set_num_threads(before)
    print(
        f"\n{best}, theirs / ours {best['theirs'] / best['ours']:.2f}, with their demo's loop"
        f" {best['theirs, as their demo'] / best['ours']:.2f}"
    )
    assert best["theirs"] > 1.5 * best["ours"]


@pytest.mark.parametrize(
    "method, names",
    [("tpsmm", ["vox-256", "taichi-256", "ted-384", "mgif-256"]),
     ("fomm",
      ["vox-256", "vox-adv-256", "taichi-256", "taichi-adv-256", "mgif-256", "fashion-256", "nemo-256", "bair-256"])])
def test_published_configurations_have_the_same_tensors(method, names, tmp_path):
    "At full width: names and shapes, so also the number of weights. The meta device knows shapes and holds no numbers."
    for name in names:
        settings = published(method, name)
        (tmp_path / "p.yaml").write_text(yaml.safe_dump(settings))
        fields = read_config(method, tmp_path / "p.yaml", {"ted-384": 384}.get(name))
        with torch.device("meta"):
            their, our = reference(method, settings), method_class(method)(method_class(method).Config(**fields))
        shapes = {
            translate(NAMES[method][n], k): v.shape
            for n, net in their.networks.items()
            for k, v in net.state_dict().items() if not k.endswith("down.weight")
        }
        assert shapes == {k: v.shape for k, v in our.state_dict().items()}, name
        assert sum(p.numel() for net in their.networks.values()
                   for p in net.parameters()) == sum(p.numel() for p in our.parameters())


# ---- golden numbers
# ------------------------------------------------------------------------------------------------------------------

# Computed by the authors' code in float64 from the configurations and drawn weights above (see `python
# tests/test_official.py`):
# what `look_at` takes of each result.
GOLDEN = {
    "tpsmm": {
        "keypoints": [-0.0237783658, 0.8252074801, 0.047841347, 0.939118949, 0.841174965],
        "background": [0.2744845533, 0.9812522739, -0.1014916727, 0.1235675322, 1.0],
        "reconstruction frame": [0.5713516885, 0.5229808574, 0.4739302122, 0.8330525331, 0.5815111237],
        "reconstruction flow": [-0.0120169537, -0.5945337837, -0.2965038999, -0.3515299645, 0.9014499637],
        "reconstruction contributions": [0.25, 0.2552199192, 0.3865814763, 0.043853193, 0.2422677867],
        "reconstruction mask0": [0.359583742, 0.4878705681, 0.3354353267, 0.384882024, 0.4633337476],
        "reconstruction mask1": [0.629508232, 0.6367403497, 0.6013791238, 0.5983801421, 0.6547168926],
        "reconstruction mask2": [0.4745728014, 0.5602498141, 0.1479527875, 0.6369152899, 0.6007879373],
        "reconstruction mask3": [0.4906302223, 0.604665019, 0.544388448, 0.5391245307, 0.47916093],
        "absolute frame": [0.5748124642, 0.2917933959, 0.4383904802, 0.8727743317, 0.5334893158],
        "absolute flow": [0.0107842267, -0.6638400623, -0.323145675, -0.2877345858, 0.9508782347],
        "absolute contributions": [0.25, 0.2175648287, 0.4329736381, 0.0557518089, 0.2074021907],
        "absolute mask0": [0.374515739, 0.4527771636, 0.2937149852, 0.4216962367, 0.43578682],
        "absolute mask1": [0.6312696929, 0.6562215883, 0.5275203062, 0.5000315854, 0.6561487813],
        "absolute mask2": [0.4804585382, 0.5211555413, 0.4018296988, 0.4013585926, 0.6401684711],
        "absolute mask3": [0.4883894608, 0.5859745323, 0.4396947796, 0.6202776868, 0.4551873864],
        "relative frame": [0.5764430767, 0.3580452499, 0.4847220053, 0.8837191674, 0.5124365313],
        "relative flow": [-0.0170542879, -0.7480435401, -0.3296889588, -0.348098734, 0.863991504],
        "relative contributions": [0.25, 0.2442708244, 0.3340307963, 0.0504286709, 0.222242885],
        "relative mask0": [0.3790789721, 0.3826793342, 0.361477109, 0.3740245372, 0.4259830521],
        "relative mask1": [0.6226401792, 0.6003454125, 0.6040010718, 0.4821645745, 0.7327630405],
        "relative mask2": [0.4692815254, 0.4411951295, 0.3211458686, 0.2981925245, 0.8308988941],
        "relative mask3": [0.4901773844, 0.5943356673, 0.6179132365, 0.6760826909, 0.4679187935],
        "avd frame": [0.4677373894, 0.5898104002, 0.4263657771, 0.3581611195, 0.2012838495],
        "avd flow": [-0.2241664456, 0.3866372013, -1.4296789996, 0.0025721829, -0.5890346723],
        "avd contributions": [0.25, 0.2789775407, 0.4229294669, 0.121845566, 0.3159161112],
        "avd mask0": [0.3792989865, 0.5514595839, 0.3338105215, 0.4352637218, 0.5632053879],
        "avd mask1": [0.6356628716, 0.5642104668, 0.595325234, 0.6635484856, 0.6532580369],
        "avd mask2": [0.479301863, 0.3703833277, 0.4736310827, 0.5018340256, 0.6601584534],
        "avd mask3": [0.4934601183, 0.411044401, 0.4138530586, 0.578341506, 0.4176107428],
    },
    "fomm": {
        "keypoints": [0.1158081571, 0.2487551569, 0.2293787048, 0.183047614, 0.0861959542],
        "jacobians": [0.5026709569, -0.1821095822, 0.0447387129, -0.1543090314, 0.1114443206],
        "reconstruction frame": [0.5129043216, 0.4435197583, 0.5936282775, 0.5786282376, 0.4272852829],
        "reconstruction contributions": [0.2, 0.1586104157, 0.1408757343, 0.3354028308, 0.043435149],
        "reconstruction flow": [-0.0654887592, -0.8439259604, -0.3040079464, -0.4873160046, 0.8699465045],
        "reconstruction occlusion": [0.50618909, 0.4970489507, 0.6001001432, 0.4569623733, 0.5064203037],
        "absolute frame": [0.5129043216, 0.4435197583, 0.5936282775, 0.5786282376, 0.4272852829],
        "absolute contributions": [0.2, 0.1586104157, 0.1408757343, 0.3354028308, 0.043435149],
        "absolute flow": [-0.0654887592, -0.8439259604, -0.3040079464, -0.4873160046, 0.8699465045],
        "absolute occlusion": [0.50618909, 0.4970489507, 0.6001001432, 0.4569623733, 0.5064203037],
        "relative frame": [0.5145938927, 0.4492642873, 0.5665355361, 0.5775416525, 0.436214987],
        "relative contributions": [0.2, 0.1267127643, 0.148776879, 0.2692319113, 0.0794784078],
        "relative flow": [-0.2833552276, -0.9060445184, -0.3736164078, -0.8518447646, 0.5073883983],
        "relative occlusion": [0.4960654782, 0.4650241547, 0.5763263036, 0.4498124285, 0.4498654183],
    },
    "lia": {
        "magnitudes": [-0.0240615732, 0.3318976317, -0.527943083, -0.0569849531, 0.0899813561],
        "directions": [0.0012031514, -0.3855805998, 0.2733357688, -0.2611094366, 0.2751913372],
        "reconstruction frame": [0.6101090356, 0.5539915841, 0.8720137944, 0.8404775517, 0.5237087416],
        "reconstruction flow": [-0.081307667, -0.3591677601, -0.0384888684, -0.8325444548, 0.8207476713],
        "reconstruction mask0": [0.4953855227, 0.6185617958, 0.5172495819, 0.459146064, 0.4604672327],
        "reconstruction mask1": [0.5579178495, 0.6857783242, 0.5735669425, 0.5153336984, 0.6433607074],
        "reconstruction mask2": [0.5061238941, 0.6373617331, 0.5188233781, 0.4635651976, 0.5415583745],
        "reconstruction mask3": [0.4305668819, 0.4221522349, 0.3658785854, 0.4236407005, 0.4378594128],
        "absolute frame": [0.6101090356, 0.5539915841, 0.8720137944, 0.8404775517, 0.5237087416],
        "absolute flow": [-0.081307667, -0.3591677601, -0.0384888684, -0.8325444548, 0.8207476713],
        "absolute mask0": [0.4953855227, 0.6185617958, 0.5172495819, 0.459146064, 0.4604672327],
        "absolute mask1": [0.5579178495, 0.6857783242, 0.5735669425, 0.5153336984, 0.6433607074],
        "absolute mask2": [0.5061238941, 0.6373617331, 0.5188233781, 0.4635651976, 0.5415583745],
        "absolute mask3": [0.4305668819, 0.4221522349, 0.3658785854, 0.4236407005, 0.4378594128],
        "relative frame": [0.6104876821, 0.5530962679, 0.8719316317, 0.844157266, 0.4719576349],
        "relative flow": [-0.0766018021, -0.3560255097, -0.0005373335, -0.8011275973, 0.807525002],
        "relative mask0": [0.5067250296, 0.6264398915, 0.5157507997, 0.4562742126, 0.4593771157],
        "relative mask1": [0.5632267159, 0.6951243214, 0.5710288726, 0.5115739624, 0.6360135415],
        "relative mask2": [0.506770285, 0.649071533, 0.5011804107, 0.4665314645, 0.5486966075],
        "relative mask3": [0.4310320301, 0.4143664514, 0.3419240631, 0.4379970108, 0.4252790278],
        "reference frame": [0.6164537197, 0.5565902431, 0.8691642707, 0.8261859758, 0.4401760036],
        "reference flow": [-0.0719909821, -0.3531950055, 0.2921004922, -1.0637751852, 0.7034293122],
        "reference mask0": [0.508065852, 0.6275949788, 0.4922206553, 0.4378682226, 0.4427630946],
        "reference mask1": [0.5665042909, 0.7030491017, 0.5389184202, 0.4986775131, 0.6024873208],
        "reference mask2": [0.4959622306, 0.6810073745, 0.4828289183, 0.437085009, 0.5327773341],
        "reference mask3": [0.4239591059, 0.4064057148, 0.3467924595, 0.353342505, 0.4045221099],
        "sweep frame": [0.6118567691, 0.5128599713, 0.5535753351, 0.4358573458, 0.4489502059],
        "sweep flow": [-0.1545638866, -0.4155310025, -0.3581454178, 0.8023547125, -0.0331352269],
        "sweep mask0": [0.5277465521, 0.4652981315, 0.6343677458, 0.4484283345, 0.5311718515],
        "sweep mask1": [0.5979247382, 0.6560293565, 0.7142587633, 0.6061400877, 0.4890386473],
        "sweep mask2": [0.5335984786, 0.6635279898, 0.6666269532, 0.5215496364, 0.3715373817],
        "sweep mask3": [0.4587586289, 0.5336432563, 0.3972014428, 0.4037960634, 0.4327331264],
    },
}


def look_at(found: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    "Five numbers of each result: the mean, and four from all over."
    flat = {k: v.double().flatten() for k, v in found.items()}
    return {
        k: [
            round(x, 10)
            for x in [v.mean().item(), *(v[int(len(v) * place)].item() for place in (0.11, 0.37, 0.63, 0.89))]
        ]
        for k, v in flat.items()
    }


@pytest.mark.parametrize("method", SMALL)
def test_golden_numbers(method, tmp_path):
    model = converted(method, theirs(method, SMALL[method], tmp_path), SMALL[method], tmp_path, *["--size", 64] *
                      (method == "tpsmm"))
    found = look_at(ours(model.double(), *pictures(3, 64).split(1)))
    assert found.keys() == GOLDEN[method].keys()
    for name, numbers in GOLDEN[method].items(): assert found[name] == pytest.approx(numbers, abs=1e-7), name


@pytest.mark.parametrize("method", SMALL)
def test_golden_numbers_are_the_authors(method):
    their = reference(method, SMALL[method]).fill().to(torch.float64)
    for name, numbers in look_at(their.run(*pictures(3, 64).split(1))).items():
        assert GOLDEN[method][name] == pytest.approx(numbers, abs=1e-9), name


# ---- through the door
# ----------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, dict]:
    "Checkpoints in the authors' layout, one per method."
    return {m: theirs(m, SMALL[m], tmp_path_factory.mktemp(m)) for m in SMALL}


def test_weights_arrive_unchanged(made, tmp_path):
    for method, networks in made.items():
        model = converted(method, networks, SMALL[method], tmp_path, *["--size", 64] * (method == "tpsmm"))
        state = model.state_dict()
        if method == "lia": networks = {"gen": lia_tensors(networks["gen"])}
        arrived = {
            translate(NAMES[method][n], k): v
            for n, net in networks.items() if n in NAMES[method] for k, v in net.items()
            if not k.endswith(("down.weight", "kernel"))
        }
        assert arrived.keys() == state.keys() and all(torch.equal(v, state[k]) for k, v in arrived.items())
        about = read_about(tmp_path / "c.safetensors")
        assert (about["method"], about["variant"], about["checkpoint"]) == (method, "official",
                                                                            "c.pth.tar") and model.config.size == 64


def test_old_file_format(made, tmp_path, capsys):
    "torch before 1.6 wrote another format, and FOMM is of 2019."
    torch.save(made["fomm"], tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(SMALL["fomm"]))
    assert convert(capsys, "fomm", tmp_path / "old.pth.tar", "--config", tmp_path / "c.yaml", "--out",
                   tmp_path / "o.safetensors")[0] == 0
    assert torch.equal(load_weights(tmp_path / "o.safetensors").final.weight, made["fomm"]["generator"]["final.weight"])


def test_networks_that_may_be_missing(made, tmp_path):
    few = {k: v for k, v in made["tpsmm"].items() if k not in ("bg_predictor", "avd_network")}
    model = converted("tpsmm", few, SMALL["tpsmm"], tmp_path, "--size", 64)
    assert (model.modes, model.background, model.config.avd_width) == (("absolute", "relative"), None, 0)
    without = changed(SMALL["tpsmm"], common_params__bg=False)
    assert converted("tpsmm", made["tpsmm"], without, tmp_path, "--size", 64).background is None


def test_convention_of_sampling(made, tmp_path):
    for flags, expected in (((), True), (("--align-corners",), True), (("--no-align-corners",), False)):
        assert converted("fomm", made["fomm"], SMALL["fomm"], tmp_path, *flags).config.align_corners is expected


def test_a_converted_file_animates(made, tmp_path):
    "As a user does it: fresh processes, in a folder without params.yaml."
    from PIL import Image
    from animrepro.data.video import probe, write_video
    torch.save(made["tpsmm"], tmp_path / "vox.pth.tar")
    (tmp_path / "vox.yaml").write_text(yaml.safe_dump(SMALL["tpsmm"]))
    frames = to_uint8(pictures(5, 64))
    Image.fromarray(frames[0]).save(tmp_path / "source.png")
    write_video(tmp_path / "driving.mp4", frames, 10)
    for words in ("convert tpsmm vox.pth.tar --config vox.yaml --size 64 --out w.safetensors",
                  "animate w.safetensors --source source.png --driving driving.mp4 --mode avd --out out.mp4"):
        done = subprocess.run([ANIMREPRO, *words.split()], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert probe(tmp_path / "out.mp4").frames == 5


# ---- bad input
# ----------------------------------------------------------------------------------------------------------------------

class Bomb:
    "A pickle that would run a command when it is opened."
    def __init__(self, mark): self.mark = mark
    def __reduce__(self): return os.system, (f"touch {self.mark}",)


def edited(networks: dict, network: str, **tensors) -> dict:
    "A checkpoint with tensors of one network replaced, or removed where None; `__` is a dot."
    state = dict(networks[network]) | {k.replace("__", "."): v for k, v in tensors.items()}
    return networks | {network: {k: v for k, v in state.items() if v is not None}}


ZERO = torch.zeros(1)
CHECKPOINTS = {  # what is wrong: (method, checkpoint from the good one, words of the message)
    "of the other method": ("fomm", lambda n: "tpsmm", ["it is a checkpoint of tpsmm"]),
    "of the other method too": ("tpsmm", lambda n: "fomm", ["it is a checkpoint of fomm"]),
    "no dictionary": ("fomm", lambda n: [1, 2], ["no network kp_detector"]),
    "network missing": (
        "tpsmm",
        lambda n: {k: v for k, v in n.items() if k != "dense_motion_network"},
        ["no network dense_motion_network"],
    ),
    "network is a number": ("fomm", lambda n: n | {"generator": 3}, ["generator is no table of tensors"]),
    "tensor missing": ("fomm", lambda n: edited(n, "generator", final__bias=None), ["final.bias", "trained with"]),
    "tensor unknown": ("fomm", lambda n: edited(n, "generator", extra__bias=ZERO), ["generator holds extra.bias"]),
    "layer unknown": (
        "tpsmm",
        lambda n: edited(n, "inpainting_network", up_blocks__9__conv__bias=ZERO),
        ["up_blocks.9.conv.bias"],
    ),
    "wrong shape": (
        "fomm",
        lambda n: edited(n, "kp_detector", kp__bias=ZERO),
        ["kp.bias has shape [1], the model's is [4]"],
    ),
    "another blur": (
        "tpsmm",
        lambda n: edited(n, "dense_motion_network", down__weight=n["dense_motion_network"]["down.weight"] * 2),
        ["down.weight is not the blur"],
    ),
    "AVD of another size": (
        "tpsmm",
        lambda n: edited(n, "avd_network", id_encoder__9__bias=ZERO),
        ["id_encoder.9.bias"],
    ),
    "lia for tpsmm": ("tpsmm", lambda n: "lia", ["it is a checkpoint of lia"]),
    "fomm for lia": ("lia", lambda n: "fomm", ["it is a checkpoint of fomm"]),
    "lia: state of another network": (
        "lia",
        lambda n: {"gen": {"weight": ZERO}},
        ["gen holds no dec.direction.weight", "authors"],
    ),
    "lia: flat dictionary": (
        "lia",
        lambda n: edited(n, "gen", dec__direction__weight=ZERO),
        ["dec.direction.weight with 2 axes"],
    ),
    "lia: tensor missing": ("lia", lambda n: edited(n, "gen", enc__fc__4__bias=None), ["head.4.bias"]),
    "lia: tensor unknown": ("lia", lambda n: edited(n, "gen", dec__extra=ZERO), ["gen holds dec.extra"]),
    "lia: level unknown": (
        "lia",
        lambda n: edited(n, "gen", dec__convs__8__activate__bias=ZERO),
        ["dec.convs.8.activate.bias", "no place"],
    ),
    "lia: level missing": ("lia", lambda n: edited(n, "gen", dec__to_flows__3__conv__weight=None), ["no place"]),
    "lia: a second last layer": (
        "lia",
        lambda n: edited(n, "gen", enc__net_app__convs__6__weight=n["gen"]["enc.net_app.convs.5.weight"]),
        ["enc.net_app.convs.6.weight", "no place"],
    ),
    "lia: wrong shape": (
        "lia",
        lambda n: edited(n, "gen", dec__conv1__activate__bias=torch.zeros(1, 3, 1, 1)),
        ["dec.conv1.activate.bias has shape [3], the model's is [16]"],
    ),
    "lia: a batch of weights": (
        "lia",
        lambda n: edited(n, "gen", dec__conv1__conv__weight=torch.zeros(2, 16, 16, 3, 3)),
        ["dec.conv1.conv.weight has shape [2, 16, 16, 3, 3]"],
    ),
    "lia: another blur": (
        "lia",
        lambda n: edited(n, "gen", dec__convs__0__conv__blur__kernel=torch.ones(4, 4)),
        ["dec.convs.0.conv.blur.kernel is not the blur"],
    ),
    "lia: too small": ("lia", lambda n: theirs_lia(SMALL["lia"] | {"size": 16}), ["size 16", "use one of these"]),
}


@pytest.mark.parametrize("what", CHECKPOINTS)
def test_bad_checkpoints(made, what, tmp_path, capsys):
    method, spoil, words = CHECKPOINTS[what]
    spoilt = spoil(made[method])
    torch.save(made[spoilt] if isinstance(spoilt, str) else spoilt, tmp_path / "bad.pth.tar")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(SMALL[method]))
    config = [] if method == "lia" else ["--config", tmp_path / "c.yaml"]
    refused(capsys, tmp_path, [method, tmp_path / "bad.pth.tar", *config] + ["--size", 64] * (method == "tpsmm"),
            "bad.pth.tar", *words)


def refused(capsys, folder: Path, args: list, *words):
    "Exit code 2, one line with `words`, and no file that was not there before."
    before = sorted(folder.rglob("*"))
    code, said = convert(capsys, *args, *["--out", folder / "out" / "w.safetensors"] * ("--out" not in args))
    assert code == 2 and len(said.splitlines()) == 1 and said.startswith("animrepro: "), said
    for word in words: assert word in said
    assert sorted(folder.rglob("*")) == before


def test_broken_files(made, tmp_path, capsys):
    good, config = tmp_path / "good.pth.tar", tmp_path / "c.yaml"
    torch.save(made["fomm"], good)
    config.write_text(yaml.safe_dump(SMALL["fomm"]))
    for name, content in {
            "half": good.read_bytes()[:len(good.read_bytes()) // 2],
            "empty": b"",
            "text": b"no weights",
            "short": good.read_bytes()[:100]
    }.items():
        (tmp_path / f"{name}.pth.tar").write_bytes(content)
        refused(capsys, tmp_path, ["fomm", tmp_path / f"{name}.pth.tar", "--config", config], f"{name}.pth.tar",
                "damaged")
    torch.save(made["fomm"] | {"epoch": Bomb(tmp_path / "exploded")}, tmp_path / "bomb.pth.tar")
    (tmp_path / "raw.pth.tar").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    refused(capsys, tmp_path, ["fomm", tmp_path / "bomb.pth.tar", "--config", config], "bomb.pth.tar",
            "holds code or objects")
    refused(capsys, tmp_path, ["fomm", tmp_path / "raw.pth.tar", "--config", config], "raw.pth.tar")
    assert not (tmp_path / "exploded").exists()
    refused(capsys, tmp_path, ["fomm", tmp_path / "nowhere.pth.tar", "--config", config],
            "nowhere.pth.tar: no such checkpoint")
    refused(capsys, tmp_path, ["fomm", tmp_path, "--config", config], tmp_path.name)
    refused(capsys, tmp_path, ["fomm", good, "--config", tmp_path / "nowhere.yaml"], "nowhere.yaml: no such file")
    refused(capsys, tmp_path, ["fomm", good, "--config", config, "--out", good], "is also")
    refused(capsys, tmp_path, ["fomm", good, "--config", config, "--out", config / "w.safetensors"],
            "cannot be written")


CONFIGS = {  # what is wrong: method, text of the file or changes to the good one, more arguments, words of the message
    "no YAML": ("fomm", "a: [b", [], ["not valid YAML"]),
    "code in YAML": ("fomm", "model_params: !!python/object/apply:os.system ['true']", [], ["not valid YAML"]),
    "a picture": ("fomm", b"\x89PNG\r\n\x1a\n\xff", [], ["not valid YAML"]),
    "a list": ("fomm", "- 1", [], ["no named values"]),
    "no section": ("fomm", "train_params: {}", [], ["no section model_params"]),
    "common_params a number": ("fomm", "model_params: {common_params: 3}", [], ["common_params"]),
    "of the other method": ("fomm", TPSMM, [], ["a configuration of tpsmm, not of fomm"]),
    "of the other method too": ("tpsmm", FOMM, [], ["a configuration of fomm, not of tpsmm"]),
    "grey pictures": ("fomm", dict(common_params__num_channels=1), [], ["num_channels 1"]),
    "unknown section": ("tpsmm", dict(region_predictor_params={}), [], ["region_predictor_params"]),
    "unknown parameter": (
        "tpsmm",
        dict(dense_motion_params__num_regions=3),
        [],
        ["model_params.dense_motion_params", "num_regions"],
    ),
    "parameter missing": ("tpsmm", dict(generator_params__max_features=None), [], ["max_features is missing"]),
    "text for a number": ("fomm", dict(common_params__num_kp="ten"), [], ["num_kp", "no int"]),
    "no keypoints": ("fomm", dict(common_params__num_kp=0), [], ["num_kp: 0 is not positive"]),
    "negative levels": ("tpsmm", dict(dense_motion_params__num_blocks=-2), [], ["num_blocks: -2 is not positive"]),
    "no dense motion": (
        "fomm",
        dict(generator_params__dense_motion_params=None),
        [],
        ["dense_motion_params is missing"],
    ),
    "odd scale": ("tpsmm", dict(dense_motion_params__scale_factor=0.3), [], ["scale_factor 0.3"]),
    "two scales": ("fomm", dict(kp_detector_params__scale_factor=0.5), [], ["different values of scale_factor"]),
    "other widths": ("fomm", dict(generator_params__block_expansion=16), [], ["bad.pth.tar", "the model's is"]),
    "fewer keypoints": ("fomm", dict(common_params__num_kp=3), [], ["the model's is"]),
    "one mask": ("tpsmm", dict(common_params__multi_mask=False), ["--size", 64], ["no place"]),
    "a size that does not fit": ("tpsmm", {}, ["--size", 72], ["bad.yaml", "72 × 72"]),
    "two sizes": ("fomm", {}, ["--size", 128], ["frame_shape is 64, --size is 128"]),
    "frames that are not square": ("fomm", FOMM.replace("[64, 64, 3]", "[64, 128, 3]"), [], ["square"]),
    "size 0": ("tpsmm", {}, ["--size", 0], ["--size"]),
    "convention for tpsmm": ("tpsmm", {}, ["--no-align-corners"], ["--align-corners"]),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_bad_configurations(made, what, tmp_path, capsys):
    method, change, more, words = CONFIGS[what]
    torch.save(made[method], tmp_path / "bad.pth.tar")
    text = yaml.safe_dump(changed(SMALL[method], **change)) if isinstance(change, dict) else change
    (tmp_path / "bad.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(capsys, tmp_path, [method, tmp_path / "bad.pth.tar", "--config", tmp_path / "bad.yaml", *more], *words)


def test_click_names_methods(capsys, tmp_path):
    refused(capsys, tmp_path, ["fom", "a", "--config", "b"], "fom")
    refused(capsys, tmp_path, ["fomm", "a"], "--config")


def test_lia_needs_no_configuration(made, tmp_path, capsys):
    torch.save(made["lia"], tmp_path / "vox.pt")
    (tmp_path / "c.yaml").write_text(FOMM)
    for option in (["--config", tmp_path / "c.yaml"], ["--size", 64], ["--no-align-corners"]):
        refused(capsys, tmp_path, ["lia", tmp_path / "vox.pt", *option], option[0].replace("no-", ""), "leave it out")


if __name__ == "__main__":
    print("GOLDEN = {")
    for method in SMALL:
        their = reference(method, SMALL[method]).fill().to(torch.float64)
        print(f'    "{method}": {{')
        for name, numbers in look_at(their.run(*pictures(3, 64).split(1))).items():
            print(f"        {name!r}: {numbers},".replace("'", '"'))
        print("    },")
    print("}")
