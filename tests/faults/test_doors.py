"""Inputs that once ended in a raw Python error, took minutes or printed megabytes: each is a line now, and soon."""

import json

import pytest

from faults.asking import ask
from stratatune.errors import ConfigError, PlanError, nearest, shown
from stratatune.outside import Unreadable, parse_json, regular_file, wrong_path
from stratatune.plan import Plan, shape_of
from stratatune.training.config import parse_bytes, validate
from stratatune.training.settings import dump, load_config

YAML = {
    "aliases that multiply": ("a: &a [x, x]\nb: [*a, *a]\n", "alias"),
    "a tag": ("model: !!python/object/apply:os.system [ls]\n", "tag"),
    "a tag of YAML's own": ("epochs: !!int abc\n", "tag"),
    "nesting": ("plan: " + "[" * 3000 + "]" * 3000 + "\n", "deep"),
    "many values": ("".join(f"key{n}: {n}\n" for n in range(50_000)), "more than 20,000 values"),
    "a large file": ("model: " + "x" * 2_000_000 + "\n", "larger than"),
    "a name twice": ("lr: 1\nlr: 2\n", "given twice"),
    "a list as a name": ("? [a, b]\n: c\n", "a name must be a word"),
}


@pytest.mark.parametrize("case", YAML)
def test_yaml(case, tmp_path):
    content, said = YAML[case]
    (tmp_path / "run.yaml").write_text(content)
    answer = ask("train", tmp_path / "run.yaml")
    assert answer.code == 2 and not answer.faults and said in answer.err and len(answer.err) < 2000


def test_what_we_write_has_no_alias(tmp_path):
    """What stands twice in our own data is written twice, since an alias would not be read."""
    same = ["x"]
    (tmp_path / "a.yaml").write_text(dump({"a": same, "b": same}))
    assert load_config(tmp_path / "a.yaml") == {"a": ["x"], "b": ["x"]}


def test_long_digits_are_text(tmp_path):
    (tmp_path / "a.yaml").write_text(f"label: {'9' * 400}\nseed: {'9' * 18}\n")
    assert load_config(tmp_path / "a.yaml") == {"label": "9" * 400, "seed": int("9" * 18)}


@pytest.mark.parametrize("value", [10**30, "9" * 400, -(10**13)])
def test_numbers_beyond_all_settings(value):
    with pytest.raises(ConfigError) as error:
        validate({"model": "m", "train": "t", "epochs": value}, check_files=False)
    assert len(str(error.value)) < 400


def test_a_size_of_many_digits():
    assert parse_bytes("10GB") == 10**10
    with pytest.raises(ValueError, match="a number with a unit"):
        parse_bytes("9" * 400 + "GB")


def test_many_unknown_settings_are_told_in_few_lines():
    with pytest.raises(ConfigError) as error:
        validate({f"key{n}": n for n in range(50_000)}, check_files=False)
    assert len(error.value.errors) < 50 and "49,9" in error.value.errors[-1]


@pytest.mark.parametrize(
    "plan",
    [": lora(rank=999999)", ": lora(rank=" + "9" * 5000 + ")", "x" * 50_000, ": lora(rank=60000) | adapter(depth=3)"],
)
def test_plans_of_another_size(plan):
    with pytest.raises(PlanError) as error:
        Plan.parse(plan).resolve(shape_of("roberta-large"))
    assert len(error.value.message) < 300


def test_many_frozen_strata_are_one():
    plan = Plan.parse(": frozen" + " + frozen" * 1500 + " | 3: lora" * 0)
    assert plan.resolve(shape_of("roberta-large")).frozen_depth == 24


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (": lora(r=8)", "what peft calls r is rank here"),
        (": lora(lora_alpha=8)", "what peft calls lora_alpha is alpha here"),
        (": lora(on=query)", "what peft calls query is q here"),
        ("1,3: lora", "1 lora | 3 lora"),
    ],
)
def test_words_of_peft(written, said):
    with pytest.raises(PlanError) as error:
        Plan.parse(written)
    assert said in error.value.hint


def test_paths(tmp_path):
    assert not wrong_path(str(tmp_path))
    assert all(map(wrong_path, ("", "a\0b", "x" * 300, "/y" * 4000, "\ud800")))
    assert "folder" in regular_file(tmp_path)
    assert "regular file" in regular_file(type(tmp_path)("/dev/null"))


def test_json():
    assert parse_json('{"a": 1}') == {"a": 1}
    for text in ("[" * 100_000, "{", "9" * 5000):
        with pytest.raises(Unreadable):
            parse_json(text)


def test_values_are_cut_when_shown():
    assert shown("short") == "'short'"
    assert len(shown("x" * 10**7)) < 200 and len(shown(["y" * 10**6] * 1000)) < 200 and len(shown(10**5000)) < 200
    assert nearest("x" * 10**6, ["x"]) == ""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Gives ``recipe(**keys)``: the file of a recipe whose data are there."""
    import tiny

    folder = tmp_path_factory.mktemp("recipe")
    tiny.save_tiny(folder / "bert", "bert", "mlm")
    (folder / "films.csv").write_text("text,label\na good film,1\na bad film,0\n")

    def write(name="recipe.yaml", **keys):
        base = {"model": "bert", "train": "films.csv", "text": "text", "label": "label"}
        (folder / name).write_text(json.dumps({"title": "t", "base": base, "plans": ["bitfit"], **keys}))
        return folder / name

    return write


def test_paths_of_a_recipe_are_seen_from_its_folder(recipe, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    answer = ask("grid", "run", recipe(seeds=[0, 1]), "--dry-run", "--json")
    assert answer.code == 0, answer.err
    assert len(json.loads(answer.out)["runs"]) == 2


@pytest.mark.parametrize("crossed", [{"seeds": [*range(1000)], "settings": {"epochs": [*range(1, 1001)]}}])
def test_a_grid_of_a_million_runs(crossed, recipe):
    answer = ask("grid", "run", recipe(**crossed), "--dry-run")
    assert answer.code == 2 and "1,000,000 combinations" in answer.err and not answer.faults


@pytest.mark.parametrize("key", ["published", "claims", "exclude", "plans", "settings", "base", "data", "extends"])
@pytest.mark.parametrize("value", [None, 3, "x", [3], [[1]], {"a": 1}, [{"plan": [[1]]}], [{"better": 1}]])
def test_a_parent_of_wrong_types(key, value, recipe):
    recipe("parent.yaml", **{key: value})
    child = recipe("child.yaml")
    child.write_text('{"extends": "parent.yaml", "title": "child"}')
    answer = ask("grid", "run", child, "--dry-run")
    assert not answer.faults, answer.err


def test_pickled_weights(tmp_path):
    import torch

    import tiny

    tiny.save_tiny(tmp_path, "bert", "mlm")
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    (tmp_path / "films.csv").write_text("text,label\na good film,1\na bad film,0\n" * 3)
    settings = ("--train", tmp_path / "films.csv", "--text", "text", "--label", "label", "--out", tmp_path / "run")
    answer = ask("train", "--model", tmp_path, *settings)
    assert answer.code == 2 and "pickled weights" in answer.err and not answer.faults


def test_mistakes_in_the_data_come_first(tmp_path):
    (tmp_path / "films.csv").write_text("text,label\na good film,1\n")
    given = ("--train", tmp_path / "films.csv", "--text", "text", "--label", "lable", "--out", tmp_path / "run")
    answer = ask("train", "--model", "no-such-model", *given)
    assert answer.err.splitlines()[0].endswith("has no column 'lable'")
    assert len(answer.err.splitlines()) == 2
