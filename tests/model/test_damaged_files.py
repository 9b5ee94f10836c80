"""A base with a broken file of JSON or text is refused in one line that names the file, never in a library's words."""

from __future__ import annotations

import json
import shutil

import pytest

import tiny
from stratatune.errors import ModelError
from stratatune.model.base import load_base
from stratatune.model.damaged_files import damaged_file

BROKEN = {
    "empty": ("", "it is empty"),
    "cut": ('{"model": {"type', "not valid JSON"),
    "list": ("[1, 2]", r"it holds \[1, 2\] and not a JSON object"),
    "bytes": (b"\xff\xfe", "it is not UTF-8"),
}
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json")


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("file", FILES)
def test_the_file_is_named(tiny_folder, tmp_path, file, fault):
    folder = shutil.copytree(tiny_folder("bert"), tmp_path / "base")
    content, message = BROKEN[fault]
    message = "is not a JSON object" if (file, fault) == ("config.json", "list") else message
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ModelError, match=f"base/{file} .*{message}") as caught:
        load_base(str(folder), "masked_lm")
    assert caught.value.hint and "\n" not in str(caught.value)


WRONG = {
    "tokenizer.json": ({"model": 3, "added_tokens": []}, "its content is not that of a tokenizer"),
    "tokenizer_config.json": ({"tokenizer_class": 3}, "its tokenizer_class is 3"),
    "special_tokens_map.json": ({"unk_token": [1]}, r"its unk_token is \[1\]"),
    "added_tokens.json": ({"a": "x"}, "the number of 'a' is 'x'"),
}


@pytest.mark.parametrize("file", WRONG)
def test_a_wrong_type_is_named(tiny_folder, tmp_path, file):
    folder = shutil.copytree(tiny_folder("bert"), tmp_path / "base")
    content, message = WRONG[file]
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=f"base/{file} cannot be read: {message}"):
        load_base(str(folder), "masked_lm")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_act", "warm", "its hidden_act is 'warm', which transformers does not have"),
        ("layer_norm_eps", "x", "its layer_norm_eps is 'x'"),
        ("id2label", 3, "its id2label is 3"),
        ("dtype", "float99", "one of its fields has a wrong type"),
    ],
)
def test_a_field_of_the_config_is_named(tiny_folder, tmp_path, field, value, message):
    folder = shutil.copytree(tiny_folder("bert"), tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(ModelError, match=f"base/config.json cannot be read: {message}"):
        load_base(str(folder), "sequence")


def test_sizes_of_another_checkpoint(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder("bert"), tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 10}))
    with pytest.raises(ModelError, match="have other sizes than its config.json says"):
        load_base(str(folder), "masked_lm")


@pytest.mark.parametrize("content", ["null", "[1]", "3"])
def test_a_generation_config_that_is_no_object(tmp_path, content):
    folder = tmp_path / "base"
    tiny.save_tiny_decoder(folder, "gpt2")
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(ModelError, match=r"base/generation_config.json cannot be read: it holds .* not a JSON object"):
        load_base(str(folder), "lm")


@pytest.mark.parametrize(
    ("content", "message"), [("", "it is empty"), ("{", "not valid JSON"), ("{}", "it has no weight_map of shards")]
)
def test_an_index_of_shards(tiny_folder, tmp_path, content, message):
    folder = shutil.copytree(tiny_folder("bert"), tmp_path / "base")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match=f"model.safetensors.index.json is damaged: {message}"):
        load_base(str(folder), "masked_lm")


def test_whole_files_are_not_at_fault(tiny_folder):
    assert damaged_file(str(tiny_folder("bert"))) == damaged_file("no/model") == damaged_file("a hub?") == ("", "")
