"""Follow answers while a model generates them, token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList


class Listener(Protocol):
    """Follows answers while they are generated; ``row`` is the position of a text among those given."""

    def began(self, row: int, tokens: int, lost: int) -> None:
        """The model begins to answer a text, of which it reads ``tokens`` tokens; ``lost`` others did not fit."""
        ...

    def wrote(self, row: int, text: Callable[[], str]) -> bool:
        """There is a further token; ``text`` decodes the answer so far. False ends the answer."""
        ...

    def stepped(self) -> None:
        """All answers of the batch have been reported on; the model waits while this runs."""
        ...

    def ended(self, row: int, text: str, tokens: int, *, closed: bool) -> None:
        """An answer is whole; it has ``tokens`` tokens. ``closed``: the model ended it, not the limit of tokens."""
        ...


Decode = Callable[[int, list[int]], str]
"""The text of an answer's token ids, by its place in the batch."""


class ListeningCriteria(StoppingCriteria):
    """Passes the tokens of a batch on to a listener: transformers asks after each step which answers are at an end.

    Args:
        listener: follows the answers.
        asked: the positions of the texts that each row of the batch answers, B lists.
        sizes: the number of tokens of each row's text, and of its others, which did not fit.
        width: the number of columns before the answers.
        ends: the tokens that end an answer.
        decode: gives the text of an answer.
    """

    def __init__(
        self,
        listener: Listener,
        asked: Sequence[list[int]],
        sizes: Sequence[tuple[int, int]],
        width: int,
        ends: frozenset[int],
        decode: Decode,
    ) -> None:
        self.listener, self.asked, self.width, self.ends, self.decode = listener, asked, width, ends, decode
        self._waiting = [set(numbers) for numbers in asked]
        for numbers, size in zip(asked, sizes, strict=True):
            for number in numbers:
                listener.began(number, *size)
        self._stopped: dict[int, int] = {}  # the tokens of a text's answer when no more of it was wanted

    def settings(self, beams: int) -> dict[str, Any]:
        """The settings of ``generate`` by which it hears of each token; none under a search with several beams."""
        return {} if beams > 1 else {"stopping_criteria": StoppingCriteriaList([self])}

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> Any:
        """``input_ids`` [B, T] -> [B] bool: whether nobody wants more of an answer."""
        for place, own in enumerate(input_ids[:, self.width :].tolist()):
            waiting = self._waiting[place]
            if not waiting or own[-1] in self.ends:
                waiting.clear()
                continue

            def text(place: int = place, own: list[int] = own) -> str:
                return self.decode(place, own)

            done = {number for number in waiting if not self.listener.wrote(number, text)}
            waiting -= done
            self._stopped |= dict.fromkeys(done, len(own))
        self.listener.stepped()
        return torch.tensor([not waiting for waiting in self._waiting], device=input_ids.device)

    def end(self, rows: list[list[int]], texts: Sequence[str]) -> None:
        """Report the whole answers: the token ids of each row, and its text."""
        for place, row in enumerate(rows):
            own = row[self.width :]
            last = next((at for at, token in enumerate(own) if token in self.ends), None)
            count = len(own) if last is None else last + 1
            for number in self.asked[place]:
                stopped = self._stopped.get(number)
                closed = stopped is None and last is not None
                self.listener.ended(number, texts[place], count if stopped is None else stopped, closed=closed)
