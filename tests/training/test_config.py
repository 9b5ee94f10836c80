"""A run's configuration: every mistake at once, each with its place, its value and what is legal."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import get_args

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stratatune.errors import ConfigError
from stratatune.objectives.registry import OBJECTIVES, names
from stratatune.plan import Plan
from stratatune.training.config import (
    CHOSEN_BY_AUTO,
    RunConfig,
    commented_yaml,
    is_default,
    load_config,
    merge,
    parse_bytes,
    to_yaml,
    validate,
)
from stratatune.training.schema import run_schema

MINIMAL = {"model": "roberta-large", "train": "stanfordnlp/sst2"}


def errors_of(**changes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        validate({**MINIMAL, **changes})
    return caught.value.errors


def test_minimal_run_has_the_stated_defaults():
    config = validate(MINIMAL)
    assert (config.epochs, config.batch_size, config.lr, config.warmup) == (10, 32, 1e-3, 0.06)
    assert (config.objective, config.loss, config.cache, config.precision) == ("auto", "vocab", "auto", "auto")
    assert config.plan == "auto"


def test_the_length_of_a_text_is_the_objective_s_unless_it_is_given():
    lengths = {name: validate({**MINIMAL, "objective": name}).max_length for name in names()}
    assert lengths == {name: OBJECTIVES[name].longest if name in OBJECTIVES else 256 for name in names()}
    assert {name: found for name, found in lengths.items() if found != 256} == {
        **{"span": 384, "completion": 512, "rank": 512, "chat": 1024, "dpo": 1024}
    }
    about = RunConfig.model_fields["max_length"].description or ""
    named = ("span", "completion", "rank", "chat", "dpo")
    assert all(f"{lengths[name]:,} for" in about and name in about for name in named)
    for written, meant in ((None, 1024), (77, 77), ("88", 88)):
        assert validate({**MINIMAL, "objective": "chat", "max_length": written}).max_length == meant
    with pytest.raises(ConfigError, match="wrong") as caught:  # and no error of the length
        validate({**MINIMAL, "objective": "wrong"})
    assert len(caught.value.errors) == 1


@pytest.mark.parametrize(("objective", "length"), [("chat", 1024), ("tags(stride=8)", 256), ("auto", 256)])
def test_a_setting_that_was_not_named_is_a_default(objective, length):
    """As reports and cards ask: the length of a text depends on the objective."""
    data = yaml.safe_load(to_yaml(validate({**MINIMAL, "objective": objective})))
    assert data["max_length"] == length
    assert {name for name in data if not is_default(name, data)} == {*MINIMAL, *(["objective"] * (objective != "auto"))}
    assert not is_default("max_length", {**data, "max_length": length + 1})


def test_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        validate(MINIMAL).epochs = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_every_setting_says_what_it_means():
    assert [name for name, field in RunConfig.model_fields.items() if not field.description] == []


def test_all_errors_come_at_once():
    with pytest.raises(ConfigError) as caught:
        validate({"epochs": -1, "schedule": "linaer", "batchsize": 3, "lr": "fast", "cache_limit": "lots"})
    lines = {line.split(":")[0]: line for line in caught.value.errors}
    assert set(lines) == {"model", "train", "epochs", "schedule", "batchsize", "lr", "cache_limit"}
    assert lines["epochs"] == "epochs: -1; must be greater than 0"
    assert lines["schedule"] == "schedule: 'linaer'; did you mean 'linear'? legal: linear, constant, cosine"
    assert lines["batchsize"] == "batchsize: unknown setting; did you mean 'batch_size'?"
    assert lines["model"].startswith("model: missing; ")
    assert all("\n" not in line for line in caught.value.errors)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"cache": "rma"}, "cache: 'rma'; auto, off, ram or a folder; did you mean 'ram', or ./rma?"),
        ({"eval_split": 1.5}, "eval_split: 1.5; a split's name, or a fraction between 0 and 1"),
        ({"label_words": {"1": ["a", "b"]}}, "label_words.1: ['a', 'b']; must be a valid string"),
        ({"loggers": ["tensorbord"]}, "loggers.0: 'tensorbord'; did you mean 'tensorboard'?"),
        (
            {"eval_every": 0.3},
            "eval_every: 0.3; a whole number of epochs, or 1/2, 1/3, 1/4, ... of one; nearest: 1/4 or",
        ),
        ({"eval_every": "0/3"}, "eval_every: '0/3'; must be greater than 0"),
        ({"lr": "abc"}, "lr: 'abc'; must be a valid number"),
        ({"task": "sst3"}, "task: 'sst3'; no task 'sst3'"),
        ({"plan": "bft-adaptor"}, "plan: 'bft-adaptor'; "),
        ({"seed": True, "epochs": 2.5}, "epochs: 2.5; "),
    ],
)
def test_a_mistake_names_place_value_and_fix(changes, line):
    assert any(found.startswith(line) for found in errors_of(**changes)), errors_of(**changes)


def test_batch_size_and_token_budget_exclude_each_other():
    assert validate({**MINIMAL, "token_budget": 4096}).batch_size is None
    assert "not both" in errors_of(batch_size=8, token_budget=4096)[0]
    assert errors_of(batch_size=None)[0].startswith("token_budget: None; give batch_size or token_budget")


def test_a_fraction_is_held_out_only_without_eval():
    assert validate({**MINIMAL, "eval_split": 0.1}).eval_split == 0.1
    assert validate({**MINIMAL, "eval": "stanfordnlp/sst2", "eval_split": "dev"}).eval_split == "dev"
    assert "held out" in errors_of(eval="stanfordnlp/sst2", eval_split=0.1)[0]


def test_words_of_transformers_trainer_are_known():
    with pytest.raises(ConfigError) as caught:
        validate({"model": "m", "train": "t", "lr_scheduler_type": "cosine"}, check_files=False)
    assert caught.value.errors == ["lr_scheduler_type: unknown setting; did you mean 'schedule'?"]
    with pytest.raises(ConfigError, match="legal: linear, constant, cosine"):
        validate({"model": "m", "train": "t", "schedule": "cosine_with_restarts"}, check_files=False)


def test_a_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\n")
    path = str(tmp_path / "trian.csv")
    line = errors_of(train=path, epochs=0)[-1]  # beside another mistake
    assert line == f"train: {path!r}; no such file or folder; did you mean {str(tmp_path / 'train.csv')!r}?"
    assert "there is no folder" in errors_of(eval=str(tmp_path / "data" / "dev.csv"))[0]
    assert "no such file" in errors_of(train="nowhere.tsv")[0]
    assert "no such file" in errors_of(model="./nowhere")[0]
    assert validate({**MINIMAL, "train": path}, check_files=False).train == path


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "train.csv").write_text("text,label\n")
    assert validate({**MINIMAL, "train": "~/train.csv"}).train == str(tmp_path / "train.csv")


def test_a_plan_may_be_a_mapping_or_an_object():
    from stratatune.plan import Plan

    plan = Plan.parse("bft-adapter")
    for form in (plan, plan.to_data()):
        assert Plan.parse(validate({**MINIMAL, "plan": form}).plan) == plan


@pytest.mark.parametrize("name", ["roberta-large", "FacebookAI/roberta-large", "org/llama-3.1"])
def test_a_hub_id_is_no_path(name):
    assert validate({**MINIMAL, "model": name, "train": name}).model == name


def test_an_output_folder_that_cannot_be_made_is_found_early(tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file" in errors_of(out=str(tmp_path / "file"))[0]
    assert "is a file" in errors_of(out=str(tmp_path / "file" / "run"))[0]
    validate({**MINIMAL, "out": str(tmp_path / "new" / "run"), "cache": str(tmp_path / "cache")})
    assert not (tmp_path / "new").exists()


def test_yaml_reads_words_as_words(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("cache: off\nlr: 1e-3\nlabel: no\nlabel_words: {true: Yes, 0: No, null: 1}\nrevision: 12345678\n")
    data = load_config(path)
    assert data["cache"] == "off" and data["lr"] == 1e-3 and data["label"] == "no"
    assert data["label_words"] == {"true": "Yes", "0": "No", "null": "1"}
    assert validate({**MINIMAL, **data}).revision == "12345678"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plan: 10: lora\n", "mapping values are not allowed here on line 1 (quote a text that holds"),
        ("lr: 1\n\tepochs: 2\n", "on line 2 (indent with spaces)"),
        ("lr:\n\tepochs: 2\n", "on line 2 (indent with spaces)"),
        ("lr: 1\nlr: 2\n", "'lr' is given twice on line 2"),
        ("- a\n- b\n", "lines of `name: value`"),
        ("a: [1\n", "on line"),
    ],
)
def test_a_bad_file_is_told_in_one_line(tmp_path, text, line):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert line in str(caught.value) and "\n" not in caught.value.message


def test_a_missing_config_names_the_nearest(tmp_path):
    (tmp_path / "run.yaml").write_text("\ufeffepochs: 3\n", encoding="utf-8")
    assert load_config(tmp_path / "run.yaml") == {"epochs": 3}
    with pytest.raises(ConfigError, match=r"run\.yml: no such file; did you mean .*run\.yaml"):
        load_config(tmp_path / "run.yml")


def test_overrides_are_yaml_scalars_put_over_a_copy():
    base = {"lr": 1.0, "label_words": {"0": "bad"}}
    plan, template = "0:5 frozen | 10: lora(rank=64, on=q)", "[MASK] is it ."
    merged = merge(
        base,
        [
            "lr=5e-4",
            "label_words.1=yes",
            "eval=null",
            "text=[a, b]",
            "cache=off",
            f"plan={plan}",
            f"template={template}",
        ],
    )
    assert merged["lr"] == 5e-4 and merged["label_words"] == {"0": "bad", "1": "yes"}
    assert merged["eval"] is None and merged["text"] == ["a", "b"] and merged["cache"] == "off"
    assert merged["plan"] == plan and merged["template"] == template
    assert base == {"lr": 1.0, "label_words": {"0": "bad"}}


def test_bad_overrides_come_at_once():
    with pytest.raises(ConfigError) as caught:
        merge({"lr": 1.0}, ["epochs", "lr.peak=3", "=4"])
    assert len(caught.value.errors) == 3
    assert caught.value.errors[1] == "--set lr.peak=3: lr is 1.0 and has no fields"


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(word=st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1), lr=st.floats(1e-12, 1e3))
def test_config_round_trips_through_yaml(tmp_path, word, lr):
    data = {"label_words": {"yes": word, word: "no"}, "revision": word, "template": "1e5", "text": ["a", "b"], "lr": lr}
    config = validate({**MINIMAL, **data})
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert validate(load_config(path)) == config


def test_token_budget_round_trips(tmp_path):
    config = validate({**MINIMAL, "token_budget": 2048})
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    assert validate(load_config(tmp_path / "run.yaml")) == config


def test_commented_yaml_names_every_setting_and_is_valid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.csv").write_text("text,label\n")
    text = commented_yaml()
    (tmp_path / "run.yaml").write_text(text)
    named = [re.match(r"(?:# )?(\w+):", line) for line in text.splitlines()]
    assert [one[1] for one in named if one and one[1] in RunConfig.model_fields] == list(RunConfig.model_fields)
    left_out = [name for name in RunConfig.model_fields if name not in yaml.safe_load(text)]
    assert sorted(left_out) == sorted(CHOSEN_BY_AUTO)  # a line that is there would count as given
    assert validate(load_config("run.yaml")) == validate({"model": "roberta-base", "train": "train.csv"})
    assert max(len(line) for line in text.splitlines()) <= 120
    assert "# The rate after warm-up: decays to zero (linear or cosine), or stays constant. One of: linear" in text
    assert "\nschedule: linear\n" in text


@pytest.mark.parametrize(
    ("text", "count"), [("10GB", 10**10), ("8 GiB", 8 * 2**30), ("1.5mb", 1_500_000), ("1000", 1000)]
)
def test_bytes_read_as_people_write_them(text, count):
    assert parse_bytes(text) == count
    assert validate({**MINIMAL, "cache_limit": text}).cache_limit_bytes == count


def test_no_torch_is_imported():
    code = (
        "import sys; from stratatune.training.config import validate; validate({'model': 'm', 'train': 't'});"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("learning_rate", "lr"),
        ("eval_dataset", "eval"),
        ("val_set_size", "eval_split"),
        ("sequence_len", "max_length"),
        ("num_train_epochs", "epochs"),
        ("max_samples", "train_samples"),
        ("chat_template", "template"),
        ("per_device_train_batch_size", "batch_size"),
        ("per_device_eval_batch_size", "eval_batch_size"),
        ("eval_strategy", "eval_every"),
    ],
)
def test_words_of_transformers_trainer_are_understood(theirs, ours):
    with pytest.raises(ConfigError, match=f"{theirs}: unknown setting; did you mean '{ours}'"):
        validate({"model": "m", "train": "t.csv", theirs: 1}, check_files=False)


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ("lora_r", "plan.*12: lora"),
        ("eval_steps", "evaluates four times"),
        ("packing", "similar length"),
        ("processing_class", "the base model's own"),
        ("compute_metrics", "every metric"),
        ("ref_model", "base model before tuning"),
    ],
)
def test_what_is_said_otherwise_here_is_no_slip_of_a_letter(theirs, said):
    with pytest.raises(ConfigError, match=f"{theirs}: unknown setting; (?!did you mean).*{said}"):
        validate({"model": "m", "train": "t.csv", theirs: 1}, check_files=False)


@pytest.mark.parametrize("plan", [3, None, ["2: lora"], object()])
def test_what_is_no_plan_is_told(plan):
    with pytest.raises(ConfigError, match=f"plan: .*a plan is a text or a mapping, not {type(plan).__name__}"):
        validate({"model": "m", "train": "t.csv", "plan": plan}, check_files=False)


def test_a_bound_is_said_in_a_sentence():
    with pytest.raises(ConfigError, match="epochs: 0; must be greater than 0"):
        validate({"model": "m", "train": "t.csv", "epochs": 0}, check_files=False)


NUMBERS = [
    name
    for name, field in RunConfig.model_fields.items()
    if {int, float} & {field.annotation, *get_args(field.annotation)}
]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("switch", [True, False])
def test_true_and_false_are_no_numbers(name, switch):
    (line,) = errors_of(**{name: switch})
    assert line.startswith(f"{name}: {switch}; ")


FORMS = {
    "text": ["a", "a,b", 1, ["a"], ["a", 1], [], ["question", "answer"]],
    "label": ["a", "a,b", 1, ["a", "b"], ["a", 1], ["a,b", "c"], None],
    "loggers": ["wandb", "wandb,tensorboard", "", ["wandb"], []],
    "plan": ["auto", "2: lora", Plan.parse("2: lora").to_data()],
    "label_words": [{}, {"a": "b"}, {1: "good"}, {"a": 1}],
    "eval_split": ["dev", 0.1, "0.1", None],
    "cache_limit": ["10GB", 1000],
    "memory_limit": ["6GB", 10**10, None],
    "eval_every": [1, "2", 3.0, 0.25, "0.5", "1/4", " 1 / 3 "],
    "resume": [True, "true", "no"],
    "batch_size": [8, "8", 8.0],
    "token_budget": [100, "100"],
    **{name: [name, 1, None] for name in ("weight", "revision", "template", "metric")},
}


@pytest.mark.parametrize("name", RunConfig.model_fields)
def test_the_editor_accepts_every_form_that_a_run_accepts(name):
    jsonschema = pytest.importorskip("jsonschema")
    checker = jsonschema.Draft202012Validator(run_schema())
    default = RunConfig.model_fields[name].get_default(call_default_factory=True)
    forms = FORMS.get(name, [])
    if name in NUMBERS and name not in FORMS:
        forms = [
            default or 3,
            str(default or 3),
            f" {default or 3} ",
            *([5.0, "5"] if name in WHOLE else ["1e-1", ".5"]),
        ]
    needed = {**MINIMAL, "plan": "lora"} if name == "max_steps" else MINIMAL  # refused with `auto`
    if not RunConfig.model_fields[name].is_required():  # `stratatune init` writes it
        forms = [*forms, yaml.safe_load(commented_yaml()).get(name, default)]
    for form in forms:
        data = {**needed, name: form}
        found = validate(data, check_files=False)
        assert not list(checker.iter_errors(data)), form
        written = yaml.safe_load(to_yaml(found))  # what the run folder holds
        assert not list(checker.iter_errors(written)), written
    for wrong in ([[]], {"a": []}, *([True, "many", -1e99] if name in NUMBERS and name != "eval_split" else [])):
        if not list(checker.iter_errors({**MINIMAL, name: wrong})):
            assert name in ("plan", "label_words") and isinstance(wrong, dict), wrong


WHOLE = [
    name for name in NUMBERS if int in {annotation := RunConfig.model_fields[name].annotation, *get_args(annotation)}
]
