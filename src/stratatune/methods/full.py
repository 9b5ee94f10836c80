"""Full tuning of a block, or of some of its roles: weights and biases train as they are."""

from __future__ import annotations

from torch import nn

from stratatune.methods.site import Site, train
from stratatune.plan.treatments import Full


def attach(config: Full, site: Site) -> list[nn.Parameter]:
    """Mark every parameter of ``config.on`` as trained."""
    return train(parameter for _, module in site.modules(config.roles()) for parameter in module.parameters())


def merge(config: Full, site: Site) -> None:
    """Nothing to do: the trained weights are the base model's own."""
