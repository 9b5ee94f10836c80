"""Recipes that take from others, from packages, or something else where their data are not."""

import pytest
import yaml

from stratatune.errors import ConfigError
from stratatune.studies.grid.inherit import folder_of
from stratatune.studies.grid.recipe import load_recipe, settled

PARENT = {
    "title": "large",
    "base": {"epochs": 10, "lr": 0.1},
    "plans": ["lpt", "bft"],
    "tasks": [{"name": "RTE", "task": "rte"}, {"name": "TREC", "task": "trec"}],
    "published": [{"plan": "lpt", "task": "RTE", "value": 76.0}, {"plan": "lpt", "task": "TREC", "value": 94.0}],
    "claims": [
        {"text": "kept", "better": {"plan": "bft"}, "worse": {"plan": ["lpt", "bft"]}},
        {"text": "gone", "better": {"plan": "bft", "task": "RTE"}, "worse": {"plan": "lpt"}},
    ],
}


@pytest.fixture
def write(tmp_path):
    def file(name, data):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(data))
        return path

    file("large", PARENT)
    return file


def test_what_does_not_fit_stays_behind(write):
    recipe = load_recipe(write("small", {"extends": "large.yaml", "title": "small", "tasks": PARENT["tasks"][1:]}))
    assert (recipe.title, [one.value for one in recipe.published]) == ("small", [94.0])
    assert [one.text for one in recipe.claims] == ["kept"]
    assert [item.name for item in recipe.plans] == ["lpt", "bft"]


def test_an_exclusion_of_several_still_leaves_out_those_that_are_there(write):
    write("wide", {**PARENT, "exclude": [{"plan": "lpt", "task": ["RTE", "TREC"]}, {"plan": "bft", "task": "RTE"}]})
    recipe = load_recipe(write("small", {"extends": "wide.yaml", "tasks": PARENT["tasks"][1:]}))
    assert recipe.exclude == ({"plan": "lpt", "task": ("TREC",)},)


def test_base_is_merged(write):
    recipe = load_recipe(write("small", {"extends": "large.yaml", "base": {"epochs": 1}}))
    assert recipe.base == {"epochs": 1, "lr": 0.1}


def test_paths_of_a_recipe_in_another_folder_are_from_there(write, tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "tiny").mkdir()
    base = {"train": "films", "model": "roberta-base"}
    write("parent", {"title": "a", "data": {"own": "films", "none": "gone"}, "base": base, "models": ["tiny"]})
    (tmp_path / "below").mkdir()
    recipe = load_recipe(write("below/child", {"extends": "../parent.yaml", "seeds": [1]}))
    assert recipe.data == {"own": str(tmp_path / "films"), "none": "gone"}
    assert recipe.base == {"train": str(tmp_path / "films"), "model": "roberta-base"}
    assert [item.name for item in recipe.models] == ["tiny"]
    assert load_recipe(write("beside", {"extends": "parent.yaml"})).data == {"own": "films", "none": "gone"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"extends": "none.yaml"}, "none.yaml"),
        ({"extends": "small.yaml"}, "extends itself"),
        ({"extends": ["large.yaml"]}, "the name of a recipe's file"),
    ],
)
def test_bad_extends(write, data, said):
    with pytest.raises(ConfigError) as caught:
        load_recipe(write("small", data))
    (line,) = caught.value.errors
    assert said in line


def test_a_folder_in_a_package(tmp_path):
    assert (folder_of("package:stratatune.samples/pairs", tmp_path) / "train.csv").is_file()
    assert folder_of("data", tmp_path) == tmp_path / "data"
    with pytest.raises(ConfigError, match="the package 'no_such_package' is not installed"):
        folder_of("package:no_such_package", tmp_path)


def test_otherwise(write, tmp_path):
    other = {"data": {}, "tasks": [{"name": "mine", "train": "x.csv"}], "published": [], "claims": []}
    path = write("small", {"extends": "large.yaml", "data": {"data": "not-here"}, "otherwise": other})
    recipe, notice = settled(load_recipe(path), path, {})
    assert [item.name for item in recipe.tasks] == ["mine"]
    assert "the folder not-here is missing" in notice
    for given in ({"data": "elsewhere"}, {"": "elsewhere"}):
        assert settled(load_recipe(path), path, given) == (load_recipe(path), "")
    (tmp_path / "not-here").mkdir()
    assert settled(load_recipe(path), path, {}) == (load_recipe(path), "")


def test_otherwise_is_checked_too(write):
    path = write("small", {"extends": "large.yaml", "data": {"data": "not-here"}, "otherwise": {"taks": []}})
    with pytest.raises(ConfigError) as caught:
        settled(load_recipe(path), path, {})
    assert "otherwise" in caught.value.errors[0] and "did you mean 'tasks'" in caught.value.errors[0]
