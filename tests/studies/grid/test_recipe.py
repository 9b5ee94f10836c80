"""Recipes: what a file may say, and one line for each mistake in it."""

import pytest
import yaml

from stratatune.errors import ConfigError
from stratatune.studies.grid.recipe import load_recipe, recipe_of
from stratatune.studies.grid.recipe_parts import agrees

GOOD = {
    "title": "Table 2",
    "data": "data",
    "base": {"epochs": 2},
    "models": ["{data}/minilm"],
    "plans": ["lpt", {"name": "BFT-adapter", "plan": "bft-adapter@{depth}", "lr": 1e-3}],
    "tasks": [{"name": "RTE", "task": "rte", "train": "{data}/RTE"}],
    "seeds": [0, 1],
    "settings": {"depth": [2, 4]},
    "pairs": [{"plan": "lpt", "depth": 2}],
    "report": {"rows": "plan", "figures": "table"},
    "published": [{"plan": "BFT-adapter", "task": "RTE", "value": 78.22, "deviation": 0.75}],
    "claims": [{"text": "BFT > LPT", "better": {"plan": "BFT-adapter"}, "worse": {"plan": "lpt"}, "on": "seed"}],
}


def errors(**changes):
    with pytest.raises(ConfigError) as caught:
        recipe_of({**GOOD, **changes}, "r.yaml")
    assert caught.value.hint
    return caught.value.errors


def test_everything_is_read():
    recipe = recipe_of(GOOD, "r.yaml")
    assert list(recipe.axes) == ["model", "task", "plan", "depth", "seed"]
    assert [item.name for item in recipe.models] == ["minilm"]
    assert recipe.plans[1].settings == {"plan": "bft-adapter@{depth}", "lr": 1e-3}
    assert recipe.report.rows == ("plan",)
    assert recipe.published[0].where == {"plan": "BFT-adapter", "task": "RTE"}
    assert recipe_of(recipe.model_dump(mode="json"), "again") == recipe


def test_from_a_file(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("title: t\nplans: [lpt, off]\nseeds: [1e-3]\n")
    recipe = load_recipe(path)
    assert [item.name for item in recipe.plans] == ["lpt", "off"]
    assert recipe.seeds[0].settings == {"seed": 1e-3}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"plan": ["lpt"]}, "plan: unknown key; did you mean 'plans'?"),
        ({"report": {"colums": "task"}}, "report.colums: unknown key; did you mean 'columns'?"),
        ({"report": {"rows": "tasks"}}, "report: there is no axis 'tasks'"),
        ({"report": {"figures": ["tabel"]}}, "report.figures.0: 'tabel'"),
        ({"report": {"x": "dept"}}, "report.x: there is no 'dept'; did you mean 'depth'?"),
        ({"report": {"x": "plan"}}, "report.x: 'lpt' of the axis 'plan' is not a number"),
        ({"report": {"y": "acuracy"}}, "report.y: there is no metric 'acuracy'; did you mean 'accuracy'?"),
        ({"report": {"metric": "train_loss"}}, "report.metric: there is no metric 'train_loss'"),
        ({"plans": "lpt"}, "plan: 'lpt' is not a list"),
        ({"plans": [{"plan": "lpt"}]}, "{'plan': 'lpt'} has no name"),
        ({"seeds": [0, 0]}, "seed: 0 occurs twice"),
        ({"seeds": [0, "0"]}, "seed: '0' occurs twice"),
        (
            {"settings": {"plan": ["lpt"]}},
            "settings.plan: this name cannot be used for an axis; write it under `plans`",
        ),
        ({"exclude": [{"plam": "lpt"}]}, "exclude.0: there is no axis 'plam'; did you mean 'plan'?"),
        ({"exclude": [{"plan": "bft"}]}, "exclude.0: plan has no 'bft'; legal: lpt, BFT-adapter"),
        ({"published": [{"plan": "LPT", "value": 1}]}, "published.0: plan has no 'LPT'"),
        ({"published": [{"plan": "lpt", "value": True}]}, "published.0.value: True"),
        ({"published": [{"plan": "lpt"}]}, "published.0.value: missing"),
        ({"claims": [{"text": "t", "better": {}}]}, "claims.0.worse: missing"),
        ({"claims": [{"text": "t", "better": {}, "worse": {}, "on": "sed"}]}, "claims.0.on: there is no axis 'sed'"),
        ({"title": None}, "title: None"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(changes, said):
    found = errors(**changes)
    assert any(line.startswith(f"r.yaml: {said}") for line in found), found
    assert all("\n" not in line for line in found)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"a": "d"}}, "data.a: {a} is a field of templates; give the folder another name"),
        (
            {"data": {"depth": "d"}},
            "data.depth: {depth} is the place on the axis 'depth'; give the folder another name",
        ),
        (
            {"claims": [{"text": "t", "better": {"depth": [4]}, "worse": {"depth": 2}, "on": "depth"}]},
            "claims.0.on: 'depth' pairs nothing, as `better` and `worse` are at different places of it; name another "
            "axis, such as seed",
        ),
    ],
    ids=["field", "axis", "claim"],
)
def test_what_would_mean_something_else_is_refused_before_a_run(tmp_path, changes, said):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert caught.value.errors == [f"{path}: {said}"]
    assert recipe_of({**GOOD, **changes}, "of a grid that ran")


@pytest.mark.parametrize("key", ["plans", "seeds", "settings.lr"])
def test_an_empty_axis_is_no_axis_left_out(tmp_path, key):
    axis = "settings: {lr: []}" if key == "settings.lr" else f"{key}: []"
    (tmp_path / "r.yaml").write_text(f"title: t\n{axis}\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert caught.value.errors == [f"{tmp_path / 'r.yaml'}: {key}: an empty list: no run is left"]


def test_all_mistakes_at_once():
    assert len(errors(plan=1, repot={}, report={"x_axis": 1})) == 3


def test_agrees():
    at = {"plan": "lpt", "seed": 0}
    assert agrees(at, {})
    assert agrees(at, {"plan": ("bft", "lpt")})
    assert not agrees(at, {"plan": "lpt", "seed": 1})
    assert not agrees(at, {"depth": 1})
