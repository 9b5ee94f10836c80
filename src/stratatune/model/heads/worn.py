"""Whether a live model is of the class that transformers has for a head."""

from __future__ import annotations

from typing import Any

import transformers

from stratatune.model.body import Body


def wears(body: Body, auto: str) -> bool:
    """Whether the model is what ``auto``, as ``AutoModelForTokenClassification``, makes of its config."""
    # By the class and not by module names: token and sequence heads call their output layer alike.
    mapping: Any = getattr(transformers, auto)._model_mapping
    config = type(body.model.config)
    return isinstance(body.model, mapping.get(config, ()))  # one class, or several
