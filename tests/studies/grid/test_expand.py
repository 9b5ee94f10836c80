"""From a recipe to its runs: products, pairs, what `{name}` stands for, ids, shared trunks, and every mistake."""

import pytest

from stratatune.errors import ConfigError
from stratatune.studies.grid.expand import expand
from stratatune.studies.grid.recipe import recipe_of

RECIPE = {
    "title": "t",
    "data": "data",
    "base": {"train": "{data}/train.csv", "text": "text", "label": "label"},
    "models": [{"name": "base", "model": "roberta-base"}],
    "plans": ["lpt@6", {"name": "adapter", "plan": "bft-adapter@6", "lr": 2e-3}],
    "seeds": [0, 1, 2],
}


@pytest.fixture
def make(tmp_path):
    """``make(changes, **how)``: the runs of RECIPE, changed."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_text("text,label\na,b\n")

    def made(changes=None, **how):
        return expand(recipe_of({**RECIPE, **(changes or {})}, "r.yaml"), tmp_path, **how)

    return made


def test_the_product(make, tmp_path):
    runs = make()
    assert [run.coordinates for run in runs] == [
        {"model": "base", "plan": plan, "task": "train", "seed": seed}
        for plan in ("lpt@6", "adapter")
        for seed in range(3)
    ]
    assert [run.number for run in runs] == list(range(6))
    assert runs[3].config.lr == 2e-3 and runs[0].config.lr == 1e-3
    assert runs[0].config.train == str(tmp_path / "data" / "train.csv")
    assert len({run.id for run in runs}) == 6
    assert [run.id for run in make()] == [run.id for run in runs]


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("parts/*.csv", "{}/parts/*.csv"),
        ("parts/1.csv,data/train.csv", "{}/parts/1.csv,{}/data/train.csv"),
        (["parts/1.csv", "parts/2.csv"], "{}/parts/1.csv,{}/parts/2.csv"),
        ("parts/[12].csv, data/*.csv", "{}/parts/[12].csv,{}/data/*.csv"),
        ("here/*.csv", "here/*.csv"),
    ],
)
def test_patterns_and_lists_are_relative_to_the_recipe_s_folder(make, tmp_path, monkeypatch, written, found):
    """As plain paths are: where there is nothing that matches, they are relative to the current folder."""
    for path in ("parts/1.csv", "parts/2.csv", "current/here/1.csv"):
        (tmp_path / path).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / path).write_text("text,label\na,b\n")
    monkeypatch.chdir(tmp_path / "current")
    changes = {"base": {**RECIPE["base"], "train": written, "corpus": "parts/*.csv"}}
    (run, *_) = make(changes)
    assert run.config.train == found.replace("{}", str(tmp_path))
    assert run.config.corpus == f"{tmp_path}/parts/*.csv"
    monkeypatch.chdir(tmp_path)
    if "here" not in found:
        as_written = ",".join(written) if isinstance(written, list) else written
        assert make(changes)[0].config.train == as_written


def test_pairs_exclude_only(make):
    def at(runs):
        return [(run.coordinates["plan"], run.coordinates["seed"]) for run in runs]

    pairs = {"pairs": [{"plan": "lpt@6", "seed": [0, 1]}, {"plan": "adapter", "seed": 2}]}
    assert at(make(pairs)) == [("lpt@6", 0), ("lpt@6", 1), ("adapter", 2)]
    exclude = {"exclude": [{"plan": "lpt@6"}, {"seed": 0}]}
    assert at(make(exclude)) == [("adapter", 1), ("adapter", 2)]
    assert at(make(only={"plan": ("adapter",), "seed": ("1",)})) == [("adapter", 1)]


def test_an_axis_in_a_text(make):
    changes = {"plans": [{"name": "LPT", "plan": "lpt@{depth}"}], "settings": {"depth": [3, 9]}, "seeds": [0]}
    assert [(run.coordinates["depth"], run.config.plan) for run in make(changes)] == [(3, "lpt@3"), (9, "lpt@9")]
    template = {**RECIPE["base"], "template": "{a} It was <mask>."}
    assert make({"base": template})[0].config.template == "{a} It was <mask>."


def test_a_setting_as_an_axis(make):
    runs = make({"settings": {"epochs": [1, 5]}, "seeds": [0]})
    assert [run.config.epochs for run in runs] == [1, 5, 1, 5]


def test_runs_that_share_a_trunk(make):
    assert len({run.trunk for run in make()}) == 1
    by_depth = make({"plans": ["lpt@6", "lpt@7", "lora"]})
    assert len({run.trunk for run in by_depth}) == 3
    assert {run.trunk for run in by_depth if run.coordinates["plan"] == "lora"} == {""}
    drawn = make({"base": {**RECIPE["base"], "train_samples": 1}})
    assert len({run.trunk for run in drawn}) == 3
    assert {run.trunk for run in make({"base": {**RECIPE["base"], "cache": "ram"}})} == {""}


def test_data_and_models_elsewhere(make, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "train.csv").write_text("text,label\na,b\n")
    moved = make(data={"": str(other)}, models={"base": "bert-base-uncased"})
    assert moved[0].config.train == str(other / "train.csv")
    assert moved[0].config.model == "bert-base-uncased"
    assert moved[0].coordinates["model"] == "base"
    assert moved[0].id != make()[0].id
    alone = make(
        {"models": [], "base": {**RECIPE["base"], "model": "roberta-base"}}, models={"roberta-base": "roberta-large"}
    )
    assert alone[0].config.model == "roberta-large"


@pytest.mark.parametrize(
    ("changes", "how", "said"),
    [
        ({"base": {"lrr": 1}}, {}, "base: lrr: unknown setting; did you mean 'lr'?"),
        ({"base": {"learning_rate": 1}}, {}, "base: learning_rate: unknown setting; did you mean 'lr'?"),
        ({"base": {"lora_r": 1}}, {}, "base: lora_r: unknown setting; a method and its options are part of the plan"),
        ({"base": {"out": "x"}}, {}, "base: out: the grid sets it"),
        ({"plans": [{"name": "x", "plann": "lpt"}]}, {}, "plan x: plann: unknown setting; did you mean 'plan'?"),
        (
            {"settings": {"epoch": [1]}},
            {},
            "settings.epoch: no such setting, and no text has {epoch} in it; did you mean",
        ),
        (
            {"plans": [{"name": "x", "plan": "lpt", "lr": 2e-3}], "settings": {"lr": [1e-4, 5e-4]}},
            {},
            "plan x: lr is never used, as settings.lr sets it in every run",
        ),
        ({"tasks": ["sst3"]}, {}, "task: 'sst3'; "),
        ({"plans": ["lptt"]}, {}, "plan: 'lptt'; "),
        ({"plans": ["lpt@30"]}, {}, "depth"),
        ({"seeds": [0, 0.0]}, {}, "seed: 0"),
        ({"settings": {"clip": [1, 1.0]}}, {}, "clip"),
        ({"exclude": [{"model": "base"}]}, {}, "this recipe has no runs left"),
        ({"plans": []}, {"only": {"plan": ("lpt",)}}, "--only: the recipe has no axis 'plan'"),
        ({}, {"only": {"plan": ("lpt",)}}, "--only: plan has no 'lpt'; did you mean 'lpt@6'?"),
        ({}, {"only": {"seed": ("0, 1",)}}, "by repeating the option: --only seed=0 --only seed=1"),
        ({"data": "dta"}, {}, "data: data: there is no folder"),
        ({"data": {"data": None}}, {}, "data: data: no folder is given"),
        ({}, {"data": {"glue": "."}}, "data: the recipe has no folder 'glue'"),
        ({"data": {"data": "data", "b": "data"}}, {"data": {"": "."}}, "data: the recipe has several folders"),
        ({}, {"models": {"bse": "x"}}, "model: the recipe has no model 'bse'"),
        ({"base": {"train": "{data}/no.csv"}}, {}, "train: "),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(make, changes, how, said):
    with pytest.raises(ConfigError) as caught:
        make(changes, **how)
    assert len(caught.value.errors) == 1, caught.value.errors
    assert said in caught.value.errors[0]
    assert "\n" not in caught.value.errors[0]
    assert caught.value.hint


def test_the_same_run_twice(make):
    changes = {"plans": [{"name": "a", "plan": "lpt@6"}, {"name": "b", "plan": "lpt@6"}], "seeds": [0]}
    with pytest.raises(ConfigError, match=r"the same run as model=base plan=a seed=0  \(model=base plan=b seed=0\)"):
        make(changes)
