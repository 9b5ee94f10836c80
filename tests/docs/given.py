"""The Python objects that a page's blocks take as given: data and models of the reader's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from docs.pages import LABELS, TEXTS

Models = Callable[[str], str]


def _apply(models: Models) -> dict[str, Any]:
    import datasets
    import peft
    import transformers

    folder = models("roberta-large")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = [{**tokenizer(text), "label": int(label == "positive")} for text, label in zip(TEXTS, LABELS, strict=True)]
    collate = transformers.DataCollatorWithPadding(tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = transformers.AutoModelForSequenceClassification.from_pretrained(models("roberta-base"))
        peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_CLS")).save_pretrained("peft-folder")
    return {
        "tokenizer": tokenizer,
        "tokenized": datasets.Dataset.from_list(rows),
        "loader": torch.utils.data.DataLoader(rows[:4], batch_size=2, collate_fn=collate),  # pyright: ignore[reportArgumentType]
        "arguments": transformers.TrainingArguments("trained", max_steps=2, use_cpu=True, report_to=[]),
        "inputs": tokenizer(TEXTS[:3], return_tensors="pt", padding=True),
    }


def _decoders(models: Models) -> dict[str, Any]:
    from transformers import AutoModelForSeq2SeqLM, MBartConfig

    sizes = {"encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes |= {"d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 20, "vocab_size": 60}
    return {"model": AutoModelForSeq2SeqLM.from_config(MBartConfig(**sizes, max_position_embeddings=32)).eval()}


def _from(models: Models) -> dict[str, Any]:
    from sentence_transformers import SentenceTransformer

    sentence_model = SentenceTransformer(models("roberta-base"), device="cpu")
    return {"texts": TEXTS, "labels": LABELS, "sentence_model": sentence_model}


def _readme(models: Models) -> dict[str, Any]:
    from transformers import AutoModelForMaskedLM

    hf_model = AutoModelForMaskedLM.from_pretrained(models("roberta-large"))
    return {"texts": TEXTS, "labels": LABELS, "hf_model": hf_model}


GIVEN: dict[str, Callable[[Models], dict[str, Any]]] = {
    "README.md": _readme,
    "apply.md": _apply,
    "decoders.md": _decoders,
    "from.md": _from,
    "sklearn.md": lambda models: {"texts": TEXTS, "labels": LABELS, "new_texts": TEXTS},
}
