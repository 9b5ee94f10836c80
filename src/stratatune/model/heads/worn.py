"""Check whether a live model has the class that transformers has for a head."""

from __future__ import annotations

from typing import Any

import transformers

from stratatune.model.body import Body


def wears(body: Body, auto: str) -> bool:
    """Whether the model has the class that ``auto``, e.g. ``AutoModelForTokenClassification``, maps its config to."""
    # By the class and not by module names: token and sequence heads use one name for their output layer.
    mapping: Any = getattr(transformers, auto)._model_mapping
    config = type(body.model.config)
    return isinstance(body.model, mapping.get(config, ()))  # one class, or several
