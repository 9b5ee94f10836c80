"""Forms of a checkpoint: read, or refused in one line that says what it is."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import tiny
from checkpoints import HALF
from stratatune.errors import ModelError
from stratatune.model.base import load_base
from stratatune.plan import shape_of

IDS = torch.arange(3, 11)[None]


def saved(folder, **how):
    model = nn.Module.to(tiny.tiny_decoder("llama"), HALF)
    model.save_pretrained(folder, **how)
    tiny.decoder_tokenizer().save_pretrained(folder)
    return sorted(folder.glob("model*.safetensors"))


def rewrite(file, change):
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def quantised(folder, **config):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": config}))


def eighths(tensors):
    return {name: one.to(torch.float8_e4m3fn) if one.dim() == 2 else one for name, one in tensors.items()}


def shorter(tensors):
    name = next(iter(tensors))
    return {**tensors, name: tensors[name][:-1].contiguous()}


def without_a_matrix(tensors):
    gone = next(name for name in tensors if "_proj" in name)
    return {name: one for name, one in tensors.items() if name != gone}


@pytest.mark.parametrize("below", [0, 2], ids=["resident", "streamed"])
@pytest.mark.parametrize("shards", ["1GB", "60KB"])
def test_single_and_sharded_are_the_same(tmp_path, shards, below):
    saved(tmp_path / "one")
    saved(tmp_path / "other", max_shard_size=shards)
    with torch.no_grad():
        logits = [load_base(str(tmp_path / name), "lm").model(input_ids=IDS).logits for name in ("one", "other")]
    assert torch.equal(*logits)
    assert load_base(str(tmp_path / "other"), "sequence", unread_below=below).new == []


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_numbers_of_positions_in_an_older_checkpoint_are_no_weights(tmp_path, dtype):
    nn.Module.to(tiny.tiny_of("mpnet", vocab_size=len(tiny.roberta_tokenizer())), dtype).save_pretrained(tmp_path)
    tiny.roberta_tokenizer().save_pretrained(tmp_path)
    (file,) = tmp_path.glob("model*.safetensors")
    rewrite(file, lambda tensors: tensors | {"mpnet.embeddings.position_ids": torch.arange(40)[None]})
    whole, streamed = (load_base(str(tmp_path), "masked_lm", unread_below=below).model for below in (0, 2))
    assert any(one.is_meta for one in streamed.parameters())
    assert not any(one.is_meta for one in streamed.buffers())
    assert whole.state_dict().keys() == streamed.state_dict().keys()


@pytest.mark.parametrize("below", [0, 2], ids=["resident", "streamed"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder, shards: shards[1].unlink(), r"lacks its shard model-00002-of-0000\d"),
        (lambda folder, shards: shards[1].write_bytes(shards[1].read_bytes()[:-7]), "is not a whole safetensors file"),
        (lambda folder, shards: rewrite(shards[1], shorter), r"is \(31,?.*\) in the checkpoint"),
        (lambda folder, shards: rewrite(shards[1], without_a_matrix), "lacks 1 weights of the encoder"),
        (lambda folder, shards: rewrite(shards[1], eighths), "holds fp8 weights"),
        (lambda folder, shards: quantised(folder, quant_method="gptq", bits=4), r"is quantised \(gptq\)"),
        (lambda folder, shards: quantised(folder, quant_method="fp8"), r"is quantised \(fp8\)"),
        (lambda folder, shards: quantised(folder, quant_method="bitsandbytes"), r"is quantised \(bitsandbytes\)"),
    ],
)
def test_what_is_wrong_or_packed_is_one_line(tmp_path, change, said, below):
    change(tmp_path, saved(tmp_path, max_shard_size="60KB"))
    with pytest.raises(ModelError, match=said) as raised:
        load_base(str(tmp_path), "sequence", unread_below=below)
    assert "\n" not in raised.value.message


def test_a_gguf_is_one_line(tmp_path):
    (saved(tmp_path / "base")[0]).unlink()
    file = tmp_path / "base" / "model-Q4_K_M.gguf"
    file.write_bytes(b"GGUF")
    for model in (tmp_path / "base", file):
        with pytest.raises(ModelError, match=r"model-Q4_K_M.gguf is a GGUF file"):
            shape_of(str(model))
        with pytest.raises(ModelError, match="GGUF"):
            load_base(str(model), "sequence")
