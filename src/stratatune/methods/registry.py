"""The table of methods: what each kind of treatment does to a live model.

A treatment's configuration (pure data, no torch) stands in ``plan/treatments.py``. Here is what it does. Adding one
is one file beside this one and one line in a table below; freezing, counting, saving, optimiser groups and the test
matrix are written once over these tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from stratatune.methods import adapter, bitfit, full, late_prompt, lora
from stratatune.methods.site import Site

Parameters = list[nn.Parameter]


@dataclass(frozen=True)
class Method:
    """A treatment of the roles of a block.

    Attributes:
        attach: ``(config, site) -> parameters``. Edits the block in place, marks what trains and returns it.
        merge: ``(config, site) -> None``. Folds what was trained into the base weights, leaving the block as the base
            model defines it.
    """

    attach: Callable[[Any, Site], Parameters]
    merge: Callable[[Any, Site], None]


class Insertion(Protocol):
    """What an :class:`InsertionMethod` builds: an ``nn.Module`` that maps the hidden state between two blocks."""

    tokens: int
    """How many positions it puts in front of the sequence (P)."""

    def __call__(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``hidden`` [B, T, D], ``mask`` [B, T] bool -> [B, P+T, D], [B, P+T]."""
        ...


@dataclass(frozen=True)
class InsertionMethod:
    """A component put between two blocks.

    Attributes:
        build: ``(config, D) -> module`` that is an :class:`Insertion`.
        refuses_merge: why it cannot be folded into the base weights.
    """

    build: Callable[[Any, int], nn.Module]
    refuses_merge: str


METHODS: Mapping[str, Method] = {
    "bitfit": Method(bitfit.attach, bitfit.merge),
    "lora": Method(lora.attach, lora.merge),
    "full": Method(full.attach, full.merge),
}

INSERTIONS: Mapping[str, InsertionMethod] = {
    "adapter": InsertionMethod(adapter.build, adapter.REFUSES_MERGE),
    "late_prompt": InsertionMethod(late_prompt.build, late_prompt.REFUSES_MERGE),
}
