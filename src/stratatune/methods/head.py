"""The head: which parts of a model's own output layers train (BFT's "LLM_head", the poolers of SPAFIT's counts)."""

from __future__ import annotations

from torch import nn

from stratatune.methods.site import Site, train
from stratatune.plan.methods import Head


def attach(config: Head, site: Site) -> list[nn.Parameter]:
    """Mark the parts named in ``config`` that this model's head has.

    ``bias`` is the decoder's bias [V] alone; ``decoder`` is its weight [V, D], often the embeddings' own tensor.
    """
    trained: list[nn.Parameter] = []
    whole = [part for part in ("pooler", "final_norm") if getattr(config, part)]
    for part, module in site.modules((*config.mlm, *whole)):
        if part == "bias":
            trained += [] if module.bias is None else [module.bias]
        elif part == "decoder":
            trained.append(module.weight)
        else:
            trained += module.parameters()
    return train(dict.fromkeys(trained))  # a decoder's `norm` is its final norm
