"""The table of methods: how each kind of method changes a live model.

A method's configuration (pure data, no torch) is in ``plan/methods.py``. This is what it does. Adding one is one file
next to this one and one line in a table below; freezing, counting, saving, optimiser groups and the test matrix are
written once over these tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from stratatune.methods import (
    adapter,
    bitfit,
    delta_bias,
    dora,
    full,
    houlsby,
    ia3,
    idpg,
    late_prompt,
    lora,
    parallel,
    prefix,
    prompt,
)
from stratatune.methods.site import Place, Site

Parameters = list[nn.Parameter]


def _never(config: Any, site: Site) -> str:
    return ""


def _no_roles(config: Any, site: Site) -> tuple[str, ...]:
    return ()


def _always(reason: str) -> Callable[[Any, Site], str]:
    return lambda config, site: reason


def _nothing(config: Any, site: Site) -> None:
    """Do nothing: ``methods.wrapping.unwrap`` unwraps a role's own module for every method alike."""


@dataclass(frozen=True)
class Method:
    """A method of a block.

    Attributes:
        attach: ``(config, site) -> parameters``. Edits the block in place, marks what trains and returns it. What it
            puts on a role is a :class:`stratatune.methods.wrapping.Wrapper`, which knows how to fold itself.
        refuses_merge: ``(config, site) -> reason`` why it cannot be folded into the base weights; empty when it can.
        makes_biases: ``(config, site) -> roles`` whose modules must be given a bias before it can be folded.
        detach: ``(config, site) -> None``. Removes the parts that it put elsewhere than on a role.
    """

    attach: Callable[[Any, Site], Parameters]
    refuses_merge: Callable[[Any, Site], str] = _never
    makes_biases: Callable[[Any, Site], tuple[str, ...]] = _no_roles
    detach: Callable[[Any, Site], None] = _nothing


class InsertionModule(Protocol):
    """A module built by an :class:`InsertionMethod`: it maps the hidden state between two blocks."""

    tokens: int
    """The number of positions that it puts before the sequence (P)."""
    positions: int
    """The number of these positions that are numbered as words are; noted when the plan is attached."""

    def __call__(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``hidden`` [B, T, D], ``mask`` [B, T] bool -> [B, P+T, D], [B, P+T]."""
        ...


@dataclass(frozen=True)
class InsertionMethod:
    """A component put between two blocks.

    Attributes:
        build: ``(config, place) -> module`` that is an :class:`InsertionModule`; all its parameters train.
        refuses_merge: why it cannot be folded into the base weights.
    """

    build: Callable[[Any, Place], nn.Module]
    refuses_merge: str


# The order is that in which methods of one block are attached, so from the model's own module outwards.
METHODS: Mapping[str, Method] = {
    "full": Method(full.attach),
    "bitfit": Method(bitfit.attach),
    "delta_bias": Method(delta_bias.attach, delta_bias.refuses_merge, delta_bias.makes_biases),
    "lora": Method(lora.attach),
    "dora": Method(dora.attach),
    "ia3": Method(ia3.attach),
    "houlsby": Method(houlsby.attach, _always(houlsby.REFUSES_MERGE)),
    "parallel": Method(parallel.attach, _always(parallel.REFUSES_MERGE)),
    "prefix": Method(prefix.attach, _always(prefix.REFUSES_MERGE), detach=prefix.detach),
}

INSERTIONS: Mapping[str, InsertionMethod] = {
    "adapter": InsertionMethod(adapter.build, adapter.REFUSES_MERGE),
    "late_prompt": InsertionMethod(late_prompt.build, late_prompt.REFUSES_MERGE),
    "prompt": InsertionMethod(prompt.build, prompt.REFUSES_MERGE),
    "idpg": InsertionMethod(idpg.build, idpg.REFUSES_MERGE),
}


def in_order(methods: Iterable[Any]) -> list[Any]:
    """Methods of one block in the order in which they are attached, whatever their order in the plan."""
    order = list(METHODS)
    return sorted(methods, key=lambda one: order.index(one.kind))
