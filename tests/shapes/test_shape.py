"""Shapes: where a config comes from, and what is refused."""

from __future__ import annotations

import json

import pytest

from stratatune.errors import ModelError
from stratatune.plan import shape_of
from stratatune.shapes.architectures import EncoderArchitecture
from stratatune.shapes.builtin import builtin_config
from stratatune.shapes.table import architecture_of

CONFIG = dict(builtin_config("bert-base-cased") or {})


def test_names_with_and_without_their_organisation():
    assert shape_of("FacebookAI/roberta-large").blocks == shape_of("roberta-large").blocks == 24
    assert builtin_config("someone/roberta-large") is None
    assert shape_of("roberta-large").max_tokens == 512


def test_a_folder_comes_before_a_name(tmp_path, monkeypatch):
    (tmp_path / "roberta-large").mkdir()
    monkeypatch.chdir(tmp_path)
    assert shape_of("roberta-large").blocks == 24
    (tmp_path / "roberta-large" / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": 5}))
    assert shape_of("roberta-large").blocks == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "is not a JSON object"),
        ("{}", "names no model_type"),
        (json.dumps({**CONFIG, "model_type": "berd"}), "model type 'berd' is not in the table"),
        (json.dumps({**CONFIG, "vocab_size": None, "hidden_size": "x"}), "lacks hidden_size, vocab_size"),
    ],
)
def test_a_bad_config_is_a_model_error(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        shape_of(str(tmp_path))


def test_a_folder_without_config(tmp_path):
    with pytest.raises(ModelError, match="holds no config.json"):
        shape_of(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "hint"),
    [
        ("adapter/adapter.json", "--start-from"),
        ("adapter.json", "--start-from"),
        ("adapter_config.json", "an adapter of peft: `stratatune export"),
        ("notes.txt", "name the folder of a saved transformers model"),
    ],
)
def test_a_folder_of_an_adapter_is_told_from_a_model(tmp_path, file, hint):
    (tmp_path / "adapter").mkdir()
    (tmp_path / file).write_text("{}")
    with pytest.raises(ModelError, match="holds no config.json") as caught:
        shape_of(str(tmp_path))
    assert hint in caught.value.hint


def test_an_unknown_name_is_one_line_with_the_nearest(monkeypatch):
    import huggingface_hub

    def offline(*_, **__):
        raise huggingface_hub.errors.OfflineModeIsEnabled("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(ModelError, match="neither a local folder nor reachable") as caught:
        shape_of("roberta-lrge")
    assert "did you mean 'roberta-large'" in caught.value.hint and "\n" not in str(caught.value)


def test_an_illegal_id_is_a_model_error():
    with pytest.raises(ModelError):
        shape_of("not a/legal/id")


def test_an_unknown_architecture_lists_each_type_once_and_every_kind_of_row():
    with pytest.raises(ModelError, match="'bloom' is not in the table") as error:
        architecture_of("bloom")
    assert error.value.hint.count(" t5,") == 1
    assert all(kind in error.value.hint for kind in (" EncoderArch", " DecoderArch", " EncoderDecoderArch"))


def test_a_row_of_another_kind_is_data_only(monkeypatch):
    """Grouped queries, a gate, RMS norms, no biases: what later rows bring needs no new code."""
    from stratatune.shapes import architectures, table

    bert = architecture_of("bert")
    values = vars(bert) | {
        "name": "llama",
        "model_types": ("llama",),
        "roles": {role: role for role in ("q", "k", "v", "o", "up", "gate", "down", "norm_attn", "norm_ffn")},
        "biases": dict.fromkeys(("up", "gate", "down", "norm_attn", "norm_ffn"), False)
        | dict.fromkeys("qkvo", "attention_bias"),
        "embedding_tables": ("vocab",),
        "embedding_norm": False,
        "final_norm": "norm",
        "fields": architectures.Fields(types=None, kv_heads="num_key_value_heads", head_dim="head_dim"),
    }
    monkeypatch.setattr(table, "ARCHITECTURES", (EncoderArchitecture(**values),))
    config = CONFIG | {"model_type": "llama", "num_key_value_heads": 4, "head_dim": 32}
    shape = shape_of(config)
    assert shape.linears["q"].outputs == 12 * 32 and shape.linears["k"].outputs == 4 * 32
    assert shape.linears["gate"].weights == 768 * 3072
    assert not shape.linears["q"].bias and shape_of(config | {"attention_bias": True}).linears["q"].bias
    assert shape.norms["norm_ffn"].biases == 0
    assert shape.embeddings == 28996 * 768
