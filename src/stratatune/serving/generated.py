"""The answer to one text while a model generates it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

Reason = Literal["stop", "length"]
_HALF = "\ufffd"  # what a decoder writes for a character of which not all tokens are there yet


class GeneratedText:
    """An answer that grows.

    Args:
        stop: texts before which the answer ends.
        hear: called with each further piece of the answer, from the thread that computes.
        whole: whether the text must be read whole: no answer is generated where a part does not fit.

    Attributes:
        lost: the number of tokens of the text that the model does not read.
        gone: whether nobody waits for it any more.
        text: the answer, or as much of it as was heard.
        prompt_tokens, tokens: the number of tokens of the text and of its answer, once it is whole.
        reason: why it ended: ``stop``, by itself or at a text of ``stop``; ``length``, at the limit of tokens.
    """

    def __init__(
        self, stop: Sequence[str] = (), hear: Callable[[str], None] | None = None, *, whole: bool = False
    ) -> None:
        self.stop, self.hear, self.whole = stop, hear, whole
        self.gone: Callable[[], bool] = lambda: False
        self.text = ""
        self.prompt_tokens = self.tokens = self.lost = 0
        self.reason: Reason = "length"
        self._stopped = False

    @property
    def heard(self) -> bool:
        """Whether a part of the answer was passed on."""
        return self.hear is not None and bool(self.text)

    def began(self, tokens: int, lost: int = 0) -> None:
        """The model begins, perhaps once more after an error; it reads ``tokens`` tokens, not ``lost`` others."""
        self.prompt_tokens, self.lost, self.text, self._stopped = tokens, lost, "", False

    def wrote(self, text: Callable[[], str]) -> bool:
        """Hear of a further token; False where no more is wanted."""
        if self.gone() or (self.whole and self.lost):
            return False
        if self.hear is None and not self.stop:
            return True
        whole = text()
        cut = self._cut(whole)
        self._stopped = len(cut) < len(whole)
        # What may still become another character, or the beginning of a stop, waits; blanks may be the answer's last.
        self._say(cut if self._stopped else self._without_beginnings(cut.rstrip(f"{_HALF} \n\t")))
        return not self._stopped

    def ended(self, text: str, tokens: int, *, closed: bool) -> None:
        """Hear that the answer is whole."""
        cut = "" if self.whole and self.lost else self._cut(text)
        self.tokens = tokens
        self.reason = "stop" if closed or self._stopped or len(cut) < len(text) else "length"
        self._say(cut)
        self.text = cut

    def _say(self, text: str) -> None:
        # A decoder may revise what it has written; what was passed on stays, and the rest follows it.
        if len(text) > len(self.text):
            new, self.text = text[len(self.text) :], text
            if self.hear is not None:
                self.hear(new)

    def _cut(self, text: str) -> str:
        """The part before the first text of ``stop``."""
        places = [place for one in self.stop if (place := text.find(one)) >= 0]
        return text[: min(places)] if places else text

    def _without_beginnings(self, text: str) -> str:
        """The part before what may be the beginning of a text of ``stop``."""
        longest = max((len(one) for one in self.stop), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(one.startswith(text[-size:]) for one in self.stop):
                return text[:-size]
        return text


class GeneratedTexts:
    """The answers to the rows of a table, each of which hears what a generating model reports of its row.

    A :class:`stratatune.training.listening.Listener`.

    Args:
        answers: those of the rows.
        between: called after each step of the model, which waits meanwhile.
    """

    def __init__(self, answers: Sequence[GeneratedText], between: Callable[[], None] = lambda: None) -> None:
        self.answers, self.stepped = answers, between

    def began(self, row: int, tokens: int, lost: int) -> None:
        """The model begins to answer a row."""
        self.answers[row].began(tokens, lost)

    def wrote(self, row: int, text: Callable[[], str]) -> bool:
        """Whether more is wanted."""
        return self.answers[row].wrote(text)

    def ended(self, row: int, text: str, tokens: int, *, closed: bool) -> None:
        """The answer is whole."""
        self.answers[row].ended(text, tokens, closed=closed)
