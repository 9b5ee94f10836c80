"""Checkpoints of random bf16 weights, written shard by shard, for models that are larger than the machine."""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

# name: (model_type, L, D, feed-forward, heads, key-value heads, head size, vocabulary, tied)
SIZES = {
    "tiny": ("qwen3", 8, 64, 192, 4, 2, 16, 4096, True),
    "0.5b": ("qwen3", 24, 1024, 4096, 16, 8, 64, 32768, True),
    "1b": ("qwen3", 24, 2048, 6144, 16, 8, 128, 65536, True),
    "qwen3-8b": ("qwen3", 36, 4096, 12288, 32, 8, 128, 151936, False),
    "llama-8b": ("llama", 32, 4096, 14336, 32, 8, 128, 128256, False),
}
WORDS = 2000
_WRITERS = 4  # shards that are written at once, where a GPU makes them faster than one file takes them
_POOL = 16_777_213  # random numbers, used again and again; prime, so that no row of a matrix is another's


def write_checkpoint(name: str, folder: Path, shard_bytes: int = 1 << 30, device: str = "cpu") -> int:
    """Write a causal LM of one of :data:`SIZES` and a tokenizer of words ``w0`` ... ; returns the bytes of its weights.

    ``device`` makes the weights, which are the same on each. On the CPU never more than one shard is in memory; those
    of a GPU are written some at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = _config(*SIZES[name])
    config.architectures = ["Qwen3ForCausalLM" if config.model_type == "qwen3" else "LlamaForCausalLM"]
    config.dtype = "bfloat16"
    config.save_pretrained(folder)
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(config)
    total = _write_shards(model, folder, shard_bytes, tied=config.tie_word_embeddings, device=device)
    _tokenizer().save_pretrained(folder)
    return total


def _config(
    kind: str, blocks: int, hidden: int, ffn: int, heads: int, keys: int, size: int, vocab: int, tied: bool
) -> Any:
    return AutoConfig.for_model(
        kind,
        num_hidden_layers=blocks,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        head_dim=size,
        vocab_size=vocab,
        max_position_embeddings=4096,
        tie_word_embeddings=tied,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def _write_shards(model: nn.Module, folder: Path, shard_bytes: int, *, tied: bool, device: str) -> int:
    # Drawn on the CPU, whose numbers do not depend on the device.
    pool = torch.randn(_POOL, generator=torch.Generator().manual_seed(0)).to(device)
    places: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    held, total = 0, 0
    with ThreadPoolExecutor(_WRITERS) as writers:
        coming: list[Future[None]] = []

        def write() -> None:
            file = f"model-{len(set(places.values())) + 1:05}.safetensors"
            coming.append(writers.submit(_save, dict(shard), folder / file))
            places.update(dict.fromkeys(shard, file))
            shard.clear()
            for one in coming[: max(0, len(coming) - (0 if device == "cpu" else _WRITERS))]:
                one.result()

        for name, one in model.state_dict().items():
            if tied and name == "lm_head.weight":
                continue
            value = _random(one.shape, pool, start=len(shard) + total)
            if shard and held + value.nbytes > shard_bytes:
                write()
                held = 0
            shard[name], held, total = value, held + value.nbytes, total + value.nbytes
        write()
        for one in coming:
            one.result()
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def _save(shard: dict[str, Tensor], file: Path) -> None:
    save_file({name: one.cpu() for name, one in shard.items()}, file, metadata={"format": "pt"})


def _random(shape: torch.Size, pool: Tensor, start: int) -> Tensor:
    """Make a weight: norms are 1, matrices random ``pool`` [n] from ``start``, scaled to keep a hidden state's size."""
    if len(shape) < 2:
        return torch.ones(shape, dtype=torch.bfloat16, device=pool.device)
    scaled = (pool * shape[-1] ** -0.5).bfloat16().roll(-(start % len(pool)))
    return scaled.repeat(-(-shape.numel() // len(pool)))[: shape.numel()].reshape(shape).clone()


def _tokenizer() -> PreTrainedTokenizerFast:
    vocab = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", *(f"w{n}" for n in range(WORDS))])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=4096,
        model_input_names=["input_ids", "attention_mask"],
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<pad>",
    )
