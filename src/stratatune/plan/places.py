"""Which kinds of model have no place for a treatment, and what to use there instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stratatune.errors import PlanError
from stratatune.plan.shape import Shape

if TYPE_CHECKING:
    from stratatune.plan.schema import Plan

_ENCODERS_ONLY = ("prompt", "idpg")
"""Insertions at the input that ask of the embeddings what only encoders' give."""


def check_places(plan: Plan, shape: Shape) -> None:
    """Refuses what this kind of model has no place for.

    Raises:
        PlanError: names the treatment, and what to use instead.
    """
    for one in plan.insertions:
        if shape.decoder is not None:
            raise PlanError(
                f"{one}: nothing is inserted into an encoder-decoder ({shape.model_type}) yet",
                "treat its blocks instead: lora, bitfit, delta_bias, full",
            )
        if shape.causal and one.kind in _ENCODERS_ONLY:
            raise PlanError(
                f"{one}: there is no place for it at the input of a decoder ({shape.model_type}) yet",
                "late_prompt(depth=0) puts prompts there too",
            )
    for stratum in plan.strata if shape.decoder is not None else ():
        if any(one.kind == "prefix" for one in stratum.treatments):
            raise PlanError(
                f"{stratum}: prefix has no place in the attention of an encoder-decoder ({shape.model_type}) yet",
                "treat its blocks otherwise: lora, bitfit, delta_bias, full",
            )
