"""Write a tuned model in one of the forms of ``registry.py``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from stratatune.errors import PlanError
from stratatune.exits.registry import EXITS, exit_of
from stratatune.files import check_empty, new_folder, write_text
from stratatune.model.attach import tuned

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from stratatune.model.attached import Attached


def write(
    model: PreTrainedModel,
    folder: Path,
    to: str,
    tokenizer: PreTrainedTokenizerBase | None,
    card: Callable[[Attached], str],
) -> None:
    """Write a copy of a tuned model, with its ``README.md``; the arguments and errors are those of ``st.export``."""
    given = tuned(model)
    check(given.attached, to)
    check_empty("folder", folder)
    with new_folder(folder) as made:
        exit_of(to).write(copy.deepcopy(given), tokenizer, made)
        write_text(made / "README.md", card(given.attached))


def check(attached: Attached, to: str) -> None:
    """Refuse a plan that has no such form.

    Raises:
        PlanError: names each reason, and the forms that the plan has.
    """
    reasons = exit_of(to).refusals(attached)
    if reasons:
        others = ", ".join(name for name, one in EXITS.items() if not one.refusals(attached))
        raise PlanError(
            f"this plan cannot be exported to {to}: {'; '.join(reasons)}", f"it can be exported to: {others}"
        )
