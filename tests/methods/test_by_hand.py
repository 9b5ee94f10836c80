"""Late prompt and adapter against a forward pass written out by hand, from the papers' equations and LPT's facts.

Nothing of transformers' code runs in the reference: only the state dict's tensors are used.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

import tiny
from asking import logits_at
from stratatune.model.attach import apply
from stratatune.model.split import Trunk

HEADS, EPS = 4, 1e-12
LENGTHS, LONGEST = (9, 5, 7), 9
NAMES = {
    "bert": (
        "bert",
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.decoder",
    ),
    "roberta": ("roberta", "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"),
}


class ByHand:
    """A post-norm encoder with a masked-LM head, over a dict of tensors."""

    def __init__(self, family, state):
        self.family, self.state = family, state
        self.base, self.dense, self.head_norm, self.decoder = NAMES[family]

    def linear(self, name, x):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, name, x, eps=EPS):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return scaled * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def embed(self, ids, mask, types):
        tables = f"{self.base}.embeddings"
        places = torch.arange(ids.shape[1]).expand_as(ids) if self.family == "bert" else mask.cumsum(1) * mask + 1
        found = (
            self.state[f"{tables}.word_embeddings.weight"][ids]
            + self.state[f"{tables}.position_embeddings.weight"][places]
            + self.state[f"{tables}.token_type_embeddings.weight"][types]
        )
        return self.norm(f"{tables}.LayerNorm", found)

    def block(self, number, h, mask):
        at = f"{self.base}.encoder.layer.{number}"
        rows, tokens, width = h.shape
        q, k, v = (
            self.linear(f"{at}.attention.self.{name}", h).view(rows, tokens, HEADS, -1).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(width / HEADS)
        scores = scores.masked_fill(~mask[:, None, None, :], -math.inf)  # the additive mask
        context = (scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, tokens, width)
        h = self.norm(f"{at}.attention.output.LayerNorm", h + self.linear(f"{at}.attention.output.dense", context))
        wide = self.gelu(self.linear(f"{at}.intermediate.dense", h))
        return self.norm(f"{at}.output.LayerNorm", h + self.linear(f"{at}.output.dense", wide))

    def head(self, h):
        return self.linear(self.decoder, self.norm(self.head_norm, self.gelu(self.linear(self.dense, h))))

    @staticmethod
    def gelu(x):
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))

    def late_prompt(self, at, tokens, h, mask, read):
        """BFT eq. 1-2: made from the first token, put in front of it, seen by all; what is read shifts by P."""
        prompt = self.linear(f"{at}.generator.up", F.relu(self.linear(f"{at}.generator.down", h[:, 0])))
        prompt = prompt.view(len(h), tokens, h.shape[-1])
        return torch.cat([prompt, h], 1), F.pad(mask, (tokens, 0), value=True), read + tokens

    def adapter(self, at, h):
        """BFT eq. 3-5."""
        return h + self.linear(f"{at}.up", F.relu(self.linear(f"{at}.down", self.norm(f"{at}.norm", h, 1e-5))))


def batch(family):
    mask = torch.arange(LONGEST) < torch.tensor(LENGTHS)[:, None]
    ids = torch.randint(5, 100, mask.shape, generator=torch.Generator().manual_seed(1))
    types = (torch.arange(LONGEST) >= 3).expand_as(ids) * mask if family == "bert" else torch.zeros_like(ids)
    return ids.masked_fill(~mask, 0 if family == "bert" else 1), mask, types.long(), torch.tensor([4, 2, 6])


def tuned(family, plan):
    model = apply(tiny.tiny_model(family), plan).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.attached.trained().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.1)
    return model


@pytest.mark.parametrize(
    ("kind", "depth"), [*(("late_prompt", depth) for depth in range(4)), *(("adapter", depth) for depth in range(5))]
)
def test_insertion_equals_the_written_out_forward(family, kind, depth):
    tokens = 3
    options = (
        f"depth={depth}, tokens={tokens}, bottleneck=7" if kind == "late_prompt" else f"depth={depth}, bottleneck=6"
    )
    model = tuned(family, f"{kind}({options}) | head(mlm=dense,norm,bias)")
    ids, mask, types, read = batch(family)

    hand = ByHand(family, model.state_dict())
    at = f"{hand.base}.encoder.layer.{min(depth, 3)}.{kind}_at_{depth}"
    h, seen, reading = hand.embed(ids, mask, types), mask, read
    for number in range(5):
        if number == depth and kind == "late_prompt":
            h, seen, reading = hand.late_prompt(at, tokens, h, seen, reading)
        elif number == depth:
            h = hand.adapter(at, h)
        if number < 4:
            h = hand.block(number, h, seen)
    wanted = hand.head(h[torch.arange(3), reading])

    with torch.no_grad():
        extra = {"token_type_ids": types} if family == "bert" else {}
        whole = model(input_ids=ids, attention_mask=mask.long(), **extra).logits
        assert whole.shape[1] == LONGEST  # the prompt's positions are taken off again
        split = logits_at(model.attached, Trunk(model.attached)(ids, mask, extra.get("token_type_ids")), mask, read)
    torch.testing.assert_close(whole[torch.arange(3), read], wanted, atol=1e-10, rtol=0)
    torch.testing.assert_close(split, wanted, atol=1e-10, rtol=0)
