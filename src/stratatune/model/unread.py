"""A model with unread weights: they are on the meta device, and are read from the checkpoint when needed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from stratatune._compat import came_with_checkpoint, mark_as_loaded
from stratatune.errors import ModelError
from stratatune.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ATTRIBUTE = "_unread"
Slots = list[tuple[nn.Module, str, nn.Parameter]]
"""Places that hold parameters: module, name, parameter."""


class Unread:
    """The weights of a model that are in its checkpoint alone; it lives as long as the model.

    Args:
        model: made from ``checkpoint`` with all that it brings on the meta device.
        checkpoint: where the tensors are.
        keys: the name in it of each parameter, by ``id``.
    """

    def __init__(self, model: PreTrainedModel, checkpoint: Checkpoint, keys: dict[int, str]) -> None:
        self.checkpoint = checkpoint
        self._held = [one for one in model.parameters() if one.is_meta]  # so that no id is used twice
        self._keys = keys
        self._loaded: Any = WeakIdKeyDictionary()  # parameters that were read for good, with their names in it
        self._away: list[tuple[nn.Parameter, str]] = []
        self.wave_bytes = 1 << 30
        """The memory that a wave of texts may take as it goes through the blocks."""
        odd = next((name for name, one in model.named_parameters() if one.is_meta and id(one) not in keys), None)
        if odd is not None:
            raise ModelError(
                f"{odd} of this {type(model).__name__} is made of several tensors of its checkpoint, so the trunk "
                "cannot be streamed",
                "use --trunk resident",
            )
        setattr(model, _ATTRIBUTE, self)

    @staticmethod
    def of(model: nn.Module) -> Unread | None:
        """The unread weights of ``model``; None: it was loaded as a whole."""
        return vars(model).get(_ATTRIBUTE)

    # Copies read the same checkpoint, and its open files cannot be copied.
    def __deepcopy__(self, memo: Any) -> Unread:
        return self

    def read(self, parameter: Tensor) -> Tensor:
        """The values of a parameter that is not in memory, in the dtype that it has in the model.

        Raises:
            ModelError: its file is gone, or has become another.
        """
        return self.checkpoint.read(self._keys[id(parameter)]).to(parameter.dtype)

    def read_again(self, parameter: Tensor) -> Tensor:
        """The values for a model whose methods were merged; parameters that the merge added are zero."""
        if id(parameter) in self._keys:
            return self.read(parameter)
        return torch.zeros(parameter.shape, dtype=parameter.dtype)

    def pieces(self, parameter: Tensor, values: int) -> Iterator[Tensor]:
        """The values [n] in their order, about ``values`` at a time."""
        return self.checkpoint.pieces(self._keys[id(parameter)], values)

    def rows(self, parameter: Tensor, rows: Tensor) -> Tensor:
        """Read ``rows`` [n] of a table [V, E] that is not in memory, as stored."""
        return self.checkpoint.read_rows(self._keys[id(parameter)], rows.cpu())

    def load_all_but(self, model: nn.Module, left: Iterable[nn.Module]) -> None:
        """Read everything into memory for good, except what the modules in ``left`` alone hold."""
        kept = {id(module) for one in left for module in one.modules()}
        slots = self.slots(model)
        wanted = {id(parameter) for module, _, parameter in slots if id(module) not in kept}
        self._load([slot for slot in slots if id(slot[2]) in wanted])

    def _load(self, slots: Slots) -> None:
        put(slots, {id(one): self.read(one) for one in {id(slot[2]): slot[2] for slot in slots}.values()})
        for module, name, parameter in slots:
            self._loaded[module._parameters[name]] = self._keys[id(parameter)]

    @contextlib.contextmanager
    def read_for_attaching(self, part: nn.Module) -> Iterator[None]:
        """Keep ``part`` in memory while this is open; afterwards, only what trains of it by then."""
        slots = self.slots(part)
        self._load(slots)
        yield
        for module, name, parameter in slots:
            there = module._parameters[name]
            if there is not None and not there.requires_grad:
                module._parameters[name] = parameter

    def put_away(self, parts: Iterable[nn.Module]) -> None:
        """Free the frozen weights of ``parts`` that the checkpoint has, until :meth:`bring_back`."""
        for part in parts:
            for parameter in part.parameters():
                if parameter.numel() and not parameter.requires_grad and parameter in self._loaded:
                    self._away.append((parameter, self._loaded[parameter]))
                    parameter.data = parameter.data.new_empty(0)

    @property
    def away_bytes(self) -> int:
        """The bytes that the weights now put away take once they are read back."""
        entries = self.checkpoint.entries
        return sum(math.prod(entries[key].shape) * one.element_size() for one, key in self._away)

    @property
    def away_count(self) -> int:
        """The number of the weights now put away."""
        return sum(math.prod(self.checkpoint.entries[key].shape) for _, key in self._away)

    def bring_back(self) -> None:
        """Read the freed weights again.

        Raises:
            ModelError: its file is gone, or has become another.
        """
        while self._away:
            parameter, key = self._away[-1]
            parameter.data = self.checkpoint.read(key).to(parameter.device, parameter.dtype)
            self._away.pop()

    def slots(self, part: nn.Module) -> Slots:
        """The places at which ``part`` holds parameters that are not in memory."""
        return [
            (module, name, parameter)
            for module in part.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None and parameter.is_meta
        ]


@contextlib.contextmanager
def in_memory(slots: Slots, values: Future[dict[int, Tensor]], device: torch.device) -> Iterator[None]:
    """Give the parameters of ``slots`` their ``values`` while this is open, and none afterwards."""
    put(slots, values.result(), device)
    try:
        yield
    finally:
        for module, name, parameter in slots:
            # The meta parameter itself returns: groups, hashes and keys know it by identity.
            module._parameters[name] = parameter


def put(slots: Slots, values: dict[int, Tensor], device: torch.device | None = None) -> None:
    """Put values, by the id of their parameter, into its places; tied places share them."""
    made: dict[int, nn.Parameter] = {}
    for module, name, parameter in slots:
        if id(parameter) not in made:
            value = values[id(parameter)]
            fresh = nn.Parameter(value if device is None else value.to(device), requires_grad=False)
            # The mark is an attribute of the parameter that goes; without it new_parts would take this one for new, and
            # train it.
            if came_with_checkpoint(parameter):
                mark_as_loaded(fresh)
            made[id(parameter)] = fresh
        module._parameters[name] = made[id(parameter)]


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's weights, leaving aside unread ones; the CPU where none was read."""
    return next((one.device for one in model.parameters() if not one.is_meta), torch.device("cpu"))


def to_device(model: nn.Module, device: torch.device) -> nn.Module:
    """Do ``model.to(device)`` for a model with some weights that are not in memory."""
    if Unread.of(model) is None:
        return model.to(device)
    # Module.to would refuse to copy a meta tensor, which has no values.
    return model._apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device))
