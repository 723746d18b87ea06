"""Grids of notebooks: refused before anything runs, the same numbers on one machine and on a cluster, and nothing lost
when a node dies."""
import importlib.util, json, os, re, shlex, socket, subprocess, sys, tempfile, time, uuid
from pathlib import Path
import pandas as pd, psutil, pytest, yaml
from conftest import BIN, ROOT
from animrepro.cli import main
from animrepro.core import UserError
from animrepro.data.catalog import dataset_entry, prepare
from animrepro.grid import Where, parse_grid, run_grid

TRAINING = """
from pathlib import Path
import time
from animrepro.core import load_params
from animrepro.sweep import open_bench, run_variant
from animrepro.train import MethodConfig, TrainConfig
from animrepro.models.contract import method_class
params = load_params()
smoke = {"smoke": dict(kind="puppets", scale="smoke", size=32, train=3, test=2, frames=6, seed=7)}
bench = open_bench("", ["x2face"], "smoke", Path(out), [1], smoke)
config = MethodConfig(params.methods["x2face"]["smoke"]["model"], method_class("x2face").Loss(levels=2),
                      TrainConfig(steps=steps, batch=2))
for seed in seeds: run_variant(bench, "x2face", "full", config, seed)
time.sleep(pause)
"""


# A training without torch, whose last state lies in its folder. It writes down where it began.
COUNTING = """
import hashlib, json, os, time
from pathlib import Path
state = Path(out) / "state.json"
step, value = json.loads(state.read_text()) if state.exists() else (0, f"{steps} {seeds}")
with open(Path(out) / "began.txt", "a") as f: print(step, file=f)
while step < 10 * steps:
    time.sleep(pause)
    step, value = step + 1, hashlib.sha256(value.encode()).hexdigest()
    state.with_suffix(".part").write_text(json.dumps([step, value]))
    os.replace(state.with_suffix(".part"), state)
Path(out, "scores.csv").write_text(f"metric,value\\npsnr,{int(value[:6], 16) / 1e5}\\n")
"""


def write_notebook(path: Path, work: str) -> Path:
    "A notebook that does `work`; it fails for steps = 0."
    cell = lambda source, **metadata: dict(cell_type="code", id=f"c{len(source)}", execution_count=None, metadata=
                                           metadata, outputs=[], source=source)
    cells = [cell("steps = 2\nseeds = [0]\nout = ''\npause = 0.0", tags=["parameters"]), cell("1 // steps"), cell(work)]
    kernel = dict(name="python3", display_name="python3", language="python")
    path.write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)))
    return path


@pytest.fixture
def notebook(tmp_path) -> Path: return write_notebook(tmp_path / "small.ipynb", COUNTING)


@pytest.mark.parametrize("grid, fixed, words", [
    (["steps"], {}, "write NAME=A,B"), (["steps="], {}, "write NAME=A,B"), (["step=1,2"], {}, "did you mean 'steps'"),
    (["steps=1,many"], {}, "not like its default 2"), (["steps=1,1"], {}, "a value twice"),
    (["steps=1", "steps=2"], {}, "set twice"), (["steps=1"], {"steps": "2"}, "set twice"),
    (["steps=1"], {"seed": "2"}, "did you mean 'seeds'"), (["out=a,b"], {}, "folder of its own")])
def test_a_wrong_grid_is_refused(notebook, grid, fixed, words, tmp_path):
    with pytest.raises(UserError, match=words): run_grid(notebook, tmp_path / "out", grid, fixed)
    assert not (tmp_path / "out").exists()


def test_an_unknown_engine_is_refused(notebook, tmp_path):
    with pytest.raises(UserError, match="write ray"):
        run_grid(notebook, tmp_path / "out", ["steps=1"], {}, Where(on="slurm"))


def test_lists_are_values(notebook):
    assert parse_grid(notebook, ["seeds=0,[1,2]"], {}) == [{"seeds": "0"}, {"seeds": "[1,2]"}]


def test_a_failed_run_keeps_the_others(notebook, tmp_path, capsys):
    with pytest.raises(UserError, match="1 of 2 runs failed.*ZeroDivisionError.*call again"):
        run_grid(notebook, tmp_path / "out", ["steps=0,1"], {}, Where(jobs=1))
    assert set(pd.read_csv(tmp_path / "out" / "scores.csv").point) == {"steps=1"}
    said = capsys.readouterr().err
    with pytest.raises(UserError): run_grid(notebook, tmp_path / "out", ["steps=0,1"], {}, Where(jobs=1))
    assert "steps=1" in said and "steps=1  0.0 s" in capsys.readouterr().err, "a run that is done is not done again"


def test_core_install_pulls_neither_ray_nor_dvc():
    "Everything that the packages of `requirements` need, as the installed ones declare it."
    from importlib.metadata import PackageNotFoundError, requires
    from packaging.requirements import Requirement
    settings = dict(line.split(" = ", 1) for line in (ROOT / "settings.ini").read_text().splitlines() if " = " in line)
    queue, found = [Requirement(r).name for r in shlex.split(settings["requirements"])], set()
    while queue:
        name = re.sub(r"[-_.]+", "-", queue.pop()).lower()
        if name in found: continue
        found.add(name)
        try: needs = map(Requirement, requires(name) or [])
        except PackageNotFoundError: continue  # of another system
        queue += [r.name for r in needs if not r.marker or r.marker.evaluate({"extra": ""})]
    assert "torch" in found and "filelock" in found and not {"ray", "dvc", "papermill"} & found


def wait_for(true, what: str, seconds: float = 240):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.3)


# ---- data by many hands ----------------------------------------------------------------------------------------------

DATA = """
run: {datasets: [tiny], methods: [], seeds: []}
datasets:
  tiny: {kind: puppets, scale: smoke, size: 64, train: 36, test: 6, frames: 16}
  strips: {kind: actions}
methods: {}
landmarks: {}
evaluate: {}
"""


@pytest.fixture
def project(tmp_path) -> Path:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/params.yaml").write_text(DATA)
    return tmp_path / "project"


def animrepro(project, *args):
    return subprocess.run([BIN / "animrepro", *args], cwd=project, capture_output=True, text=True, timeout=300)


def test_any_worker_may_die(project, tmp_path):
    """One of three workers is killed at its work. What is missing is made by the merge, and the store is that of one
    machine."""
    worker = subprocess.Popen([BIN / "animrepro", "data", "prepare", "tiny", "--shard", "2/3"], cwd=project,
                              stderr=subprocess.DEVNULL)
    wait_for(lambda: list(project.glob("data/.*.part.zip")) or worker.poll() is not None, "a store under way")
    worker.kill()
    assert worker.wait() == -9 and not list(
        project.glob("data/[!.]*.zip")), "killed at work, it leaves no half store under a name"
    assert animrepro(project, "data", "prepare", "tiny", "--shard", "1/3").returncode == 0
    merged = animrepro(project, "data", "prepare", "tiny", "--merge", "3")
    assert merged.returncode == 0 and "1/2  tiny" in merged.stderr, merged.stderr
    prepare("tiny", dataset_entry("tiny", yaml.safe_load(DATA)["datasets"]), tmp_path / "tiny.zip")
    assert sorted(p.name
                  for p in (project / "data").iterdir()) == ["tiny.json",
                                                             "tiny.zip"], "neither parts nor what the dead one left"
    assert all(
        (project / "data" / name).read_bytes() == (tmp_path / name).read_bytes() for name in ("tiny.zip", "tiny.json"))


@pytest.mark.parametrize("args, words", [
    (["tiny", "--shard", "4/3"], "such as 3/16"), (["tiny", "--shard", "0/3"], "such as 3/16"),
    (["tiny", "--shard", "1/2", "--merge", "2"], "leave one out"), (["tiny", "--on", "ray"], "leave one out"),
    (["strips", "--shard", "1/2"], "leave --shard out")])
def test_a_wrong_shard_is_refused(project, args, words, monkeypatch, capsys):
    monkeypatch.chdir(project)
    with pytest.raises(SystemExit) as end: main(["data", "prepare", *args])
    said = capsys.readouterr().err
    assert end.value.code == 2 and words in said and said.count("\n") == 1 and not (project / "data").exists()


def test_a_colleague_pulls_what_was_made(project, tmp_path):
    "A stage of data is pushed to a remote; a clone pulls it and has nothing to do."
    def call(folder, command, *args):
        return subprocess.run([BIN / command if command == "dvc" else command, *args], cwd=folder, capture_output=True,
                              text=True, check=True, timeout=300).stdout
    stage = dict(cmd="animrepro data prepare tiny", params=["datasets.tiny"], outs=["data/tiny.zip", "data/tiny.json"])
    (project / "dvc.yaml").write_text(yaml.safe_dump(dict(stages=dict(data=stage))))
    (project / ".gitignore").write_text("/data/\n")
    call(project, "git", "init", "--quiet")
    for args in (["init", "--quiet"], ["remote", "add", "--default", "lab",
                                       str(tmp_path / "lab")], ["repro", "--quiet"], ["push", "--quiet"]):
        call(project, "dvc", *args)
    for args in (["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "-m",
                                "made"], ["clone", "--quiet", ".", str(tmp_path / "clone")]):
        call(project, "git", *args)
    assert not (tmp_path / "clone/data").exists()
    call(tmp_path / "clone", "dvc", "pull", "--quiet")
    assert (tmp_path / "clone/data/tiny.zip").read_bytes() == (project / "data/tiny.zip").read_bytes()
    assert "up to date" in call(tmp_path / "clone", "dvc", "repro")


# ---- a cluster of two nodes, one of which dies -----------------------------------------------------------------------

def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# Ray gives workers niceness 15, with which they starve beside other work. A token keeps strangers out of the cluster;
# of the user's own we know nothing.
RAY = os.environ | {"RAY_worker_niceness": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}


class Node:
    "A Ray node as `ray start` makes it."
    def __init__(self, *args: str):
        command = [
            str(BIN / "ray"), "start", *args, "--num-cpus=1", "--object-store-memory=80000000",
            "--include-log-monitor=false", "--disable-usage-stats", "--block"
        ]
        self.process = subprocess.Popen(command, cwd=ROOT, env=RAY, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)

    def running(self) -> bool: return self.process.poll() is None

    def sound(self) -> bool:
        "Whether the raylet, the process that makes it a node, is there."
        try:
            return any(p.name() == "raylet" and p.status() != psutil.STATUS_ZOMBIE
                       for p in psutil.Process(self.process.pid).children())
        except psutil.NoSuchProcess: return False

    def kill(self):
        try: processes = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
        except psutil.NoSuchProcess: return
        for process in processes:
            try: process.kill()
            except psutil.NoSuchProcess: pass
        self.process.wait()


ALIVE = """
import sys, time, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
while sum(n["Alive"] for n in ray.nodes()) != 2: time.sleep(0.2)
"""


class Cluster:
    "Two nodes on this machine. `second` may be killed; `complete` replaces it."
    def __init__(self, folder: str):
        port = free_port()
        self.folder, self.address, self.second = Path(folder), f"127.0.0.1:{port}", None
        self.head = self.start("--head", f"--port={port}", "--include-dashboard=false", "--no-monitor",
                               f"--temp-dir={folder}")

    def start(self, *args: str) -> Node:
        "A node whose two agents are not up within 15 s ends; on a busy machine it takes more than one try."
        for _ in range(8):
            before, node = self.agents(), Node(*args)
            wait_for(lambda: self.agents() >= before + 2 or not node.running(), "ray start")
            time.sleep(1)
            if node.sound(): return node
            node.kill()
        pytest.fail("ray start: no node came up")

    def agents(self) -> int:
        "Agents that have written down their port."
        return sum(
            len(list(self.folder.glob(f"session_2*/{agent}_port*")))
            for agent in ("runtime_env_agent", "dashboard_agent_listen"))

    def complete(self):
        if self.second is None or not self.second.sound(): self.second = self.start(f"--address={self.address}")
        subprocess.run([sys.executable, "-c", ALIVE, self.address], env=RAY, check=True, timeout=240)


@pytest.fixture(scope="module")
def machines():
    if not importlib.util.find_spec("ray"): pytest.skip("Ray is not installed; pip install animrepro[cluster]")
    # a short name: sockets lie in it
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(folder)
        yield cluster
        for node in (cluster.second, cluster.head): node and node.kill()


@pytest.fixture
def cluster(machines):
    machines.complete()
    return machines


PIPELINE = """
stages:
  data: {cmd: echo 7 > data.txt, outs: [data.txt]}
  train: {matrix: {seed: [0, 1, 2]}, cmd: "sleep 1; cat data.txt > train-${item.seed}", deps: [data.txt],
          outs: ["train-${item.seed}"]}
  evaluate: {matrix: {seed: [0, 1, 2]}, cmd: "cat train-${item.seed} > score-${item.seed}",
             deps: ["train-${item.seed}"], outs: ["score-${item.seed}"]}
"""


@pytest.mark.cluster
def test_stages_on_a_cluster_leave_a_true_lock(cluster, tmp_path):
    """A matrix of stages goes over two nodes. DVC then finds nothing to do, and the lock is the one that a machine
    alone writes."""
    def call(folder, command, *args):
        return subprocess.run([BIN / command, *args], cwd=folder, env=RAY, capture_output=True, text=True, check=True,
                              timeout=300).stdout
    for name in ("cluster", "alone"):
        (tmp_path / name).mkdir()
        subprocess.run(["git", "init", "--quiet"], cwd=tmp_path / name, check=True)
        (tmp_path / name / "params.yaml").write_text("{}")
        (tmp_path / name / "dvc.yaml").write_text(PIPELINE)
        call(tmp_path / name, "dvc", "init", "--quiet")
    call(tmp_path / "cluster", "dvc", "repro", "--quiet", "data")
    names = [f"{stage}@{seed}" for seed in (0, 1, 2) for stage in ("train", "evaluate")]
    call(tmp_path / "cluster", "animrepro", "stages", *names, "--on", f"ray://{cluster.address}")
    assert "up to date" in call(tmp_path / "cluster", "dvc", "status")
    call(tmp_path / "alone", "dvc", "repro", "--quiet")
    first, second = (yaml.safe_load((tmp_path / name / "dvc.lock").read_text()) for name in ("cluster", "alone"))
    assert first == second and len(first["stages"]) == 7


@pytest.mark.cluster
@pytest.mark.parametrize("work, begins, pause", [(COUNTING, "state.json", 0.5), (TRAINING, "full-*", 5.0)],
                         ids=["counting", "training"])
def test_a_grid_survives_the_death_of_a_node(work, begins, pause, cluster, tmp_path):
    """Six runs on two nodes; when both nodes are at work one is killed. The scores are those of one machine, number
    for number."""
    notebook, grid = write_notebook(tmp_path / "small.ipynb", work), ["steps=1,2", "seeds=0,1,2"]
    command = [
        str(BIN / "animrepro"), "sweep",
        str(notebook), "--out",
        str(tmp_path / "ray"), "-p", "pause",
        str(pause)
    ]
    command += ["--on", f"ray://{cluster.address}"] + [word for axis in grid for word in ("--grid", axis)]
    run = subprocess.Popen(command, cwd=ROOT, env=RAY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        # Each node has one CPU, so two folders with a run under way are two nodes at work.
        begun = lambda folder: not (folder / "task.json").exists() and any(folder.glob(begins))
        at_work = lambda: sum(map(begun, (tmp_path / "ray").glob("*"))) == 2 or run.poll() is not None
        wait_for(at_work, "two runs under way")
        assert run.poll() is None, run.communicate()
        cluster.second.kill()
        out, said = run.communicate(timeout=600)
    finally: run.kill()
    assert run.returncode == 0, said
    assert len(re.findall(r"^\d/6  ", said, re.M)) == 6
    if work == COUNTING:
        began = [[int(step) for step in path.read_text().split()] for path in (tmp_path / "ray").glob("*/began.txt")]
        again = [steps for steps in began if len(steps) > 1]
        assert len(began) == 6 and len(
            again) == 1 and 0 == again[0][0] < again[0][1], f"one run was killed, and went on where it was: {began}"
    local = run_grid(notebook, tmp_path / "local", grid, {}, Where(jobs=1))
    assert len(local) and local.point.nunique() == 6
    assert (tmp_path / "ray" / "scores.csv").read_bytes() == (tmp_path / "local" / "scores.csv").read_bytes()
