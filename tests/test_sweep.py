"Ablation notebooks as commands: a wrong parameter is refused before anything runs, and a file is whole or not there."
import ast, json
import pytest
from conftest import ROOT
from animrepro.core import UserError
from animrepro.sweep import notebook_parameters, parse_parameter, run_notebook

ABLATIONS = sorted((ROOT / "nbs" / "ablations").glob("*.ipynb"))


@pytest.fixture
def notebook(tmp_path):
    "A notebook with two parameters; it fails for steps = 0."
    cell = lambda source, **metadata: dict(cell_type="code", id=f"c{len(source)}", execution_count=None, metadata=metadata, outputs=[], source=source)
    cells = [cell("steps = 3\nname = ''", tags=["parameters"]), cell("12 // steps, name")]
    content = dict(cells=cells, metadata=dict(kernelspec=dict(name="python3", display_name="python3", language="python")), nbformat=4, nbformat_minor=5)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "small.ipynb").write_text(json.dumps(content))
    return tmp_path / "in" / "small.ipynb"


def test_unknown_parameter_is_refused(notebook, tmp_path):
    with pytest.raises(UserError, match="no parameter 'step'; did you mean 'steps'"): run_notebook(notebook, tmp_path / "out" / "run.ipynb", {"step": "4"})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text, default, value", [("4", 3, 4), ("4", 1.0, 4.0), ("0,1", [0], [0, 1]), ("[2]", [0], [2]), ("5", [0], [5]), ("7", "", "7"), ("False", True, False)])
def test_values_have_the_type_of_the_default(text, default, value):
    found = parse_parameter("p", text, default)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text, default", [("many", 3), ("4.5", 3), ("1", True), ("a,b", [0]), ("", 3)])
def test_values_of_another_type_are_refused(text, default):
    with pytest.raises(UserError, match="not like its default"): parse_parameter("p", text, default)


def test_run_then_failure_keeps_the_failed_notebook(notebook, tmp_path):
    out = tmp_path / "out" / "run.ipynb"
    run_notebook(notebook, out, {"steps": "4", "name": "a \"quoted\" \\ name"})
    cells = json.loads(out.read_text())["cells"]
    assert ["".join(o["data"]["text/plain"]) for c in cells for o in c["outputs"]] == [repr((3, 'a "quoted" \\ name'))]
    before = out.read_bytes()
    with pytest.raises(UserError, match="ZeroDivisionError.*run.failed.ipynb") as error: run_notebook(notebook, out, {"steps": "0"})
    assert "\n" not in str(error.value)
    assert out.read_bytes() == before, "a failed run must not touch the result of an earlier one"
    assert "ZeroDivisionError" in out.with_name("run.failed.ipynb").read_text()
    assert sorted(p.name for p in out.parent.iterdir()) == ["run.failed.ipynb", "run.ipynb"]
    run_notebook(notebook, out)
    assert [p.name for p in out.parent.iterdir()] == ["run.ipynb"], "a success clears what an earlier failure left"


def test_no_notebook(tmp_path):
    with pytest.raises(UserError, match="no such notebook"): notebook_parameters(tmp_path / "none.ipynb")
    (tmp_path / "text.ipynb").write_text("text")
    with pytest.raises(UserError, match="not a notebook"): notebook_parameters(tmp_path / "text.ipynb")


def test_ablations_have_parameters_that_can_be_set():
    assert ABLATIONS
    for path in ABLATIONS: assert {"store", "out", "steps", "seeds", "scale"} <= set(notebook_parameters(path)), path.name


def test_a_sweep_stage_depends_on_all_that_its_notebook_imports():
    "The stage lists what animrepro.sweep imports. That must cover the notebook, whose imports DVC cannot see."
    from test_house import Notebook, below, imported, parse
    covered = below(["animrepro.sweep", "animrepro.models.implicit_warping"])
    for nb in map(Notebook, ABLATIONS):
        used = below({n for c in nb.code for n in imported(ast.Module(parse(c), []), [])})
        assert used <= covered, f"{nb.name}: {sorted(p.name for p in used - covered)}"
