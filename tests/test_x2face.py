"""X2Face beside its authors' code. Golden numbers are always checked. With a clone of github.com/oawiles/X2Face, whose
folder ANIMREPRO_REFERENCE_X2FACE names, everything that both sides compute is compared, and
`python tests/test_x2face.py` prints GOLDEN anew."""
import hashlib, os, sys, types
from pathlib import Path
import pytest, torch, torch.nn.functional as F, torchvision
from animrepro.checkpoint import load_weights
from animrepro.cli import main
from animrepro.converter import translate
from animrepro.data.pairs import Batch
from animrepro.losses import Criterion
from animrepro.models.contract import create_model, method_class
from animrepro.models.x2face import FACE_CONVOLUTIONS, Loss, face_network
from animrepro.warp import edge_convention
from animrepro.weights import NotAvailable
from test_official import draw, equal_in_double, equal_in_levels, look_at, pictures, refused

VARIABLE = "ANIMREPRO_REFERENCE_X2FACE"
OPTIMIZER = {"optimizer": {"state": {}, "param_groups": [{"lr": 1e-3, "params": [0]}]}}
CASES = {  # levels, width, numbers of the code, align_corners
    "then": (6, 8, 16, True),
    "today": (5, 8, 24, False),
    "wide": (6, 32, 128, True),
}


def drawn(state: dict) -> dict:
    "Random content for the authors' tensors; a strong code, so that relative transfer is seen."
    innermost = max((k for k in state if k.startswith("pix2pixSampler.") and k.endswith("down.1.weight")), key=len)
    return {k: draw("state_dict", k, v) * (20 if k == innermost else 1) for k, v in state.items()}


class Reference:
    "The authors' networks. Of their code is changed: no GPU, no first weights; depth and widths are arguments."
    def __init__(self, folder: Path, levels: int, width: int, code: int, align_corners: bool):
        self.align_corners = align_corners
        names = "SkipNet", "NoSkipNet_X2Face", "NoSkipNet_X2Face_pose", "UnwrappedFace"
        try: modules = [self.of(folder, name, levels, width) for name in names]
        finally:
            for name in names: sys.modules.pop(name, None)
        self.net = modules[-1].UnwrappedFaceWeightedAverage(2, 3, code)
        for layer in self.net.modules():
            if isinstance(layer, torch.nn.Upsample): layer.align_corners = align_corners
        self.net.eval()

    def of(self, folder: Path, module: str, levels: int, width: int) -> types.ModuleType:
        text = (folder / "UnwrapMosaic" / f"{module}.py").read_text()
        text = text.split("class UnwrappedFaceWeightedAveragePose")[0]  # what follows mixes tabs and spaces
        changes = {".cuda()": "", "'xavier', [0]": "'xavier', []", "init_weights(netG, init_type=init_type)": "",
                   "nc, 64, 'unet_256'": f"nc, {width}, 'unet_256'", "output_nc, 8, ngf": f"output_nc, {levels}, ngf"}
        for a, b in changes.items(): text = text.replace(a, b)
        made = sys.modules[module] = types.ModuleType(module)
        exec(compile(text, module, "exec"), made.__dict__)
        return made

    def fill(self) -> "Reference":
        self.net.load_state_dict(drawn(self.net.state_dict()))
        return self

    def checkpoint(self) -> dict: return {"state_dict": self.net.state_dict()} | OPTIMIZER

    @torch.no_grad()
    def run(self, sources: torch.Tensor, start: torch.Tensor, driving: torch.Tensor) -> dict[str, torch.Tensor]:
        """The counterpart of `ours`. What is read where is seen at `grid_sample`; the relative code is put in behind
        the innermost convolution."""
        sample, net, dtype = F.grid_sample, self.net.to(driving.dtype), torch.get_default_dtype()
        seen, codes, change = [], [], [None]
        def look(images, grid):
            seen.append((images, grid))
            return sample(images, grid, align_corners=self.align_corners)
        inner = net.pix2pixSampler.netG.model
        while inner.submodule is not None: inner = inner.submodule
        def shift(layer, args, out):
            codes.append(out.clone())
            return out if change[0] is None else out + change[0]
        hook = inner.down.register_forward_hook(shift)
        found, F.grid_sample = {}, look
        torch.set_default_dtype(driving.dtype)  # of the grids that their code makes
        try:
            for picture in (sources[:, 0], start, driving): net.pix2pixSampler(picture)
            at_source, at_start, found["code"] = codes
            for name, count, mode in CALLS:
                change[0] = at_source - at_start if mode == "relative" else None
                seen.clear()
                found[f"{name} frame"] = net(driving, *sources[:, :count].unbind(1))
                *reads, (found[f"{name} face"], grid) = seen
                flow = sample(reads[0][1].movedim(-1, 1), grid, padding_mode="border", align_corners=self.align_corners)
                flow = flow.movedim(1, -1)
                found[f"{name} flow"] = edge_convention(flow) if self.align_corners else flow
        finally:
            F.grid_sample = sample
            hook.remove()
            torch.set_default_dtype(dtype)
        return found


CALLS = (("reconstruction", 1, "absolute"), ("three sources", 3, "absolute"), ("relative", 1, "relative"))


@torch.no_grad()
def ours(model, sources, start, driving) -> dict[str, torch.Tensor]:
    "All that is compared: the code, and for each of CALLS the embedded face, the flow and the frame."
    motion, first = model.motion(driving), model.motion(start)
    found = {"code": motion.vector}
    for name, count, mode in CALLS:
        source = model.encode(sources[:, :count])
        rendering = model.render(source, model.transfer(source, motion, first, mode), extras=True)
        found |= {f"{name} frame": rendering.frame} | {f"{name} {k}": rendering.extras[k] for k in ("face", "flow")}
    return found


def images(dtype=torch.float64):
    "Three sources of one item, a first driving frame and a driving frame, 64 × 64."
    drawn = pictures(5, 64, dtype)
    return drawn[None, :3], drawn[3:4], drawn[4:5]


def reference(levels: int, width: int, code: int, align_corners: bool) -> Reference:
    if not os.environ.get(VARIABLE): pytest.skip(f"{VARIABLE} names no clone of the authors' repository")
    return Reference(Path(os.environ[VARIABLE]), levels, width, code, align_corners)


def theirs(levels: int, width: int, code: int, align_corners: bool) -> dict:
    "A checkpoint in the authors' layout with drawn weights: our own state with the table of names read backwards."
    model = create_model("x2face", dict(size=64, levels=levels, width=width, ceiling=8 * width, code=code))
    names = method_class("x2face").official.names["state_dict"]
    ours = model.state_dict().items()
    state = {there + k.removeprefix(here): v for there, here in names.items() for k, v in ours if k.startswith(here)}
    return {"state_dict": drawn(state)} | OPTIMIZER


def ours_converted(networks: dict, folder: Path, align_corners: bool = True) -> torch.nn.Module:
    "What `animrepro convert` makes of a checkpoint."
    torch.save(networks, folder / "c.pth")
    words = ["convert", "x2face", str(folder / "c.pth"), "--out", str(folder / "c.safetensors")]
    with pytest.raises(SystemExit) as stop: main(words + ["--no-align-corners"] * (not align_corners))
    assert not stop.value.code
    return load_weights(folder / "c.safetensors")


@pytest.mark.parametrize("case", CASES)
def test_equals_the_authors_code(case, tmp_path):
    their = reference(*CASES[case]).fill()
    model = ours_converted(their.checkpoint(), tmp_path, CASES[case][-1])
    equal_in_double(their.run(*images()), ours(model.double(), *images()))
    single = images(torch.float32)
    equal_in_levels(their.run(*single), ours(model.float(), *single))


def test_published_architecture_has_the_same_tensors():
    "At full width, on the meta device."
    cls = method_class("x2face")
    with torch.device("meta"): their, model = reference(8, 64, 128, True).net, cls(cls.Config())
    state, names = their.state_dict(), cls.official.names["state_dict"]
    fields = dict(size=256, levels=8, width=64, ceiling=512, code=128)
    assert cls.official.shapes({"state_dict": state}, "meta") == fields
    assert {
        translate(names, k): v.shape
        for k, v in state.items()
    } == {
        k: v.shape
        for k, v in model.state_dict().items()
    }


# ---- golden numbers ------------------------------------------------------------------------------------------------

# Computed by the authors' code in float64 from the case "then" and the pictures above: five numbers of each result, and
# a digest of all of them.
GOLDEN = {
    "code": [-0.2866857448, -4.0022683059, -2.2048098353, 0.6955337799, -0.9675624087, "82803239dcd9"],
    "reconstruction frame": [0.407007002, 0.6091772455, 0.2500163912, 0.0, 0.5758877707, "011c5437c716"],
    "reconstruction face": [0.4086891649, 0.7987162638, 0.0, 0.8818400675, 0.636063918, "185ba163a237"],
    "reconstruction flow": [-0.0285666659, -0.6789956842, -0.2203419187, -0.4928985852, 0.9909135404, "62ae33a58e4c"],
    "three sources frame": [0.4044122421, 0.4711785573, 0.4016752313, 0.0, 0.5430671901, "3ca052d7d31d"],
    "three sources face": [0.4047178868, 0.5654934542, 0.0335335435, 0.601814459, 0.6749364448, "458159aee680"],
    "three sources flow": [-0.0285666659, -0.6789956842, -0.2203419187, -0.4928985852, 0.9909135404, "62ae33a58e4c"],
    "relative frame": [0.4067402731, 0.6051985113, 0.2494462497, 0.0, 0.5682934979, "5262fc1eabeb"],
    "relative face": [0.4086891649, 0.7987162638, 0.0, 0.8818400675, 0.636063918, "185ba163a237"],
    "relative flow": [-0.0310919059, -0.6798090826, -0.1927789894, -0.5052787978, 0.957002402, "5f8033e87730"],
}


def digest(x: torch.Tensor) -> str:
    "A digest of all numbers, rounded to 1/10000: a wrong channel anywhere changes it."
    return hashlib.sha256((x.double() * 1e4).round().to(torch.int64).numpy().tobytes()).hexdigest()[:12]


def test_golden_numbers(tmp_path):
    model = ours_converted(theirs(*CASES["then"]), tmp_path)
    found = ours(model.double(), *images())
    assert found.keys() == GOLDEN.keys()
    for name, numbers in look_at(found).items():
        assert numbers == pytest.approx(GOLDEN[name][:-1], abs=1e-7) and digest(found[name]) == GOLDEN[name][-1], name


def test_golden_numbers_are_the_authors():
    found = reference(*CASES["then"]).fill().run(*images())
    assert {k: digest(v) for k, v in found.items()} == {k: v[-1] for k, v in GOLDEN.items()}


# ---- through the door ----------------------------------------------------------------------------------------------

def test_old_files_lack_counters(tmp_path):
    "Normalisation counts batches since torch 0.4.1; the authors' file is older."
    new = theirs(*CASES["then"])
    known = lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    old = {"state_dict": known(new["state_dict"])}
    first, second = (known(ours_converted(networks, tmp_path).state_dict()) for networks in (new, old))
    assert len(old["state_dict"]) < len(new["state_dict"]) and all(torch.equal(first[k], second[k]) for k in first)


DRIVING, EMBEDDING = "pix2pixSampler.netG.model.", "pix2pixUnwrapped.netG.model."
without = lambda state, beginning: {k: v for k, v in state.items() if not k.startswith(beginning)}
SPOILT = {  # what is wrong: how a good state becomes a bad one, words of the message
    "another network": (
        lambda s: {"weight": torch.zeros(1)},
        ["holds no networks pix2pixUnwrapped and pix2pixSampler"],
    ),
    "driving network missing": (lambda s: without(s, DRIVING), ["holds no networks"]),
    "a level missing": (lambda s: without(s, f"{DRIVING}submodule.down.1.weight"), ["holds no networks"]),
    "the network with spread": (
        lambda s: s | {f"{DRIVING}up.2.weight": torch.zeros(4, 8, 3, 3)},
        ["up.2.weight has shape [4, 8, 3, 3]"],
    ),
    "tensor unknown": (lambda s: s | {f"{DRIVING}extra": torch.zeros(1)}, [f"{DRIVING}extra", "no place"]),
    "tensor missing": (lambda s: without(s, f"{EMBEDDING}submodule.up.3.bias"), ["embedding.up.1.norm.bias"]),
}


@pytest.mark.parametrize("what", SPOILT)
def test_bad_checkpoints(what, tmp_path, capsys):
    spoil, words = SPOILT[what]
    torch.save({"state_dict": spoil(theirs(*CASES["then"])["state_dict"])}, tmp_path / "bad.pth")
    refused(capsys, tmp_path, ["x2face", tmp_path / "bad.pth"], "bad.pth", *words)


# ---- identity loss -------------------------------------------------------------------------------------------------

def a_batch(progress: float) -> Batch:
    drawn = pictures(4, 32, torch.float32)
    return Batch(drawn[:2, None], drawn[2:], None, torch.tensor([1, 2]), 0, progress=progress)


def test_identity_loss_wants_its_weights(monkeypatch, tmp_path):
    "A run that asks for it without the file ends with the file's name, in its first step and not in its middle."
    monkeypatch.setenv("ANIMREPRO_WEIGHTS", str(tmp_path))
    face_network.cache_clear()
    model = create_model("x2face", method_class("x2face").smallest)
    batch, criterion = a_batch(progress=0.0), Criterion(Loss(levels=2, identity=1.0))
    with pytest.raises(NotAvailable, match="vgg_face_dag.pth"): model(batch, criterion)


def test_identity_loss_of_the_face_network(monkeypatch, tmp_path):
    "A file in the published layout: layers land in their place, and the gradient reaches both networks."
    net, places = torchvision.models.vgg16(num_classes=2622), [*FACE_CONVOLUTIONS, "fc6", "fc7", "fc8"]
    layers = [m for m in net.modules() if hasattr(m, "weight")]
    state = {f"{place}.{k}": v.clone() for place, layer in zip(places, layers) for k, v in layer.state_dict().items()}
    torch.save(state, tmp_path / "vgg_face_dag.pth")
    monkeypatch.setenv("ANIMREPRO_WEIGHTS", str(tmp_path))
    face_network.cache_clear()
    picture = pictures(1, 224, torch.float32)
    network, centre = face_network(), torch.tensor([129.1863, 104.7624, 93.5940])[:, None, None]
    with torch.no_grad(): expected = net.classifier[:5].eval()(net.features(picture * 255 - centre).flatten(1))
    found = network.features(picture)
    assert [f.shape[1] for f in found] == [128, 256, 512, 512, 4096, 4096]
    assert torch.allclose(found[-1], expected, rtol=1e-4, atol=1e-4)
    model = create_model("x2face", method_class("x2face").smallest)
    model(a_batch(progress=0.5), Criterion(Loss(levels=2, identity=1.0)))[1]["identity"].backward()
    assert all(network.up[0].conv.weight.grad.abs().sum() > 0 for network in (model.embedding, model.driving))
    face_network.cache_clear()


if __name__ == "__main__":
    found = reference(*CASES["then"]).fill().run(*images())
    for name, numbers in look_at(found).items():
        print(f'    "{name}": {[*numbers, digest(found[name])]},'.replace("'", '"'))
