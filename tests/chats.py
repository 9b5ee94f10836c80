"""Chat templates in the styles that real models bring, a tokenizer with their tokens, and conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
THINKING = (  # as Qwen3: an answer keeps its thinking only while no user follows
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index %}"
    "{% endif %}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index < ns.last %}{{ m.content.split('</think>')[-1] | trim }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = CHATML.replace(
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n",
    "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n",
)
OPEN_MARKS = MARKED.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
NO_STOP = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)

TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "gemma": GEMMA, "phi3": PHI3, "marked": MARKED}
STOPS = {
    "chatml": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "phi3": "<|end|>",
    "marked": "<|im_end|>",
}
TOKENS = (
    *("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<start_of_turn>", "<end_of_turn>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
)


def chat_tokenizer(template: str | None = None) -> Any:
    """The tiny decoders' tokenizer with the tokens of every template above."""
    made = tiny.decoder_tokenizer()
    made.add_tokens(list(TOKENS), special_tokens=True)
    made.model_max_length = 256
    if template is not None:
        made.chat_template = template
    return made


def save_chat_model(folder: Path, template: str | None = CHATML, family: str = "llama", **settings: Any) -> Path:
    """Saves a tiny decoder and a tokenizer with this chat template."""
    tokenizer = chat_tokenizer(template)
    sizes = {"vocab": len(tokenizer), "blocks": 3, "initializer_range": 0.2}
    longer = {"n_positions": 256} if family == "gpt2" else {"max_position_embeddings": 256}
    tiny.tiny_decoder(family, **{**sizes, **longer, **settings}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def said(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    """Messages of (role, content)."""
    return [{"role": role, "content": content} for role, content in pairs]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
