"""Options for reading a source: which columns, which split, with labels or without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stratatune.data.tasks import Task
from stratatune.data.tasks import task as task_named
from stratatune.data.written import AS_USUAL, Written


@dataclass(frozen=True)
class ReadOptions:
    """The part of a source that becomes a :class:`stratatune.data.readers.Table`.

    Every reader takes these whole, and ignores those that mean nothing to it.

    Attributes:
        text: the text column or columns, as ``"a,b"`` or a sequence; None: recognised by their names.
        label: the label column, or several as ``"a,b,c"`` where a reader takes several; None: likewise.
        labels: the labels of the run that the data are for: where they lack the label column they may have a column of
            0 and 1 for each; empty for data to train on.
        scored: for data to predict, whether the run that they are for learnt from scores of texts: texts whose names
            say nothing have the roles that they had there.
        task: a task or the name of one, which knows its columns and class names.
        split: train, dev (also dev_matched, dev_mismatched) or test. For a single `.all` file it is the part that the
            task draws from it; None: a file is read whole.
        need_labels: False reads data to predict: labels are left out where they are missing or not whole.
        written: the format of a text file, and the treatment of incomplete rows.
        keep_whole: whether the table also keeps everything else in the source.
        pairs: names of a column of prompts and of one of what is written for them, which are taken without being named.
        verbatim: whether labels are texts to be written, of which blanks and line ends are a part; else they are names.
    """

    text: str | Sequence[str] | None = None
    label: str | None = None
    labels: Sequence[str] = ()
    scored: bool = False
    task: str | Task | None = None
    split: str | None = None
    need_labels: bool = True
    written: Written = AS_USUAL
    keep_whole: bool = False
    pairs: Sequence[tuple[str, str]] = ()
    verbatim: bool = False

    @property
    def text_columns(self) -> Sequence[str] | None:
        """The text columns by their names; a single text is one name, which may hold a comma."""
        return (self.text,) if isinstance(self.text, str) else self.text

    @property
    def known_task(self) -> Task | None:
        """The task.

        Raises:
            DataError: there is none of this name.
        """
        return task_named(self.task) if isinstance(self.task, str) else self.task


DEFAULTS = ReadOptions()
"""The default: everything is recognised, and labels are needed."""
