"""Read texts that belong together, by the names of their columns: a question and its answer, two sentences and a score.

What a column is for is decided by its name, whatever the order of the columns; names in doubt are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stratatune.data.conversations import SYSTEM
from stratatune.data.frames import Frame
from stratatune.data.labels import is_missing, numbers
from stratatune.data.messages import messages_in
from stratatune.data.preferences import ANSWERS, QUERY, read_answers
from stratatune.data.read_options import DEFAULTS, ReadOptions
from stratatune.data.readers import SINGLES, Table, texts_of, without_bad
from stratatune.data.sources import open_source
from stratatune.data.tasks import Task
from stratatune.errors import DataError, nearest

SCORES = ("score", "label", "labels", "similarity", "relevance", "gold_label")
"""The usual names of a column of numbers next to texts."""
_PROMPTS = ("instruction", "input", "context", "conversations", "conversation", "messages", "user")
"""Names of columns of prompts in files of other layouts, such as Alpaca's with a chosen and a rejected answer."""
ROLES = "roles"
"""The key in ``Table.further`` of the role of each text column, the same in every row."""


@dataclass(frozen=True)
class Layout:
    """A layout of rows.

    Attributes:
        roles: the columns in their order: what each is for, and the names that say so. The first name is the role's.
        repeated: a role of which there may be none or several, numbered (``negative_1``, ``negative_2``).
        scored: whether a column of numbers goes with it.
        by_order: whether columns of any names may be given in its order.
    """

    roles: Mapping[str, tuple[str, ...]]
    repeated: Mapping[str, tuple[str, ...]]
    scored: bool
    by_order: bool = True

    def find(self, names: Sequence[str], place: str) -> dict[str, str] | None:
        """The role of each column, in the order of the roles; None if one of them has no column.

        Raises:
            DataError: two columns for one role.
        """
        found: dict[str, str] = {}
        for role, called in self.roles.items():
            columns = [name for name in names if name.casefold() in called]
            if len(columns) > 1:
                raise DataError(
                    f"{place}: {' and '.join(map(repr, columns))} are both names for the {role}",
                    "rename or leave out one of them, or name the columns with --text A,B",
                )
            if not columns:
                return None
            found[columns[0]] = role
        for role, called in self.repeated.items():
            found |= dict.fromkeys(self._numbered(names, called), role)
        return found

    def takes(self, count: int) -> bool:
        """Whether so many columns fill every role."""
        return count == len(self.roles) or bool(self.repeated and count > len(self.roles))

    def in_order(self, columns: Sequence[str]) -> dict[str, str]:
        """The role of each column in the order of the roles; those past the last are of the repeated role."""
        roles = [*self.roles, *[role for role in self.repeated for _ in columns]]
        return dict(zip(columns, roles, strict=False))

    def by_name(self, columns: Sequence[str]) -> dict[str, str]:
        """The role of each column whose name says one."""
        found = {name: role for role, called in self.roles.items() for name in columns if name.casefold() in called}
        for role, called in self.repeated.items():
            found |= dict.fromkeys(self._numbered(columns, called), role)
        return found

    @staticmethod
    def _numbered(columns: Sequence[str], called: Sequence[str]) -> list[str]:
        """The columns of these names, numbered or not, by their number."""
        return sorted((one for one in columns if re.sub(r"[_-]?\d+$", "", one.casefold()) in called), key=_number)


def _number(name: str) -> tuple[int, str]:
    digits = re.search(r"\d+$", name)
    return (int(digits[0]) if digits else 0, name)


def read_roles(
    source: Any,
    layouts: Sequence[Layout],
    what: str,
    options: ReadOptions = DEFAULTS,
    *,
    spoken: bool = False,
) -> Table:
    """Read ``source`` into a Table with a text column for each role, and the roles in ``further``.

    Args:
        source: a source of :func:`stratatune.data.readers.read`.
        layouts: the legal ways in which rows are laid out, of which the columns' names decide for one.
        what: the columns that are legal, in words, for an error.
        options: ``text`` names the text columns in the order of a layout's roles, where their names say nothing, and
            ``label`` the column of numbers. The labels of a ``task`` must be numbers. Without ``need_labels`` one
            column of texts is legal too.
        spoken: whether columns without a score may hold messages; the conversations are then in ``further``.

    Raises:
        DataError: whatever is wrong with the source, in one line; also columns whose roles are in doubt.
    """
    known, written = options.known_task, options.written
    whole = frame = open_source(source, known, options.split, written)
    if not frame.rows:
        raise DataError(f"{frame.place}: there are no rows", "give at least one example")
    known = frame.task or known
    finder = _Finder(frame, layouts, what)
    if options.need_labels:
        roles, label_column = finder.named(options.text_columns, options.label, known)
        if not options.text_columns or not set(options.text_columns) <= set(frame.names):
            finder.refuse_a_lost_prompt(roles)
            finder.refuse_lost_lists(roles)
    else:
        roles, label_column = finder.to_predict(options.text_columns, scored=options.scored), None
    checked = [*roles, *([label_column] if label_column else [])]
    talks = next((name for name in roles if any(map(messages_in, frame.get(name)))), None)
    if talks and (not spoken or label_column is not None):
        raise DataError(
            f"{frame.place}: column {talks!r} holds lists of messages, and texts are read",
            "write each as one text, as the model's chat template does",
        )
    if talks:
        queries = next((one.roles[QUERY] for one in layouts if QUERY in one.roles), ())
        frame, answers = read_answers(frame, roles, queries, written.bad_rows)
        texts = tuple(["" if is_missing(value) else str(value) for value in frame.get(name)] for name in roles)
        further = {ANSWERS: answers}
    else:
        if known and known.drops_incomplete or written.bad_rows == "skip":
            frame = without_bad(frame, checked)
        if spoken and (system := next((name for name in SYSTEM if name in frame.names and name not in roles), None)):
            frame = frame.noting(
                f"column {system!r} is not read: texts have no system prompt; write it into the prompts, or messages"
            )
        texts, further = tuple(texts_of(frame, name, written.bad_rows) for name in roles), {}
    labels = None
    if label_column is not None:
        values = ["" if value is None else value for value in frame.get(label_column)]
        hint = f"column {label_column!r} is the score of its row: write numbers, or name another one with --label"
        labels = numbers(values, frame.place, frame.rows, hint)
    return Table(
        texts=texts,
        labels=labels,
        columns=tuple(roles),
        label_column=label_column,
        source=frame.place,
        rows=frame.rows,
        notices=frame.notices,
        whole=whole if options.keep_whole else None,
        further={ROLES: [tuple(roles.values())] * len(texts[0]), **further},
    )


def roles_in(table: Table) -> tuple[str, ...]:
    """The role of each text column; empty where a table has none."""
    return next(iter(table.further.get(ROLES, ())), ())


@dataclass(frozen=True)
class _Finder:
    """Finds the columns of a frame."""

    frame: Frame
    layouts: Sequence[Layout]
    what: str

    def named(
        self, text: Sequence[str] | None, label: str | None, task: Task | None
    ) -> tuple[dict[str, str], str | None]:
        """The role of each column, and the column of numbers if the layout has one."""
        names = self.frame.names
        if task and not task.numeric:
            raise DataError(f"the labels of {task.name} are classes", f"legal here: {self.what}")
        if task:
            columns = next((one for one in (task.text, task.tsv_text) if one and set(one) <= set(names)), None)
            own = next((one for one in (task.label, task.tsv_label) if one in names), None)
            text, label = text or columns, label or own
        if text and self._of_other_data(text) and self._fitting(label if label in names else None):
            text, label = None, label if label in names else None  # the columns of other data than these
        if label is not None and label not in names:
            raise self._none_called(label)
        if text:
            return self._by_order(text, label)
        fitting = self._fitting(label)
        if len(fitting) != 1:
            raise self._doubt("more than one layout fits" if fitting else "cannot tell the roles of the columns")
        one, found = fitting[0]
        scored_by = self._label(label, found)
        if not one.scored and scored_by is not None:
            raise self._doubt(f"{' and '.join(map(repr, found))} take no score, and there is a column {scored_by!r}")
        return found, scored_by

    def _of_other_data(self, text: Sequence[str]) -> bool:
        """Whether columns that were named are those of data which are laid out in another way."""
        known = {
            name for one in self.layouts for names in (*one.roles.values(), *one.repeated.values()) for name in names
        }
        missing = [name for name in text if name not in self.frame.names]
        return len(missing) == len(text) or bool(missing and {name.casefold() for name in missing} <= known)

    def _fitting(self, label: str | None) -> list[tuple[Layout, dict[str, str]]]:
        """The layouts that the columns' names fit, each with its columns."""
        found = [(one, columns) for one in self.layouts if (columns := one.find(self.frame.names, self.frame.place))]
        found = [(one, columns) for one, columns in found if one.scored <= (self._label(label, columns) is not None)]
        return [one for one in found if not any(set(one[1]) < set(other) for _, other in found)]

    def _by_order(self, text: Sequence[str], label: str | None) -> tuple[dict[str, str], str | None]:
        """Assign columns that the user names: by their own names, else in order, if no name contradicts."""
        if missing := next((name for name in text if name not in self.frame.names), None):
            raise self._none_called(missing)
        scored_by, own = self._label(label, text), None
        for one in self.layouts:
            found = one.find(text, self.frame.place) or {}
            if list(found) == list(text) and one.scored == (scored_by is not None):
                return found, scored_by
            own = own or (found if len(found) == len(text) else None)  # a part of the columns contradicts nothing
        if own:
            raise self._contradicted(text, own)
        legal = [one for one in self.layouts if one.by_order and one.takes(len(text))]
        if len(set(text)) != len(text) or not legal:
            raise self._doubt(f"--text {','.join(text)}: other columns are needed, or names that say what each is for")
        if label is None and not any(one.scored for one in legal):
            scored_by = None  # a score is one of the columns that nothing reads
        if label is None and scored_by is not None:
            columns = " and ".join(map(repr, text))
            raise self._doubt(f"are {columns} scored by {scored_by!r}? if so, add --label {scored_by}")
        one = next((one for one in legal if one.scored == (scored_by is not None)), None)
        if one is None:
            raise self._doubt(f"what are {' and '.join(map(repr, text))} for? there is no score")
        roles = one.in_order(text)
        if own := {name: role for name, role in one.by_name(text).items() if role != roles[name]}:
            raise self._contradicted(text, own)
        return roles, scored_by

    def _contradicted(self, text: Sequence[str], own: Mapping[str, str]) -> DataError:
        said = " and ".join(f"{name!r} is the {role}" for name, role in own.items())
        return self._doubt(f"--text {','.join(text)}, but by its name {said}")

    def to_predict(self, text: Sequence[str] | None, *, scored: bool) -> dict[str, str]:
        """The columns of data without labels: those of a layout, or one column of texts.

        ``text`` names the columns of training, and ``scored`` says whether these had scores: columns whose names say
        nothing, and pairs in a list, have the roles of training.
        """
        frame = self.frame
        fitting = [one for one in self.layouts if one.by_order and one.scored == scored]
        if not frame.named:
            usual = next((one for one in fitting if len(one.roles) == len(frame.names)), self.layouts[0])
            return dict(zip(frame.names, usual.roles if len(frame.names) > 1 else ("",), strict=True))
        learnt: Mapping[str, str] = {}
        if text:
            usual = next((one for one in fitting if len(one.roles) <= len(text)), self.layouts[0])
            found = next((found for one in self.layouts if (found := one.find(text, frame.place))), None)
            learnt = found or dict(zip(text, usual.roles, strict=False))
            if set(text) <= set(frame.names):
                return dict(learnt)
        for one in self.layouts:
            if found := one.find(frame.names, frame.place):
                return found
        parts = [part for one in self.layouts for part in (*one.roles.items(), *one.repeated.items())]
        called = {name: role for role, names in parts for name in names}
        legal = [name for name in frame.names if name in learnt or name.casefold() in (*called, *SINGLES)]
        columns = legal or (frame.names if len(frame.names) == 1 else [])
        if len(columns) != 1:
            raise self._doubt("which column holds the texts?")
        return {columns[0]: learnt.get(columns[0]) or called.get(columns[0].casefold(), "")}

    def refuse_a_lost_prompt(self, roles: Mapping[str, str]) -> None:
        """Refuse answers without a prompt where a column that nothing reads is called like one.

        Raises:
            DataError: there is such a column; nobody would see that the answers were learnt without it.
        """
        if QUERY in roles.values() or not any(QUERY in one.roles for one in self.layouts):
            return
        lost = next((name for name in self.frame.names if name not in roles and name.casefold() in _PROMPTS), None)
        whole = [messages_in(self.frame.get(name)[0]) for name in roles]
        if lost is None or all(found and len(found) > 1 for found in whole):
            return
        others = ",".join(roles)
        raise DataError(
            f"{self.frame.place}: is {lost!r} the prompt of {' and '.join(map(repr, roles))}? nothing else is called "
            "like one",
            f"name the columns: --text {lost},{others}; or write all of the prompt into a column called prompt",
        )

    def refuse_lost_lists(self, roles: Mapping[str, str]) -> None:
        """Refuse rows whose negatives are a list in one column, ``negatives``, which nothing reads.

        Raises:
            DataError: there is such a column; nobody would see that the rows were learnt without it.
        """
        fitting = [one for one in self.layouts if set(one.roles) <= set(roles.values())]
        names = {name: role for one in fitting for role, called in one.repeated.items() for name in called}
        for lost in self.frame.names:
            role = names.get(lost.casefold().removesuffix("s"))
            if lost not in roles and role is not None and lost.casefold() not in names:
                own = ",".join(roles)
                raise DataError(
                    f"{self.frame.place}: column {lost!r} is not read: a column has one {role} text in each row",
                    f"write a column for each: {role}_1, {role}_2; or leave it out with --text {own}",
                )

    def _label(self, label: str | None, texts: Sequence[str] | Mapping[str, str]) -> str | None:
        if label is None and not any(one.scored for one in self.layouts):
            return None  # a score is one of the columns that nothing reads
        found = [name for name in SCORES if name in self.frame.names and name not in texts]
        if label is None and len(found) > 1:
            raise self._doubt(f"{' and '.join(map(repr, found))} may both be the label")
        return label or next(iter(found), None)

    def _none_called(self, name: str) -> DataError:
        near = nearest(name, self.frame.names)
        hint = (f"did you mean {near!r}? " if near else "") + f"columns: {', '.join(self.frame.names)}"
        return DataError(f"{self.frame.place} has no column {name!r}", hint)

    def _doubt(self, why: str) -> DataError:
        return DataError(f"{self.frame.place}: {why} (columns: {', '.join(self.frame.names)})", f"legal: {self.what}")
