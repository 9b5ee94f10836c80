"""What the tests of the model floor share: the presets, inputs, and tuned tiny models whose trained values moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import tiny
from asking import logits_at
from stratatune.model.attach import apply
from stratatune.model.split import Trunk

PRESETS = (
    *("full", "bitfit", "lora-I", "lora-II", "lora", "spafit-0-1-I", "spafit-0-1-II"),
    *("head", "lpt", "lpt-adapter", "bft", "bft+norm2", "bft+ffd", "bft+ln"),
    *("bft-adapter", "bft-adapter+ffd", "bft-adapter+ln"),
)
KINDS = ("mlm", "classification")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for ``preset`` or ``kind`` runs for each."""
    for name, values in (("preset", PRESETS), ("kind", KINDS)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, values)


@dataclass
class Inputs:
    """Three padded rows: ids [B, T], mask [B, T] bool, token types or None, the position read [B], a label a row."""

    ids: torch.Tensor
    mask: torch.Tensor
    types: torch.Tensor | None
    read: torch.Tensor
    labels: torch.Tensor

    @property
    def for_model(self) -> dict[str, Any]:
        """As a Hugging Face model takes them."""
        types = {} if self.types is None else {"token_type_ids": self.types}
        return {"input_ids": self.ids, "attention_mask": self.mask.long(), **types}

    def whole(self, model: Any, kind: str) -> torch.Tensor:
        """Logits at the position read, by the model's own forward. [B, C]"""
        logits = model(**self.for_model).logits
        return logits[torch.arange(len(self.ids)), self.read] if kind == "mlm" else logits

    def split(self, model: Any) -> torch.Tensor:
        """The same by trunk and top."""
        return logits_at(model.attached, Trunk(model.attached)(self.ids, self.mask, self.types), self.mask, self.read)

    def loss(self, logits: torch.Tensor) -> torch.Tensor:
        """A loss that reads every logit."""
        return F.cross_entropy(logits, self.labels)

    def gradients(self, model: Any, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        """The gradient of every parameter that has one after the backward pass from ``logits``."""
        model.zero_grad(set_to_none=True)
        self.loss(logits).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture(scope="session")
def make_inputs() -> Any:
    """Gives ``make_inputs(family, kind)``: lengths 9, 5, 7."""

    def make(family: str, kind: str) -> Inputs:
        generator = torch.Generator().manual_seed(1)
        lengths, longest = torch.tensor([9, 5, 7]), 9
        mask = torch.arange(longest) < lengths[:, None]
        ids = torch.randint(5, 100, (3, longest), generator=generator).masked_fill(~mask, 0 if family == "bert" else 1)
        types = ((torch.arange(longest) >= 3) & mask).long() if family == "bert" else None
        read = torch.tensor([4, 2, 6]) if kind == "mlm" else torch.zeros(3, dtype=torch.long)
        return Inputs(ids, mask, types, read, torch.tensor([0, 1, 2]))

    return make


@pytest.fixture(scope="session")
def tuned() -> Any:
    """Gives ``tuned(family, kind, plan, **settings)``: a tiny tuned model; everything that trains is shaken."""

    def make(family: str, kind: str, plan: str, **settings: Any) -> Any:
        model = apply(tiny.tiny_model(family, kind, **settings), plan)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in model.attached.trained().values():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        return model

    return make
