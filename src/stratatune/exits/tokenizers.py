"""The tokenizer that is written beside a whole model, where the caller gives none."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from stratatune.errors import ModelError, shown
from stratatune.model.base import load_tokenizer
from stratatune.objectives.registry import OBJECTIVES
from stratatune.progress import Reporter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stratatune.model.attached import Attached


def tokenizer_of(attached: Attached) -> PreTrainedTokenizerBase | None:
    """The base's own tokenizer, with the chat template of training; None, with a notice, where none is found.

    From a folder without one transformers makes an empty tokenizer of the model's kind, and a pipeline answers by it.
    """
    origin = attached.origin.named(attached.backbone.model.config._name_or_path)
    try:
        if not origin.name:
            raise ModelError("a model that was made from a config has no folder")
        found = load_tokenizer(origin.path or origin.name, revision=origin.revision or None)
    except ModelError:
        base = f"none is found at the base {shown(origin.name)}" if origin.name else "the model was made from a config"
        Reporter().notice(f"no tokenizer is written, because {base}: save the one of training into the same folder")
        return None
    if template := attached.spec.get("chat_template"):
        found.chat_template = template
    return found


def cut_as_trained(tokenizer: PreTrainedTokenizerBase, attached: Attached) -> PreTrainedTokenizerBase:
    """A copy whose longest text is the run's own, so that a tool that cuts texts cuts them where the run does.

    A model that writes text is left as it is: its answer follows the text, and counts too.
    """
    longest, kind = attached.spec.get("max_length"), OBJECTIVES.get(str(attached.spec.get("objective")))
    if kind is None or kind.writes or not isinstance(longest, int):
        return tokenizer
    found = copy.deepcopy(tokenizer)
    found.model_max_length = min(longest, found.model_max_length)
    return found
