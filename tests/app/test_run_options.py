"""The options of a run are the fields of RunConfig: each has one, and it says and sets what the field does."""

import re

import pytest

from stratatune.app.cli import run
from stratatune.app.run_options import run_options
from stratatune.errors import ConfigError
from stratatune.training import start
from stratatune.training.config import RunConfig, headings, validate

NEEDED = {"model": "roberta-base", "train": "some-hub-id"}
VALUES = {
    "trust_remote_code": True,
    "resume": True,
    "text": "a,b",
    "label_words": "yes=good,no=bad",
    "loggers": "tensorboard",
    "task": "sst2",
    "plan": "lora",
    "objective": "mlm",
    "token_budget": 512,
    "batch_size": 8,
    "eval_split": 0.25,
    "cache": "ram",
    "cache_limit": "5GB",
    "memory_limit": "6GB",
    "weight": "importance",
    "warmup": 0.5,
    "delimiter": ";",
    "encoding": "latin-1",
    "precision": "bf16",
}


def value_of(name):
    field = RunConfig.model_fields[name]
    if name in VALUES or name in NEEDED:
        return VALUES.get(name, NEEDED.get(name))
    words = re.search(r"Literal\[(.*?)\]", str(field.annotation))
    if words:
        return words[1].replace("'", "").split(", ")[-1]
    return 3 if "int" in str(field.annotation) else 0.125 if "float" in str(field.annotation) else "words"


@pytest.mark.parametrize("name", RunConfig.model_fields)
def test_an_option_sets_what_its_setting_sets(name, monkeypatch):
    given = {"plan": "lora"}  # tests/training/test_start.py has runs to start from
    monkeypatch.setattr(start, "settings_of", lambda name, values: given)
    value = value_of(name)
    needed = {**NEEDED, "plan": "lora"} if name == "max_steps" else NEEDED  # refused with `auto`
    config = run_options(None, None, **{**needed, name: value})
    plain = {"yes": "good", "no": "bad"} if name == "label_words" else value
    assert config == validate({**needed, name: plain})
    assert getattr(config, name) != RunConfig.model_fields[name].default


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"x, y=good",no=bad', {"x, y": "good", "no": "bad"}),
        ("a=b=good, no = bad", {"a=b": "good", "no": "bad"}),
        ('say "hi"=good,no=bad', {'say "hi"': "good", "no": "bad"}),
    ],
)
def test_labels_with_signs_have_words(text, words):
    assert run_options(None, None, **NEEDED, label_words=text).label_words == words


@pytest.mark.parametrize(("text", "label"), [("yes", "yes"), ("yes=,no=bad", "yes"), ("", ""), ("=good", "")])
def test_a_label_without_a_word_is_named(text, label):
    with pytest.raises(ConfigError, match=f"label_words: '{label}' has no word"):
        run_options(None, None, **NEEDED, label_words=text)


@pytest.mark.parametrize("verb", [["train"], ["suggest"], ["cache", "build"]], ids=" ".join)
def test_the_help_shows_every_setting_under_its_heading(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert run([*verb, "--help"]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name, field in RunConfig.model_fields.items():
        assert f"--{name.replace('_', '-')} " in said
        assert " ".join(str(field.description).split()) in said
    for heading in headings().values():
        assert heading in said
    assert "Default: 1e-08." in said and "One of: fp32, bf16, auto. Default: auto." in said


def test_options_win_over_the_file_and_set_over_options(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: roberta-base\ntrain: some-hub-id\nepochs: 7\nlr: 0.5\nseed: 4\n")
    config = run_options(file, ["seed=6"], epochs=3, seed=5)
    assert (config.epochs, config.lr, config.seed) == (3, 0.5, 6)
