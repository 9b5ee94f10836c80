"""What every kind of decoder must do: a padded batch, two ways through, and checks against stock libraries."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor

import stratatune as st
from counting import count_backward_blocks
from stratatune.model.artefact import load
from stratatune.model.merging import merge
from stratatune.model.question import Question
from stratatune.model.split import Top, Trunk

LENGTHS = torch.tensor((9, 6, 8))
MASK = torch.arange(9) < LENGTHS[:, None]
IDS = torch.randint(5, 50, (3, 9), generator=torch.Generator().manual_seed(0)).masked_fill(~MASK, 1)


def whole(model: Any) -> Tensor:
    """The model's own forward, at the last token of each text."""
    logits = model(input_ids=IDS, attention_mask=MASK.long(), use_cache=False).logits
    return logits[torch.arange(3), LENGTHS - 1] if logits.dim() == 3 else logits


def halves(model: Any, places: Tensor | None = LENGTHS[:, None] - 1) -> Tensor:
    """The top of the trunk, whose padding is zero, as it comes out of a cache; at the last token, or at every one."""
    hidden = torch.where(MASK[..., None], Trunk(model.attached)(IDS, MASK), 0)
    pools = model.attached.backbone.head.name == "sequence"
    logits = Top(model.attached)(hidden, MASK, Question(places=None if pools else places, ids=IDS))
    return logits if pools or places is None else logits[:, 0]


def check_gradients(model: Any, tolerance: float) -> None:
    """Both ways give what trains one gradient, through the blocks that the plan names."""
    found: list[dict[str, Tensor]] = []
    for run in (whole, halves):
        model.zero_grad(set_to_none=True)
        blocks = count_backward_blocks(model.attached, lambda run=run: run(model).square().sum().backward())
        assert blocks == model.attached.resolved.backprop_blocks
        found.append({name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None})
    assert found[0].keys() == found[1].keys() == model.attached.trained().keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=tolerance, atol=tolerance)


def check_generation(model: Any, count: int) -> list[tuple[Tensor, Tensor]]:
    """A batch padded on the left is continued as each text alone; returns each text [T] and what follows it."""
    settings = {"max_new_tokens": count, "do_sample": False}
    left = torch.stack([row.roll(9 - int(length)) for row, length in zip(IDS, LENGTHS, strict=True)])
    seen = torch.stack([row.roll(9 - int(length)) for row, length in zip(MASK, LENGTHS, strict=True)]).long()
    together = model.generate(left, attention_mask=seen, **settings)[:, 9:]
    found: list[tuple[Tensor, Tensor]] = []
    for row, length, written in zip(IDS, LENGTHS, together, strict=True):
        text = row[None, :length]
        alone = model.generate(text, attention_mask=torch.ones_like(text), **settings)[0, length:]
        assert torch.equal(written[: len(alone)], alone)
        found.append((text[0], alone))
    return found


@torch.no_grad()
def check_merged(model: Any, fresh: Any) -> None:
    """Merged, it is a plain model with the names of a fresh one and the outputs of before."""
    said = whole(model)
    plain = merge(copy.deepcopy(model))
    torch.testing.assert_close(whole(plain), said, rtol=0, atol=1e-6)
    assert plain.state_dict().keys() == fresh.state_dict().keys()


@torch.no_grad()
def check_stock_peft(model: Any, fresh: Callable[[], Any], folder: Path, tolerance: float = 1e-6) -> None:
    """Stock peft computes the same from our export over a ``fresh`` base, and we read that export back."""
    said = whole(model)
    st.export(model, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by old names
        stock = peft.PeftModel.from_pretrained(fresh().double(), folder, autocast_adapter_dtype=False).eval()
    torch.testing.assert_close(whole(stock), said, rtol=0, atol=tolerance)
    assert not torch.allclose(whole(fresh().double()), said, atol=1e-3)
    fresh().save_pretrained(folder / "base")
    back = load(folder, base=str(folder / "base"))
    torch.testing.assert_close(whole(back).double(), said, rtol=0, atol=1e-4)
