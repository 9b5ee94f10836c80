"""Tiny checkpoints of every family on disk, in a precision of one's own."""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

import tiny

HALF = torch.bfloat16
ENCODER_TYPES = ("albert", "bert", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta")
ENCODER_DECODERS = ("t5", "t5-gated", "bart")
EVERY = (*ENCODER_TYPES, *tiny.DECODERS, *tiny.EXPERTS, *ENCODER_DECODERS)


def saved(folder, family, dtype=HALF):
    """A folder with the tiny model of ``family`` in ``dtype``; gives the class that loads it, and our head's name."""
    if family in (*tiny.DECODERS, *tiny.EXPERTS):
        model, tokenizer, auto, head = (
            tiny.tiny_decoder(family),
            tiny.decoder_tokenizer(),
            AutoModelForCausalLM,
            "lm",
        )
    elif family in ENCODER_DECODERS:
        model, tokenizer, auto, head = (
            tiny.tiny_encoder_decoder(family),
            tiny.roberta_tokenizer(),
            AutoModelForSeq2SeqLM,
            "seq2seq_lm",
        )
    else:
        vocab = len(tiny.roberta_tokenizer())
        model = tiny.tiny_of(family, vocab_size=vocab)
        tokenizer, auto, head = tiny.roberta_tokenizer(), AutoModelForMaskedLM, "masked_lm"
    nn.Module.to(model, dtype)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return auto, head


def inputs(family):
    torch.manual_seed(0)
    mask = torch.arange(9) < torch.tensor([9, 6, 8])[:, None]
    ids = torch.where(mask, torch.randint(5, 50, (3, 9)), 1)
    given = {"input_ids": ids, "attention_mask": mask.long()}
    return given | ({"decoder_input_ids": ids[:, :4]} if family in ENCODER_DECODERS else {})
