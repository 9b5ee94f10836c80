"""Full tuning of a block, or of some of its roles: weights and biases train as they are."""

from __future__ import annotations

from torch import nn

from stratatune.methods.site import Site, train
from stratatune.methods.wrapping import innermost
from stratatune.plan.methods import Full


def attach(config: Full, site: Site) -> list[nn.Parameter]:
    """Mark every parameter of ``config.on`` as trained."""
    own = (innermost(module) for _, module in site.modules(config.roles()))
    return train(parameter for module in own for parameter in module.parameters())
