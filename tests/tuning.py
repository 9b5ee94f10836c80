"""What tests of tuned models share: plans from the registries, a padded batch, shaken weights, two ways through."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import tiny
from asking import logits_at
from stratatune.model.attach import apply
from stratatune.model.split import Trunk
from stratatune.plan import BLOCK_METHODS, INSERTIONS, Plan

MIXES = (
    "1: lora(on=q,v,down) + ia3(on=k,v,down) + delta_bias + houlsby + parallel + prefix(tokens=3)",
    ": ia3 + lora + bitfit(on=norms) | head(mlm=dense)",
    "1: full(on=ffn) + houlsby + dora(on=q,k) | prompt(tokens=2) | late_prompt(depth=1, tokens=3, generator=mppg)",
    "idpg(tokens=2, phm=4, bottleneck=8) | adapter(depth=0) | 3: prefix(tokens=2)",
    "1: delta_bias(lr=0.1) | late_prompt(depth=2, tokens=2) | late_prompt(depth=3, tokens=1) | adapter(depth=4)",
    "spafit-0-1-II+delta",
    "2: parallel + parallel(on=attn) + lora(on=o,up)",
)
TEXTS = ("a very good film", "it was bad", "the book that she likes is not new but good")


def _variants(cls: type) -> Iterator[str]:
    """``name=value`` for every value of every option that is a choice of words."""
    for name, field in cls.model_fields.items():
        words = [word for word in typing.get_args(field.annotation) if isinstance(word, str)]
        if name != "kind" and len(words) > 1:
            yield from (f"{name}={word}" for word in words)


def _plans() -> Iterator[str]:
    for kind, cls in BLOCK_METHODS.items():
        if kind != "frozen":
            yield f"1: {kind}"
            yield from (f"1: {kind}({option})" for option in _variants(cls))
    for kind, cls in INSERTIONS.items():
        depth = "depth=2, " if cls.model_fields["depth"].is_required() else ""
        size = "tokens=3, " if "tokens" in cls.model_fields else ""
        for option in ("", *_variants(cls)):
            yield f"{kind}({depth}{size}{option}".rstrip(", ") + ")"


PLANS = tuple(_plans())
"""One plan for every method in the registries, and for every choice that one offers."""


def starts_as_the_base(text: str) -> bool:
    """Whether the plan promises to change nothing at first: all methods do that add no position to attend to."""
    plan = Plan.parse(text)
    kinds = {one.kind for stratum in plan.strata for one in stratum.methods}
    return "prefix" not in kinds and not any(one.prompt for one in plan.insertions)


def batch(family: str) -> dict[str, Tensor]:
    """Three texts of different lengths, padded on the right."""
    return dict(tiny.tiny_tokenizer(family)(list(TEXTS), padding=True, return_tensors="pt"))


def read_at(kind: str) -> Tensor:
    """The position that each text of the batch is read at: anywhere for a masked LM, the first token for a class."""
    return torch.tensor([1, 3, 4]) if kind == "mlm" else torch.tensor([0, 0, 0])


def tuned(family: str, text: str, kind: str = "mlm", *, dtype: torch.dtype = torch.float64, **config: Any) -> Any:
    """A tiny model with a plan, in eval mode, as it starts; the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return apply(tiny.tiny_model(family, kind, **config).to(dtype), text)


@torch.no_grad()
def shake(model: Any, spread: float = 0.1) -> Any:
    """Moves everything that trains, the same way each time."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.attached.trained().values():
        parameter += spread * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


def whole(model: Any, inputs: dict[str, Tensor], read: Tensor) -> Tensor:
    """The model's own forward, at the position read."""
    logits = model(**inputs).logits
    return logits if logits.dim() == 2 else logits[torch.arange(len(read)), read]


def halves(model: Any, inputs: dict[str, Tensor], read: Tensor) -> Tensor:
    """The top of the trunk."""
    mask = inputs["attention_mask"].bool()
    hidden = Trunk(model.attached)(inputs["input_ids"], mask, inputs.get("token_type_ids"))
    return logits_at(model.attached, hidden, mask, read)
