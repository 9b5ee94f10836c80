#!/bin/sh
# transformers 5.24.0: Llama 3.1 and a Qwen2 with YaRN lose the scaling of their positions when read from a GGUF file.
#
# `from_pretrained(gguf_file=...)` is there to fine-tune what a GGUF file holds. Such a file says how a long context was
# reached: for Llama 3.1, 3.2 and 3.3 in a tensor, `rope_freqs.weight`, of one divisor for each frequency, for YaRN in
# the keys `qwen2.rope.scaling...`. transformers reads such keys for GPT-OSS alone, and the tensor for no model. So the
# config says "default", and angles turn too fast, up to 32 times for Llama 3.2. All weights come back exactly, and so
# does a model without scaling. Here the logits move within 16 tokens, and of 2048 half have another best next token.
# The loading report is empty, and what is tuned and saved keeps "default". One expects the model in the file. Nothing
# warns.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.24.0" "gguf==0.19.0" "accelerate==1.15.0"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TQDM_DISABLE=1
cd "$WORK"
mkdir read saved
cat >try.py <<'P'
import importlib.metadata
import logging
import sys

import gguf
import numpy as np
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GgufConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

transformers.utils.logging.disable_progress_bar()
HEAD = 64
SIZES = {"vocab_size": 64, "hidden_size": 2 * HEAD, "num_hidden_layers": 2, "intermediate_size": 96}
SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 131072}
SIZES |= {"initializer_range": 0.2}
LLAMA = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA |= {"original_max_position_embeddings": 8192}  # as in Llama 3.2
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32768}
MODELS = {
    "Llama": (LlamaForCausalLM, LlamaConfig, {"rope_type": "default", "rope_theta": 500000.0}),
    "Llama 3.2": (LlamaForCausalLM, LlamaConfig, LLAMA),
    "Qwen2": (Qwen2ForCausalLM, Qwen2Config, {"rope_type": "default", "rope_theta": 1e6}),
    "Qwen2 with YaRN": (Qwen2ForCausalLM, Qwen2Config, YARN),
}
LENGTHS = (16, 256, 2048)


class Kept(logging.Handler):
    """Keeps what transformers has to say."""

    def emit(self, record):
        said.append(record.getMessage())


said = []
logging.getLogger("transformers").addHandler(Kept(logging.WARNING))


def write(model, path):
    """The model in fp32, under the keys and names that llama.cpp reads and its converter writes."""
    config, rope = model.config, model.config.rope_parameters
    file = gguf.GGUFWriter(path, config.model_type)
    file.add_context_length(config.max_position_embeddings)
    file.add_embedding_length(config.hidden_size)
    file.add_block_count(config.num_hidden_layers)
    file.add_feed_forward_length(config.intermediate_size)
    file.add_head_count(config.num_attention_heads)
    file.add_head_count_kv(config.num_key_value_heads)
    file.add_layer_norm_rms_eps(config.rms_norm_eps)
    file.add_vocab_size(config.vocab_size)
    file.add_rope_dimension_count(HEAD)
    file.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "yarn":
        file.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        file.add_rope_scaling_factor(rope["factor"])
        file.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "llama3":
        plain = rope["rope_theta"] ** -(torch.arange(0, HEAD, 2) / HEAD)
        divisors = (plain / model.model.rotary_emb.inv_freq).numpy().astype(np.float32)
        file.add_tensor(gguf.TENSOR_NAMES[gguf.MODEL_TENSOR.ROPE_FREQS] + ".weight", divisors)
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == config.model_type)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, value in model.state_dict().items():
        value = value.numpy()
        if config.model_type == "llama" and ("q_proj" in name or "k_proj" in name):  # llama.cpp turns neighbours
            value = value.reshape(-1, 2, HEAD // 2, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        file.add_tensor(names.get_name(name, (".weight", ".bias")), np.ascontiguousarray(value))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


@torch.no_grad()
def tried(name):
    """How far the logits of the model from the file are off at each length, what it says, and what is saved."""
    cls, config, rope = MODELS[name]
    torch.manual_seed(0)
    model = cls(config(**SIZES, rope_parameters=rope)).eval()
    write(model, "read/model.gguf")
    said.clear()
    asked = {"gguf_file": "model.gguf", "quantization_config": GgufConfig(dequantize=True)}
    loaded, report = AutoModelForCausalLM.from_pretrained("read", **asked, output_loading_info=True)
    loaded.eval().save_pretrained("saved")
    held = loaded.state_dict()
    weights = max((value - held[key]).abs().max().item() for key, value in model.state_dict().items())
    texts = [torch.randint(0, 64, (1, length)) for length in LENGTHS]
    gaps = [(model(ids).logits - loaded(ids).logits).abs().max().item() for ids in texts]
    same = [(model(ids).logits.argmax(-1) == loaded(ids).logits.argmax(-1)).float().mean().item() for ids in texts]
    kind = AutoConfig.from_pretrained("saved").rope_parameters["rope_type"]
    quiet = not said and not any(report.values())
    print(f"  {name}: weights differ by {weights:.1e}; saved as {kind!r}, was {rope['rope_type']!r}; no word: {quiet}")
    for length, gap, share in zip(LENGTHS, gaps, same):
        print(f"    {length} tokens: logits differ by {gap:.1e}, the same best next token at {share:.0%}")
    return weights, gaps, same, kind, quiet


print(f"torch {torch.__version__}, transformers {transformers.__version__}, gguf {importlib.metadata.version('gguf')}")
ok = True
for name, (_, _, rope) in MODELS.items():
    weights, gaps, same, kind, quiet = tried(name)
    ok = ok and weights == 0 and kind == "default" and quiet
    if rope["rope_type"] == "default":
        ok = ok and max(gaps) < 1e-4
    else:
        ok = ok and gaps[0] > 1e-2 and gaps[-1] > 1 and same[-1] < 0.9
sys.exit(0 if ok else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
