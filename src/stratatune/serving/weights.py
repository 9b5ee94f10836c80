"""Keep one copy in memory of every weight that several tuned models share."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import weakref
from typing import Any

import torch
from torch import Tensor

from stratatune.hashing import fast_digest
from stratatune.model.attached import Attached
from stratatune.model.shared_bases import SharedBases


class SharedWeights:
    """The frozen weights of the models that are loaded, each once, by its content.

    A weight lives as long as a model that uses it. Models of one base and head get its tensors when they are loaded
    (``bases``) and need no comparison; where heads differ, or a device has its own copies, contents are compared.
    """

    def __init__(self) -> None:
        self.bases = SharedBases()
        self._places: weakref.WeakValueDictionary[tuple[Any, ...], _Held] = weakref.WeakValueDictionary()
        self._known: weakref.WeakValueDictionary[str, _Held] = weakref.WeakValueDictionary()

    def share(self, attached: Attached) -> list[_Held]:
        """Replace a model's frozen parameters by those in memory already, if they are equal to the bit.

        Returns objects that the model must hold for as long as it is in use. Trained parameters stay its own. The model
        may not be trained or merged afterwards: that would change the others.
        """
        trained = {id(parameter) for parameter in attached.trained().values()}
        held = []
        for parameter in attached.backbone.model.parameters():
            if id(parameter) in trained or parameter.is_meta or not parameter.numel():
                continue
            place = (parameter.data_ptr(), parameter.shape, parameter.stride(), parameter.dtype, parameter.device)
            if (there := self._places.get(place)) is not None:
                held.append(there)
                continue
            own = _Held(parameter.data)
            shared = self._known.setdefault(_digest(own.tensor), own)
            if shared is own or torch.equal(shared.tensor, own.tensor):
                parameter.data = shared.tensor
                held.append(shared)
                if shared is own:
                    self._places[place] = own
        return held


class _Held:
    """A tensor in a box that can be referred to weakly."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _digest(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return fast_digest([f"{tuple(tensor.shape)}{tensor.dtype}{tensor.device}", values.data])


def return_memory() -> None:
    """Give freed memory back to the system: a model that was moved to shared memory leaves freed heap behind."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc's; other systems have none and need none
