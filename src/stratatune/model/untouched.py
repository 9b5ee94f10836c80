"""All or nothing: if a plan cannot be applied, the model is left as it was before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextlib.contextmanager
def untouched_on_failure(model: PreTrainedModel) -> Iterator[None]:
    """Restore the modules, parameters, hooks and config of ``model`` if the code inside fails.

    Copies no weights: a value of a tensor that is edited in place meanwhile would stay changed.
    """
    own, config = type(model), dict(vars(model.config))
    modules = [(module, _copied(vars(module))) for module in model.modules()]
    parameters: list[tuple[nn.Parameter, Tensor, bool]] = [
        (parameter, parameter.data, parameter.requires_grad) for parameter in model.parameters()
    ]
    try:
        yield
    # Ctrl-C in the middle must not leave half a plan in the model either.
    except BaseException:
        model.__class__ = own
        for module, before in modules:
            # Cleared first: attributes that were added meanwhile must go, too.
            vars(module).clear()
            vars(module).update(before)
        for parameter, data, trains in parameters:
            parameter.data = data
            parameter.requires_grad_(trains)
        vars(model.config).clear()
        vars(model.config).update(config)
        raise


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """An instance's attributes, with its tables of modules, parameters and hooks copied one level deep."""
    return {name: value.copy() if isinstance(value, dict) else value for name, value in attributes.items()}
