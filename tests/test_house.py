"""The rules of the house: notebooks and package agree, cells are small and honest, imports only go down, nothing
depends on one machine. Each test states one rule and lists every place that breaks it."""
import ast, configparser, json, os, re, shlex, shutil, subprocess, sys
from functools import lru_cache
from pathlib import Path
import pytest
from conftest import BIN, ROOT

NBS, PACKAGE = ROOT / "nbs", ROOT / "animrepro"
SETTINGS = configparser.ConfigParser(delimiters=["="])
SETTINGS.read(ROOT / "settings.ini", encoding="utf8")
SETTINGS = SETTINGS["DEFAULT"]


# ---- what there is
# -------------------------------------------------------------------------------------------------------------------

def check(broken: list, rule: str):
    assert not broken, f"{rule}\n  " + "\n  ".join(map(str, broken))


def source(cell) -> str: return "".join(cell["source"])


def directives(cell) -> set:
    return set(re.findall(r"^#\|\s*(\w+)", source(cell), re.M)) if cell["cell_type"] == "code" else set()


def parse(cell) -> list:
    "The statements of a code cell, without IPython's magic lines."
    return ast.parse(re.sub(r"^\s*(%|!)+[a-z].*$", "", source(cell), flags=re.M)).body


class Notebook:
    def __init__(self, path: Path):
        self.path, self.name = path, path.relative_to(NBS).as_posix()
        self.cells = json.loads(path.read_text(encoding="utf8"))["cells"]
        self.code = [c for c in self.cells if c["cell_type"] == "code"]
        self.exports = [c for c in self.code if directives(c) & {"export", "exports"}]
        self.lessons = [c for c in self.code if not directives(c) & {"export", "exports", "hide", "default_exp"}]
        exp = [m[1] for c in self.code if (m := re.search(r"^#\|\s*default_exp\s+(\S+)", source(c), re.M))]
        self.module = exp[0] if exp else None
        self.number = int(m[1]) if (m := re.match(r"(\d\d)[a-z]?_", path.name)) else None

    def at(self, cell) -> str: return f"{self.name}, cell {self.cells.index(cell)} ({source(cell).strip()[-60:]!r})"


NOTEBOOKS = [
    Notebook(p) for p in sorted(NBS.rglob("*.ipynb")) if not any(part[0] in "._" for part in p.relative_to(NBS).parts)
]
LIBRARY = [nb for nb in NOTEBOOKS if nb.module]
ABLATIONS = [nb for nb in NOTEBOOKS if nb.path.parent.name == "ablations"]
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "_modidx.py")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@lru_cache(None)
def module_file(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def statements(node, enter_functions: bool):
    "All nodes below `node`; bodies of functions only where asked, because they do not run at import."
    for child in ast.iter_child_nodes(node):
        if enter_functions or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from statements(child, enter_functions)


@lru_cache(None)
def imports(path: Path, lazy: bool) -> frozenset:
    """Dotted names that a module imports, at import time or (`lazy`) ever. `from a import b` gives `a.b` where that
    is a module of ours, else `a`."""
    package = module_name(path).split(".") if path.name == "__init__.py" else module_name(path).split(".")[:-1]
    return frozenset(imported(ast.parse(path.read_text(encoding="utf8")), package, lazy))


def imported(tree, package: list, lazy: bool = True):
    for node in statements(tree, lazy):
        if isinstance(node, ast.Import): yield from (a.name for a in node.names)
        if isinstance(node, ast.ImportFrom):
            base = ".".join(package[:len(package) - node.level + 1] * bool(node.level)
                            + [node.module] * bool(node.module))
            yield from (f"{base}.{a.name}" if module_file(f"{base}.{a.name}") else base for a in node.names)


@lru_cache(None)
def reads_registry(path: Path) -> bool:
    """Whether a module asks the registry for all methods, and so depends on every module of animrepro.models,
    without naming one."""
    return any(
        isinstance(n, ast.ImportFrom) and n.module and n.module.endswith("models.contract")
        and "methods" in {a.name
                          for a in n.names} for n in ast.walk(ast.parse(path.read_text(encoding="utf8"))))


def below(names) -> set:
    "The modules of animrepro that importing `names` may reach, without package files that hold no code."
    seen, todo = set(), [n for n in names if n.split(".")[0] == "animrepro"]
    while todo:
        name = todo.pop()
        path = module_file(name)
        if path is None or path in seen: continue
        seen.add(path)
        todo += [n for n in imports(path, lazy=True) if n.split(".")[0] == "animrepro"]
        if reads_registry(path): todo += [module_name(p) for p in MODULES if p.parent.name == "models"]
        if "." in name: todo.append(name.rpartition(".")[0])
    return {
        p
        for p in seen
        if p.name != "__init__.py" or re.search(r"^(import|from|def|class) ", p.read_text(encoding="utf8"), re.M)
    }


# ---- notebooks and package agree
# -----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "The notebooks and settings alone: what nbdev writes from them owes nothing to the committed package."
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(NBS, folder / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copy(ROOT / "settings.ini", folder)
    return folder


def nbdev(command: str, folder: Path):
    done = subprocess.run([BIN / f"nbdev_{command}"], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True)
    assert done.returncode == 0, f"nbdev_{command}: {done.stderr[-2000:]}"


def differences(here: Path, there: Path, pattern: str) -> list:
    a, b = ({
        p.relative_to(d).as_posix(): p.read_bytes()
        for p in d.rglob(pattern) if ".ipynb_checkpoints" not in p.parts
    } for d in (here, there))
    return sorted([f"{n}: no notebook makes it"
                   for n in a.keys() - b.keys()] + [f"{n}: missing" for n in b.keys() - a.keys()]
                  + [f"{n}: differs" for n in a.keys() & b.keys() if a[n] != b[n]])


def test_package_is_what_the_notebooks_export(copy):
    nbdev("export", copy)
    check(differences(PACKAGE, copy / "animrepro", "*.py"),
          "run `make export` (and delete modules that lost their notebook)")


def test_notebooks_are_clean(copy):
    nbdev("clean", copy)
    check(differences(NBS, copy / "nbs", "*.ipynb"), "run `make clean-notebooks`")


def test_metadata_names_one_set_of_requirements():
    wanted = {
        r
        for name in ("requirements", "repro_requirements", "cluster_requirements")
        for r in shlex.split(SETTINGS[name])
    } | {"setuptools", "uv"}
    listed = set((ROOT / "requirements.in").read_text().split())
    check(sorted(wanted ^ listed), "requirements.in must list what settings.ini requires, and setuptools and uv")
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.M))
    check(sorted(n for r in listed if (n := re.split(r"[<>=\[]", r)[0]) not in locked),
          "requirements.lock is out of date; run `make lock`")


# ---- how a notebook is written
# -------------------------------------------------------------------------------------------------------

def test_a_notebook_is_named_after_its_module():
    check([
        f"{nb.name}: default_exp {nb.module}"
        for nb in LIBRARY if re.sub(r"^\d\d[a-z]?_", "", nb.path.stem) != nb.module.removesuffix(".__init__")
    ], "the name of a notebook is NN_<default_exp>")
    check([nb.name for nb in LIBRARY if nb.path.parent != NBS], "a notebook that exports lies flat in nbs/")
    modules = [nb.module for nb in LIBRARY]
    check(sorted({m
                  for m in modules
                  if modules.count(m) > 1}), "two notebooks export the same module; the later one silently wins")


def test_a_notebook_opens_with_title_and_subtitle():
    check(
        [
            nb.name
            for nb in LIBRARY
            if nb.cells[0]["cell_type"] != "markdown"
            or not re.match(r"# \S.*\n\n> \S[^\n]*$", source(nb.cells[0]).strip())
        ],
        "the first cell of a notebook is `# Title`, an empty line, and one line `> subtitle`, which becomes the"
        " docstring of the module",
    )


def test_a_notebook_ends_with_its_export():
    check([
        nb.name
        for nb in LIBRARY if "hide" not in directives(nb.cells[-1]) or "nbdev_export()" not in source(nb.cells[-1])
    ], "the last cell is `#| hide` with `import nbdev; nbdev.nbdev_export()`")


def test_import_cells_hold_only_imports():
    kinds = [(nb, c, {isinstance(s, (ast.Import, ast.ImportFrom))
                      for s in parse(c)}) for nb in NOTEBOOKS for c in nb.code if "nbdev_export" not in source(c)]
    check([nb.at(c) for nb, c, k in kinds if len(k) == 2],
          "a cell with imports holds only imports: nbdev runs such cells while it builds the documentation")


def test_exported_cells_are_small():
    check([
        f"{nb.at(c)}: {n} lines" for nb in LIBRARY
        for c in nb.exports if (n := len(source(c).strip().splitlines())) > 60
    ], "an exported cell has 60 lines at most")


def test_every_notebook_holds_a_lesson_that_can_fail():
    check([
        nb.name for nb in LIBRARY if not any(
            isinstance(n, ast.Assert) or isinstance(n, ast.Call) and getattr(n.func, "id", "").startswith("test_")
            for c in nb.lessons for s in parse(c) for n in ast.walk(s))
    ], "each notebook shows its idea in a cell that asserts it")


def test_lessons_end_on_something_to_see():
    def blind(s):
        return isinstance(s, ast.Assert) or isinstance(s, ast.Expr) and isinstance(s.value, ast.Call) and getattr(
            s.value.func, "id", "") == "print"
    check([nb.at(c) for nb in LIBRARY for c in nb.lessons if (body := parse(c)) and blind(body[-1])],
          "a lesson ends on a value or a picture, not on an assert or a print")


def test_stored_outputs_are_small_and_without_errors():
    outputs = [(nb, c, o) for nb in NOTEBOOKS for c in nb.code for o in c["outputs"]]
    check([nb.at(c) for nb, c, o in outputs if o["output_type"] == "error"], "a stored output is an error")
    check([f"{nb.at(c)}: {n // 1000} KB" for nb, c, o in outputs if (n := len(json.dumps(o))) > 100_000],
          "a stored output has 100 KB at most")


def test_ablations_are_stored_empty_with_parameters():
    check([nb.name for nb in ABLATIONS if any(c["outputs"] for c in nb.code)],
          "an ablation is stored without outputs; run `make clean-notebooks`")
    check([nb.name for nb in ABLATIONS if sum("parameters" in c["metadata"].get("tags", []) for c in nb.code) != 1],
          "an ablation has one cell tagged `parameters`")
    check([nb.name for nb in ABLATIONS if nb.module], "an ablation exports nothing")


# ---- floors
# ----------------------------------------------------------------------------------------------------------------------

def floor(number: int) -> int:
    return next(f for f, last in enumerate((9, 19, 39, 49, 59, 68, 83, 99)) if number <= last)


FLOORS = {
    p: floor(nb.number)
    for nb in LIBRARY
    if nb.number is not None and (p := module_file(f"animrepro.{nb.module}".removesuffix(".__init__")))
}
LIGHT = [p for p in MODULES if FLOORS.get(p, 0) <= 5]
# `pip install animrepro` brings `requirements`; what only the extras bring must not be needed to train, measure and
# animate.
HEAVY = sorted(
    {re.split("[<>=]", r)[0]
     for extra in ("repro", "cluster")
     for r in shlex.split(SETTINGS[f"{extra}_requirements"])})


def test_every_notebook_has_a_floor():
    check([nb.name for nb in LIBRARY if nb.number is None], "a notebook that exports has a number, which is its floor")


def test_imports_only_go_down():
    uses = [(p, q) for p in FLOORS for n in imports(p, lazy=True) if (q := module_file(n)) in FLOORS]
    check([
        f"{p.relative_to(ROOT)} (floor {FLOORS[p]}) imports {q.relative_to(ROOT)} (floor {FLOORS[q]})"
        for p, q in uses if FLOORS[q] > FLOORS[p]
    ], "a module imports only from its own floor or a lower one")


def test_light_modules_import_no_heavy_package():
    check([
        f"{p.relative_to(ROOT)} imports {n}" for p in LIGHT
        for n in sorted(imports(p, lazy=False)) if n.split(".")[0] in HEAVY
    ], "floors 0 to 5 import only what `requirements` in settings.ini brings")


def test_light_modules_work_without_heavy_packages():
    # None in sys.modules makes an import fail as if the package were not installed.
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({HEAVY})); import importlib; [importlib.import_module(m) for m"
        f" in {[module_name(p) for p in LIGHT]}]"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"floors 0 to 5 must import without {', '.join(HEAVY)}\n{done.stderr[-2000:]}"


# ---- code
# ----------------------------------------------------------------------------------------------------------------------

def tracked() -> list:
    "Every file that is, or by .gitignore would be, part of the repository."
    listing = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                             capture_output=True, text=True, check=True).stdout
    return sorted(p for n in set(listing.split("\0")) - {""} if (p := ROOT / n).is_file())


def calls(tree):
    "Every call below `tree` as (dotted name, node)."
    return [(ast.unparse(n.func), n) for n in ast.walk(tree) if isinstance(n, ast.Call)]


def test_no_file_names_a_machine_or_a_registry():
    pattern = re.compile(rb"(?<![\w.:/-])/(work|root|home|Users)/\w|(pypi|pythonhosted|anaconda)\.org")
    check([
        f"{p.relative_to(ROOT)}: {m[0].decode()}"
        for p in tracked() if b"\0" not in (data := p.read_bytes())[:8000] and (m := pattern.search(data))
    ], "tracked files name no path of one machine and no package registry")


def test_weights_are_loaded_without_pickle():
    trees = [(p.relative_to(ROOT), ast.parse(p.read_text(encoding="utf8")))
             for p in [*MODULES, *(ROOT / "tests").glob("*.py")]]
    trees += [(nb.at(c), ast.Module(parse(c), [])) for nb in NOTEBOOKS for c in nb.code]
    safe = lambda n: any(k.arg == "weights_only" and getattr(k.value, "value", None) is True for k in n.keywords)
    check([where for where, t in trees for name, n in calls(t) if name == "torch.load" and not safe(n)],
          "torch.load needs weights_only=True: a pickle may run any code")


def test_nothing_draws_from_a_global_generator():
    draws = {
        "rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson", "rand_like",
        "randn_like", "randint_like"
    }
    def is_global(name, node, used):
        owner, _, last = name.rpartition(".")
        if owner in ("np.random", "numpy.random"):
            return last not in ("default_rng", "Generator", "SeedSequence", "PCG64")
        if owner == "torch" and last in draws: return not any(k.arg == "generator" for k in node.keywords)
        return owner == "random" and "random" in used or name in ("torch.manual_seed", "torch.seed",
                                                                  "torch.cuda.manual_seed",
                                                                  "torch.cuda.manual_seed_all",
                                                                  "torch.random.manual_seed")
    check([
        f"{p.relative_to(ROOT)}: {ast.unparse(n)}" for p in MODULES
        for name, n in calls(ast.parse(p.read_text(encoding="utf8"))) if is_global(name, n, imports(p, True))
    ], "draw from animrepro.core.rng or torch_generator: a global generator makes results depend on what ran before")


def test_public_names_are_documented():
    check([
        f"{p.relative_to(ROOT)}: {n.name}" for p in MODULES for n in ast.parse(p.read_text(encoding="utf8")).body
        if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name[0] != "_" and not ast.get_docstring(n)
    ], "a public function or class has a docstring")


def test_lines_are_at_most_120_columns():
    texts = [(nb.at(c), source(c)) for nb in NOTEBOOKS for c in nb.code]
    texts += [(p.relative_to(ROOT), p.read_text(encoding="utf8")) for p in sorted((ROOT / "tests").glob("*.py"))]
    check([f"{where}, line {i}: {len(line)} columns" for where, text in texts
           for i, line in enumerate(text.split("\n"), 1) if len(line) > 120], "a line of code has 120 columns at most")


# ---- the pipeline
# --------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def stages():
    "The stages of every dvc.yaml, with matrices and parameters filled in."
    if not (ROOT / "dvc.yaml").is_file(): pytest.skip("no dvc.yaml yet")
    from dvc.repo import Repo
    with Repo(ROOT) as repo: return [s for s in repo.index.stages if s.cmd]


def entries(cmd: str) -> set:
    """The modules that a stage's command starts from: what the function of that name in cli.py imports (cli.py
    itself only parses arguments), the module of that name, and the model that an argument names."""
    names = set()
    for line in re.split(r"&&|\n|;", cmd):
        words = [w for w in shlex.split(line) if not w.startswith("-")]
        if words[:1] == ["animrepro"]:
            # `animrepro data prepare x` is the function prepare or data_prepare, `animrepro train x y` is train.
            called = {words[1], "_".join(words[1:3]), *words[2:3]}
            functions = [
                f for f in ast.walk(ast.parse((PACKAGE / "cli.py").read_text(encoding="utf8")))
                if isinstance(f, ast.FunctionDef)
            ]
            for f in functions: names |= set(imported(f, ["animrepro"])) if f.name.strip("_") in called else set()
            names |= {
                m
                for m in (f"animrepro.{words[1]}", *(f"animrepro.models.{w}" for w in re.findall(r"\w+", line)))
                if module_file(m)
            }
        elif words[:1] == ["papermill"]:
            nb = Notebook(next(NBS.rglob(f"{Path(words[1]).stem}.ipynb")))
            for c in nb.code: names |= set(imported(ast.Module(parse(c), []), []))
    return names


def test_stages_depend_on_the_code_they_run(stages):
    wanted = {s.addressing: below(entries(s.cmd if isinstance(s.cmd, str) else "\n".join(s.cmd))) for s in stages}
    # DVC gives all items of a matrix the same list, but for names made from the item. So an item may list what another
    # one needs, other models apart.
    shared = {
        s.addressing: set().union(*(wanted[o.addressing] for o in stages
                                    if (o.path, o.name.split("@")[0]) == (s.path, s.name.split("@")[0])))
        for s in stages
    }
    broken = []
    for s in stages:
        name, models = s.addressing, {p for p in shared[s.addressing] if p.parent.name == "models"}
        local = [Path(d.fs_path) for d in s.deps if d.protocol in ("local", None)]
        listed = {p
                  for p in local if p.suffix == ".py"} | {
                      p
                      for d in local if d == PACKAGE / "models"
                      for p in MODULES if p.parent == d and p.name != "__init__.py"
                  }
        allowed = wanted[name] | shared[name] - models
        broken += [f"{name}: lacks {p.relative_to(ROOT)}" for p in sorted(wanted[name] - listed)
                   ] + [f"{name}: does not use {os.path.relpath(p, ROOT)}" for p in sorted(listed - allowed)]
        broken += [
            f"{name}: depends on the folder {os.path.relpath(d.fs_path, ROOT)}" for d in s.deps
            if Path(d.fs_path) in (PACKAGE, NBS)
        ]
    check(
        broken,
        "a stage depends on exactly the modules that its command imports: on fewer and results go stale, on more and it"
        " runs for nothing",
    )


def test_pipeline_is_sound(stages):
    done = subprocess.run([sys.executable, "-m", "dvc", "dag"], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True)
    assert done.returncode == 0, f"dvc cannot follow the pipeline\n{done.stdout[-1000:]}{done.stderr[-2000:]}"
