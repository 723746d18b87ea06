"""The papers' recipes in params.yaml, each on each data set that it names: it can be made, and it trains. Pictures are
smaller than the papers', networks are not."""
from dataclasses import replace
import pytest, torch
from animrepro.bench import drawn_features
from animrepro.core import UserError, load_params, typed
from animrepro.data.pairs import Batch
from animrepro.models.contract import create_model, method_class, section_of
from animrepro.train import MethodConfig, learner, method_config

PARAMS = load_params()
PRESETS = [(m, d) for m, section in PARAMS.methods.items()
           for d in (None, *section.get("paper", {}).get("datasets", {}))]


@pytest.mark.parametrize("method, dataset", PRESETS)
def test_a_recipe_can_be_made_at_the_size_of_its_data(method, dataset):
    if dataset: assert PARAMS.datasets[dataset]["scale"] == "paper"
    size = PARAMS.datasets[dataset or "vox"]["size"]
    config = method_config(PARAMS.methods, method, "paper", dataset=dataset)
    with torch.device("meta"): model = method_class(method)(typed(method_class(method).Config,
                                                                  dict(config.model, size=size), method))
    assert model.config.size == size and config.train.batch % config.train.accumulate == 0


@pytest.mark.paper
@pytest.mark.parametrize("method, dataset", PRESETS)
def test_a_recipe_makes_one_update(method, dataset):
    config, size = method_config(PARAMS.methods, method, "paper", dataset=dataset), 256 if method == "x2face" else 128
    schedule = replace(config.train, batch=1, accumulate=1, precision="fp32")
    with drawn_features(): learn = learner(create_model(method, dict(config.model, size=size)),
                                           replace(config, train=schedule), 0)
    before, noise = [p.detach().clone() for p in learn.model.parameters()], torch.Generator().manual_seed(0)
    pictures = torch.rand(1, 2, 3, size, size, generator=noise)
    terms = learn.step(Batch(pictures[:, :1], pictures[:, 1], None, torch.tensor([1]), 0))
    assert terms and all(t.isfinite() for t in terms.values())
    assert any(not torch.equal(a, b) for a, b in zip(before, learn.model.parameters()))


def test_a_data_set_changes_what_it_names_and_nothing_else():
    methods = {"fomm": {"paper": {"train": {"steps": 10, "batch": 4}, "datasets": {"own": {"train": {"batch": 2}}}}}}
    assert section_of(methods, "fomm", "paper", "other")[0] == {"train": {"steps": 10, "batch": 4}}
    config = method_config(methods, "fomm", "paper", dataset="own")
    assert config == MethodConfig(loss=method_class("fomm").Loss(), train=replace(config.train, steps=10, batch=2))
    methods["fomm"]["paper"]["datasets"]["own"]["train"]["bach"] = 3
    with pytest.raises(UserError, match="datasets.own.train: there is no parameter 'bach'; did you mean"):
        method_config(methods, "fomm", "paper", dataset="own")
    methods["fomm"]["paper"]["loss"] = {"warp": 10.0}
    with pytest.raises(UserError, match="fomm.paper.loss: there is no parameter 'warp'"):  # it is TPSMM's
        method_config(methods, "fomm", "paper")
    methods["fomm"]["paper"]["datasets"] = ["own"]
    with pytest.raises(UserError, match="datasets: is no set of named sections"): section_of(methods, "fomm", "paper")
