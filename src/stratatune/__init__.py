"""Fine-tune only the layers of a transformer that need it, and pay only for those.

The names below are fetched when they are first used, so ``import stratatune`` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stratatune._compat import VERSION as __version__
    from stratatune.app.answerer import Answerer as Answerer
    from stratatune.app.api import train, train_many
    from stratatune.app.embedder import Embedder as Embedder
    from stratatune.app.estimator import Classifier, Regressor
    from stratatune.app.export import export
    from stratatune.app.suggest import suggest
    from stratatune.app.tagger import Tagger as Tagger
    from stratatune.costs.cost import cost as cost
    from stratatune.errors import StratatuneError, UserError
    from stratatune.model.adapters import Adapters as Adapters
    from stratatune.model.artefact import load
    from stratatune.model.attach import apply
    from stratatune.model.custom import add_architecture as add_architecture
    from stratatune.model.custom import backbone_from_names as backbone_from_names
    from stratatune.model.merging import merge
    from stratatune.model.merging import remove as remove
    from stratatune.plan import Plan
    from stratatune.plan import shape_of as shape_of
    from stratatune.shapes.architectures import DecoderArchitecture as DecoderArchitecture
    from stratatune.shapes.architectures import EncoderArchitecture as EncoderArchitecture
    from stratatune.shapes.architectures import EncoderDecoderArchitecture as EncoderDecoderArchitecture
    from stratatune.shapes.architectures import Fields as Fields
    from stratatune.training.cached import cached
    from stratatune.training.config import RunConfig
    from stratatune.training.predict import Predictor

__all__ = [
    "Classifier",
    "Plan",
    "Predictor",
    "Regressor",
    "RunConfig",
    "StratatuneError",
    "UserError",
    "__version__",
    "apply",
    "cached",
    "export",
    "load",
    "merge",
    "suggest",
    "train",
    "train_many",
]

_HOMES = {
    "Classifier": "app.estimator",
    "Plan": "plan",
    "Predictor": "training.predict",
    "Regressor": "app.estimator",
    "RunConfig": "training.config",
    "StratatuneError": "errors",
    "UserError": "errors",
    "apply": "model.attach",
    "cached": "training.cached",
    "export": "app.export",
    "load": "model.artefact",
    "merge": "model.merging",
    "suggest": "app.suggest",
    "train": "app.api",
    "train_many": "app.api",
    # Names that are needed less often, such as the rows of your own architecture.
    "Adapters": "model.adapters",
    "Answerer": "app.answerer",
    "DecoderArchitecture": "shapes.architectures",
    "Embedder": "app.embedder",
    "EncoderArchitecture": "shapes.architectures",
    "EncoderDecoderArchitecture": "shapes.architectures",
    "Fields": "shapes.architectures",
    "Tagger": "app.tagger",
    "add_architecture": "model.custom",
    "backbone_from_names": "model.custom",
    "cost": "costs.cost",
    "remove": "model.merging",
    "shape_of": "plan",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from stratatune._compat import VERSION

        return VERSION
    if name not in _HOMES:
        raise AttributeError(f"module 'stratatune' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"stratatune.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
