"""Every notebook runs from top to bottom, each in a process of its own: in one process they would share random states
and settings."""
import subprocess
import pytest
from conftest import BIN, ROOT

SECONDS = 300
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb")
                   if not any(part[0] in "._" for part in p.relative_to(ROOT).parts))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT / "nbs")))
def test_notebook_runs(notebook):
    command = [BIN / "nbdev_test", "--path", str(notebook), "--n_workers", "0"]
    try:
        done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=SECONDS)
    except subprocess.TimeoutExpired:
        pytest.fail(f"{notebook.name} ran longer than {SECONDS} s; make its lessons smaller", pytrace=False)
    # nbdev prints the failing cell with its traceback.
    if done.returncode: pytest.fail(f"{done.stdout}{done.stderr}"[-6000:], pytrace=False)
    assert "Success." in done.stdout, f"nbdev_test did not run {notebook.name}: {done.stdout}"
