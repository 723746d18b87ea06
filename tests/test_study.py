"""A study with people, as a rater and as its author meet it: clicks, crashes, a second visit, and numbers that can be
checked by hand."""
import math
import numpy as np, pandas as pd, pytest
from animrepro.core import UserError
from animrepro.data.puppets import render, sample_identity, sample_motion
from animrepro.data.video import read_frames, write_video
from animrepro.study import (QUESTIONS, Booth, Study, clips_of, fleiss, preference, publish, read_votes, remaining,
    results, store_vote, trials, vote_file)
from animrepro.evidence import Evidence
from animrepro.tables import TABLES, missing_block, study_blocks

CLIPS, FIRST = 6, QUESTIONS["TPSMM"]["continuity"]


@pytest.fixture
def study(tmp_path):
    "Two methods' outputs for the same six clips, in different pictures, and TPSMM's two questions."
    for method in ("ours", "theirs"):
        for i in range(CLIPS):
            write_video(tmp_path / method / f"{i}.mp4",
                        render(sample_identity(i + (method == "ours") * 50), sample_motion(i, 3), 32).frames, 10)
    return Study({"ours": tmp_path / "ours", "theirs": tmp_path / "theirs"}, tmp_path / "votes", "TPSMM")


def click(booth, side): booth.buttons[side].click()


def pictures(video: bytes, folder):
    "Decoded, since an encoder need not give the same bytes twice."
    (folder / "shown.mp4").write_bytes(video)
    return read_frames(folder / "shown.mp4").frames.astype(int)


def test_clicks_store_what_was_on_that_side(study, tmp_path):
    booth, plan = Booth(study, "anna", pause=0), trials(study, "anna")
    for i, trial in enumerate(plan):
        assert f"{i + 1} of {2 * CLIPS}: {trial.question}" in booth.text.value
        for shown, wanted in zip(booth.videos, clips_of(study, trial)):
            assert np.abs(pictures(shown.value, tmp_path) - pictures(wanted, tmp_path)).mean() < 1
        click(booth, "left" if trial.left == "ours" else "right")
        assert len(read_votes(study, "anna")) == i + 1, "a vote is on the disk before the next pair is shown"
    assert "Thank you" in booth.text.value and booth.stage.layout.display == "none"
    click(booth, "left")
    assert [v["chosen"] for v in read_votes(study, "anna")] == ["ours"] * 2 * CLIPS


def test_nothing_on_the_screen_names_a_method(study):
    booth = Booth(study, "anna")
    texts = booth.text.value + "".join(f"{b.description} {b.tooltip}" for b in booth.buttons.values())
    assert not any(word in texts for word in ("ours", "theirs", "0.mp4"))
    assert not any(word in clip for clip in clips_of(study, trials(study, "anna")[0]) for word in (b"ours", b"theirs"))


def test_a_double_click_is_one_vote(study):
    booth = Booth(study, "anna", pause=60)
    booth.shown -= 61
    click(booth, "left"), click(booth, "left")
    assert len(read_votes(study, "anna")) == 1


def test_a_rater_goes_on_where_the_kernel_died(study):
    booth = Booth(study, "anna", pause=0)
    for _ in range(5): click(booth, "right")
    before = read_votes(study, "anna")
    with vote_file(study, "anna").open("ab") as f: f.write(b'{"rater": "anna", "pai')
    again = Booth(study, "anna", pause=0)
    assert read_votes(study, "anna") == before and again.todo == trials(study, "anna")[5:]
    click(again, "right")
    assert read_votes(study, "anna")[:5] == before and remaining(study, "anna") == trials(study, "anna")[6:]


def test_order_and_sides_are_the_raters_own(study):
    plans = [trials(study, f"rater-{i}") for i in range(20)]
    assert plans[0] == trials(study, "rater-0") and len({tuple(p) for p in plans}) > 15
    assert trials(Study(study.methods, study.votes, "TPSMM", seed=1), "rater-0") != plans[0]
    for plan in plans:
        assert sum(t.left == "ours" for t in plan) == CLIPS, "half of the pairs, two questions each"
        assert sorted((t.pair, t.question) for t in plan) == sorted(
            (f"{i}.mp4", q) for i in range(CLIPS) for q in QUESTIONS["TPSMM"].values())
    assert len({next(t.left for t in p if t.pair == "0.mp4") for p in plans}) == 2


def test_videos_that_can_be_told_apart_are_refused(study):
    write_video(study.methods["ours"] / "0.mp4", render(sample_identity(0), sample_motion(0, 4), 32).frames, 10)
    with pytest.raises(UserError, match="0.mp4: . frames .* make both alike"):
        clips_of(study, next(t for t in trials(study, "anna") if t.pair == "0.mp4"))
    booth = Booth(study, "anna", pause=0)
    for _ in range(2 * CLIPS): click(booth, "left")
    assert "make both alike" in booth.text.value and "0.mp4" not in {v["pair"] for v in read_votes(study, "anna")}
    (study.methods["ours"] / "1.mp4").unlink()
    with pytest.raises(UserError, match="1.mp4 is in one folder only"): trials(study, "anna")


def test_votes_of_another_study_and_bad_names_are_refused(study):
    store_vote(study, "anna", trials(study, "anna")[0], "left", 1)
    with pytest.raises(UserError, match="another study"): remaining(Study(study.methods, study.votes, seed=1), "anna")
    for name in ("", "../anna", "a b"):
        with pytest.raises(UserError, match="not a usable name"): remaining(study, name)


def test_a_vote_that_cannot_be_written_is_said_and_asked_again(study):
    study.votes.touch()  # a file where the folder should be
    booth = Booth(study, "anna", pause=0)
    click(booth, "left")
    assert "cannot be written" in booth.text.value and len(booth.todo) == 2 * CLIPS
    study.votes.unlink()
    click(booth, "left")
    assert len(read_votes(study, "anna")) == 1


def test_exact_intervals():
    "No success in n: the upper limit is 1 - 0.025**(1 / n). Symmetric in the two methods."
    assert preference(0, 20) == (0, 0, pytest.approx(1 - 0.025 ** (1 / 20)))
    assert preference(8, 20)[1:] == pytest.approx([1 - x for x in preference(12, 20)[:0:-1]])
    with pytest.raises(UserError, match="no votes"): preference(0, 0)


def test_kappa_and_where_it_is_undefined():
    assert fleiss([[2, 0], [0, 2]]).kappa == pytest.approx(1) and fleiss([[1, 1], [1, 1]]).kappa == pytest.approx(-1)
    for counts, why in (([[1, 0], [0, 1]], "two raters"), (np.zeros(
        (0, 2), int), "two raters"), ([[2, 0], [3, 0]], "different numbers"), ([[3, 0],
                                                                                [3, 0]], "all votes are the same")):
        found = fleiss(counts)
        assert math.isnan(found.kappa) and why in found.why


def test_results_by_hand(study):
    "Anna finds `ours` better in all, Ben in three of six, and Cara stopped after two pairs."
    for rater, ours, answers in (("anna", CLIPS, CLIPS), ("ben", 3, CLIPS), ("cara", 2, 2)):
        seen = [t for t in trials(study, rater) if t.question == FIRST][:answers]
        for i, trial in enumerate(seen):
            store_vote(study, rater, trial, "left" if (trial.left == "ours") == (i < ours) else "right", 1)
    line = results(study).loc[FIRST]
    assert (line.votes, line.pairs, line.raters, line.common_pairs) == (14, 6, 3, 2)
    assert (line.preferred, line.low, line.high) == pytest.approx(preference(11, 14))
    assert line.pairs_low <= line.preferred <= line.pairs_high


def test_votes_reach_the_table_of_their_paper(study, tmp_path):
    "From clicks to TPSMM's Table 2: a block of ours, with the votes that each percentage rests on."
    for trial in trials(study, "anna"): store_vote(study, "anna", trial, "left" if trial.left == "ours" else "right", 1)
    run = Evidence(tmp_path / "run", *[pd.DataFrame()] * 2)
    table = next(t for t in TABLES if t.name == "tpsmm_table2")
    assert study_blocks(table, "This run", run) == [] and "Nobody was asked" in missing_block(table, run)[0].notes[0]
    publish(study, "puppets", run.folder / "studies")
    block, = study_blocks(table, "This run", run)
    assert block.cells[["preferred, %", "votes", "pairs", "raters"]].values.tolist() == [["100.0", CLIPS, CLIPS, 1]] * 2
    assert block.cells["question"].tolist() == list(QUESTIONS["TPSMM"].values()) and missing_block(table, run) == []
    assert study_blocks(next(t for t in TABLES if t.name == "iw_table3"), "This run", run) == []
