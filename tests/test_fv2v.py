"""face-vid2vid. Its authors published no code; the reference is the unofficial
github.com/zhanglonghao1992/One-Shot_Free-View_Neural_Talking_Head_Synthesis.

- always: a checkpoint in the reference's layout, made of random weights, goes through `animrepro convert`, and GOLDEN
  holds what the reference computed from it in float64;
- with a clone, whose folder ANIMREPRO_REFERENCE_FV2V names: everything that both sides compute is compared.

`python tests/test_fv2v.py` then prints GOLDEN anew."""
import ast, copy, hashlib, importlib, os, re, sys, types
from pathlib import Path
import numpy as np, pytest, torch, torch.nn.functional as F, yaml
from torch import nn
from animrepro.converter import translate
from animrepro.core import UserError
from animrepro.models.contract import create_model, method_class
from animrepro.models.official import officials, read_config
from test_official import converted, draw, equal_in_double, equal_in_levels, look_at, pictures, refused

VARIABLE = "ANIMREPRO_REFERENCE_FV2V"
SMALL = yaml.safe_load("""
dataset_params: {frame_shape: [64, 64, 3]}
model_params:
  common_params: {num_kp: 5, image_channel: 3, feature_channel: 8, estimate_jacobian: false}
  kp_detector_params: {temperature: 0.1, block_expansion: 8, max_features: 64, scale_factor: 0.25, num_blocks: 3,
                       reshape_channel: 256, reshape_depth: 4}
  he_estimator_params: {block_expansion: 16, max_features: 2048, num_bins: 66}
  generator_params:
    {block_expansion: 8, max_features: 32, num_down_blocks: 2, reshape_channel: 8, reshape_depth: 4, num_resblocks: 2,
     estimate_occlusion_map: true,
     dense_motion_params: {block_expansion: 8, max_features: 32, num_blocks: 3, reshape_depth: 4, compress: 2}}
  discriminator_params: {scales: [1]}
""")
# what a softmax or a sigmoid would flatten
STRONG = {"kp.weight": 4, "final.weight": 10, "dense_motion_network.mask.weight": 8}
VIEW = dict(yaw=20.0, roll=-10.0)


def drawn(network: str, name: str, like: torch.Tensor) -> torch.Tensor:
    """Random content for a tensor of the reference; poses and expressions lively, and keypoints not far from the
    picture."""
    strength = 0.03 if name.startswith(("fc_t", "fc_exp")) else 3 if name.startswith("fc_") else STRONG.get(name, 1)
    return draw(network, name, like) * (strength if name.endswith(("weight", "bias")) else 1)


def spectral(state: dict) -> dict:
    """A generator's state with the blocks of its newer decoder as spectral normalisation keeps them. The norm is
    made to be exactly 4, so that rounding has no part in comparisons."""
    for name in [k for k in state if re.search(r"^decoder\..*\.conv_[01s]\.weight$", k)]:
        weight = state.pop(name)
        flat, u, v = weight.flatten(1), torch.zeros(len(weight)), torch.zeros(weight[0].numel())
        flat[:2, :2], u[:2], v[:2] = torch.tensor([[0.5, -0.25], [0.125, 1]]), 1, torch.tensor([4.0, 2])
        state |= {f"{name}_orig": flat.view_as(weight) * 4, f"{name}_u": u / 4, f"{name}_v": v}
    return state


def made(settings: dict, folder: Path, spade: bool = False) -> dict:
    "A checkpoint in the reference's layout with drawn weights, made by reading the table of names backwards."
    (folder / "made.yaml").write_text(yaml.safe_dump(settings))
    places = create_model("fv2v", read_config("fv2v", folder / "made.yaml") | {"spade": spade}).state_dict()
    names = lambda table: {
        there + k.removeprefix(here): v
        for there, here in table.items()
        for k, v in places.items() if k.startswith(here)
    }
    networks = {
        network: {
            k: drawn(network, k, v)
            for k, v in names(table).items()
        }
        for network, table in officials()["fv2v"].names.items()
    }
    return networks | {"generator": spectral(networks["generator"]), "epoch": 99}


@torch.no_grad()
def ours(model, source, start, driving) -> dict[str, torch.Tensor]:
    """All that is compared: what the detector and the pose network give, and frames of the two modes of transfer and
    of a free view."""
    prepared, motion, first = model.encode(source[:, None]), model.motion(driving), model.motion(start)
    angles, translation, expression = model.estimator(driving)
    found = {
        "canonical": prepared.canonical[:, 0],
        "angles": angles,
        "translation": translation,
        "expression": expression
    }
    moves = {
        mode: model.transfer(prepared, motion, first, mode)
        for mode in model.modes
    } | {
        "free view": model.turn(motion, **VIEW)
    }
    for name, move in moves.items():
        points = model.source_points(prepared, 1), model.driving_points(prepared, move)
        flow, share, occlusion = model.dense(prepared.compressed[:, 0], *points)
        found |= {
            f"{name} keypoints": points[1],
            f"{name} flow": flow,
            f"{name} contributions": share,
            f"{name} occlusion": occlusion,
            f"{name} frame": model.render(prepared, move).frame
        }
    return found


class Reference:
    "The reference's networks, built from a configuration. Its newer decoder has fixed widths; `narrow` divides them."
    def __init__(self, folder: Path, settings: dict, spade: bool = False, narrow: int = 1):
        self.folder, params, generator = folder, settings[
            "model_params"], "OcclusionAwareSPADEGenerator" if spade else "OcclusionAwareGenerator"
        common = params["common_params"]
        self.networks = {
            "kp_detector": self.of("keypoint_detector").KPDetector(**params["kp_detector_params"], **common),
            "he_estimator": self.of("keypoint_detector").HEEstimator(**params["he_estimator_params"], **common),
            "generator": getattr(self.of("generator", narrow), generator)(**params["generator_params"], **common)
        }

    def of(self, module: str, narrow: int = 1):
        """A module of theirs. Their package is called `modules`, like others, so it is forgotten at once; a fake
        stands for the one with compiled needs."""
        fake, before = types.ModuleType("sync_batchnorm"), dict(sys.modules)
        fake.SynchronizedBatchNorm2d, fake.SynchronizedBatchNorm3d = nn.BatchNorm2d, nn.BatchNorm3d
        sys.path.insert(0, str(self.folder)); sys.modules["sync_batchnorm"] = fake
        try:
            made = importlib.import_module(f"modules.{module}")
            text = re.sub(r"\b(ic|oc|label_nc) = (\d+)", lambda m: f"{m[1]} = {int(m[2]) // narrow}",
                          Path(made.__file__).read_text())
            exec(compile(text, made.__file__, "exec"), vars(made))
            return made
        finally:
            sys.path.remove(str(self.folder))
            for name in [
                    n for n in sys.modules
                    if n not in before and (n == "sync_batchnorm" or n.split(".")[0] == "modules")
            ]:
                del sys.modules[name]

    def script(self, name: str, dtype: torch.dtype) -> dict:
        """The functions of one of their scripts, without running it. They make tensors of one precision on a GPU;
        here they are of the networks' and stay."""
        torch_here = types.SimpleNamespace(
            **{
                k: getattr(torch, k)
                for k in ("cat", "sum", "cos", "sin", "zeros_like", "ones_like", "einsum", "matmul", "inverse")
            })
        torch_here.FloatTensor = lambda values: torch.tensor(values, dtype=dtype)
        torch_here.tensor = lambda values: types.SimpleNamespace(cuda=lambda: torch.tensor(values, dtype=dtype))
        tree, space = ast.parse((self.folder / name).read_text()), {"np": np, "torch": torch_here, "F": F}
        exec(compile(ast.Module([n for n in tree.body if isinstance(n, ast.FunctionDef)], []), name, "exec"), space)
        return space

    def fill(self, checkpoint: dict):
        "Loads all but the blur before downsampling, which is fixed."
        for network, net in self.networks.items():
            net.load_state_dict({
                k: v if k == "down.weight" else checkpoint[network][k]
                for k, v in net.state_dict().items()
            })
        for net in self.networks.values(): net.eval()
        return self

    def to(self, dtype):
        for net in self.networks.values(): net.to(dtype)
        return self

    @torch.no_grad()
    def run(self, source, start, driving) -> dict[str, torch.Tensor]:
        "The counterpart of `ours`."
        detect, estimate, generate = self.networks.values()
        demo, motions = self.script("demo.py", source.dtype), []
        hook = generate.dense_motion_network.register_forward_hook(lambda net, args, out: motions.append(out))
        pose = lambda x: {k: v.clone() for k, v in estimate(x).items()}  # their placing of keypoints changes t
        place = lambda x, **view: demo["keypoint_transformation"](canonical, pose(x), False, **view)
        canonical, code = detect(source), pose(driving)
        degrees = [demo["headpose_pred_to_degree"](code[angle]) for angle in ("yaw", "pitch", "roll")]
        found = {
            "canonical": canonical["value"],
            "angles": torch.stack(degrees, 1),
            "translation": code["t"],
            "expression": code["exp"].unflatten(1, (-1, 3))
        }
        relative = self.script("animate.py", source.dtype)["normalize_kp"](place(source), place(driving), place(start),
                                                                           use_relative_movement=True)
        moves = {
            "absolute": place(driving),
            "relative": relative,
            "free view": place(driving, free_view=True, pitch=None, **VIEW)
        }
        for name, move in moves.items():
            frame, motion = generate(source, kp_driving=move, kp_source=place(source))["prediction"], motions.pop()
            found |= {
                f"{name} keypoints": move["value"],
                f"{name} flow": motion["deformation"],
                f"{name} contributions": motion["mask"],
                f"{name} occlusion": motion["occlusion_map"],
                f"{name} frame": frame
            }
        hook.remove()
        return found


def folder() -> Path:
    if not os.environ.get(VARIABLE): pytest.skip(f"{VARIABLE} names no clone of the reference")
    return Path(os.environ[VARIABLE])


def marked(found: dict[str, torch.Tensor]) -> dict[str, list]:
    "Five numbers of each result and, for all of its numbers and their order, a hash of them rounded."
    digest = lambda x: hashlib.sha256(
        (x.double() * 1e5).round().to(torch.int64).contiguous().numpy().tobytes()).hexdigest()[:12]
    return {k: [*numbers, digest(found[k])] for k, numbers in look_at(found).items()}


# Computed by the reference in float64 from the configuration and the drawn weights above (see `python
# tests/test_fv2v.py`).
GOLDEN = {
    "plain": {
        "canonical": [0.2750423692, 0.5088191253, -0.2367686585, 0.1250216983, 0.7612769486, "69706041d2e2"],
        "angles": [-9.8005437205, -13.8952885213, 4.8100980742, 4.8100980742, -20.3164407144, "26d2cb435f11"],
        "translation": [-0.0498862493, -0.0275951314, -0.101740209, -0.101740209, -0.0203234075, "b0ef79daa663"],
        "expression": [-0.003366732, -0.0086311211, -0.0413237347, -0.0493875289, 0.0224618036, "e88c7ba23b63"],
        "absolute keypoints": [0.205379799, 0.1364262397, -0.1673689696, -0.5269570616, 0.4523441135, "66b3f2cb6425"],
        "absolute flow": [-0.0338817576, -0.2043111529, -0.3243568632, -0.3683199382, -0.0157524098, "d66d8d1ed865"],
        "absolute contributions": [0.1666666667, 0.0269276146, 0.1037430453, 0.1484163265, 0.2264341106,
                                   "1c92e81d890e"],
        "absolute occlusion": [0.5616801758, 0.5978784684, 0.539704069, 0.6088036176, 0.5017853968, "d6322d4c457f"],
        "absolute frame": [0.4821417109, 0.3250412613, 0.5745193415, 0.5457101058, 0.2218767228, "39f4a0cf0bdc"],
        "relative keypoints": [0.1765028856, -0.0348240124, -0.1945503664, -0.6837394057, 0.3006321822, "717901d012f0"],
        "relative flow": [-0.0055091109, -0.0961874056, -0.3276221613, -0.3414304219, 0.0477677382, "3bdc13483790"],
        "relative contributions": [0.1666666667, 0.0265202722, 0.1083588048, 0.145633361, 0.2272459242, "c16f9264efc2"],
        "relative occlusion": [0.5615417869, 0.5973418662, 0.5389268601, 0.6067367366, 0.5018472896, "35ff706f5feb"],
        "relative frame": [0.4814274877, 0.3479326208, 0.4643334653, 0.5142242261, 0.2225456543, "a2a4cf47c43a"],
        "free view keypoints": [0.1851035416, 0.2558779596, -0.4819881697, 0.2007645704, 0.5981813174, "2f66ead50364"],
        "free view flow": [-0.0238358486, -0.3153854567, -0.0969659892, -0.6598754706, -0.0651611196, "5c1ca13f34ce"],
        "free view contributions": [0.1666666667, 0.0264273502, 0.1062456141, 0.150698417, 0.2243697867,
                                    "ef98ff91e143"],
        "free view occlusion": [0.561793183, 0.5982709312, 0.5388993275, 0.6065456436, 0.5012276184, "e2c6efffae20"],
        "free view frame": [0.4890571735, 0.4370072953, 0.7626290425, 0.6131232682, 0.2507208316, "0e64bf8d4350"],
    },
    "spade": {
        "canonical": [0.2750423692, 0.5088191253, -0.2367686585, 0.1250216983, 0.7612769486, "69706041d2e2"],
        "angles": [-9.8005437205, -13.8952885213, 4.8100980742, 4.8100980742, -20.3164407144, "26d2cb435f11"],
        "translation": [-0.0498862493, -0.0275951314, -0.101740209, -0.101740209, -0.0203234075, "b0ef79daa663"],
        "expression": [-0.003366732, -0.0086311211, -0.0413237347, -0.0493875289, 0.0224618036, "e88c7ba23b63"],
        "absolute keypoints": [0.205379799, 0.1364262397, -0.1673689696, -0.5269570616, 0.4523441135, "66b3f2cb6425"],
        "absolute flow": [-0.0338934024, -0.2040101739, -0.3242965754, -0.3700718334, -0.0158414307, "d7685c3b2b15"],
        "absolute contributions": [0.1666666667, 0.0268606007, 0.1055900839, 0.1484220046, 0.2265160746,
                                   "62fe98da7148"],
        "absolute occlusion": [0.5616858804, 0.5978784196, 0.5396885493, 0.6069540068, 0.5013245727, "ad2ee9adf164"],
        "absolute frame": [0.5266580946, 0.5926605924, 0.681999599, 0.6799042064, 0.4330889926, "bbaa83f1b46e"],
        "relative keypoints": [0.1765028856, -0.0348240124, -0.1945503664, -0.6837394057, 0.3006321822, "717901d012f0"],
        "relative flow": [-0.0055077823, -0.0958126203, -0.3276035289, -0.341258872, 0.0477431069, "c473ab9a9b05"],
        "relative contributions": [0.1666666667, 0.0267639775, 0.1063498665, 0.1456407842, 0.2273327037,
                                   "09c6f75187fa"],
        "relative occlusion": [0.5615994374, 0.5973380791, 0.538912979, 0.6060692826, 0.5015841374, "b44a231ee210"],
        "relative frame": [0.5307033879, 0.5618675916, 0.6863357878, 0.7528703827, 0.4982415525, "d254827fa9cf"],
        "free view keypoints": [0.1851035416, 0.2558779596, -0.4819881697, 0.2007645704, 0.5981813174, "2f66ead50364"],
        "free view flow": [-0.0238803732, -0.315421362, -0.0972637186, -0.6526557941, -0.0652844444, "1dbabca1232f"],
        "free view contributions": [0.1666666667, 0.0268561701, 0.1056850647, 0.1506982397, 0.2246389376,
                                    "bc61e2691d36"],
        "free view occlusion": [0.561739689, 0.5981842571, 0.5388821746, 0.6063469919, 0.501268241, "ba5487d74453"],
        "free view frame": [0.5283157265, 0.4186561209, 0.6173655913, 0.3936729462, 0.5187022488, "0edc7b90db77"],
    },
}


@pytest.fixture(scope="module", params=["plain", "spade"])
def checkpoint(request, tmp_path_factory):
    return request.param, made(SMALL, tmp_path_factory.mktemp("fv2v"), request.param == "spade")


def reference(decoder: str, checkpoint: dict) -> Reference:
    return Reference(folder(), SMALL, decoder == "spade", narrow=8).fill(checkpoint)


def test_golden_numbers(checkpoint, tmp_path):
    decoder, networks = checkpoint
    model = converted("fv2v", networks, SMALL, tmp_path)
    found = marked(ours(model.double(), *pictures(3, 64).split(1)))
    assert model.config.spade == (decoder == "spade") and found.keys() == GOLDEN[decoder].keys()
    for name, (*numbers, digest) in GOLDEN[decoder].items():
        assert found[name][:-1] == pytest.approx(numbers, abs=1e-7), name
        assert found[name][-1] == digest, name


def test_equals_the_reference(checkpoint, tmp_path):
    decoder, networks = checkpoint
    their, model, images = reference(decoder, networks), converted("fv2v", networks, SMALL,
                                                                   tmp_path), pictures(3, 64).split(1)
    expected = their.to(torch.float64).run(*images)
    equal_in_double(expected, ours(model.double(), *images))
    for name, (*numbers, digest) in marked(expected).items():
        assert GOLDEN[decoder][name][:-1] == pytest.approx(numbers,
                                                           abs=1e-9) and GOLDEN[decoder][name][-1] == digest, name
    images = [x.float() for x in images]
    equal_in_levels(their.to(torch.float32).run(*images), ours(model.float(), *images))


@pytest.mark.parametrize("name", ["vox-256", "vox-256-beta"])
@pytest.mark.parametrize("spade", [False, True])
def test_published_configurations_have_the_same_tensors(name, spade, tmp_path):
    "At full width: names and shapes, so also the number of weights. The meta device knows shapes and holds no numbers."
    path, official = folder() / "config" / f"{name}.yaml", officials()["fv2v"]
    with torch.device("meta"):
        their = Reference(folder(), yaml.safe_load(path.read_text()), spade)
        networks = {
            n: {
                k: v
                for k, v in net.state_dict().items() if k != "down.weight"
            }
            for n, net in their.networks.items()
        }
        our = method_class("fv2v")(method_class("fv2v").Config(**read_config("fv2v", path) | official.tells(networks)))
        shapes = {
            translate(official.names[n], k): v.shape
            for n, state in official.arrange(networks).items()
            for k, v in state.items()
        }
    assert shapes == {k: v.shape for k, v in our.state_dict().items()} and our.config.spade == spade


BROKEN = {  # section, parameter, value, words of the message
    "jacobians": (["common_params"], "estimate_jacobian", True, "estimate_jacobian"),
    "grey pictures": (["common_params"], "image_channel", 1, "image_channel 1"),
    "two depths": (["generator_params", "dense_motion_params"], "reshape_depth", 8, "reshape_depth"),
    "volume that does not fit": (["generator_params"], "reshape_channel", 4, "max_features"),
    "odd scale": (["kp_detector_params"], "scale_factor", 0.3, "scale_factor 0.3"),
    "other widths": (["generator_params"], "block_expansion", 16, "the model's is"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_bad_configurations(what, checkpoint, tmp_path, capsys):
    sections, parameter, value, words = BROKEN[what]
    settings = copy.deepcopy(SMALL)
    section = settings["model_params"]
    for name in sections: section = section[name]
    section[parameter] = value
    torch.save(checkpoint[1], tmp_path / "bad.pth.tar"); (tmp_path / "bad.yaml").write_text(yaml.safe_dump(settings))
    refused(capsys, tmp_path, ["fv2v", tmp_path / "bad.pth.tar", "--config", tmp_path / "bad.yaml"], words)


if __name__ == "__main__":
    import tempfile
    print("GOLDEN = {")
    for decoder in ("plain", "spade"):
        with tempfile.TemporaryDirectory() as place:
            their = reference(decoder, made(SMALL, Path(place), decoder == "spade")).to(torch.float64)
        print(f'    "{decoder}": {{')
        for name, numbers in marked(their.run(*pictures(3, 64).split(1))).items():
            print(f"        {name!r}: {numbers},".replace("'", '"'))
        print("    },")
    print("}")
