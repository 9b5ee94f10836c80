"""Working copies in bf16 of the matrices that train whole, kept in addition to their fp32 masters.

Autocast rounds every trained matrix for each forward and widens its gradient after each backward: two passes over all
of them that compute nothing. A working copy is the rounded matrix, kept: the forward reads it, its gradient stays in
bf16 (the numbers that were widened before), and the optimiser rewrites it as it writes the master
(``training/optimiser.py``). The parameters of the model are the masters throughout, so checkpoints, counts and the
artefact know nothing of it. The numbers are bit for bit those of autocast.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from stratatune.model.attached import Attached


class WorkingCopies:
    """The copies of the fp32 weights of linears that train.

    An attribute of an instance comes before ``nn.Module``'s parameters, so a module's own code reads the copy.

    Args:
        modules: those of the top; plain linears among them with a weight that trains get a copy.
        dtype: the computation's.
    """

    def __init__(self, modules: Iterable[nn.Module], dtype: torch.dtype | None) -> None:
        self.modules: list[nn.Module] = []
        self.by_master: dict[nn.Parameter, Tensor] = {}
        """The copy of each master; the optimiser reads this, so nothing has to be undone there when the copies go."""
        for module in modules:
            # A subclass may use its weight in another way, and a weight in vars() has a copy already.
            if type(module) is not nn.Linear or not module.weight.requires_grad or "weight" in vars(module):
                continue
            if module.weight.dtype == torch.float32:
                # A separate leaf, so that autograd leaves the gradient here, in half precision.
                copy = module.weight.detach().to(dtype).contiguous().requires_grad_()
                self.modules.append(module)
                self.by_master[module.get_parameter("weight")] = copy
                vars(module)["weight"] = copy

    @torch.no_grad()
    def refresh(self) -> None:
        """Round every master again, after something other than the optimiser has written them."""
        for master, copy in self.by_master.items():
            copy.copy_(master)

    def remove(self) -> None:
        """Let the modules read their parameters again."""
        for module in self.modules:
            vars(module).pop("weight", None)
        self.modules.clear()
        self.by_master.clear()


@contextlib.contextmanager
def working_copies(attached: Attached, dtype: torch.dtype | None, *, wanted: bool = True) -> Iterator[WorkingCopies]:
    """Hold copies of the blocks' wholly trained matrices while this is open; none without autocast, or if not wanted.

    Args:
        attached: the state attached to the model.
        dtype: that of the computation, where it is not the masters' own.
        wanted: whether gradients may lie in the copies: on a CPU, in one process, one batch a step.
    """
    copies = WorkingCopies(attached.backbone.blocks.modules() if wanted and dtype is not None else (), dtype)
    try:
        yield copies
    finally:
        copies.remove()
