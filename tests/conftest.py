"What every test file may use."
import functools, multiprocessing, os, resource, shutil, signal, subprocess, sys, tempfile
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


def pytest_configure(config):
    """Tests, and the processes they start, neither read nor fill the user's folders, open no window, and find the
    commands of this environment."""
    folder = tempfile.mkdtemp(prefix="animrepro-tests-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ.update(ANIMREPRO_CACHE=f"{folder}/cache", IPYTHONDIR=f"{folder}/ipython", MPLBACKEND="Agg",
                      DVC_NO_ANALYTICS="1", PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}")


@functools.cache
def forkserver():
    """Makes processes that are at work in milliseconds: they are forked from one that has imported what they share,
    which takes longer than most lessons, and a kill hits the work and not the import. A worker has one such server,
    so all its tests name their imports here."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([
        "lpips", "matplotlib.pyplot", "nbdev.test", "papermill", "pytest", "scipy.stats", "torch._dynamo",
        *(f"animrepro.{m}" for m in (
            "cli", "animate", "data.catalog", "evaluate", "models.fomm", "models.official", "probe", "sweep", "tables",
            "train", "claims"))
    ])
    return server


def work(folder: str, arguments: list, limit: int | None):
    """What a child does: the command, with its output in files beside the folder, and no file larger than `limit`
    bytes."""
    import torch
    from animrepro.cli import main
    os.chdir(folder)
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.argv = ["animrepro", *arguments]
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts the tests in the background may ignore it
    if limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    main(arguments)


def start(folder, *arguments, limit: int | None = None):
    "Starts a command of `animrepro` in a folder, in a process that is forked."
    process = forkserver().Process(target=work, args=(str(folder), [str(a) for a in arguments], limit))
    process.start()
    return process


def call(folder, *arguments, **how) -> subprocess.CompletedProcess:
    "Runs a command in this way to its end: exit code and texts."
    process = start(folder, *arguments, **how)
    process.join(300)
    assert process.exitcode is not None, f"{arguments}: still running after 300 s"
    said = (Path(f"{folder}.{name}").read_text(errors="backslashreplace") for name in ("out", "err"))
    return subprocess.CompletedProcess(arguments, process.exitcode, *said)


@pytest.fixture(scope="session")
def shared():
    "Folder `shared` beside the repository: paper texts and real clips. Tests that need it are skipped elsewhere."
    folder = ROOT.parent / "shared"
    if not folder.is_dir(): pytest.skip("no ../shared here")
    return folder
