"""BitFit: train only the bias vectors of a block's linears and norms (Ben Zaken et al., 2022)."""

from __future__ import annotations

from torch import nn

from stratatune.methods.site import Site, train
from stratatune.methods.wrapping import own_bias
from stratatune.plan.methods import BitFit


def attach(config: BitFit, site: Site) -> list[nn.Parameter]:
    """Mark the biases of ``config.on`` as trained. Roles without a bias are left alone."""
    found = [own_bias(module) for _, module in site.modules(config.roles())]
    return train(bias for bias in found if bias is not None)
