"""The table of objectives. A new one is one file and one line here, or a call of :func:`register`. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from stratatune.errors import ConfigError, ModelError, shown, with_article
from stratatune.objectives.asked import Asked
from stratatune.objectives.candidates import Candidates
from stratatune.objectives.chat import Chat
from stratatune.objectives.classes import Classes
from stratatune.objectives.completion import Completion
from stratatune.objectives.dpo import PreferenceOptimisation
from stratatune.objectives.label_words import LabelWords
from stratatune.objectives.multilabel import Multilabel
from stratatune.objectives.multitask import Multitask
from stratatune.objectives.numbers import Numbers
from stratatune.objectives.objective import Objective
from stratatune.objectives.rank import Rank
from stratatune.objectives.span import QuestionAnswering
from stratatune.objectives.tags import Tags
from stratatune.objectives.text_to_text import TextToText
from stratatune.objectives.vectors import Vectors
from stratatune.objectives.written import parse
from stratatune.outside import first_mistake

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AUTO = "auto"
OBJECTIVES: dict[str, type[Objective]] = {
    one.name: one
    for one in (
        LabelWords,
        Candidates,
        Completion,
        Chat,
        PreferenceOptimisation,
        TextToText,
        Classes,
        Numbers,
        Multilabel,
        Multitask,
        Tags,
        QuestionAnswering,
        Vectors,
        Rank,
    )
}


def register(objective: type[Objective]) -> type[Objective]:
    """Add your own objective to the table; serves as a decorator.

    Raises:
        ConfigError: there is one of this name already.
    """
    if objective.name in (AUTO, *OBJECTIVES):
        raise ConfigError([f"objective: the name {objective.name!r} is taken"], "choose another name")
    OBJECTIVES[objective.name] = objective
    return objective


def names() -> tuple[str, ...]:
    """The names that a user may write: ``auto`` and those of the table."""
    return (AUTO, *OBJECTIVES)


def by_head(family: str) -> dict[str, tuple[str, ...]]:
    """The names of the objectives that read each head, of those that work on models of ``family``."""
    found: dict[str, tuple[str, ...]] = {}
    for one in OBJECTIVES.values():
        if family in one.families:
            found[one.head] = (*found.get(one.head, ()), one.name)
    return found


def written(text: str) -> tuple[str, dict[str, Any]]:
    """Parse an objective, ``name`` or ``name(option=value, ...)``: its name and its options.

    Raises:
        ConfigError: no such objective, no such option, or a value that is none of its type.
    """
    return parse(text, {AUTO: {}, **{name: one.options for name, one in OBJECTIVES.items()}})


def choose(asked: Asked) -> type[Objective]:
    """The requested objective; for ``auto``, the one that suits the plan, the model and the task.

    Raises:
        ModelError: it does not work on the model's family.
        ConfigError: none suits.
    """
    if asked.objective == AUTO:
        found = next((one for one in OBJECTIVES.values() if one.suits(asked)), None)
        if found is None:
            raise ConfigError(
                ["objective: none fits this plan, model and task"], f"choose one: {', '.join(OBJECTIVES)}"
            )
        return found
    found = OBJECTIVES[asked.objective]
    legal = [one.name for one in OBJECTIVES.values() if asked.family in one.families and not _needs_next(one, asked)]
    if _needs_next(found, asked):
        raise ModelError(
            f"objective {found.name} predicts the next token, and this model's config lets every token see the whole "
            "text",
            f"use --objective {_or(legal)}",
        )
    if found.side_by_side and asked.carries_state:
        raise ModelError(
            f"objective {found.name} scores all label words after one reading of the text, and blocks of this model "
            "carry a state from token to token",
            "use --objective classification, or completion, which generates the label",
        )
    if asked.family not in found.families:
        raise ModelError(
            f"objective {found.name} needs {_listed(found.families)}, and this model is {with_article(asked.family)}",
            f"use --objective {_or(legal)}",
        )
    return found


def _needs_next(objective: type[Objective], asked: Asked) -> bool:
    """Whether the objective wants of a decoder what its attention rules out."""
    return asked.sees_ahead and objective.head == "lm" and asked.family in objective.families


def _listed(families: frozenset[str]) -> str:
    return _or([with_article(family) for family in sorted(families)])


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def objective_from(data: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Objective:
    """The objective that a trained adapter was saved with.

    Raises:
        ModelError: it has no objective, one that is not in the table, or its data are damaged.
    """
    name = data.get("objective")
    if name is None:
        raise ModelError(
            "this adapter was saved by st.apply, or by peft, and has no objective",
            "use st.load(FOLDER) in a pipeline, or make a plain model: stratatune export FOLDER --to merged --out DIR",
        )
    if not isinstance(name, str) or name not in OBJECTIVES:
        raise ModelError(
            f"this adapter was trained with the objective {shown(name)}, which is not registered",
            f"register it first (stratatune.objectives.registry.register); registered: {', '.join(OBJECTIVES)}",
        )
    again = "train again, or restore the folder from a backup"
    try:
        found = OBJECTIVES[name].from_data(data, tokenizer)
    except ValidationError as error:
        raise ModelError(f"the adapter's record is damaged: reading.{first_mistake(error)}", again) from error
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(f"the adapter's record is damaged: reading: {shown(str(error))}", again) from error
    if found.family not in found.families:
        raise ModelError(f"the adapter's record is damaged: reading.family: {found.family!r} has no {name}", again)
    return found


def metric_names() -> list[str]:
    """The names of all metrics of all objectives."""
    return list(dict.fromkeys(metric for one in OBJECTIVES.values() for metric in one.metrics))


def smaller_is_better(metric: str) -> bool:
    """Whether a smaller value of a metric is better; a metric of one of several heads is ``column.metric``."""
    return any(metric.rpartition(".")[2] in one.smaller_is_better for one in OBJECTIVES.values())


def is_bounded(metric: str) -> bool:
    """Whether a metric lies between -1 and 1; the name may be ``column.metric``, as above."""
    return any(metric.rpartition(".")[2] in one.bounded for one in OBJECTIVES.values())
