"""The interface of an exit: a form in which a trained model leaves this package. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stratatune.model.attach import Tuned
    from stratatune.model.attached import Attached


class Exit(Protocol):
    """A form of export: one file next to this one, and one line in ``registry.py``."""

    name: ClassVar[str]
    """The name that ``export --to`` and ``st.export(to=...)`` take."""
    summary: ClassVar[str]
    """The files that it writes, in a few words."""
    extra: ClassVar[str | None]
    """The extra of this package that it needs; None: nothing more."""
    whole: ClassVar[bool]
    """Whether it needs the whole model in memory; else a trunk may stay in its checkpoint."""
    reader: ClassVar[str]
    """The call that reads it back, with ``{out!r}`` in place of the folder."""
    library: ClassVar[str]
    """The library that reads it, by the hub's name for it."""

    def code(self, attached: Attached, base: str, place: str) -> list[str]:
        """The lines of Python that read it back, with their imports, for the model card.

        Args:
            attached: the state attached to the model, as it is before the export.
            base: the name of the base model; empty for one that was made from a config.
            place: the id on the hub, or the folder.
        """
        ...

    def refusals(self, attached: Attached) -> list[str]:
        """The reasons why a plan has no such form, each once; empty when it has one."""
        ...

    def write(self, model: Tuned, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
        """Write the model into ``folder``, which need not be there yet; the model is used up.

        Called only where :meth:`refusals` found nothing.

        Raises:
            ResourceError: the folder cannot be written, or a library of the extra is not installed.
        """
        ...
