"write_figures makes every file that the README and the claims refer to."
import json
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from animrepro.core import UserError, load_params, to_uint8
from animrepro.data.catalog import dataset_entry, prepare
from animrepro.data.puppets import render
from animrepro.data.store import FrameStore
from animrepro.evaluate import EvaluateConfig, Instruments, evaluate, run_name, save_rows, save_table, summarise
from animrepro.checkpoint import load_weights
from animrepro.figures.attention import puppet_of, shown_by, strength_numbers, strength_table, weights_by_kind
from animrepro.figures.frames import (Example, animation, busiest_column, colour_of, continuity_figure, examples,
    held, reconstruction_rows)
from animrepro.figures.motion import (blending, candidates, contributions_figure, directions_figure, grid_figure,
    largest_maps, look_inside, masks_figure, masks_of, painted, references, spread_of)
from animrepro.figures.scores import by_gap, gap_numbers, pose_gaps, sources_figure
from animrepro.figures.write import write_figures
from animrepro.models.contract import create_model, methods
from animrepro.train import method_config, train
from animrepro.warp import make_grid

PARAMS = """
run: {datasets: [tiny], methods: [implicit_warping, tpsmm, fomm, lia], seeds: [0, 1]}
datasets: {tiny: {kind: puppets, scale: smoke, size: 32, train: 4, test: 3, frames: 8, seed: 7}}
methods:
  implicit_warping:
    smoke:
      model: {keypoints: 5, width: 16, levels: 2, ceiling: 16, features: 16, values: 16, blocks: 1, extra: 4}
      loss: {network: pixels, levels: 2}
      train: {steps: 2, batch: 2}
  tpsmm:
    smoke:
      model: {transforms: 2, resnet_width: 8, resnet_norm: group, step: 2, motion_width: 8, motion_levels: 2,
              motion_ceiling: 16, features: 8, features_ceiling: 16, down: 2, avd_width: 8, avd_shape: 4, avd_pose: 4}
      loss: {network: pixels, levels: 2}
      train: {steps: 2, batch: 2, sources: 1}
      avd: {steps: 2, batch: 4}
  fomm:
    smoke:
      model: {keypoints: 3, width: 8, levels: 2, ceiling: 16, padding: 3, step: 2, motion_width: 8, motion_levels: 2,
              motion_ceiling: 16, features: 8, features_ceiling: 16, blocks: 1, norm: group}
      loss: {network: pixels, levels: 2}
      train: {steps: 2, batch: 2, sources: 1}
  lia:
    smoke:
      model: {width: 16, directions: 5, ceiling: 16, multiplier: 0.03, grid: consistent, start: identity}
      loss: {network: pixels, levels: 2, pixel: 1.0}
      train: {steps: 2, batch: 2, sources: 1}
landmarks: {}
evaluate: {sources: [1, 2, 3]}
"""
METHOD_NAMES = ("implicit_warping", "tpsmm", "fomm", "lia")
LIA_PICTURES = ("directions", "references", "levels")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    "A project with data, two trainings per method and scores, all tiny."
    root = tmp_path_factory.mktemp("project")
    (root / "params.yaml").write_text(PARAMS)
    params, data = load_params(root / "params.yaml"), root / "data" / "tiny.zip"
    prepare("tiny", dataset_entry("tiny", params.datasets), data)
    store, run = FrameStore(data), root / "results" / "run"
    models = {("copy", 0): create_model("copy")}
    for method in METHOD_NAMES:
        config = method_config(params.methods, method, "smoke")
        for seed in (0, 1):
            models[method,
                   seed] = load_weights(train(store, method, config, seed, run / "train" / f"tiny-{method}-{seed}"))
    for (method, seed), model in models.items():
        rows = evaluate(model, store, EvaluateConfig(), Instruments(), puppets=True)
        save_rows(run / "evaluate" / f"tiny-{method}-{seed}" / "rows.parquet", rows)
        save_table(
            run / "evaluate" / f"tiny-{method}-{seed}" / "scores.csv",
            summarise(rows, dataset="puppets", scale="smoke", method=method, variant="full", seed=seed, steps=2,
                      run=run_name("puppets", "smoke", method, "full", seed)))
    return root


@pytest.fixture(scope="module")
def models(project):
    return {
        method: load_weights(project / "results" / "run" / "train" / f"tiny-{method}-0" / "weights.safetensors")
        for method in METHOD_NAMES
    }


@pytest.fixture(scope="module")
def shown(project):
    return examples(FrameStore(project / "data" / "tiny.zip"), 2)


@pytest.fixture(scope="module")
def figures(project):
    write_figures(project)
    return project / "results" / "run" / "figures"


def test_every_figure_is_there(figures):
    pictures = ("reconstruction", "choice", "strengths", "sparsity", "curves", "sources", "continuity", "contributions",
                "masks", "grid", "probe", "gap", *LIA_PICTURES)
    assert {p.name
            for p in figures.iterdir()
            } == {f"tiny_{n}.png"
                  for n in pictures} | {"tiny_animation.gif"} | {
                      f"tiny_{n}.json"
                      for n in ("sparsity", "strengths", "choice", "gap", "probe", "dictionary", "references")
                  }
    for name in pictures:
        with Image.open(figures / f"tiny_{name}.png") as picture:
            assert min(picture.size) > 150 and round(picture.info["dpi"][0]) == 150


class Glued:
    "Keypoints on the true landmarks of one test clip after the other, as strong as these are visible; or all adrift."
    def __init__(self, store, adrift=0.0):
        self.truths = [render(*puppet_of(store.clips[c]), store.size) for c in store.split("test")]
        self.adrift = adrift

    def motion(self, frames):
        truth = self.truths.pop(0)
        away = self.adrift * torch.arange(len(frames)).view(-1, 1, 1)
        return SimpleNamespace(points=torch.from_numpy(truth.landmarks) + away,
                               strengths=torch.from_numpy(truth.visible).float())


def test_strength_is_compared_with_the_visibility_of_the_place_under_a_keypoint(tmp_path):
    entry = dict(kind="puppets", scale="smoke", size=64, train=1, test=6, frames=32, seed=7)
    prepare("some", dataset_entry("some", {"some": entry}), tmp_path / "some.zip")
    store = FrameStore(tmp_path / "some.zip")
    table = strength_table(Glued(store), store)
    found = strength_numbers(table)
    assert found["compared"] > 20 and found["low"] > 0.1 and found["strength_visible"] > found["strength_hidden"] + 0.1
    assert len(table) == 6 * 32 * found["keypoints"] and table[table.follows].groupby("clip").visible.mean().min() > 0.3
    assert strength_numbers(strength_table(Glued(store, adrift=0.1), store))["follows"] < found["follows"] / 4


def test_animation_has_all_frames_and_loops(figures):
    with Image.open(figures / "tiny_animation.gif") as gif:
        assert (gif.n_frames, gif.info["loop"], gif.info["duration"]) == (8, 0, 80)
    assert (figures / "tiny_animation.gif").stat().st_size < 1_400_000


def test_numbers_beside_the_pictures(figures):
    sparsity = json.loads((figures / "tiny_sparsity.json").read_text())
    assert sparsity["keys"] == 3 * 8 * 8 + 4 and 1 <= sparsity["keys_for_90_percent"] <= sparsity["keys"]
    assert {"psnr_full", *(f"psnr_top_{k}" for k in (1, 2, 4, 8, 16))} <= set(sparsity)
    strengths = json.loads((figures / "tiny_strengths.json").read_text())
    assert json.loads((figures / "tiny_dictionary.json").read_text())["deviation"] < 1e-5
    assert json.loads((figures / "tiny_references.json").read_text())["clips"] == 3
    told = json.loads((figures / "tiny_probe.json").read_text())
    assert {
        f"{method}_motion_{name}{end}"
        for method in METHOD_NAMES
        for name in ("yaw", "skin")
        for end in ("", "_low", "_high")
    } | {"lia_appearance_skin", "lia_concentration"} <= set(told)
    choice = json.loads((figures / "tiny_choice.json").read_text())
    assert 0.5 <= choice["both_low"] <= choice["both"] <= choice["both_high"] <= 1 and choice["both_cells"] > 0
    gap = json.loads((figures / "tiny_gap.json").read_text())
    assert gap["psnr_growth"] == pytest.approx(
        gap["psnr_farthest"]
        - gap["psnr_nearest"]) and gap["psnr_growth_low"] <= gap["psnr_growth"] <= gap["psnr_growth_high"]
    assert strengths["compared"] <= strengths["follows"] <= strengths["pairs"] and strengths["keypoints"] == 5 and {
        "correlation", "low", "high"
    } <= set(strengths)


def test_figures_are_deterministic(project, figures):
    before = {p.name: p.read_bytes() for p in figures.iterdir()}
    write_figures(project)
    assert before == {p.name: p.read_bytes() for p in figures.iterdir()}


def test_what_is_missing_is_named(project):
    scores = project / "results" / "run" / "evaluate" / "tiny-copy-0" / "scores.csv"
    kept = scores.read_text()
    scores.unlink()
    try:
        with pytest.raises(UserError, match="tiny-copy-0.*run `animrepro evaluate`"): write_figures(project)
    finally: scores.write_text(kept)


def test_methods_that_were_not_trained_are_left_out(project, figures, tmp_path):
    train_folder, hidden = project / "results" / "run" / "train", []
    kept = {p.name: p.read_bytes() for p in figures.iterdir()}
    def hide(method):
        for seed in (0, 1):
            hidden.append((tmp_path / f"{method}{seed}", train_folder / f"tiny-{method}-{seed}"))
            hidden[-1][1].rename(hidden[-1][0])
    try:
        hide("tpsmm"); hide("fomm"); hide("lia")
        for file in figures.iterdir(): file.unlink()
        write_figures(project)
        assert set(kept) - {p.name
                            for p in figures.iterdir()} == {
                                f"tiny_{n}.png"
                                for n in ("contributions", "masks", "grid", *LIA_PICTURES)
                            } | {"tiny_dictionary.json", "tiny_references.json", "tiny_gap.json"}
        hide("implicit_warping")
        with pytest.raises(UserError, match="no weights for tiny; run `animrepro train`"): write_figures(project)
    finally:
        for away, home in hidden: away.rename(home)
        for name, content in kept.items(): (figures / name).write_bytes(content)


def test_only_a_method_for_sets_is_drawn_from_several_sources(models):
    one, more = reconstruction_rows(models, 3)
    assert [label for label, _ in one] == ["source 1,\ncopied", "driving", "Implicit Warping", "TPSMM", "FOMM", "LIA"]
    assert [label for label, _ in more
            ] == ["source 2", "source 3", "Implicit Warping,\n2 sources", "Implicit Warping,\n3 sources"]
    assert reconstruction_rows({"fomm": models["fomm"]}, 3)[1] == []


def test_equal_pictures_give_maps_that_do_not_move(models, shown):
    still = Example(shown[0].clip, shown[0].sources, shown[0].sources[0], shown[0].frames)
    maps, there, here = candidates(models["fomm"], still)
    # FOMM's code enlarges its flow in the other convention, which is a slight zoom: half a coarse pixel at the border.
    assert maps.shape == (4, 32, 32, 2) and torch.allclose(maps, maps[:1].expand_as(maps), atol=1e-5) and torch.equal(
        there, here)
    assert (maps[0] - make_grid(32, 32)).abs().max() < 1 / 16
    maps, there, here = candidates(models["tpsmm"], still)
    assert maps.shape == (3, 32, 32, 2) and there.shape == (2, 5, 2) and torch.equal(there, here)


@pytest.mark.parametrize("method", ["tpsmm", "fomm"])
def test_blended_maps_are_the_flow_that_the_model_used(models, shown, method):
    extras, (maps, *_) = look_inside(models[method], shown[0]).extras, candidates(models[method], shown[0])
    shares = torch.nn.functional.interpolate(extras["contributions"], (32, 32), mode="bilinear")[0]
    assert ((shares[..., None] * maps).sum(0) - extras["flow"][0]).abs().max() < 0.01


def test_masks_are_found_under_both_names(models, shown):
    sizes = {method: list(masks_of(look_inside(models[method], shown[0]).extras)) for method in ("tpsmm", "fomm")}
    assert sizes == {"tpsmm": [(8, 8), (16, 16), (32, 32)], "fomm": [(16, 16)]}
    assert list(blending(models, shown[0])) == ["tpsmm", "fomm"]


def test_figures_of_blending_models_have_a_row_per_method_and_example(models, shown):
    blends = blending(models, shown[0])
    labels = lambda fig: [text for ax in fig.axes if (text := ax.get_ylabel())]
    assert labels(contributions_figure(blends, shown)) == labels(grid_figure(
        blends, shown)) == ["TPSMM", "TPSMM", "FOMM", "FOMM"]
    assert labels(masks_figure(blends, shown)) == ["TPSMM", "FOMM", "TPSMM", "FOMM"]
    titles = [ax.get_title() for ax in masks_figure(blends, shown).axes]
    assert [t for t in titles if t.startswith("mask")] == ["mask 8 × 8", "mask 16 × 16", "mask 32 × 32"]


def test_unused_maps_are_not_drawn_as_lattices():
    shares = torch.tensor([0.5, 0.005, 0.3, 0.095, 0.1])[:, None, None].expand(-1, 4, 4)
    assert largest_maps(shares, 2) == [2, 4] and largest_maps(shares, 9) == [2, 3, 4]


def test_paint_lies_where_the_share_is():
    picture, share = torch.full((3, 2, 2), 0.5), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    red = painted(picture, share, ["#ff0000"])
    assert red[0, 0, 0] > 0.9 and red[1, 0, 0] < 0.2 and (red[:, 1] == red[0, 1, 0]).all()


def test_every_method_has_a_colour_of_its_own():
    assert len({colour_of(m) for m in methods() if m != "copy"}) == len(methods()) - 1


def test_continuity_shows_the_busiest_column_and_every_seed(models, shown):
    frames = torch.zeros(3, 3, 4, 6); frames[1, :, 1, 4] = 1
    assert busiest_column(frames) == 4
    scores = pd.DataFrame([
        dict(method=m, seed=s, sources=n, metric="jitter", value=5.0, low=4.0, high=7.0)
        for m in (*METHOD_NAMES, "copy") for s in (0, 1) for n in (1, 2)
    ])
    ours, copy = scores.query("method != 'copy'"), scores.query("method == 'copy'")
    fig = continuity_figure(models, shown, ours.query("seed == 0"), copy, ours)
    panel = fig.axes[-1]
    assert len(panel.get_yticklabels()) == 4 and dots(panel) == 4 * 2 and len(fig.axes) == 2 * 6 + 1
    labels = {ax.get_xlabel() for ax in fig.axes[:-1]}
    assert sum(label.startswith("jitter ") for label in labels) >= 3


def dots(ax):
    "How many seeds a panel shows as dots."
    return sum(len(line.get_xdata()) for line in ax.lines if line.get_marker() == ".")


def test_sources_has_a_line_per_method_a_panel_per_metric_and_a_dot_per_seed():
    scores = pd.DataFrame([
        dict(method=m, seed=s, sources=n, metric=k, value=5.0 + s, low=4.0, high=7.0) for m in METHOD_NAMES
        for n in (1, 2, 3) for k in ("psnr", "akd", "epe") for s in (0, 1, 2)
    ])
    one = scores.query("seed == 0")
    alone, several = sources_figure(one, one.head(0), one), sources_figure(one, one.head(0), scores)
    for fig in (alone, several):
        assert [len(ax.containers) for ax in fig.axes] == [4, 4] and [t.get_text() for t in fig.legends[0].get_texts()
                                                                      ] == ["Implicit Warping", "TPSMM", "FOMM", "LIA"]
    assert dots(alone.axes[0]) == 0 and dots(several.axes[0]) == 4 * 3 * 3, "one seed is its own mean"


def test_a_frame_shows_itself_and_little_of_what_is_turned_away(project):
    store = FrameStore(project / "data" / "tiny.zip")
    about = store.clips[store.split("test")[0]]
    part, puppet = shown_by(about, [0, 7], [0, 7], 32, (4, 4))
    assert part.shape == (2, 2, 4, 4) and puppet.shape == (2, 4, 4) and (part <= puppet).all()
    for i in range(2): assert part[i, i].sum() > 0.8 * puppet[i].sum() and part[i, i].sum() >= part[1 - i, i].sum()


def test_weight_counts_only_where_it_is_known_who_shows():
    nobody = np.zeros((2, 1, 2, 2))
    found = weights_by_kind(np.full((2, 1, 2, 2), 0.4), nobody, np.ones((1, 2, 2)))
    assert all(np.isnan(weight).all() and cells == [0] for weight, cells in found.values())


def test_gap_splits_scores_by_the_true_distance(project):
    gaps = pose_gaps(FrameStore(project / "data" / "tiny.zip"))
    assert (gaps[gaps.frame == 0].gap == 0).all() and (gaps[gaps.frame > 0].gap > 0).all()
    rows = gaps[gaps.frame > 0].assign(sources=1, seed=0, psnr=20.0)[["clip", "frame", "seed", "sources", "psnr"]]
    table = by_gap({"fomm": rows, "tpsmm": rows.assign(psnr=21.0), "lia": rows.assign(sources=2)}, gaps)
    assert set(table.method) == {"fomm", "tpsmm"} and table.groupby("quarter",
                                                                    observed=True).gap.max().is_monotonic_increasing
    told = gap_numbers(table)
    assert told["psnr_nearest"] == told["psnr_farthest"] == 1 and told["psnr_growth"] == told[
        "psnr_growth_low"] == told["psnr_growth_high"] == 0


def test_a_walk_of_no_step_is_the_source_redrawn(models, shown):
    fig = directions_figure(models["lia"], shown[0], spread_of(models["lia"], shown), most=3, names={2: "yaw 0.90"})
    middle = [fig.axes[6 * row + 3].images[0].get_array() for row in range(3)]
    assert all(
        np.array_equal(m,
                       to_uint8(models["lia"].reconstruct(shown[0].sources[None, :1], shown[0].sources[:1]).frame)[0])
        for m in middle)
    assert sum("yaw 0.90" in ax.get_ylabel()
               for ax in fig.axes) == (2 in [int(ax.get_ylabel()[4]) for ax in fig.axes if ax.get_ylabel()])


def test_references_of_one_picture_are_one_picture(models, shown):
    found = references(models["lia"], shown[0].driving.expand(3, -1, -1, -1))
    assert found.shape == (3, 3, 32, 32) and torch.allclose(found, found[:1].expand_as(found), atol=1e-5)


def test_small_changes_are_held_back_until_they_add_up():
    frames = np.arange(0, 12, dtype=np.uint8).reshape(12, 1, 1, 1).repeat(3, -1)
    assert held(frames, 4)[:, 0, 0, 0].tolist() == [0] * 5 + [5] * 5 + [10] * 2
    assert np.array_equal(held(frames, 0), frames)


def test_animation_has_a_column_per_method(project, models):
    store = FrameStore(project / "data" / "tiny.zip")
    alone, all_four = animation({"fomm": models["fomm"]}, store, puppets=True), animation(models, store, puppets=False)
    assert alone.shape[0] == all_four.shape[0] == 8 and alone.shape[1] == 2 * all_four.shape[1]
    assert all_four.shape[2] - alone.shape[2] > 2 * 128  # the other methods, and the sources beside the first
