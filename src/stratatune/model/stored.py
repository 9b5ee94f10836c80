"""Hold frozen matrices in half precision, as the checkpoint stores them, in a model that computes in fp32.

A bf16 checkpoint of 8 B parameters is 16 GB; loaded in fp32 it is 32. But a matrix need be wide only while it is
multiplied with. So linears, experts and the table of words keep their weights as stored and widen them in each forward,
one at a time; norms, biases and positions, which are small, are fp32 throughout. Widening is exact, so the numbers are
those of the model loaded in fp32. Under autocast a linear's weight is taken as it is, and nothing is widened at all.

What a method trains is fp32 (``model/masters.py``), and then nothing is widened either.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from stratatune.methods.experts import holds_experts, of_experts, through_of
from stratatune.methods.precision import HALVES, product
from stratatune.shapes.table import architecture_of, is_known

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from stratatune.model.unread import Unread


class StoredLinear(nn.Linear):
    """A linear whose weight is widened during its forward."""

    def forward(self, input: Tensor) -> Tensor:  # torch's own name for it
        """[..., in] -> [..., out]."""
        return product(input, self.weight, self.bias)


class StoredConv1D(Conv1D):
    """GPT-2's linear, whose weight is [in, out], widened during its forward."""

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] -> [..., out]."""
        # Autocast converts the weight itself.
        if self.weight.dtype not in HALVES or torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        return product(x.flatten(0, -2), self.weight.t(), self.bias).unflatten(0, x.shape[:-1])


class StoredExperts:
    """Mixed into the class of a module that holds all experts of a block: widens one matrix of one expert at a time.

    The order of the sums is that of the class' own (eager) code.
    """

    def __reduce_ex__(self, protocol: Any) -> Any:
        # As for a table of words, below.
        return _blank_experts, (type(self).__bases__[1],), vars(self)

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """``hidden`` [S, D], the K experts ``chosen`` for each token and their ``weights`` [S, K] -> [S, D]."""
        own: Any = self
        if torch.is_autocast_enabled(hidden.device.type) or not widens(hidden, own.gate_up_proj, own.down_proj):
            return super().forward(hidden, chosen, weights)  # pyright: ignore[reportAttributeAccessIssue]
        return of_experts(own, hidden, chosen, weights, through_of(own))


def widens(hidden: Tensor, *weights: Tensor) -> bool:
    """Whether a matrix is stored in half precision and not computed in it."""
    return any(weight.dtype in HALVES and weight.dtype != hidden.dtype for weight in weights)


class StoredTable:
    """Mixed into the class of a table of words: widens only the rows that occur."""

    weight: nn.Parameter

    unread: Unread | None = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        # pickle looks a class up by its name, under which it finds the table's own.
        return _blank, (type(self).__bases__[1],), vars(self)

    def rows(self, words: Tensor) -> Tensor:
        """The rows of the table for ``words`` [n], read from the checkpoint if the table is not in memory."""
        if self.unread is not None and self.weight.is_meta:
            return self.unread.rows(self.weight, words)
        return self.weight[words]

    def forward(self, words: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Look the words up as the table's own class does."""
        if self.weight.dtype not in HALVES and not self.weight.is_meta:
            return super().forward(words, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        occurring, places = words.unique(return_inverse=True)
        own = vars(self)
        padding = own.get("padding_idx")
        # Attributes of an instance come before nn.Module's parameters, so the class' own code reads these rows.
        # The words are renumbered to the rows that occur, so the number of the padding row means nothing here.
        own["weight"], own["padding_idx"] = self.rows(occurring).to(words.device, torch.float32), None
        try:
            return super().forward(places, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        finally:
            del own["weight"]
            own["padding_idx"] = padding


def _blank_experts(cls: type) -> Any:
    """Empty experts over ``cls``, to be filled as a pickle is read."""
    return object.__new__(_experts_of(cls))


@functools.cache
def _experts_of(cls: type) -> type:
    return type(cls.__name__, (StoredExperts, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})


def _blank(cls: type) -> Any:
    """An empty table over ``cls``, to be filled as a pickle is read."""
    return object.__new__(_table_of(cls))


@functools.cache
def _table_of(cls: type) -> type:
    return type(cls.__name__, (StoredTable, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})


_STORED: dict[type, type] = {nn.Linear: StoredLinear, Conv1D: StoredConv1D}


def keep_stored(model: PreTrainedModel) -> None:
    """Keep the half-precision matrices of a model that computes in fp32 as they are, and widen the rest.

    A module whose class looks at its weight's dtype (T5's last projection), as transformers lists them, is widened too.
    """
    words: Any = model.get_input_embeddings()
    tables = {id(words.weight), *(id(one) for one in _token_tables(model))}
    exempt = tuple(getattr(model, "_keep_in_fp32_modules", None) or ())
    held: set[int] = set()
    for path, module in model.named_modules():
        if holds_experts(module):
            matrices = [module._parameters[name] for name in ("gate_up_proj", "down_proj")]
            if all(one is not None and _may_stay(one) for one in matrices):
                module.__class__ = _experts_of(type(module))
                held |= {id(one) for one in matrices}
            continue
        # Not getattr: in modules of other libraries `weight` may also be a method or a property.
        weight = module._parameters.get("weight")
        if weight is None or not _may_stay(weight) or path.rpartition(".")[2] in exempt:
            continue
        # The exact class: a subclass may compute differently in its own forward.
        if type(module) in _STORED:
            module.__class__ = _STORED[type(module)]
        elif isinstance(module, nn.Embedding) and id(weight) in tables:
            module.__class__ = _table_of(type(module))
        else:
            continue
        held.add(id(weight))
    for parameter in model.parameters():
        if parameter.dtype in HALVES and id(parameter) not in held:
            parameter.data = parameter.data.float()
    # A buffer takes part in fp32 arithmetic as it is; in half precision it would lower the result.
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.dtype in HALVES:
                # A new tensor: one that was read may be a view, which keeps the dtype of what it is a view of.
                module._buffers[name] = buffer.float()


def _token_tables(model: PreTrainedModel) -> Iterator[nn.Parameter]:
    """The weights of tables with a row for each word, besides the word embeddings."""
    config = model.config.to_dict()
    row = architecture_of(model.config.model_type, config) if is_known(model.config.model_type) else None
    for path in () if row is None else row.token_tables:
        # Where the config leaves a table out, the model has no such module.
        yield from (one for name, one in model.base_model.named_parameters() if name == f"{path}.weight")


def _may_stay(weight: Tensor) -> bool:
    """Whether a weight is in half precision, or not in memory at all."""
    return weight.dtype in HALVES or weight.is_meta


def is_stored(module: nn.Module) -> bool:
    """Whether this module widens its weight by itself."""
    return isinstance(module, StoredLinear | StoredConv1D | StoredTable | StoredExperts)


def computes_in(model: nn.Module) -> torch.dtype:
    """The precision of a model's numbers without autocast: fp32 where its weights are only stored in less."""
    if any(map(is_stored, model.modules())):
        return torch.float32
    return next(model.parameters()).dtype
