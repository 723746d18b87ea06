"Training as a user meets it: killed, resumed, on several processes, with a discriminator, fine-tuned."
import contextlib, csv, json, os, signal, socket, subprocess, sys, time
from pathlib import Path
import numpy as np, psutil, pytest, torch
from safetensors.torch import load_file
from conftest import call
from animrepro.avd import AvdConfig
from animrepro.checkpoint import load_state, save_state
from animrepro.core import UserError, sha256
from animrepro.data.catalog import PuppetsEntry, prepare
from animrepro.data.pairs import Draw, Pairs, loader
from animrepro.data.store import FrameStore, StoreWriter
from animrepro.losses import LossConfig
from animrepro.models.contract import create_model, method_class
from animrepro.models.tpsmm import Tpsmm
from animrepro.train import MethodConfig, TrainConfig, go_on_from, learner, pairs_of, signature, start_from, train

ANIMREPRO = str(Path(sys.executable).parent / "animrepro")
SMALL = dict(levels=2, width=8, ceiling=16, features=16, values=16, blocks=1, keypoints=4, extra=3)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "puppets.zip"
    prepare("puppets", PuppetsEntry("puppets", size=32, train=6, test=2, frames=8), path)
    return FrameStore(path)


def run(store, out, loss=None, seed=0, resume=False, model=SMALL, **schedule):
    config = MethodConfig(model, loss or LossConfig(levels=3),
                          TrainConfig(**{
                              **dict(steps=6, batch=4, lr=1e-3, save_every=2),
                              **schedule
                          }))
    return train(store, "implicit_warping", config, seed, out, resume)


def test_same_seed_same_bytes_other_seed_other_weights(store, tmp_path):
    first, again, other = (run(store, tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert sha256(first) == sha256(again) != sha256(other)


def test_workers_change_nothing(store, tmp_path, monkeypatch):
    import animrepro.train
    run(store, tmp_path / "none")
    monkeypatch.setattr(animrepro.train, "readers", lambda device: 2)
    run(store, tmp_path / "two")
    assert all(
        torch.equal(a, b) for a, b in zip(
            load_file(tmp_path / "none/weights.safetensors").values(),
            load_file(tmp_path / "two/weights.safetensors").values()))


SPLINES = dict(size=32, step=2, transforms=2, resnet_width=8, resnet_norm="group", motion_width=8, motion_levels=2,
               motion_ceiling=16, features=8, features_ceiling=16, norm="group", inpainting_norm="none", down=2,
               avd_width=8, avd_shape=4, avd_pose=4)


def run_splines(store, out, seed=0, resume=False, model=SPLINES, avd=AvdConfig(steps=20, batch=8), **schedule):
    config = MethodConfig(model, method_class("tpsmm").Loss(levels=3),
                          TrainConfig(**{
                              **dict(steps=6, batch=4, lr=1e-3, save_every=2, sources=1),
                              **schedule
                          }), avd)
    return train(store, "tpsmm", config, seed, out, resume)


def test_avd_learns_after_the_model_and_leaves_it_alone(store, tmp_path):
    with_avd, without = load_file(run_splines(store, tmp_path / "a")), load_file(
        run_splines(store, tmp_path / "b", avd=AvdConfig(steps=1, batch=8)))
    changed = {k.split(".")[0] for k in with_avd if not torch.equal(with_avd[k], without[k])}
    assert changed == {"avd"}


def test_splines_resume_to_the_same_bytes(store, tmp_path, monkeypatch):
    whole, seen = run_splines(store, tmp_path / "whole"), []
    def stop(*args):
        seen.append(args)
        raise KeyboardInterrupt
    monkeypatch.setattr(Tpsmm, "finish_training", stop)  # killed when the model is done and the AVD network is not
    with pytest.raises(KeyboardInterrupt): run_splines(store, tmp_path / "parts")
    monkeypatch.undo()
    assert seen and (tmp_path / "parts" / "state.pt").exists()
    assert sha256(run_splines(store, tmp_path / "parts", resume=True)) == sha256(whole)


def test_clip_and_decay_change_what_they_name(store, tmp_path):
    plain, clipped, decayed = (load_file(run_splines(store, tmp_path / n, steps=2, **change))
                               for n, change in (("p", {}), ("c", dict(clip=1e-9)), ("d", dict(weight_decay=0.1))))
    # Adam does not feel a common factor, but at 1e-9 its epsilon outweighs the gradients of the clipped parts; the
    # others learn as before in the first step.
    move = lambda a, b, part: max((a[k] - b[k]).abs().max().item() for k in a if k.startswith(part))
    assert move(plain, clipped, "detector") > 1e-4 and move(plain, clipped, "dense") > 1e-4 and move(
        plain, decayed, "final") > 1e-6


PROJECT = """
run: {datasets: [tiny], methods: [implicit_warping], seeds: [0]}
datasets:
  tiny: {kind: puppets, scale: smoke, size: 32, train: 6, test: 2, frames: 8}
methods:
  implicit_warping:
    smoke:
      model: {levels: 2, width: 8, ceiling: 16, features: 16, values: 16, blocks: 1, keypoints: 4, extra: 3}
      loss: {levels: 3}
      train: {steps: 400, batch: 4, lr: 1.0e-3, save_every: 5}
landmarks: {}
evaluate: {}
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "params.yaml").write_text(PROJECT)
    assert call(tmp_path, "data", "prepare", "tiny").returncode == 0
    return tmp_path


def command(project, *args):
    return [ANIMREPRO, "train", "tiny", "implicit_warping", *args], dict(cwd=project, stdout=subprocess.PIPE,
                                                                         stderr=subprocess.PIPE)


def test_killed_and_resumed_is_uninterrupted(project):
    args, how = command(project, "--steps", "40", "--out", "once")
    subprocess.run(args, check=True, **how)
    args, how = command(project, "--steps", "40", "--out", "twice", "--resume")
    process = subprocess.Popen(args, **how)
    state = project / "twice/state.pt"
    deadline = time.time() + 120
    while not state.exists() and process.poll() is None and time.time() < deadline: time.sleep(0.02)
    process.send_signal(signal.SIGKILL); process.wait()
    assert state.exists() and not (project
                                   / "twice/weights.safetensors").exists(), "the run was over before it could be killed"
    save_state(state, **load_state(state) | dict(commits=["an earlier commit"]))
    subprocess.run(args, check=True, **how)
    record = json.loads((project / "twice/run.json").read_text())
    assert record["resumed_at"] and record["commits"][0] == "an earlier commit" and len(record["commits"]) == 2
    assert sha256(project / "once/weights.safetensors") == sha256(project / "twice/weights.safetensors")
    assert not state.exists()


def test_a_state_of_other_parameters_is_not_resumed(store, tmp_path):
    run(store, tmp_path / "a")
    from animrepro.checkpoint import save_state
    save_state(tmp_path / "b/state.pt", signature="of another run", step=3)
    assert sha256(run(store, tmp_path / "b", resume=True)) == sha256(tmp_path / "a/weights.safetensors")


def test_resuming_a_finished_run_does_nothing(store, tmp_path, monkeypatch):
    import animrepro.train
    whole = run(store, tmp_path / "a")
    before = {p.name: p.stat().st_mtime_ns for p in whole.parent.iterdir()}
    assert run(store, tmp_path / "a", resume=True) == whole and before == {
        p.name: p.stat().st_mtime_ns
        for p in whole.parent.iterdir()
    }
    monkeypatch.setattr(animrepro.train, "code_digest", lambda: "of other code")
    run(store, tmp_path / "a", resume=True)
    assert before["run.json"] != (tmp_path / "a/run.json").stat().st_mtime_ns


def test_a_finished_run_of_other_pictures_or_labels_is_not_kept(store, tmp_path):
    marks = set()
    for name, shade, labels in ("a", 0, True), ("b", 9, True), ("c", 0, False):
        with StoreWriter(tmp_path / f"{name}.zip", 32) as writer:
            frames = np.full((2, 32, 32, 3), shade, np.uint8)
            writer.add("clip", "train", frames, 25, frames[..., 0] * 0 if labels else None)
        marks.add(signature("fomm", MethodConfig(), 0, FrameStore(tmp_path / f"{name}.zip")))
    assert len(marks) == 3


def test_a_run_killed_after_its_last_step_tells_the_same_gradients(store, tmp_path, monkeypatch):
    import animrepro.train
    loss = LossConfig(levels=3, adversarial=0.1, adversarial_from=0.5, discriminator_width=8)
    run(store, tmp_path / "a", loss)
    def stop(*args): raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(animrepro.train, "gradients", stop)
        with pytest.raises(KeyboardInterrupt): run(store, tmp_path / "b", loss)
    run(store, tmp_path / "b", loss, resume=True)
    whole, resumed = (json.loads((tmp_path / name / "run.json").read_text())["gradients"] for name in "ab")
    assert resumed == whole and "adversarial" in whole["end"]


def test_older_weights_do_not_stand_beside_a_killed_run(store, tmp_path, monkeypatch):
    import animrepro.train
    run(store, tmp_path / "a")
    def stop(*args): raise KeyboardInterrupt
    monkeypatch.setattr(animrepro.train, "finish", stop)
    with pytest.raises(KeyboardInterrupt): run(store, tmp_path / "a", steps=8)
    assert (tmp_path / "a/state.pt").exists() and not (tmp_path / "a/weights.safetensors").exists()


def test_a_diverged_training_fails(store, tmp_path):
    with pytest.raises(UserError, match="diverged; choose a lower rate"): run(store, tmp_path / "a", lr=1e20, steps=12)
    assert not list(tmp_path.rglob("weights*"))


def torchrun(*options):
    "The command before that of one of two gloo processes, which join on a free port of this machine."
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    return [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
        "--rdzv-endpoint", f"127.0.0.1:{port}", *options, "--no-python"
    ]


def test_two_processes_agree_with_one(project):
    "Two gloo processes on the CPU take half of each batch; gradients are averaged, so only rounding differs."
    args, how = command(project, "--steps", "4", "--out", "one")
    subprocess.run(args, check=True, **how)
    done = subprocess.run([*torchrun(), *args[:-1], "two"], timeout=300, **how)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    one, two = (load_file(project / name / "weights.safetensors") for name in ("one", "two"))
    start = create_model("implicit_warping", dict(SMALL, size=32), seed=0).state_dict()
    length = lambda a, b: sum((a[k] - b[k]).square().sum() for k in a).sqrt().item()
    # Adam turns rounding of a gradient near zero into a whole step, so single weights may differ; their sum may not.
    assert [json.loads((project / name / "run.json").read_text())["processes"] for name in ("one", "two")] == [1, 2]
    assert length(one, two) < 0.1 * length(one, start)


def worker(parent: int, rank: str) -> psutil.Process:
    "The process of a rank. Others come and go, and one that has just gone has no environment to read."
    deadline = time.time() + 60
    while time.time() < deadline:
        for process in psutil.Process(parent).children():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("RANK") == rank: return process
    raise TimeoutError(f"no process of rank {rank}")


def test_a_killed_process_of_two_is_restarted(project):
    """torchrun starts both anew when one is killed. They go on from the last state, to the weights of a run that
    nothing disturbed. Each is killed once."""
    args, how = command(project, "--steps", "40", "--resume", "--out", "once")
    # else the new processes read where the dead ones were to be found
    how["env"] = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    subprocess.run([*torchrun(), *args], check=True, timeout=300, **how)
    both = subprocess.Popen([*torchrun("--max-restarts", "2"), *args[:-1], "twice"], **how)
    state, deadline, steps = project / "twice/state.pt", time.time() + 400, []
    try:
        for rank in ("1", "0"):
            saved = lambda: load_state(state)["step"] if state.exists() else 0
            while both.poll() is None and saved() <= max(steps, default=0) and time.time() < deadline: time.sleep(0.02)
            steps.append(saved())
            worker(both.pid, rank).kill()
            assert not (project / "twice/weights.safetensors").exists(), "the run was over before it could be killed"
        said = both.communicate(timeout=300)[1].decode()
    finally: both.terminate()  # it ends its workers, which would outlive a killed one
    assert both.returncode == 0, said[-3000:]
    record = json.loads((project / "twice/run.json").read_text())
    assert record["resumed_at"] >= steps[1] > steps[0] > 0 and record["processes"] == 2
    assert sha256(project / "once/weights.safetensors") == sha256(project / "twice/weights.safetensors")


def test_adversarial_training_moves_both(store, tmp_path):
    run(store, tmp_path / "gan", loss=LossConfig(levels=3, adversarial=1.0))
    rows = list(csv.DictReader(open(tmp_path / "gan/curve.csv")))
    assert {"adversarial", "feature_matching", "discriminator"} <= set(
        rows[0]) and rows[0]["discriminator"] != rows[-1]["discriminator"]
    # Killed and resumed, the discriminator goes on as well.
    from animrepro import train as module
    original = module.updates
    def stopped(*a):
        for step, terms in original(*a):
            yield step, terms
            if step == 4: raise KeyboardInterrupt
    module.updates = stopped
    try:
        with pytest.raises(KeyboardInterrupt): run(store, tmp_path / "cut", loss=LossConfig(levels=3, adversarial=1.0))
    finally: module.updates = original
    assert sha256(run(store, tmp_path / "cut", loss=LossConfig(levels=3, adversarial=1.0),
                      resume=True)) == sha256(tmp_path / "gan/weights.safetensors")


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_gives_the_same_update(store, parts):
    "Of model, discriminator and the spectral norm's vectors. Weights: see `test_two_processes_agree_with_one`."
    def update(parts):
        config = MethodConfig(SMALL, LossConfig(levels=3, adversarial=1.0), TrainConfig(batch=4, accumulate=parts))
        learn = learner(create_model("implicit_warping", dict(SMALL, size=32), seed=0), config, 0)
        terms = learn.step(next(iter(loader(pairs_of(config.train, store, 0), 4, range(1)))))
        both = torch.nn.ModuleList([learn.model, learn.criterion.discriminator])
        return terms, {k: p.grad for k, p in both.named_parameters()}, both.state_dict(), dict(both.named_buffers())
    start = create_model("implicit_warping", dict(SMALL, size=32), seed=0).state_dict()
    (terms, gradients, weights, vectors), (terms2, gradients2, weights2, vectors2) = update(1), update(parts)
    assert {"adversarial", "discriminator"} <= set(terms) and torch.allclose(
        torch.stack([*terms.values()]), torch.stack([*terms2.values()]), rtol=1e-4)
    length = lambda a, b: sum((a[k] - b[k]).square().sum() for k in a if a[k] is not None).sqrt().item()
    none = {k: torch.tensor(0.0) for k in gradients}
    for part in ("0.", "1."):
        of_part = {k: g for k, g in gradients.items() if k.startswith(part)}
        assert 0 < length(of_part, none) and length(of_part, gradients2) < 1e-4 * length(of_part, none)
    assert vectors and all(torch.allclose(v, vectors2[k], atol=1e-6) for k, v in vectors.items())
    moved = {f"0.{k}": v for k, v in start.items()}
    assert length({k: weights[k] for k in moved}, weights2) < 0.05 * length(moved, weights)


def test_bf16_trains(store, tmp_path):
    weights = load_file(run(store, tmp_path / "bf16", precision="bf16"))
    assert all(v.isfinite().all() and v.dtype == torch.float32 for v in weights.values())


def test_fine_tuning_at_double_size_starts_from_the_weights(store, tmp_path):
    small = run(store, tmp_path / "small")
    prepare("puppets", PuppetsEntry("puppets", size=64, train=4, test=1, frames=8), tmp_path / "large.zip")
    large = load_file(run(FrameStore(tmp_path / "large.zip"), tmp_path / "large", init=str(small), steps=1, lr=1e-9))
    small = load_file(small)
    assert large["attention.key_position"].shape[-1] == 2 * small["attention.key_position"].shape[-1]
    same = [k for k in small if not k.endswith("_position")]
    assert all(torch.allclose(small[k], large[k], atol=1e-6) for k in same)


def test_fine_tuning_from_a_run_goes_on_with_its_discriminator_and_moments(store, tmp_path):
    gan, first = LossConfig(levels=3, adversarial=1.0), tmp_path / "first"
    run(store, first, loss=gan, steps=20, save_every=50)
    kept, config = load_state(first / "beside.pt"), MethodConfig(SMALL, gan, TrainConfig(steps=1, lr=1e-9))
    learn = learner(create_model("implicit_warping", dict(SMALL, size=32), seed=1), config, 1)
    fresh = {k: v.clone() for k, v in learn.criterion.discriminator.state_dict().items()}
    start_from(learn.model, first); go_on_from(learn, first)
    same = lambda a, b: all(torch.equal(a[k], b[k]) for k in b)
    assert same(learn.criterion.discriminator.state_dict(), kept["discriminator"])
    assert not same(fresh, kept["discriminator"])
    assert same(learn.model.state_dict(), load_file(first / "weights.safetensors"))
    for name, optimizer in learn.optimizers.items():
        state = optimizer.state_dict()
        assert state["param_groups"][0]["lr"] == 1e-9 and all(
            same(state["state"][i], moments) for i, moments in kept["optimizers"][name]["state"].items())
    # At another size the moments of the stretched position embeddings start anew.
    prepare("puppets", PuppetsEntry("puppets", size=64, train=4, test=1, frames=8), tmp_path / "large.zip")
    run(FrameStore(tmp_path / "large.zip"), tmp_path / "large", loss=gan, init=str(first), steps=1)
    state = load_state(tmp_path / "large/beside.pt")["optimizers"]["model"]["state"]
    assert {moments["step"].item() for moments in state.values()} == {1, 21}
    wide = LossConfig(levels=3, adversarial=1.0, discriminator_width=8)
    with pytest.raises(UserError, match="discriminator is of another architecture"):
        run(store, tmp_path / "wide", loss=wide, init=str(first), steps=1)
    (first / "beside.pt").unlink()
    with pytest.raises(UserError, match="holds no beside.pt"): run(store, tmp_path / "none", init=str(first), steps=1)


def test_batch_that_cannot_be_shared_is_refused(store, tmp_path):
    with pytest.raises(UserError, match="choose a multiple"):
        loader(Pairs(store, "train", Draw(2), 0), 5, range(1), 0, 2)
    with pytest.raises(UserError, match="choose a divisor"): run(store, tmp_path, accumulate=3)


def test_weights_of_another_architecture_are_refused(store, tmp_path):
    small = run(store, tmp_path / "small", steps=1)
    with pytest.raises(UserError, match="another architecture"):
        run(store, tmp_path / "wide", model=dict(SMALL, values=32), init=str(small), steps=1)
