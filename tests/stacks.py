"""What tests of decoders and encoder-decoders share: a padded batch, tuned models without dropout, two ways through."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import nn
from transformers.models.cohere2.modeling_cohere2 import Cohere2LayerNorm

import tiny
from asking import scores_of
from stratatune.model.attach import apply
from stratatune.model.split import Trunk

FAMILIES = ("t5", "t5-gated", "bart")
WORDS = ("film", "book", "city", "food", "day", "night", "movie", "story")


def inputs():
    torch.manual_seed(0)
    mask = torch.arange(9) < torch.tensor([9, 6, 8])[:, None]
    ids = torch.where(mask, torch.randint(5, 50, (3, 9)), 1)
    targets = torch.randint(5, 50, (3, 5)).masked_fill(torch.arange(5) >= torch.tensor([5, 3, 4])[:, None], -100)
    return ids, mask, targets


def tuned(family, plan, **settings):
    model = apply(tiny.tiny_encoder_decoder(family, **settings), plan)
    torch.manual_seed(1)
    for parameter in model.attached.trained().values():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def without_dropout(model):
    for module in model.modules():
        for name in ("dropout", "activation_dropout", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def whole(model):
    ids, mask, targets = inputs()
    return model(input_ids=ids, attention_mask=mask.long(), labels=targets, use_cache=False).loss


def split(model):
    ids, mask, targets = inputs()
    hidden = Trunk(model.attached)(ids, mask)
    hidden = torch.where(mask[..., None], hidden, 0)  # as it comes out of a cache
    total, count = scores_of(model.attached, hidden, mask, targets).sum(0)
    return -total / count


def checkpoint(model, reentrant):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_disable()
        if reentrant is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})


@functools.cache
def rms_norms():
    """The classes of decoders' RMS norms."""
    parts = (part for family in (*tiny.WRITERS, *tiny.STATEFUL) for part in tiny.tiny_decoder(family).modules())
    return {type(part) for part in parts if type(part).__name__.endswith("RMSNorm")}


def exact_rms_norms(patch):
    """Let decoders' RMS norms work in the precision of what they get: transformers' own work in fp32, in fp64 too."""

    def forward(self, x):
        if hasattr(self, "with_scale"):  # Gemma 4's, of which some have no weight
            eps, weight = self.eps, self.weight if self.with_scale else 1.0
        else:
            like_llama = hasattr(self, "variance_epsilon")
            eps, weight = (self.variance_epsilon, self.weight) if like_llama else (self.eps, 1 + self.weight)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight

    for norm in rms_norms():
        patch.setattr(norm, "forward", forward)
    # Command R's norm has a mean, and no bias.
    patch.setattr(Cohere2LayerNorm, "forward", lambda self, x: forward(self, x - x.mean(-1, keepdim=True)))
