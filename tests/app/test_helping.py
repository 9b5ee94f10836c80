"""``doctor``, ``schema``, and what a shell and an editor are offered."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stratatune.app.cli import completed_words
from stratatune.training.config import RunConfig, commented_yaml, load_config, validate
from stratatune.training.schema import RUN_SCHEMA

jsonschema = pytest.importorskip("jsonschema")
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.fixture
def schema(say):
    """Gives ``schema("run")``: a checker of plain data."""

    def made(what: str):
        data = json.loads(say("schema", what).out)
        jsonschema.Draft202012Validator.check_schema(data)
        return jsonschema.Draft202012Validator(data)

    return made


def test_the_schema_of_a_run_has_every_setting(schema):
    checker = schema("run")
    assert set(checker.schema["properties"]) == set(RunConfig.model_fields)
    assert all(one.get("description") for one in checker.schema["properties"].values())
    assert not list(checker.iter_errors(yaml.safe_load(commented_yaml())))


@pytest.mark.parametrize(
    "changes",
    [
        {"plan": {"strata": [{"layers": "5:", "methods": [{"kind": "lora"}]}]}},
        {"text": "a,b"},
        {"text": ["a", "b"]},
        {"text": "1"},
        {"label": 3},
        {"label_words": {"yes": "good", "no": "bad"}},
        {"eval_split": 0.1},
        {"eval_split": "dev"},
        {"loggers": "tensorboard"},
        {"token_budget": 512, "batch_size": None},
        {"objective": "tags(scheme=iob2)"},
        {"lr": 1e-4},
        {"cache": "off"},
    ],
    ids=str,
)
def test_what_a_run_takes_the_schema_takes(schema, changes):
    data = {"model": "roberta-base", "train": "train.csv", **changes}
    validate(data, check_files=False)
    assert not list(schema("run").iter_errors(data))


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": 3},
        {"epochs": 0},
        {"device": "gpu"},
        {"lr": "fast"},
        {"warmup": 2},
        {"loggers": ["wand"]},
        {"model": None},
    ],
    ids=str,
)
def test_what_the_schema_refuses_a_run_refuses(schema, changes):
    from stratatune.errors import ConfigError

    data = {"model": "roberta-base", "train": "train.csv", **changes}
    assert list(schema("run").iter_errors(data))
    with pytest.raises(ConfigError):
        validate(data, check_files=False)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_keeps_to_the_schema(schema, recipe):
    assert [error.message for error in schema("recipe").iter_errors(load_config(recipe))] == []


@pytest.mark.parametrize(
    "data",
    [{"title": "x", "modles": []}, {"title": "x", "base": {"lr": {}}}, {"plans": [{"plan": "lora"}]}, {"claims": [{}]}],
    ids=str,
)
def test_mistakes_in_a_recipe(schema, data):
    assert list(schema("recipe").iter_errors(data))


def test_schema_into_a_file_and_words(say, tmp_path):
    out = tmp_path / "run.schema.json"
    assert say("schema", "run", "--out", out, "--json").json == {"out": str(out)}
    assert json.loads(out.read_text()) == say("schema", "run", "--json").json
    assert say("schema", "rum").error == "schema: 'rum'"


def test_the_first_line_of_inits_file_names_a_schema_beside_it(say, tmp_path):
    assert say("init", tmp_path / "run.yaml").code == 0
    first = (tmp_path / "run.yaml").read_text().splitlines()[0]
    assert first == f"# yaml-language-server: $schema={RUN_SCHEMA}"
    data = json.loads((tmp_path / RUN_SCHEMA).read_text())
    assert not list(jsonschema.Draft202012Validator(data).iter_errors(load_config(tmp_path / "run.yaml")))


def test_doctor(say):
    said = say("doctor", "--json")
    found = said.json
    assert {"stratatune", "python", "libraries", "extras", "devices", "memory", "caches", "hub", "problems"} <= set(
        found
    )
    assert {"torch", "transformers"} <= {one["name"] for one in found["libraries"]}
    assert said.code == int(bool(found["problems"]))
    assert found["caches"]["bytes_per_second"] > 0
    assert found["devices"][0]["device"] == "cpu"
    for extra in found["extras"]:
        assert extra["installed"] == (not extra["missing"]) == (extra["command"] is None)
    shown = say("doctor").out
    assert "trunk caches" in shown and str(found["caches"]["root"]) in shown


def test_doctor_names_what_is_wrong_and_what_to_type(say, monkeypatch, tmp_path):
    from stratatune.app import doctor

    monkeypatch.setattr(doctor, "installed", lambda name: {"torch": "1.0", "pydantic": ""}.get(name, "999.0"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STRATATUNE_CACHE", str(tmp_path / "file" / "caches"))
    said = say("doctor", "--json")
    assert said.code == 1
    problems = {one["problem"]: one["command"] for one in said.json["problems"]}
    assert any(name.startswith("torch 1.0 is outside") for name in problems)
    assert any(name == "pydantic is missing" for name in problems)
    assert any(name.startswith("trunk caches cannot be written") for name in problems)
    assert all(problems.values())
    assert "problem: pydantic is missing\n  try: pip install" in say("doctor").out


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("stratatune tr", {"train"}),
        ("stratatune train --mo", {"--model"}),
        ("stratatune train --precision ", {"fp32", "bf16", "auto"}),
        ("stratatune train --task rt", {"rte"}),
        ("stratatune list ob", {"objectives"}),
        ("stratatune cache v", {"verify"}),
        ("stratatune schema r", {"run", "recipe"}),
    ],
)
def test_a_shell_is_offered(line, offered):
    words = line.split(" ")
    asked = {"_STRATATUNE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    command = [sys.executable, "-W", "error", "-c", "from stratatune.app.cli import main; main()"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **asked})
    assert set(done.stdout.split()) == offered


def test_completed_words():
    assert completed_words({"COMP_WORDS": "stratatune train"}) == []
    asked = {"_STRATATUNE_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "stratatune train --m"}
    assert completed_words(asked) == ["train", "--m"]


def test_what_had_no_room_can_be_asked_for_again(say, tmp_path):
    (tmp_path / RUN_SCHEMA).mkdir()  # no file can be written there
    assert say("init", tmp_path / "run.yaml").code == 1
    assert not (tmp_path / "run.yaml").exists()
    (tmp_path / RUN_SCHEMA).rmdir()
    assert say("init", tmp_path / "run.yaml").code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "lora", "--model", "roberta-base", "--svg"),
        ("init",),
        ("schema", "run", "--out"),
    ],
)
def test_a_file_s_folder_is_made(say, tmp_path, words):
    path = tmp_path / "new" / "folder" / "file"
    said = say(*words, path)
    assert said.code == 0, said.err
    assert path.is_file()
    (tmp_path / "taken").write_text("")
    said = say(*words, tmp_path / "taken" / "file")
    assert said.code == 1 and "cannot" in said.error
