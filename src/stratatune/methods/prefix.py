"""Prefix tuning: trained keys and values before those of the tokens (Li & Liang, 2021; P-tuning v2, Liu et al., 2021).

``softmax(Q [PK; K]^T) [PV; V]`` with PK, PV [P, width] trained directly, as P-tuning v2 does for classification (no
reparameterisation). Every token sees every prefix position, whatever its mask.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from stratatune._compat import AttentionFunction, attend_through
from stratatune.errors import PlanError
from stratatune.methods.own_attention import FORWARDS, Before
from stratatune.methods.precision import drawn, to_train
from stratatune.methods.site import Site
from stratatune.methods.wrapping import own_weight, widths
from stratatune.plan.methods import Prefix

REFUSES_MERGE = "a prefix adds positions to attend to; no weight of the base can hold them"
NAME = "prefix"
_SPREAD = 0.02


class PrefixVectors(nn.Module):
    """PK and PV of one block: [P, heads * width of a head] each. They start small, so that they change little at first.

    Args:
        tokens: P.
        like: the projection of the keys, for their width, device and dtype.
        value: the projection of the values.
    """

    def __init__(self, tokens: int, like: nn.Module, value: nn.Module) -> None:
        super().__init__()
        self.outer_config: Any = None  # the attention's own, while this is in it
        self.key = nn.Parameter(to_train(own_weight(like), tokens, widths(like)[1]))
        self.value = nn.Parameter(to_train(own_weight(value), tokens, widths(value)[1]))
        for vectors in (self.key, self.value):
            drawn(vectors, lambda one: nn.init.normal_(one, std=_SPREAD))

    def before(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """``key``, ``value`` [B, H, T, W] -> both [B, H, P+T, W]."""
        return _before(self.key, key), _before(self.value, value)


def before_of(attention: nn.Module) -> Before:
    """What puts the prefix of ``attention`` before its keys and values; without one they are returned as they are."""
    vectors = getattr(attention, NAME, None)
    return vectors.before if isinstance(vectors, PrefixVectors) else lambda key, value: (key, value)


def _before(vectors: Tensor, states: Tensor) -> Tensor:
    rows, heads, _, width = states.shape
    mine = vectors.view(-1, heads, width).transpose(0, 1).expand(rows, -1, -1, -1)  # [B, H, P, W]
    return torch.cat([mine.to(states.dtype), states], dim=2)


def attend(
    function: AttentionFunction,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    """The model's own attention ``function`` over the prefix and the tokens; ``query`` [B, H, Q, W]."""
    prefix = module.get_submodule(NAME)
    assert isinstance(prefix, PrefixVectors)
    # transformers leaves the mask out where the kernel's own causal one would do. That one ignores the prefix: for P
    # prefix positions it would hide from each query the last P keys that it should see.
    if mask is None and getattr(module, "is_causal", False) and query.shape[2] > 1:
        mask = _causal(query.shape[2], key.shape[2], query.device)
    tokens = prefix.key.shape[0]
    key, value = prefix.before(key, value)
    if mask is not None:
        mask = nn.functional.pad(mask, (tokens, 0), value=mask.dtype == torch.bool or mask.dim() == 2)
    if rest.get("position_bias") is not None:  # T5's, over the tokens: the prefix has no position, so it gets none
        rest["position_bias"] = nn.functional.pad(rest["position_bias"], (tokens, 0))
    return function(module, query, key, value, mask, **rest)


def _causal(queries: int, keys: int, device: torch.device) -> Tensor:
    """[1, 1, Q, K] bool: query i sees keys 0..i, which are all at its place in the text.

    The mask is left out where there is nothing before the queries; a static cache has empty keys after them.
    """
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril()[None, None]


def attach(config: Prefix, site: Site) -> list[nn.Parameter]:
    """Give the block's attention a prefix; its keys and values train.

    Raises:
        PlanError: the attention neither goes through the interface that transformers lets one extend, nor is one of
            those in ``own_attention``.
    """
    attention = site.parent("q")
    vectors = PrefixVectors(config.tokens, site.get("k"), site.get("v" if "v" in site.roles else "k"))
    vectors.outer_config = attend_through(attention, NAME, attend)
    if vectors.outer_config is None:
        forward = FORWARDS.get(type(attention).__name__)
        if forward is None:
            raise PlanError(
                f"{site.name}: prefix cannot be put in a {type(attention).__name__}, which does not attend through "
                "transformers' attention interface, whatever the attention implementation",
                "use a method on roles here (lora, ia3, parallel, houlsby), or prompt tokens: prompt, late_prompt",
            )
        attention.forward = functools.partial(forward, attention, vectors.before)
    attention.add_module(NAME, vectors)
    return [vectors.key, vectors.value]


def detach(config: Prefix, site: Site) -> None:
    """Take the prefix away again, and let the attention attend as before."""
    attention = site.parent("q")
    outer_config = attention.get_submodule(NAME).outer_config
    if outer_config is None:
        del attention.forward  # the class's own is under it
    else:
        attention.config = outer_config
    delattr(attention, NAME)
