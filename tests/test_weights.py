"""Networks of others: their files are found, checked and loaded in the layout in which they were published. Weights
that nobody here has are replaced by random ones in that layout: this tests names, shapes, batches and coordinates, not
the numbers."""
import hashlib
import numpy as np
import pytest
import torch
from torch.nn import init
from animrepro import weights
from animrepro.core import UserError, to_float, torch_generator
from animrepro.data.video import read_frames
from animrepro.metrics.bodies import BodyPose, PoseNet, ReId, _caffe_names, last_peaks, reid_input, strongest_peaks
from animrepro.metrics.faces import Face68, Mtcnn, OpenFace, OpenFaceNet, embedding_distance
from animrepro.metrics.fid import Inception, Moments, ResNeXt3d, VideoFeatures, frechet_distance
from animrepro.metrics.landmarks import landmark_scores
from animrepro.metrics.pixel import blurred, shifted
from animrepro.weights import WEIGHTS, NotAvailable, Weights, fetch_weights, find_weights, optional, show_weights

torch.set_num_threads(1)


def picture(n=2, size=64, seed=0):
    return blurred(torch.rand(n, 3, size, size, generator=torch_generator(seed, "picture")), 1.5)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    "An empty folder of weights; nothing else is found."
    monkeypatch.setenv("ANIMREPRO_WEIGHTS", str(tmp_path / "named"))
    monkeypatch.setenv("ANIMREPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    (tmp_path / "named").mkdir()
    return tmp_path / "named"


@pytest.fixture
def bring(folder, monkeypatch):
    "Saves a random state as the published file of a network; its hash becomes the expected one."
    def save(name, state):
        file = next(iter(WEIGHTS[name].files))
        torch.save(state, folder / file)
        digest = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        monkeypatch.setitem(WEIGHTS, name, Weights({file: digest}, WEIGHTS[name].use, WEIGHTS[name].source))
    return save


def random_state(net, seed=0):
    "A state of `net` that lets signals through: random weights, plain normalisation."
    g = torch_generator(seed, "state")
    for key, value in (state := net.state_dict()).items():
        if value.ndim > 1: init.kaiming_normal_(value, generator=g)
        elif key.endswith(("running_var", "bn.weight")) or value.ndim and key.endswith("weight"): value.fill_(1)
        elif value.is_floating_point(): value.zero_()
    return state


# the list

def test_missing_networks_are_one_line_each(folder):
    for name, entry in WEIGHTS.items():
        with pytest.raises(NotAvailable, match="not available") as e: find_weights(name)
        assert next(iter(entry.files)) in str(e.value) and str(folder) in str(e.value) and entry.source in str(
            e.value) and "\n" not in str(e.value)
    for adapter in (Face68, OpenFace, BodyPose, ReId, Inception, VideoFeatures):
        network, reason = optional(adapter)
        assert network is None and "not available" in reason
    assert show_weights().count(" missing: ") == len(WEIGHTS)


def test_files_are_found_in_named_folder_cache_and_torch_and_shown(folder, monkeypatch):
    places = [folder, folder.parent / "cache" / "weights", folder.parent / "hub" / "hub" / "checkpoints"]
    for place in reversed(places):
        place.mkdir(parents=True, exist_ok=True)
        (place / "openface.pth").write_bytes(b"anything")
        assert find_weights("openface") == place / "openface.pth"
    line = next(l for l in show_weights().splitlines() if l.startswith("openface"))
    assert "present" in line and "not checked" in line
    (folder / "s3fd-619a316812.pth").write_bytes(b"another file")
    assert "wrong: " in show_weights() and "not the expected file" in show_weights()
    with pytest.raises(UserError, match="not the expected file"): optional(find_weights, "s3fd")


def test_fetching_checks_the_hash_and_needs_an_address(folder, monkeypatch, tmp_path):
    served = tmp_path / "served.pth"; served.write_bytes(b"weights")
    monkeypatch.setattr(weights, "fetch", lambda url, path, digest: (url, path, digest))
    url, path, digest = fetch_weights("inception")
    assert url == WEIGHTS[
        "inception"].source and path.parent == tmp_path / "cache" / "weights" and path.name in url and len(digest) == 64
    for name in ("openface", "resnext101_3d", "nonsense"):
        with pytest.raises(UserError, match=name): fetch_weights(name)
    for entry in WEIGHTS.values():  # publishers write the beginning of the hash into the name
        for file, digest in entry.files.items():
            if "-" in file and digest and "features" not in file: assert digest[:8] in file


# networks, with random weights in the published layout

def test_openface_loads_and_does_not_depend_on_the_batch(bring):
    bring("openface", random_state(OpenFaceNet()))
    net, frames = OpenFace(), picture(3)
    codes = net(frames)
    assert codes.shape == (3, 128) and torch.allclose(codes[1:2], net(frames[1:2]), atol=1e-4) and torch.allclose(
        codes.norm(dim=1), torch.ones(3), atol=1e-2)
    assert not torch.allclose(codes, net(frames.flip(1)), atol=1e-3)  # the order of colours matters
    assert embedding_distance(codes, codes).tolist() == [0] * 3


def test_embedding_distance_squared_has_no_root():
    a, b = torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)
    assert embedding_distance(a, b).item() == 5 and embedding_distance(a, b, squared=True).item() == 25


@pytest.fixture(scope="module")
def body():
    "A random state of the body network, and the same with the names of OpenPose's file, in another order."
    state = random_state(PoseNet())
    layers = list(zip([k.removesuffix(".weight") for k in state if k.endswith("weight")], _caffe_names()))
    return state, {
        f"{theirs}.{kind}": state[f"{own}.{kind}"]
        for own, theirs in reversed(layers)
        for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("name", ["openpose", "rtpose"])
def test_body_network_loads_both_published_layouts(bring, body, name):
    state, caffe = body
    bring(name, caffe if name == "openpose" else {f"module.{k}": v for k, v in state.items()})
    net = BodyPose(name=name)
    assert all(torch.equal(v, state[k]) for k, v in net.network.state_dict().items())


def test_a_mirrored_body_has_its_joints_on_the_other_side(bring, body, monkeypatch):
    monkeypatch.setattr("animrepro.metrics.bodies.HEIGHT", 64)
    bring("openpose", body[1])
    net, frames = BodyPose(), picture(1)
    heat, mirrored = net.heatmaps(frames), net.heatmaps(frames.flip(3))
    assert heat.shape == (1, 18, 64, 64) and heat.std() > 0
    right, left = 2, 5  # shoulders
    assert torch.allclose(mirrored[0, left].flip(1), heat[0, right], atol=1e-3 * heat.abs().max())
    assert net.detect(frames).points.shape == (1, 18, 2)


def test_peaks():
    heat = torch.zeros(1, 3, 6, 8)
    heat[0, 0, 1, 5] = 0.8; heat[0, 0, 4, 2] = 0.2; heat[0, 1, 0, 7] = 0.09
    high, last = strongest_peaks(heat), last_peaks(heat)
    assert high.points[0, 0].tolist() == [5, 1] and last.points[0, 0].tolist() == [2, 4]
    assert high.confidence[0].tolist() == pytest.approx([0.8, 0.09, 0]) and last.confidence[0].tolist() == [1, 0, 0]


def test_reid_loads_and_sees_the_double_division(bring):
    from torchvision.models import resnet50
    state = {f"model.{k}": v for k, v in random_state(resnet50(weights=None)).items() if not k.startswith("fc.")}
    bring("reid", state | {"model.fc.0.weight": torch.zeros(512, 2048), "classifier.0.weight": torch.zeros(751, 512)})
    assert ReId()(picture(2)).shape == (2, 2048)
    white = reid_input(torch.ones(1, 3, 8, 8))
    assert white.shape == (1, 3, 288, 144) and white[0, 0, 0, 0].item() == pytest.approx(
        (1 / 255 - 0.485) / 0.229, rel=1e-4)


def test_face68_takes_the_first_face_and_counts_frames_without(bring, monkeypatch):
    api = pytest.importorskip("face_alignment.api")
    from face_alignment.detection.sfd.net_s3fd import s3fd
    from face_alignment.detection.sfd import FaceDetector
    bring("s3fd", random_state(s3fd())); bring("fan2d", random_state(api.FAN(4)))
    net = Face68()
    monkeypatch.setattr(net.network.face_detector, "detect_from_batch",
                        lambda batch: [[np.array([8.0, 8, 56, 56, 0.9]),
                                        np.array([0.0, 0, 20, 20, 0.6])], []])
    found = net.detect(picture(2))
    assert isinstance(net.network.face_detector, FaceDetector) and found.points.shape == (2, 68, 2)
    assert found.confidence[0].eq(1).all() and found.confidence[1].eq(0).all()


def test_inception_loads_and_sees_8_bits(bring, monkeypatch):
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with monkeypatch.context() as patch:  # a network of the right shape, to take names from
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        bring("inception", {})
        bring("inception", random_state(Inception().network))
    net, frames = Inception(), picture(2)
    features = net(frames)
    assert features.shape == (2, 2048) and features.std() > 0 and torch.allclose(features[1:], net(frames[1:]),
                                                                                 atol=1e-3 * features.abs().max())
    assert torch.equal(features, net((frames * 255).round() / 255))


def test_video_network_loads_the_published_checkpoint(bring):
    state = random_state(ResNeXt3d())
    published = {
        f"module.{k}": v
        for k, v in state.items()
    } | {
        "module.fc.weight": torch.zeros(400, 2048),
        "module.fc.bias": torch.zeros(400)
    }
    bring("resnext101_3d", {"arch": "resnext-101", "state_dict": published})
    net, clip = VideoFeatures(), picture(9, 48)
    assert net(clip).shape == (1, 2048) and all(torch.equal(v, state[k]) for k, v in net.network.state_dict().items())
    assert net.network.layer4[0].conv2.weight.shape == (1024, 32, 3, 3, 3)


# distances of sets

def test_frechet_distance_is_exact_for_known_gaussians_and_singular_ones():
    draw = lambda n, d, seed: torch.randn(n, d, generator=torch_generator(seed, "f"))
    def gather(x, batch):
        moments = Moments()
        for part in x.split(batch): moments.add(part)
        return moments
    x = draw(300, 6, 0)
    assert frechet_distance(gather(x, 7), gather(x, 300)) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(gather(x, 300), gather(x + 2, 300)) == pytest.approx(24, rel=1e-6)
    assert frechet_distance(gather(x, 300), gather(3 * x, 300)) == pytest.approx(
        4 * gather(x, 300).gaussian()[1].trace().item() + 4 * x.double().mean(0).square().sum().item(), rel=1e-5)
    few, more = draw(5, 40, 1), draw(8, 40, 2)  # fewer samples than features
    exact = np.linalg.svd((few - few.mean(0)).double().numpy() @ (more - more.mean(0)).double().numpy().T,
                          compute_uv=False).sum() / np.sqrt(4 * 7)
    by_hand = (few.mean(0) - more.mean(0)).double().square().sum().item() + few.double().var(
        0).sum().item() + more.double().var(0).sum().item() - 2 * exact
    assert frechet_distance(gather(few, 5), gather(more, 3)) == pytest.approx(by_hand, rel=1e-4)
    with pytest.raises(UserError, match="1 samples"): frechet_distance(gather(few[:1], 1), gather(more, 3))


# MTCNN, with its real weights

def test_mtcnn_reads_shifts_of_real_faces_and_loses_blurred_ones(shared):
    pytest.importorskip("facenet_pytorch")
    frames = to_float(read_frames(shared / "data" / "clips" / "vox" / "driving2.mp4", limit=40).frames[::10])
    net = Mtcnn()
    for pixels in (0, 4, 12):
        distance, missing = landmark_scores(net, shifted(frames, pixels), frames)
        assert distance.mean().item() == pytest.approx(pixels, abs=1.5 if pixels else 0) and missing.eq(0).all()
    lost = [landmark_scores(net, blurred(frames, sigma), frames)[1].mean().item() for sigma in (0, 32)]
    assert lost[0] == 0 and lost[1] >= 0.5
    found = net.detect(torch.cat([frames[:1], torch.full_like(frames[:1], 0.5)]))
    assert found.points.shape == (2, 5, 2) and found.confidence.tolist() == [[1] * 5, [0] * 5]
    left, right, nose, *mouth = found.points[0]
    assert left[0] < nose[0] < right[0] and max(left[1], right[1]) < nose[1] < min(m[1] for m in mouth)
