"""What is given in place of a model of transformers: a module around one, or one that peft has changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from stratatune.errors import ModelError, shown, with_article

_UNDER_PEFT = (
    "give the base model: model.unload() takes peft's adapter off, model.merge_and_unload() folds it in; "
    "st.load(FOLDER) reads a LoRA folder of peft"
)


def check_unwrapped(model: Any, what: str) -> None:
    """Refuse everything but a model of transformers without an adapter of peft.

    Args:
        model: what was given.
        what: who takes a model, such as ``st.apply``.

    Raises:
        ModelError: says what it is, and how to get at the model inside, where there is one.
    """
    given = shown(model) if isinstance(model, str | Path) else with_article(type(model).__name__)
    if isinstance(model, nn.Module) and any(_is_pefts(one) for one in model.modules()):
        raise ModelError(f"{what} takes a plain model, not {given} with an adapter of peft", _UNDER_PEFT)
    if isinstance(model, PreTrainedModel):
        return
    if inner := inside(model, PreTrainedModel):
        raise ModelError(f"{what} takes the model of transformers itself, not {given} around it", _give(inner))
    fix = "load it first, such as by AutoModelForSequenceClassification.from_pretrained(...)"
    raise ModelError(f"{what} takes a model that transformers has loaded, not {given}", fix)


def inside(model: Any, kind: type[nn.Module]) -> str:
    """The path to the first module of this kind within ``model``; empty: there is none."""
    named = model.named_modules() if isinstance(model, nn.Module) else ()
    return next((path for path, one in named if path and isinstance(one, kind)), "")


def about_no_plan(model: Any, kind: type[nn.Module]) -> tuple[str, str]:
    """What is wrong with ``model``, which is none of the kind that ``apply`` returns, and the fix."""
    given = with_article(type(model).__name__)
    if isinstance(model, str | os.PathLike):
        return f"{shown(str(model))} is a path, and a model is needed", "give st.load(PATH)"
    if inner := inside(model, kind):
        return f"{given} was given, and the model with the plan is inside it", _give(inner)
    if isinstance(getattr(model, "model", None), kind):
        return f"{given} was given, which holds a model and is none", "give its attribute model"
    if isinstance(model, nn.Module):
        return "this model has no plan", "give one that apply or load returned"
    if hasattr(model, "fit"):
        fix = "save it, and read back what it saved: save(FOLDER), then st.load(FOLDER)"
        return f"{given} was given, which is an estimator, and a model is needed", fix
    if hasattr(model, "out"):
        return f"{given} was given, and a model is needed", "give st.load(RESULT.out)"
    return f"{given} was given, and a model is needed", "give one that apply or load returned"


def _give(path: str) -> str:
    plain = all(map(str.isidentifier, path.split(".")))
    return f"give model.{path}" if plain else f"give model.get_submodule({path!r})"


def _is_pefts(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] == "peft"
