"""Base models that several artefacts share: each is read, verified and held once."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

from stratatune.model.backbone import Backbone
from stratatune.model.base import Base
from stratatune.model.fingerprint import Fingerprint


@dataclass(frozen=True, eq=False)
class VerifiedBase:
    """A base model without a plan, whose encoder was verified against an artefact's.

    Attributes:
        base: the model and its tokenizer.
        backbone: the model with the blocks that the artefact's plan leaves.
        fingerprint: that of its encoder.
    """

    base: Base
    backbone: Backbone
    fingerprint: Fingerprint


class SharedBases:
    """The bases of the artefacts that are in use; a base lives as long as an artefact that was loaded onto it."""

    def __init__(self) -> None:
        self._known: weakref.WeakValueDictionary[str, VerifiedBase] = weakref.WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str, load: Callable[[], VerifiedBase]) -> VerifiedBase:
        """The base under ``key``, which covers all that loading and verifying depend on; ``load`` reads a new one."""
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = load()
        return found
