"""Every notebook runs from top to bottom, each in a process of its own: in one process they would share random states
and settings."""
import os
import pytest
from conftest import ROOT, forkserver

SECONDS = 300
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb")
                   if not any(part[0] in "._" for part in p.relative_to(ROOT).parts))


def run(notebook, printed):
    "Runs a notebook as nbdev does, in a process of its own; what is printed goes into a file."
    with open(printed, "w") as out, open(os.devnull) as nothing:
        for stream, to in ((0, nothing), (1, out), (2, out)): os.dup2(to.fileno(), stream)
    os.chdir(ROOT)
    from nbdev.test import nbdev_test
    nbdev_test(path=str(notebook), n_workers=0)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT / "nbs")))
def test_notebook_runs(notebook, tmp_path):
    printed = tmp_path / "printed"
    process = forkserver().Process(target=run, args=(notebook, printed))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        pytest.fail(f"{notebook.name} ran longer than {SECONDS} s; make its lessons smaller", pytrace=False)
    # nbdev prints the failing cell with its traceback.
    said = printed.read_text()
    if process.exitcode: pytest.fail(said[-6000:], pytrace=False)
    assert "Success." in said, f"nbdev_test did not run {notebook.name}: {said}"
