"""From scores to evidence: published numbers are the papers', exactly the right files are read, verdicts follow their
rules, README says what the record says."""
import json, re, shutil
import numpy as np, pandas as pd, pytest
from conftest import ROOT
from animrepro.claims import (Measured, claims_page, compare_runs, count_verdicts, find_verdict, measure, read_claims,
    show_claims, stale_evidence, training_table)
from animrepro.cli import recompute
from animrepro.readme import readme_drift, record_page, update_readme
from animrepro.core import UserError, load_params, sha256
from animrepro.evaluate import run_name, save_rows, save_table, summarise
from animrepro.judge import Rule, judge
from animrepro.record import write_json
from animrepro.stats import Interval
from animrepro.archive import check_record, merge, promote, record_rows, scored_weights, seal, training_folder
from animrepro.evidence import collect, in_order, published, read_evidence, read_scores, sweep_of
from animrepro.forms import MISSING, Block, escape_latex, to_latex, to_markdown
from animrepro.tables import TABLES, disagreement, gather, published_blocks, write_tables

PARAMS = (
    "run: {datasets: [puppets, actions], methods: [implicit_warping], seeds: [0, 1]}\ndatasets: {}\nmethods:"
    " {}\nlandmarks: {}\nevaluate: {}\n"
)


# ---- a made-up project
# ---------------------------------------------------------------------------------------------------------------

def add_run(folder, dataset, method, variant, seed, level, gain, steps=1500, scale="quick", **scaled):
    """Rows and scores of a made-up run: PSNR starts at `level` and rises by `gain` with each source; L1 falls with
    it. `scaled` are further columns, as factors of PSNR."""
    draw, tables = np.random.default_rng(seed), []
    for sources in (1, 2, 3):
        psnr = level + gain * (sources - 1) + np.repeat(np.arange(5) / 5, 4) + 0.01 * draw.normal(size=20)
        tables.append(
            pd.DataFrame(
                dict(sources=sources, frame=np.tile(np.arange(4), 5), clip=np.repeat(list("abcde"), 4), psnr=psnr,
                     l1=300 / psnr, **{
                         name: factor * psnr
                         for name, factor in scaled.items()
                     })))
    about = dict(dataset=dataset, scale=scale, method=method, variant=variant, seed=seed)
    save_rows(folder / "rows.parquet", pd.concat(tables))
    return summarise(pd.concat(tables), **about, steps=steps, run=run_name(**about))


def add_sweep(made, name, runs, gain=0.1, **scaled):
    "A made-up sweep of two seeds of each of `runs` (method, variant, level), and the copy of the source."
    folder = made / "ablations" / name
    parts = [add_run(folder / "copy-0", "puppets", "copy", "copy", 0, 20, 0, 0, "ablation", **scaled)] + [
        add_run(folder / f"{v}-{s}", "puppets", m, v, s, level, gain, 200, "ablation", **scaled)
        for m, v, level in runs for s in (0, 1)
    ]
    save_table(folder / "scores.csv", pd.concat(parts))


def make_project(tmp_path):
    "A project with a made-up run on two data sets with two seeds, and a sweep over the components."
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "claims.yaml").write_bytes((ROOT / "claims.yaml").read_bytes())
    made = tmp_path / "results" / "run"
    for dataset in ("puppets", "actions"):
        for method, seed, level, gain in (("copy", 0, 20, 0), ("implicit_warping", 0, 24.5, 0.5), ("implicit_warping",
                                                                                                   1, 24.52, 0.51)):
            folder = made / "evaluate" / f"{dataset}-{method}-{seed}"
            save_table(folder / "scores.csv", add_run(folder, dataset, method, "full", seed, level, gain))
    add_sweep(made, "components", [("implicit_warping", v, level)
                                   for v, level in (("plain", 22), ("residual", 22.4), ("full", 22.3))], 0.3)
    return tmp_path


@pytest.fixture
def project(tmp_path): return make_project(tmp_path)


def make_three(project):
    "The made-up project with three methods, of which the last mentioned are worse, and the sweeps of TPSMM."
    (project / "params.yaml").write_text(PARAMS.replace("[implicit_warping]", "[implicit_warping, tpsmm, fomm]"))
    made = project / "results" / "run"
    worse = dict(akd=-1, mkr=-0.1, jitter=-2, flicker=-2)  # rise where PSNR falls
    for dataset in ("puppets", "actions"):
        for method, level, gain in (("tpsmm", 24.0, 0.2), ("fomm", 23.0, 0.1)):
            for seed in (0, 1):
                folder = made / "evaluate" / f"{dataset}-{method}-{seed}"
                modes = dict(cross_psnr=0.7,
                             cross_psnr_own=0.8) | (dict(cross_psnr_avd=0.9) if method == "tpsmm" else {})
                save_table(folder / "scores.csv",
                           add_run(folder, dataset, method, "full", seed, level + seed / 10, gain, **worse, **modes))
    sweeps = {
        "tpsmm_components": [("tpsmm", v, 22 + i / 10)
                             for i, v in enumerate(("tps", "dropout", "masks", "background", "full"))],
        "tpsmm_transformations": [("fomm", f"k{5 * n}", 21 - n / 10)
                                  for n in (1, 2, 4)] + [("tpsmm", f"k{2 * n}", 22 + n / 10) for n in (1, 2, 4)]
    }
    for name, runs in sweeps.items(): add_sweep(made, name, runs, **worse)
    return project


@pytest.fixture
def three(project): return make_three(project)


@pytest.fixture(scope="module")
def lia(tmp_path_factory):
    "The made-up project with LIA beside the others, its sweeps, and the tables of the run. For reading only."
    three = make_three(make_project(tmp_path_factory.mktemp("lia")))
    (three / "params.yaml").write_text(PARAMS.replace("[implicit_warping]", "[implicit_warping, tpsmm, fomm, lia]"))
    # cross PSNR rises with PSNR
    made, worse = three / "results" / "run", dict(akd=-1, mkr=-0.1, lpips=-0.01, cross_psnr=0.7, cross_psnr_own=0.8)
    for dataset in ("puppets", "actions"):
        for seed in (0, 1):
            folder = made / "evaluate" / f"{dataset}-lia-{seed}"
            save_table(folder / "scores.csv",
                       add_run(folder, dataset, "lia", "full", seed, 23.5 + seed / 10, 0.1, **worse))
    sweeps = {
        "lia_dictionary": (("no_dictionary", 21), ("full", 22)),
        "lia_directions": (("m5", 20.5), ("m10", 21), ("m20", 22), ("m40", 21.8), ("m100", 21.9))
    }
    for name, runs in sweeps.items():
        add_sweep(made, name, [("lia", v, level) for v, level in runs], **worse)
    write_tables(three)
    return three


def claim(name): return next(c for c in read_claims(ROOT / "claims.yaml") if c.id == name)


def verdicts(root, folder="run"):
    evidence = read_evidence(root / "results" / folder)
    return {c.id: find_verdict(c, evidence).word for c in read_claims(root / "claims.yaml")}


# ---- published numbers
# ---------------------------------------------------------------------------------------------------------------

# paper, table and data sets -> file, start of the first line of the table, start of the line after it (none: it is one
# line)
TEXTS = {
    ("IW", "1", None): ("implicit_warping.txt", "TalkingHead-1KH [41] VoxCeleb2 [26]", None),
    ("IW", "2", "thkh-512"): ("implicit_warping.txt", "TalkingHead1KH ( faces) #Source frames", None),
    ("IW", "3", None): ("implicit_warping.txt", "TalkingHead-1KH vs FOMM vs fv2v", None),
    ("IW", "2", "ted-384"): ("implicit_warping.txt", "TED Talk ( upper bodies) #Source frames", None),
    # Table 4: the same means
    ("IW", "5", None): ("implicit_warping.txt", "Residual connection ✘ ✔ ✔ Extra key-value", None),
    ("TPSMM", "1", None): ("tps_motion.txt", "TaiChiHD TED-talks VoxCeleb MGif", "Table 1:"),
    ("TPSMM", "2", None): ("tps_motion.txt", "Continuity Authenticity", "Table 2:"),
    ("TPSMM", "3", None): ("tps_motion.txt", "K=5, (K=2 for ours) K=10", "Table 3:"),
    ("TPSMM", "4", None): ("tps_motion.txt", "Table 3:", "Table 4:"),
    ("LIA", "1", None): ("lia.txt", "Table 1: Same-identity", "Table 2:"),
    ("LIA", "2", None): ("lia.txt", "Table 2: Cross-video", "Table 3:"),
    ("LIA", "3", None): ("lia.txt", "Table 3: User study", "(b) Cross-video"),
    ("LIA", "4", None): ("lia.txt", "Table 4: Ablation", "Table 5:"),
    ("LIA", "5", None): ("lia.txt", "Table 5: Ablation", "4.3 Ablation study"),
    ("LIA", "6", None): ("lia.txt", "Table 6: Comparison", "B.4 Reference"),
}


def lines_between(text, start, end):
    """The lines from the one that begins with `start` up to the one that begins with `end`; the line of `start`
    alone where there is no `end`."""
    lines = [" ".join(l.split()) for l in text.splitlines()]
    first, = [i for i, l in enumerate(lines) if l.startswith(start)]
    return "\n".join(lines[first:next(i for i, l in enumerate(lines)
                                      if l.startswith(end))] if end else lines[first:first + 1])


@pytest.mark.parametrize("paper, table, dataset", TEXTS)
def test_published_numbers_are_those_of_the_paper(shared, paper, table, dataset):
    "Every decimal number of the printed table, digit by digit and in its order: nothing is missing, changed or added."
    name, start, end = TEXTS[paper, table, dataset]
    printed = lines_between((shared / "papers" / name).read_text(encoding="utf8"), start, end)
    ours = published().query("paper == @paper and table == @table")
    if dataset: ours = ours.query("dataset == @dataset")
    assert len(ours)
    assert ours["value"].tolist() == re.findall(r"\d+\.\d+", printed.replace("@0.1", "").replace("@0.5", ""))


def test_published_deviations_are_those_of_the_supplement(shared):
    printed = re.findall(r"(\d+\.\d+) \\pm (\d+\.\d+)",
                         (shared / "papers" / "implicit_warping_supplement.txt").read_text(encoding="utf8"))
    ours = published().query("paper == 'IW' and table == '5'")
    assert list(zip(ours["value"], ours["std"])) == printed and ours["metric"].drop_duplicates().tolist() == [
        "psnr", "l1", "lpips", "akd", "fid"
    ]


LIA_DATA = ("vox-256", "taichi-256", "ted-256")


def test_published_cells_are_complete_and_in_place():
    cells = published()
    assert not cells.duplicated(["paper", "table", "dataset", "method", "sources", "variant", "metric"]).any()
    count = {" ".join(k): n for k, n in cells.groupby(["paper", "table", "dataset"]).size().items()}
    assert count == {
        "IW 1 thkh-512": 15,
        "IW 1 vox2-256": 15,
        "IW 1 ted-384": 24,
        "IW 2 thkh-512": 45,
        "IW 2 ted-384": 48,
        "IW 5 thkh-256": 15,
        "TPSMM 1 taichi-256": 20,
        "TPSMM 1 ted-384": 12,
        "TPSMM 1 vox-256": 15,
        "TPSMM 1 mgif": 3,
        "TPSMM 2 taichi-256": 2,
        "TPSMM 2 ted-384": 2,
        "TPSMM 2 vox-256": 2,
        "TPSMM 3 taichi-256": 36,
        "TPSMM 4 taichi-256": 24,
        "IW 3 thkh-512": 4,
        "IW 3 ted-384": 3,
        "LIA 1 vox-256": 18,
        "LIA 1 taichi-256": 21,
        "LIA 1 ted-256": 15,
        "LIA 2 vox-256": 3,
        "LIA 2 germanpublictv": 3,
        **{
            f"LIA 3 {d}": 4
            for d in LIA_DATA
        },
        **{
            f"LIA 4 {d}": 4
            for d in LIA_DATA
        },
        **{
            f"LIA 5 {d}": 10
            for d in LIA_DATA
        }, "LIA 6 vox-256": 8,
        "LIA 6 taichi-256": 10,
        "LIA 6 ted-256": 10
    }
    def value(**where): return cells.loc[(cells[list(where)] == pd.Series(where)).all(axis=1), "value"].item()
    assert value(paper="IW", table="2", dataset="ted-384", method="implicit_warping", sources=3,
                 metric="mkr@0.5") == "0.021"
    assert value(paper="IW", table="2", dataset="thkh-512", method="fv2v", sources=3, metric="akd") == "6.201"
    assert value(paper="IW", table="1", dataset="ted-384", method="mraa", metric="akd@0.5") == "4.13"
    assert value(paper="TPSMM", table="1", dataset="vox-256", method="monkeynet", metric="aed") == "0.199"
    assert value(paper="TPSMM", table="1", dataset="mgif", method="tpsmm", metric="l1") == "0.0212"
    assert value(paper="TPSMM", table="2", dataset="ted-384", metric="authenticity") == "58.44"
    assert value(paper="TPSMM", table="3", dataset="taichi-256", method="mraa", variant="k20", metric="akd") == "5.17"
    assert value(paper="TPSMM", table="4", dataset="taichi-256", variant="background", metric="mkr") == "0.020"
    assert value(paper="IW", table="3", dataset="ted-384", variant="over_mraa") == "63.3" and value(
        paper="LIA", table="2", dataset="germanpublictv", method="mraa") == "0.454"
    assert value(paper="LIA", table="1", dataset="taichi-256", method="x2face", metric="mkr") == "0.109" and value(
        paper="LIA", table="1", dataset="ted-256", method="fomm", metric="lpips") == "0.13"
    assert value(paper="LIA", table="3", dataset="taichi-256", method="mraa", variant="over_lia") == "39.9" and value(
        paper="LIA", table="5", dataset="ted-256", variant="m40", metric="l1") == "0.030"


def test_every_published_table_has_a_table_of_ours_and_every_cell_is_shown():
    cells = published()
    assert set(cells["paper"] + cells["table"]) == {t.paper + t.published for t in TABLES if t.paper}
    for table in (t for t in TABLES if t.paper):
        shown = [v for b in published_blocks(table) for v in b.cells.to_numpy().ravel()]
        wanted = cells.query("paper == @table.paper and table == @table.published")
        text = wanted["value"] + wanted["std"].map(lambda s: f" ± {s}" if s else "")
        assert not [v for v in set(text) if shown.count(v) < (text == v).sum()]


def test_misprints_are_told_below_the_table():
    notes = {t.name: " ".join(n for b in published_blocks(t) for n in b.notes) for t in TABLES if t.paper}
    assert "bold" in notes["iw_table1"] and "118" in notes["tpsmm_table3"] and "100.6" in notes[
        "lia_table3"] and "0.028" in notes["lia_table1"] and "M = 100" in notes["lia_table5"]


def test_disagreement_is_that_of_the_printed_numbers():
    pairs = disagreement().set_index(["dataset", "method", "metric"])
    assert pairs.loc[[("taichi", "fomm", "l1")]].iloc[0][["TPSMM", "LIA", "unlike"]].tolist() == ["0.055", "0.063", ""]
    assert np.isclose(pairs.loc[[("taichi", "fomm", "l1")], "spread"].item(), 0.008 / 0.059)
    ted = pairs.loc[("ted", "mraa", "l1")]
    assert len(ted) == 3 and ted["IW"].iloc[0] == "0.0269" and (ted["unlike"] != "").sum() == 2  # 6.87 / 255
    assert (pairs.query("metric == 'aed' and dataset != 'vox'")["unlike"] != "").all()


def test_claims_quote_the_paper(shared):
    texts = {"IW": "implicit_warping*.txt", "TPSMM": "tps_motion.txt", "LIA": "lia.txt"}
    texts = {
        paper: "".join(p.read_text(encoding="utf8") for p in (shared / "papers").glob(names))
        for paper, names in texts.items()
    }
    quoted = [(c.id, c.paper, n) for c in read_claims(ROOT / "claims.yaml")
              for n in re.findall(r"\d+\.\d+", c.published)]
    assert len(quoted) > 90 and not [
        q for q in quoted if not re.search(rf"(?<![\d.]){re.escape(q[2])}(?![\d.])", texts[q[1]])
    ]


# ---- reading a run
# -------------------------------------------------------------------------------------------------------------------

def test_exactly_the_runs_of_params_are_read(project):
    before = collect(project)
    assert before["run"].nunique() == 2 * 3 + 7 and before[sweep_of(before) == ""]["run"].nunique() == 6
    stale = project / "results" / "run" / "evaluate" / "puppets-implicit_warping-9"
    save_table(stale / "scores.csv", add_run(stale, "puppets", "implicit_warping", "full", 9, 99, 9))
    assert before.equals(collect(project))


def test_a_missing_evaluation_is_named(project):
    path = project / "results" / "run" / "evaluate" / "actions-implicit_warping-1" / "scores.csv"
    path.unlink()
    with pytest.raises(UserError, match=re.escape(str(path))): gather(project)
    assert not (project / "results" / "run" / "scores.csv").exists()


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "\x00\x01"])
def test_a_damaged_table_of_scores_is_named(tmp_path, content):
    (tmp_path / "scores.csv").write_text(content)
    with pytest.raises(UserError, match="scores.csv: "): read_scores(tmp_path / "scores.csv")


def test_two_data_sets_with_one_name_are_refused(project):
    made = project / "results" / "run" / "evaluate"
    (made / "actions-copy-0" / "scores.csv").write_bytes((made / "puppets-copy-0" / "scores.csv").read_bytes())
    with pytest.raises(UserError, match="same run puppets-quick-copy-full-0"): collect(project)


def test_gains_are_paired_and_survive_missing_rows(project):
    gather(project)
    with_rows = read_evidence(project / "results" / "run").gains
    for path in (project / "results" / "run").rglob("rows.parquet"): path.unlink()
    gather(project)
    without = read_evidence(project / "results" / "run").gains
    assert with_rows["run"].equals(without["run"]) and np.allclose(with_rows["value"], without["value"], atol=1e-3)
    assert with_rows["low"].notna().all() and without["low"].isna().all()
    psnr = with_rows.query("metric == 'psnr' and minus == 'sources=1' and sources == 2")
    # The clips differ by up to 0.8 dB; what a source adds is the same for all.
    assert (psnr["high"] - psnr["low"]).max() < 0.05
    assert set(with_rows.query("minus == 'method=copy'")["sources"]) == {1}


def test_no_column_holds_published_numbers_and_ours(project):
    promote(project)
    for table in (t for t in TABLES if t.paper == "IW" and t.metrics):
        long = pd.read_csv(project / "results" / "run" / "tables" / f"{table.name}.csv")
        assert long["published"].notna().any() and long["record"].notna().any() and long["this_run"].notna().any()
        assert not (long["published"].notna() & (long["record"].notna() | long["this_run"].notna())).any()
        assert not long.duplicated(["dataset", "method", "variant", "seed", "sources", "metric", "run"
                                    ]).any() and not set(long["metric"]) - set(published()["metric"]) - {"mkr"}
        text = (project / "results" / "run" / "tables" / f"{table.name}.md").read_text()
        heads = re.findall(r"^## (Published|Record|This run)", text, re.M)
        assert heads == sorted(heads) and set(heads) == {"Published", "Record", "This run"
                                                         } and "weights of Inception" in text and MISSING in text


def test_gains_compare_methods_once_and_gains_of_gains(three):
    gather(three)
    gains = read_evidence(three / "results" / "run").gains
    assert not gains.duplicated(["run", "sources", "metric", "minus"]).any()
    main = gains[(sweep_of(gains) == "") & (gains["metric"] == "psnr") & (gains["dataset"] == "puppets") &
                 (gains["seed"] == 0)].set_index(["method", "sources", "minus"])["value"]
    against = {(m, minus) for m, _, minus in main.index if minus.startswith("method") and minus != "method=copy"}
    assert against == {("implicit_warping", "method=fomm"), ("tpsmm", "method=fomm"),
                       ("implicit_warping", "method=tpsmm")}
    beyond = main["implicit_warping", 3, "sources=1, beyond fomm"]
    assert np.isclose(beyond, main["implicit_warping", 3, "sources=1"] - main["fomm", 3, "sources=1"],
                      atol=1e-3) and np.isclose(beyond, 0.8, atol=0.03)
    assert ("implicit_warping", 1,
            "sources=1, beyond fomm") not in main.index and ("fomm", 3, "sources=1, beyond tpsmm") not in main.index
    modes = gains[gains["minus"].str.startswith("mode=")]
    assert set(zip(modes["metric"], modes["minus"])) == {("cross_psnr_own", "mode=absolute"),
                                                         ("cross_psnr_avd", "mode=absolute"),
                                                         ("cross_psnr_avd", "mode=relative")} and set(
                                                             modes["sources"]) == {1}
    pairs = gains[sweep_of(gains) == "tpsmm_transformations"][["method", "variant", "minus"]].drop_duplicates()
    same_size = {(v, m) for _, v, m in pairs.itertuples(index=False) if m.startswith("method")}
    assert {x
            for x in same_size if "variant" in x[1]} == {(f"k{2 * n}", f"method=fomm, variant=k{5 * n}")
                                                         for n in (1, 2, 4)}


def test_tables_of_tpsmm(three):
    promote(three)
    folder = three / "results" / "run" / "tables"
    expected = {"tpsmm_table1": 2 * 3, "tpsmm_table3": 6 * 3 + 1, "tpsmm_table4": 5 * 3 + 1, "cross": 2 * (2 + 3)}
    for name, rows in expected.items():
        text = (folder / f"{name}.md").read_text()
        blocks = [b for b in text.split("\n## ")[1:] if b.startswith("This run")]
        assert sum(len([l for l in b.splitlines() if l.startswith("| ")]) - 2 for b in blocks) == rows
        if name == "cross": continue
        assert "AED: not available" in text and "no row of ours" in text and text.count("## Published") == (
            4 if name == "tpsmm_table1" else 1)
        long = pd.read_csv(folder / f"{name}.csv")
        assert long["published"].notna().any() and (
            long["this_run"].notna()
            == long["record"].notna()).all() and not (long["published"].notna() & long["this_run"].notna()).any()
        assert not long.duplicated(["dataset", "method", "variant", "seed", "sources", "metric", "run"]).any() and set(
            long["method"]) <= {"copy", "fomm", "tpsmm", "mraa", "x2face", "monkeynet"}
    order = [
        l.split("|")[2].strip()
        for l in (folder / "tpsmm_table4.md").read_text().split("\n## This run")[1].splitlines()
        if l.startswith("| TPSMM")
    ]
    assert order[::3] == ["TPS", "+ dropout", "+ multi-resolution masks", "+ background loss", "+ warp loss (full)"]
    assert all(method in (folder / "iw_table2.md").read_text().split("\n## This run")[1]
               for method in ("FOMM", "TPSMM", "Implicit Warping"))
    # The sweeps of TPSMM have a variant `full` too, and are no lines of IW's table of components.
    assert set(pd.read_csv(folder / "iw_table5.csv").dropna(subset="this_run")["method"]) == {
        "copy", "implicit_warping"
    }


def blocks_of(text, start): return [b for b in text.split("\n## ")[1:] if b.startswith(start)]


def test_tables_of_lia(lia):
    folder = lia / "results" / "run" / "tables"
    rows_of = {"lia_table1": 2 * (1 + 4), "lia_table2": 2 * (2 + 3 + 2), "lia_table4": 2 * 3 + 1,
               "lia_table5": 5 * 3 + 1, "lia_table6": 2}
    for name, rows in rows_of.items():
        text = (folder / f"{name}.md").read_text()
        assert sum(len([l for l in b.splitlines() if l.startswith("| ")]) - 2
                   for b in blocks_of(text, "This run")) == rows, name
        assert "not run" in blocks_of(text, "Record")[0] and len(blocks_of(text, "What is missing")) == 1
        long = pd.read_csv(folder / f"{name}.csv")
        assert long["published"].notna().any() and long["this_run"].notna().any() and not (
            long["published"].notna() & long["this_run"].notna()).any()
    order = [
        l.split("|")[1].strip() for l in blocks_of((folder / "lia_table5.md").read_text(), "This run")[0].splitlines()
        if l.startswith("| M")
    ]
    assert order[::3] == ["M = 5", "M = 10", "M = 20", "M = 40", "M = 100"]
    assert "video FID" in (folder / "lia_table2.md").read_text() and "LIA: no row" not in (
        folder / "lia_table1.md").read_text()
    for name in ("iw_table3", "tpsmm_table2", "lia_table3"):
        text = (folder / f"{name}.md").read_text()
        assert "Nobody was asked" in text and not blocks_of(text, "This run") and not blocks_of(text, "Record")


def test_verdicts_on_lia(lia):
    found = verdicts(lia)
    good = {
        "lia_l1", "lia_motion", "lia_no_structure", "lia_dictionary", "lia_dictionary_identity",
        "lia_twenty_directions", "lia_few_directions", "lia_relative", "lia_cross_identity"
    }
    assert not {c: found[c] for c in good if found[c] != "reproduced"}
    assert found["lia_people_prefer"] == found["lia_orthogonal"] == "not tested"
    # Earlier lines compare the methods of the papers with each other, and LIA with the baseline, once each.
    gains = read_evidence(lia / "results" / "run").gains.query("metric == 'psnr' and sources == 1")
    pairs = {(m, minus)
             for m, minus in zip(gains["method"], gains["minus"])
             if minus in ("method=fomm", "method=lia", "method=tpsmm")}
    assert pairs >= {("lia", "method=fomm"), ("implicit_warping", "method=lia"),
                     ("tpsmm", "method=lia")} and ("lia", "method=tpsmm") not in pairs


# ---- forms
# ----------------------------------------------------------------------------------------------------------------------

NASTY = Block("50 % of A_B & C", pd.DataFrame({
    "a_1 ↑": ["[0, 1]", "x|y"],
    "b": [r"\{}~^$#", "1 ± 2"]
}), ("100 % `sure`", ))


def test_latex_is_escaped_and_balanced():
    text = to_latex("T_1", [NASTY, Block("none", None, ("nothing_here",))])
    body = text.split("\n", 1)[1]
    assert body.count(r"\begin{") == body.count(r"\end{") == 3
    assert not re.search(r"(?<!\\)[%#_~^↑±|`]", body.replace("x|y", "")) and r"\textbackslash{}\{\}" in body
    rows = [l for l in body.splitlines() if l.endswith(r"\\")]
    assert len(rows) == 3 and all(len(re.findall(r"(?<!\\)&", r)) == 1 for r in rows)
    # LaTeX would read a bracket after \\ as the height of the row.
    assert not any(r.startswith("[") for r in rows) and escape_latex("a&b") == r"a\&b"


def test_markdown_rows_have_equal_cells():
    lines = [l for l in to_markdown("T", [NASTY]).splitlines() if l.startswith("|")]
    assert len(lines) == 4 and len({len(re.findall(r"(?<!\\)\|", l)) for l in lines}) == 1


# ---- verdicts
# ----------------------------------------------------------------------------------------------------------------------

def test_verdicts_have_five_ends(project):
    gather(project)
    found = verdicts(project)
    assert found["more_sources_psnr"] == found["more_sources_l1"] == found["gain_size"] == found[
        "better_than_copy"] == found["residual_helps"] == "reproduced"
    # L1 alone was measured
    assert found["extra_keys_help"] == "contradicted" and found["residual_all_metrics"] == "unresolved"
    assert found["more_sources_lpips"] == found["more_sources_akd"] == found["better_than_fomm"] == found[
        "compact_code"] == "not tested"
    pooled = project / "results" / "run" / "tables" / "pooled.csv"
    table = pd.read_csv(pooled)
    table[table["dataset"] != "actions"].to_csv(pooled, index=False)
    assert verdicts(project)["more_sources_psnr"] == "unresolved"
    worse = table["dataset"].eq("actions") & table["minus"].eq("sources=1")
    table.assign(**{
        k: table[k].where(~worse, v)
        for k, v in dict(value=-1.0, low=-1.1, high=-0.9).items()
    }).to_csv(pooled, index=False)
    assert verdicts(project)["more_sources_psnr"] == "mixed"


def set_pooled(root, which, **values):
    "Writes `values` into the lines of the pooled table of a run whose opponent `which` accepts."
    path = root / "results" / "run" / "tables" / "pooled.csv"
    table = pd.read_csv(path).fillna(dict(minus=""))
    table.loc[table["minus"].map(which), list(values)] = list(values.values())
    table.to_csv(path, index=False)


@pytest.mark.parametrize("value, low, high, word",
                         [(0.5, 0.4, 0.6, "reproduced"), (0.5, -0.1, 1.1, "unresolved"),
                          (0.5, np.nan, np.nan, "unresolved"), (-0.1, -0.3, 0.1, "unresolved"),
                          (-0.2, -0.3, -0.1, "contradicted")])
def test_a_difference_needs_an_interval_clear_of_zero(project, value, low, high, word):
    gather(project)
    set_pooled(project, lambda minus: "variant" in minus, value=value, low=low, high=high)
    found = find_verdict(claim("residual_helps"), read_evidence(project / "results" / "run"))
    assert found.word == word and ("could be seen" in found.reason) == (word == "unresolved" and low == low)


@pytest.mark.parametrize("value, low, high, word", [(0.9, 0.85, 0.95, "reproduced"), (0.9, 0.7, 1.1, "unresolved"),
                                                    (0.7, 0.65, 0.75, "contradicted")])
def test_a_bound_that_is_not_zero_is_kept_by_the_whole_interval(project, value, low, high, word):
    "Three sources must gain 0.8 dB at least: an interval clear of zero is not enough."
    gather(project)
    set_pooled(project, lambda minus: minus == "sources=1", value=value, low=low, high=high)
    quantity = claim("gain_size").quantities[0]
    assert judge(measure(quantity, read_evidence(project / "results" / "run")).value, claim("gain_size").rule) == word


def test_a_base_that_does_not_beat_copying_is_not_judged(project):
    gather(project)
    set_pooled(project, lambda minus: minus == "method=copy", low=-0.1)
    found = find_verdict(claim("residual_helps"), read_evidence(project / "results" / "run"))
    assert found.word == "not tested" and found.reason.startswith("the base does not clearly beat copying")
    set_pooled(project, lambda minus: minus == "method=copy", minus="nobody=0")
    assert "no copy of the source was scored" in find_verdict(claim("residual_helps"),
                                                              read_evidence(project / "results" / "run")).reason


def test_what_holds_by_construction_is_shown_and_not_counted(project):
    claims = read_claims(ROOT / "claims.yaml")
    checks = [c for c in claims if c.kind != "claim"]
    assert {"compact_code", "lia_orthogonal", "better_than_copy"} <= {c.id for c in checks}
    gather(project)
    evidence = read_evidence(project / "results" / "run")
    counted = count_verdicts(claims, [find_verdict(c, evidence) for c in claims])
    assert sum(map(sum, counted.values())) == len(claims) - len(checks)
    assert "our sanity check, passed" in show_claims(project)


def test_seeds_of_record_say_what_repeats_it():
    m = lambda *values: Measured(Interval(float(np.mean(values)), 0.0, 1.0, 40, 1120), list(values))
    rule = Rule(0.3, above=0)
    # by 0.01: far below the constant, far above the spread
    assert compare_runs(rule, m(0.020, 0.022, 0.018), m(0.030)) == "differs"
    assert compare_runs(rule, m(0.020, 0.022, 0.018), m(0.024)) == "agrees" and compare_runs(rule, m(0.02),
                                                                                             m(0.3)) == "agrees"


def test_verdicts_on_methods_and_their_components(three):
    gather(three)
    found = verdicts(three)
    good = {
        "better_than_fomm", "tpsmm_l1", "tpsmm_motion", "tpsmm_same_size", "tpsmm_dropout", "tpsmm_masks",
        "tpsmm_background_loss", "tpsmm_warp_loss", "tpsmm_avd"
    }
    assert not {c: found[c] for c in good if found[c] != "reproduced"}
    absent = {"tpsmm_better_than_mraa", "tpsmm_continuity", "tpsmm_people_prefer", "better_than_fv2v"}
    assert {found[c] for c in absent | {"tpsmm_dimension"}} == {"not tested"}
    assert found["prior_work_gets_worse"] == "unresolved"  # of two methods it holds, the third has no run
    promote(three)
    assert verdicts(three, "record") == found


def test_sweeps_and_smoke_runs_are_no_evidence_for_main_claims(project):
    gather(project)
    evidence, quantity = read_evidence(project / "results" / "run"), claim("more_sources_psnr").quantities[0]
    assert len(measure(quantity, evidence).by_seed) == 2
    for table in (evidence.scores, evidence.gains, evidence.pooled): table.loc[sweep_of(table) == "", "scale"] = "smoke"
    assert measure(quantity, evidence) is None


def test_evidence_beyond_scores(project):
    gather(project)
    made = project / "results" / "run"
    config = dict(size=32, keypoints=5, width=16, levels=2, ceiling=16, features=16, values=16, blocks=1, extra=4)
    write_json(
        made / "train" / "puppets-implicit_warping-0" / "run.json",
        dict(dataset="puppets", scale="quick", method="implicit_warping", variant="full", seed=0,
             config=dict(model=config)))
    write_json(
        made / "figures" / "puppets_sparsity.json",
        dict(share=0.008, share_low=0.007, share_high=0.009, psnr_8_less_all=-0.5, psnr_8_less_all_low=-0.6,
             psnr_8_less_all_high=-0.4, clips=6))
    write_json(made / "figures" / "puppets_strengths.json", dict(correlation=0.2, low=0.1, high=0.3, clips=5))
    found = verdicts(project)
    assert found["compact_code"] == found["strength_follows_visibility"] == "reproduced" and found[
        "sparse_attention"] == "mixed"
    promote(project)
    assert verdicts(project, "record") == found
    for numbers, word in ((dict(correlation=0.2, low=-0.1, high=0.5), "unresolved"), (dict(
            correlation=-0.2, low=-0.3, high=-0.1), "contradicted"), (dict(correlation=None, low=None,
                                                                           high=None), "not tested")):
        write_json(made / "figures" / "puppets_strengths.json", numbers)
        assert verdicts(project)["strength_follows_visibility"] == word


@pytest.mark.parametrize("old, new, message", [
    ("  rule: {above: 0, tolerance: 0.3}\n", "", "more_sources_psnr measures something and has no rule"),
    ("{above: 0, tolerance: 0.3}", "{above: 0, below: 1, tolerance: 0.3}", "exactly one of"),
    ("- id: more_sources_psnr", "- name: more_sources_psnr", "no parameter 'name'"),
    ("id: gain_size", "id: more_sources_psnr", "more_sources_psnr stands there twice"),
    ("metric: psnr", "metrik: psnr", "did you mean 'metric'"),
])
def test_a_claim_must_be_well_formed(tmp_path, old, new, message):
    (tmp_path / "claims.yaml").write_text((ROOT / "claims.yaml").read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=message): read_claims(tmp_path / "claims.yaml")


def test_claims_are_many_and_not_typed_twice():
    claims = read_claims(ROOT / "claims.yaml")
    assert len(claims) >= 40 and {c.paper for c in claims} == {"IW", "TPSMM", "LIA"}
    assert all(c.quantities or c.reason for c in claims) and len({c.title for c in claims}) == len(claims)
    lines = [
        l for l in (ROOT / "claims.yaml").read_text().splitlines() if l.startswith("  - ") or l.startswith("  reason: ")
    ]
    assert not {l for l in lines if lines.count(l) > 1 and not l.startswith("  reason: *") and l not in REPEATED}


REPEATED = {
    "  - supports a direction or an order, never an absolute value of the paper", "  - as for the claim on L1",
    "  reason: not measured yet"
}


def test_the_screen_works_with_any_part_of_the_evidence(project):
    nothing = show_claims(project)
    assert "0 reproduced" in nothing and "no record" not in nothing and nothing.count("agrees") == 0
    gather(project)
    run_only = show_claims(project)
    assert "reproduced*" in run_only and "no record" in run_only
    promote(project)
    both = show_claims(project)
    assert "reproduced*" not in both and "agrees" in both and "differs" not in both
    gains = project / "results" / "run" / "tables" / "gains.csv"
    pd.read_csv(gains).assign(value=lambda t: t["value"] + 5).to_csv(gains, index=False)
    assert "differs" in show_claims(project)
    (project / "results" / "run").rename(project / "gone")
    record_only = show_claims(project)
    assert "not run" in record_only and "reproduced" in record_only
    assert max(len(l) for text in (nothing, run_only, both, record_only) for l in text.splitlines()) <= 100
    # Every claim is there whether or not it was tested, and what was tested in two lines.
    assert all(c.title in " ".join(text.split()) for c in read_claims(ROOT / "claims.yaml") for text in (nothing, both))


# ---- evidence that is missing or old
# -------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def promoted(tmp_path_factory):
    "The made-up project with run records and the numbers of a figure, as the record."
    project = make_project(tmp_path_factory.mktemp("promoted"))
    made = project / "results" / "run"
    for dataset in ("puppets", "actions"):
        for seed in (0, 1):
            about = dict(dataset=dataset, scale="quick", method="implicit_warping", variant="full", seed=seed)
            write_json(made / "train" / f"{dataset}-implicit_warping-{seed}" / "run.json",
                       about | dict(seconds=600 + seed, config=dict(model=dict(size=32))))
    for variant in ("plain", "residual", "full"):
        for seed in (0, 1):
            write_json(made / "ablations" / "components" / f"{variant}-{seed}" / "run.json",
                       dict(variant=variant, seed=seed))
    write_json(made / "figures" / "puppets_strengths.json", dict(correlation=0.2, low=0.1, high=0.3, clips=5))
    promote(project)
    return project


def test_a_run_of_record_is_the_one_whose_weights_were_scored(project):
    gather(project)
    scores = read_evidence(project / "results" / "run").scores
    line = scores.query("run == 'puppets-quick-implicit_warping-full-0'").iloc[0]
    for name in ("mine", "puppets"):
        folder = project / "results" / "run" / "train" / f"{name}-implicit_warping-0"
        write_json(folder / "run.json", line[["dataset", "scale", "method", "variant", "seed"]].to_dict())
        (folder / "weights.safetensors").write_bytes(name.encode())
    scored = project / "results" / "run" / "evaluate" / "puppets-implicit_warping-0" / "rows.parquet"
    write_json(scored.parent / "scored.json", dict(weights=sha256(folder / "weights.safetensors")))
    assert training_folder(project, line, scored_weights(scored)) == folder
    (folder / "weights.safetensors").write_bytes(b"trained again")
    with pytest.raises(UserError, match="not those that were scored"): promote(project)


def test_parts_of_a_killed_writer_are_not_read(recorded):
    (recorded / "rows" / "components" / ".puppets.1@here.part.parquet").write_bytes(b"half")
    (recorded / "runs" / ".puppets.1@here.part.json").write_bytes(b"half")
    assert record_rows(recorded) and stale(recorded) == []
    assert read_evidence(recorded).run_records() and training_table(read_evidence(recorded))


@pytest.fixture
def recorded(promoted, tmp_path):
    "The record of a copy of `promoted`."
    return shutil.copytree(promoted, tmp_path / "copy") / "results" / "record"


def stale(record): return stale_evidence(read_claims(ROOT / "claims.yaml"), read_evidence(record))


def test_fresh_evidence_is_accepted(recorded): assert stale(recorded) == []


def touch_run(record):
    "The run was trained again: all as before, but for the seconds."
    path = record / "runs" / "puppets-quick-implicit_warping-full-0.json"
    write_json(path, json.loads(path.read_text()) | dict(seconds=1))


def lose_run(record): (record / "runs" / "components" / "puppets-ablation-implicit_warping-plain-0.json").unlink()
def lose_figure(record): (record / "figures" / "puppets_strengths.json").unlink()
def lose_seal(record): (record / "evidence.json").unlink()
def old_gains(record):
    save_table(record / "scores.csv",
               read_scores(record / "scores.csv").assign(value=lambda t: t["value"] + t["sources"]))


def old_figure(record):
    "A run and its scores are renewed, a figure is not."
    touch_run(record)
    seal(record, read_scores(record / "scores.csv"), [])


@pytest.mark.parametrize("harm, message",
                         [(touch_run, "scores.csv: puppets-quick-implicit_warping-full-0: not the scores"),
                          (lose_run, "scores.csv: components/puppets-ablation-implicit_warping-plain-0"),
                          (old_gains, "gains.csv: puppets-quick-implicit_warping-full-0"),
                          (old_figure, "puppets_strengths.json: older than puppets-quick-implicit_warping-full-0"),
                          (lose_seal, "puppets_strengths.json: missing")])
def test_evidence_that_is_missing_or_older_than_its_run_is_found(recorded, harm, message):
    harm(recorded)
    assert any(message in line for line in stale(recorded))


def test_a_figure_that_is_gone_is_missed_where_other_evidence_gives_a_verdict(recorded):
    write_json(
        recorded / "figures" / "puppets_sparsity.json",
        dict(share=0.008, share_low=0.007, share_high=0.009, psnr_8_less_all=-0.5, psnr_8_less_all_low=-0.6,
             psnr_8_less_all_high=-0.4, clips=6))
    assert any("actions_sparsity.json: missing" in line for line in stale(recorded))
    lose_figure(recorded)  # the only evidence of its claim, which is then not tested
    assert not any("strengths" in line for line in stale(recorded))


def test_no_evidence_of_record_is_missing_or_older_than_its_run():
    if not (ROOT / "results" / "record" / "scores.csv").is_file(): pytest.skip("no record yet")
    assert stale(ROOT / "results" / "record") == []


def test_baselines_are_shown_once_they_were_scored(project):
    """A system that `make baselines` adds is in the tables as soon as every seed of it has scores, and nothing waits
    for it."""
    (project / "params.yaml").write_text(PARAMS.replace("seeds: [0, 1]", "seeds: [0, 1], baselines: [mraa]"))
    def score(seed):
        folder = project / "results" / "run" / "evaluate" / f"puppets-mraa-{seed}"
        save_table(folder / "scores.csv", add_run(folder, "puppets", "mraa", "full", seed, 23, 0.2))
    for seeds, shown in (((), False), ((0,), False), ((1,), True)):
        for seed in seeds: score(seed)
        assert ("mraa" in set(collect(project)["method"])) is shown


# ---- the record
# ----------------------------------------------------------------------------------------------------------------------

def test_promoting_replaces_the_same_run_and_keeps_others(project):
    promote(project)
    record = project / "results" / "record"
    first = read_evidence(record)
    (project / "params.yaml").write_text(PARAMS.replace("[puppets, actions]", "[puppets]").replace("[0, 1]", "[0]"))
    folder = project / "results" / "run" / "evaluate" / "puppets-implicit_warping-0"
    save_table(folder / "scores.csv", add_run(folder, "puppets", "implicit_warping", "full", 0, 30, 0.5))
    promote(project)
    second = read_evidence(record)
    changed = first.scores["run"] == "puppets-quick-implicit_warping-full-0"
    assert list(first.scores["run"]) == list(second.scores["run"]) and len(first.gains) == len(second.gains)
    assert first.scores[~changed].equals(
        second.scores[~changed]) and (second.scores[changed & (first.scores["metric"] == "psnr")]["value"] > 30).all()
    assert in_order(second.scores.sample(frac=1, random_state=0)).equals(second.scores) and merge(
        second.scores, second.scores).equals(second.scores)


MARKERS = "".join(f"<!-- {name}: generated -->\n<!-- /{name} -->\n" for name in ("picture", "papers", "found"))


def test_readme_drift_is_noticed(project):
    readme = project / "README.md"
    for text in ("nothing", MARKERS.replace("<!-- /found -->",
                                            ""), MARKERS * 2, MARKERS.replace("/found",
                                                                              "x").replace("found:", "/found:")):
        readme.write_text(text)
        with pytest.raises(UserError, match="README.md: needs the lines"): update_readme(project)
    readme.write_text(f"# A\n{MARKERS}\nlast\n")
    promote(project)
    pages = [readme, project / "results" / "record" / "README.md", project / "results" / "record" / "claims.md"]
    assert readme_drift(project) == pages
    update_readme(project)
    kept = [p.read_text() for p in pages]
    assert readme_drift(project) == [] and kept[0].startswith("# A\n") and kept[0].endswith("\nlast\n")
    update_readme(project)
    assert [p.read_text() for p in pages] == kept
    write_json(project / "results" / "run" / "tables" / "headline.json", {})  # of the run, which README does not show
    assert readme_drift(project) == []
    pages[2].write_text(kept[2].replace("unresolved", "reproduced"))
    assert readme_drift(project) == pages[2:]
    update_readme(project)
    scores = project / "results" / "record" / "scores.csv"
    save_table(scores, read_scores(scores).assign(value=1.0))
    assert readme in readme_drift(project)


def test_readme_says_when_the_record_is_of_an_older_recipe(project):
    readme = project / "README.md"
    readme.write_text(MARKERS)
    run = project / "results" / "record" / "runs" / "puppets-quick-fomm-full-0.json"
    section = load_params(ROOT / "params.yaml").methods["fomm"]["quick"]
    (project / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    model, steps = section["model"], section["train"]["steps"]
    young = {k: v for k, v in model.items() if k != "carry"}  # made before there was such a parameter
    for model, steps, older in ((model, steps, False), (model, steps + 1, True), (young, steps, True)):
        about = dict(dataset="puppets", scale="quick", method="fomm", variant="full", seed=0)
        write_json(run, dict(about, config=dict(model=model, train=dict(steps=steps, gone=1))))
        update_readme(project)
        assert ("older recipe" in readme.read_text()) is older


def test_the_page_of_claims_tells_all(recorded):
    page, claims = claims_page(recorded.parents[1]), read_claims(ROOT / "claims.yaml")
    assert page.count("\n### ") == len(claims) and all(f'<a id="{c.id}"></a>' in page and c.published in page
                                                       for c in claims)
    first = page.split('<a id="more_sources_psnr"></a>')[1].split("\n### ")[0]
    line = next(l for l in first.splitlines() if l.startswith("| puppets, 2 over 1"))
    # both seeds together, and one by one
    assert line.count("; ") == 1 and line.endswith("| reproduced |") and line.count("[") == 1
    linked = re.findall(r"claims\.md#(\w+)", record_page(recorded.parents[1]))
    assert linked and set(linked) <= {c.id for c in claims}


def test_readme_of_the_project_says_what_the_record_says():
    if not (ROOT / "README.md").is_file() or not (ROOT / "results" / "record" / "scores.csv").is_file():
        pytest.skip("no README.md or no record yet")
    assert not readme_drift(
        ROOT), "the results in README.md are not those of results/record; write them anew (animrepro readme)"
    assert len(
        (ROOT / "README.md"
         ).read_bytes()) <= 8192, "README is a front page: 8 KB at most; what is long goes to results/record/README.md"


def test_the_record_is_complete():
    "Every run of record has its own record, in the order that `promote` writes."
    record = ROOT / "results" / "record"
    if not (record / "scores.csv").is_file(): pytest.skip("no record yet")
    scores = read_scores(record / "scores.csv")
    assert in_order(scores).equals(scores)
    trained = scores[(scores["method"] != "copy") & (sweep_of(scores) == "")]["run"].unique()
    assert not [r for r in trained if not (record / "runs" / f"{r}.json").is_file()], "run records are missing"
    assert (record / "tables" / "gains.csv").is_file() and all(
        json.loads(p.read_text()) for p in record.rglob("*.json"))


# ---- the record, computed again
# ------------------------------------------------------------------------------------------------------

def edit_csv(path, **values):
    "Writes `values` into the first line of a table that has PSNR."
    table = pd.read_csv(path)
    table.loc[table.index[table["metric"] == "psnr"][0], list(values)] = list(values.values())
    save_table(path, table)


def edit_row(record):
    path = record / "rows" / "puppets-quick-implicit_warping-full-0.parquet"
    rows = pd.read_parquet(path)
    save_rows(path, rows.assign(psnr=rows["psnr"] + (rows["frame"] == 0)))


def edit_table(record):
    path = record / "tables" / "iw_table1.md"
    path.write_text(path.read_text().replace("0, 1", "0"))


def test_the_record_follows_from_its_rows(recorded):
    found = check_record(recorded.parents[1])
    assert found.differences == [] and found.left_out == []
    assert found.counts["verdicts"] == len(read_claims(ROOT / "claims.yaml")) and min(
        found.counts["scores"], found.counts["gains"], found.counts["pooled"], found.counts["tables"]) > 50
    assert json.loads((recorded / "evidence.json").read_text())["without_rows"] == {}


@pytest.mark.parametrize("harm, starts", [
    (lambda record: edit_csv(record / "scores.csv", value=9.0), {"scores: ", "pooled: ", "tables/gains.csv: "}),
    (lambda record: edit_csv(record / "tables" / "gains.csv", low=-9.0), {"gains: "}),
    (lambda record: edit_csv(record / "tables" / "pooled.csv", high=9.0), {"pooled: ", "tables/"}),
    (edit_table, {"tables/iw_table1.md: line "}),
    (edit_row, {"rows: puppets-quick-implicit_warping-full-0: not the file", "scores: ", "gains: ", "pooled: "}),
    (lambda record:
     (record / "rows" / "puppets-quick-copy-full-0.parquet").unlink(), {"rows: puppets-quick-copy-full-0: missing"}),
])
def test_a_record_that_was_changed_by_hand_is_found(recorded, harm, starts):
    harm(recorded)
    found = check_record(recorded.parents[1]).differences
    assert not [s for s in starts if not any(d.startswith(s) for d in found)] and found
    with pytest.raises(UserError, match="differences, listed above"): recompute(recorded.parents[1])


def test_the_record_of_the_project_is_computed_again():
    if not (ROOT / "results" / "record" / "scores.csv").is_file(): pytest.skip("no record yet")
    assert check_record(ROOT).differences == []
