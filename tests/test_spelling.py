"""Settings in messages are spelled as their reader writes them: as options, in Python, or in a file."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

import gridding
import stratatune as st
from stratatune.app.cli import run as command
from stratatune.errors import ConfigError, DataError
from stratatune.objectives.registry import OBJECTIVES
from stratatune.spelling import ARGUMENTS, SETTINGS, read_by, settings_are_in_a_file, spelled
from stratatune.training.config import RunConfig, words

SOURCE = Path(st.__file__).parent
OF_OTHERS = {"cpu", "head"}
"""Options of accelerate and ray."""
OF_COMMANDS = {"debug", "help", "host", "only", "port", "set"}
"""Options that are no arguments in Python, whose readers typed a command."""


def test_the_settings_are_those_of_a_run():
    assert {name.replace("-", "_") for name in SETTINGS} == set(RunConfig.model_fields)
    assert not SETTINGS & ARGUMENTS


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_setting_is_spelled_by_every_door(name):
    own, said = name.replace("-", "_"), f"name it with --{name} VALUE, or leave --{name} out; raise --{name}"
    flag = isinstance(RunConfig.model_fields[own].default, bool)
    python = f"name it with {own}=True VALUE, or" if flag else f'name it with {own}="VALUE", or'
    assert spelled(said).startswith(python) and "--" not in spelled(said)
    with read_by("command"):
        assert spelled(said) == said
        settings_are_in_a_file(["text"])
        expected = f"name it with {own}: {'true ' if flag else ''}VALUE, or"
        assert spelled(said) == said if name in ("text", "resume") else spelled(said).startswith(expected)
    assert spelled(said).startswith(python)  # as it was before the command


@pytest.mark.parametrize(
    ("said", "python", "file"),
    [
        ("--text A,B", 'text="A,B"', "text: A,B"),
        ("(--eval-split 0.1)", "(eval_split=0.1)", "(eval_split: 0.1)"),
        ("--objective 'tags(names=O B)'", 'objective="tags(names=O B)"', "objective: 'tags(names=O B)'"),
        ("--label-words yes=good", 'label_words={"yes": "good"}', "label_words: {yes: good}"),
        ("a smaller --batch-size or --max-length", "a smaller batch_size or max_length", ""),
        ("--cache ram, --cache off", 'cache="ram", cache="off"', "cache: ram, cache: off"),
        ("export --to onnx --int8 needs", 'export(to="onnx", int8=True) needs', "export --to onnx --int8 needs"),
        ("such as --objective chat.", 'such as objective="chat".', "such as objective: chat."),
        ("`stratatune export RUN --out X`", "`stratatune export RUN --out X`", "`stratatune export RUN --out X`"),
        ("torchrun --cpu, --only plan=a", "torchrun --cpu, --only plan=a", "torchrun --cpu, --only plan=a"),
    ],
)
def test_values_and_commands(said, python, file):
    assert spelled(said) == python
    with read_by("file"):
        assert spelled(said) == (file or python)


def _texts():
    """Every text of the package outside ``app`` that names an option; a value that is filled in is ``{}``."""
    for path in SOURCE.rglob("*.py"):
        if path.is_relative_to(SOURCE / "app") or path.name == "spelling.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        plain = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        parts = {id(one) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for one in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                said = "".join(str(one.value) if isinstance(one, ast.Constant) else "{}" for one in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in {*plain, *parts}:
                said = node.value
            else:
                continue
            if re.search(r"(?<![\w(-])--[a-z]", said):
                yield said


def test_every_hint_is_spelled():
    """Each option in a message is a setting or an argument, and what is taken for its value is one."""
    texts, known = set(_texts()), SETTINGS | ARGUMENTS | OF_COMMANDS | OF_OTHERS | {"multi_gpu"}
    assert len(texts) > 80
    for text in texts:
        outside = re.sub(r"`[^`]*`|stratatune [a-z]+ .*", "", text)
        assert set(re.findall(r"(?<![\w(-])--([a-z][\w-]*)", outside)) <= known | {"lengths"}, text
        for name, value in re.findall(r'\b([a-z_]+)="([a-z][^"]*)"', spelled(text)):
            legal = {"objective": OBJECTIVES, "cache": ("auto", "off", "ram"), "template": ("plain",), "text": ("a,b",)}
            legal |= {
                "encoding": ("latin-1",),
                "family": ("bft", "full"),
                "engine": ("onnx", "ray"),
                "to": ("onnx", "peft"),
            }
            assert value.partition("(")[0] in (legal.get(name) or words(name)), (text, value)


def test_the_same_mistake_by_every_door(tmp_path, tiny_folder, capsys, inline_grids, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, data = str(tiny_folder("bert", "mlm")), tmp_path / "x.csv"
    data.write_text("said,kind\nthe film,a\nthe book,b\n")
    given = {"model": model, "train": str(data), "label": "kind", "plan": "1: lora", "objective": "classification"}
    with pytest.raises(DataError, match="which column holds the text") as caught:
        st.train(**given, out=str(tmp_path / "a"))
    assert caught.value.hint == 'name it with text="COLUMN", or two with text="A,B"' and "--" not in str(caught.value)
    assert command(["train", *(word for name, one in given.items() for word in (f"--{name}", one))]) == 2
    assert "hint: name it with --text COLUMN, or two with --text A,B" in capsys.readouterr().err
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**given, "out": str(tmp_path / "b")}))
    assert command(["train", str(file)]) == 2
    assert "hint: name it with text: COLUMN, or two with text: A,B" in capsys.readouterr().err
    base = {"train": str(data), "eval": None, "text": [], "label": "kind", "objective": "classification"}
    recipe = gridding.write_recipe(tmp_path, plans=["1: lora"], seeds=[0], base=base)
    assert command(["grid", str(recipe), "--out", str(tmp_path / "grid"), "--json"]) == 1
    assert "name it with text: COLUMN" in json.loads(capsys.readouterr().out)["failed"][0]["error"]
    with pytest.raises(ConfigError, match=r"objective") as refused:
        st.Classifier("1: lora", model=model, objective="mlm(x=1)").fit(["the film", "the book"], ["a", "b"])
    assert "--" not in str(refused.value)
    with pytest.raises(DataError) as blank:
        st.Classifier("1: lora", model=model, objective="classification").fit(["the film", " "], ["a", "b"])
    assert 'bad_rows="skip"' in blank.value.hint
    with pytest.raises(DataError, match="which column holds the text"):
        st.train(**{**given, "train": pd.read_csv(data)}, out=str(tmp_path / "c"))
