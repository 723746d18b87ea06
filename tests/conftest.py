"What every test file may use."
import multiprocessing, os, shutil, sys, tempfile
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


@pytest.fixture(scope="session")
def forks():
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


@pytest.fixture(scope="session")
def shared():
    "Folder `shared` beside the repository: paper texts and real clips. Tests that need it are skipped elsewhere."
    folder = ROOT.parent / "shared"
    if not folder.is_dir(): pytest.skip("no ../shared here")
    return folder
