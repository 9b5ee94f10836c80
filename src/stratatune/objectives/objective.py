"""The interface of an objective: how data become targets, a loss, predictions and scores.

An objective is one file next to this one and one line in ``registry.py``. It is plain data (a frozen dataclass), so
that it is saved with the trained weights and reads new text as it read the training data. No torch is imported before a
loss or a prediction is computed: objectives can be listed, chosen and checked without it.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from stratatune.data.encoded import Encoded
from stratatune.data.label_sets import columns_in
from stratatune.data.labels import label_text
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import Table, read
from stratatune.data.splitting import RowGroups, RowLabels
from stratatune.errors import ConfigError
from stratatune.objectives.answers import Answers, Using
from stratatune.objectives.asked import Asked
from stratatune.objectives.by_class import by_class as scores_by_class
from stratatune.objectives.saved import common_from, fields_from, saved_fields
from stratatune.objectives.weights import WEIGHT

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

    from stratatune.data.batching import Batch
    from stratatune.model.question import Question


@dataclass(frozen=True, kw_only=True)
class Objective(abc.ABC):
    """The task that a model learns: the question put to it, and how its answer is judged. Abstract.

    A subclass is a frozen dataclass and final. It may add fields to those below; :meth:`to_data` and :meth:`from_data`
    write and read them by their types.

    Class attributes:
        name: its name for the user (``--objective NAME``).
        summary: one line, for `stratatune list objectives` and the help.
        head: the name of the head that it reads.
        families: names of the families of models that it works on.
        reads: how many positions of a text the head reads: ``one``, a ``few``, or ``all``. The cache, the last block
            and the cost follow from it.
        metrics: the names of the metrics that :meth:`score` gives, for all of its variants.
        smaller_is_better: the metrics for which a smaller value is better.
        bounded: the metrics that lie between -1 and 1, which a report prints in percent.
        options: the options that may be written in brackets after the name, and the type of each.
        place: the position that is read, in words; empty where there is none for a probe to read.
        writes: whether its answer is text that the model generates.
        pipeline: the hub's name of its task, for the model card; empty: that of its head.
        side_by_side: whether one row of the model holds several continuations of a text, each blind to the others.
        longest: the ``max_length`` of a run that names none.
        problem_type: transformers' word for what a classification head learns, for the model's config; None: a
            regression for one output, a single label for more.
        weighted: whether its loss counts each text by a weight, where the training data bring one.
        settings: which of the run's settings ``template``, ``label_words``, ``loss`` and ``corpus`` it reads.
        stratified: whether samples of the data keep the shares of the labels, as those of classes should.
        fitted_start: whether its new output layer starts fitted (``training/head_start.py``) where a run leaves that
            open: a few labels of many have a gradient too small to find from a drawn start.
        base_first: whether the untuned base model is scored before the first epoch, as an epoch 0 that can be the best.
        base_is_reference: whether its loss compares the model with the untuned base model.
        whole_batches: whether its loss compares the examples of a batch with one another: then it is no mean over parts
            of the batch.
        rates: how large the learning rates that suit it are beside those that suit classification.
        today: the name of the objective that the stock arms of ``stratatune bench`` learn in place of this one; empty:
            they learn this one.
        finds_columns: whether it reads further columns, found by their usual names (roles, tools, answers).

    Attributes:
        text: names of the text columns.
        label: name of the label column; None without labels.
        metric: the metric that selects the best epoch.
        max_length: texts are cut so that no more than this many tokens reach the model.
        task: the task's name, when it is one of the table.
        family: the family of the model.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    head: ClassVar[str]
    families: ClassVar[frozenset[str]]
    reads: ClassVar[Literal["one", "few", "all"]]
    metrics: ClassVar[tuple[str, ...]]
    smaller_is_better: ClassVar[frozenset[str]] = frozenset()
    bounded: ClassVar[frozenset[str]] = frozenset()
    options: ClassVar[Mapping[str, type]] = {}
    place: ClassVar[str] = ""
    writes: ClassVar[bool] = False
    pipeline: ClassVar[str] = ""
    side_by_side: ClassVar[bool] = False
    longest: ClassVar[int] = 256
    problem_type: ClassVar[str | None] = None
    weighted: ClassVar[bool] = False
    settings: ClassVar[frozenset[str]] = frozenset()
    stratified: ClassVar[bool] = False
    fitted_start: ClassVar[bool] = False
    base_first: ClassVar[bool] = False
    base_is_reference: ClassVar[bool] = False
    whole_batches: ClassVar[bool] = False
    rates: ClassVar[float] = 1.0
    today: ClassVar[str] = ""
    finds_columns: ClassVar[bool] = False

    text: tuple[str, ...]
    label: str | None
    metric: str
    max_length: int = 256
    task: str | None = None
    family: str = "encoder"

    # --- how it is chosen and made ---------------------------------------------------------------------------------

    @classmethod
    def suits(cls, asked: Asked) -> bool:
        """Whether ``objective: auto`` chooses this one: never, unless a subclass overrides it; at most one does."""
        return False

    @classmethod
    @abc.abstractmethod
    def settle(cls, asked: Asked) -> tuple[Self, list[str]]:
        """Make the objective of a run, once, with notices about the choices.

        Raises:
            DataError: labels or label words that cannot serve.
            ConfigError: a metric or template that does not exist.
        """

    def to_data(self) -> dict[str, Any]:
        """The objective as plain data: every field by its name, or by the one that ``saved_as`` gives it."""
        return {**self.common(), **saved_fields(self)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Self:
        """An objective from the data of :meth:`to_data`; keys that this version does not know are ignored.

        Raises:
            ValidationError: pydantic's: a value that is not of its field's type.
            ValueError: values that do not go together.
        """
        return cls(**common_from(data), **fields_from(cls, data))

    # --- data ------------------------------------------------------------------------------------------------------

    @classmethod
    def read(cls, source: Any, options: ReadOptions) -> Table:
        """Read a data source for this objective: by default as :func:`stratatune.data.readers.read` does."""
        return read(source, options)

    @classmethod
    def classes_of(cls, table: Table) -> Sequence[Any] | None:
        """The classes whose shares a sample of the rows keeps; None: rows are drawn without regard to labels."""
        if not cls.stratified or table.labels is None:
            return None
        # Whole numbers are classes too where a gap beside them made floats of the column.
        whole = all(isinstance(label, float) and label.is_integer() for label in table.labels)
        return list(map(label_text, table.labels)) if whole else table.labels

    @classmethod
    def held_out_by(cls, table: Table) -> Sequence[Any] | None:
        """The classes whose shares rows held out for evaluation keep; None: without regard to labels."""
        return cls.classes_of(table)

    @classmethod
    def labels_by_row(cls, table: Table, options: Mapping[str, Any]) -> RowLabels | None:
        """The labels of each row [N], of which none may vanish from the rows that are trained on.

        They matter where a row may have several or none, or where labels are not classes; single classes, of which
        draws by :meth:`classes_of` keep each, need none.

        Args:
            table: the training data as read.
            options: the options written after the objective's name, which may say how labels are written.

        Returns:
            None where no label can vanish, as of texts that are written.

        Raises:
            DataError: labels that cannot serve.
        """
        return None

    @classmethod
    def learns_from_corpus(cls, options: Mapping[str, Any]) -> bool:
        """Whether training reads the corpus, too, by the options written after its name: to find negatives, say."""
        return False

    @classmethod
    def groups_by_row(cls, table: Table) -> RowGroups | None:
        """Which rows belong in one part of the data, such as all questions on one text; None: rows are independent."""
        return None

    @abc.abstractmethod
    def encode(self, table: Table, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        """Encode texts as token ids, with targets if the table has labels.

        Raises:
            DataError: a label unseen in training, or columns that do not fit.
        """

    # --- learning --------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def question(self, batch: Batch, *, training: bool) -> Question:
        """The question for the logits of a batch that are needed, to learn from it or to predict."""

    def represent(self, logits: Tensor, batch: Batch) -> Tensor:
        """The input of :meth:`loss` and :meth:`predict`: the logits as they are, unless a subclass pools them.

        A subclass that gives one row a text [B, E] may get the texts piece by piece (:attr:`piece`), and some of the
        rows may be given (:attr:`stratatune.data.encoded.Encoded.given`).
        """
        return logits

    @property
    def piece(self) -> int:
        """The number of texts that go through the top at once, however many the loss sees together; 0: all of a batch.

        A batch of more texts is learnt from by gradient caching (Gao et al. 2021, arXiv 2101.06983): memory is that of
        one piece, and each piece runs forward twice.
        """
        return 0

    def looks(self, *, training: bool) -> bool:
        """Whether :meth:`looked` needs the untuned model's output for the data."""
        return False

    def looked(self, data: Encoded, found: np.ndarray, *, training: bool) -> tuple[Encoded, list[str]]:
        """The data for training or scoring, given the untuned model's output for them, and notices about that.

        ``found`` [N, E] is the untuned model's representation of each text of ``data``.
        """
        return data, []

    @abc.abstractmethod
    def loss(self, logits: Tensor, batch: Batch, *, training: bool = True) -> Tensor:
        """The mean loss over the terms that :meth:`weight` counts; ``logits`` as :meth:`represent` gives them."""

    def weight(self, batch: Batch) -> float:
        """The divisor of :meth:`loss`, a mean: examples, by their weights if they have some; a subclass may differ."""
        weights = batch.targets.get(WEIGHT) if self.weighted else None
        return float(batch.examples if weights is None else weights.sum())

    # --- using -----------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def predict(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """Predict from :meth:`represent`'s output for ``question(batch, training=False)``, one row an example [B, ...].

        Where an example has several rows, they follow one another, and :meth:`rows` says how many each has.
        """

    def rows(self, data: Encoded) -> np.ndarray:
        """The number of rows of :meth:`predict` for each example [N]: one, unless a subclass says otherwise."""
        return np.ones(data.examples, np.int64)

    @abc.abstractmethod
    def score(self, output: np.ndarray, data: Encoded, unit: float) -> tuple[dict[str, float], list[str]]:
        """Metrics of the predictions of a data set with targets, by their names, and notices about them.

        ``unit`` is that of the precision of the computation: the distance from 1 to the next number.
        """

    def by_class(self, output: np.ndarray, data: Encoded) -> dict[str, Any]:
        """The scores of each class, as :func:`stratatune.objectives.by_class.by_class` gives them.

        A subclass whose predictions are not single classes may give ``f1`` and ``classes`` of its predictions.
        """
        return scores_by_class(self.labels, data.labels, output)

    def tuned(self, output: np.ndarray, data: Encoded) -> tuple[Self, np.ndarray]:
        """The objective after the last epoch, and the predictions of the evaluation data as it makes them.

        For values chosen on these data (a threshold, a temperature); nothing by default.
        """
        return self, output

    def decided_from(self, threshold: float) -> Self:
        """The objective that predicts a label from this score on, in place of the threshold of training.

        Raises:
            ConfigError: no threshold decides about its predictions.
        """
        fix = "leave it out: multilabel has one, and classification of two classes"
        raise ConfigError([f"threshold: {threshold:g}; no threshold decides what {self.name} predicts"], fix)

    @abc.abstractmethod
    def answer(self, table: Table, using: Using) -> Answers:
        """The predictions for a table of texts."""

    def for_probes(self, data: Encoded, seed: int) -> Encoded:
        """A sample as the probes of ``stratatune suggest`` read it: one position of each text, and one target.

        With groups of two texts the target is of the pair, and a probe reads where the two states agree.
        """
        return data

    def further_scores(self, parts: Sequence[Table], using: Using) -> dict[str, float]:
        """Scores that take more than one forward pass, for ``stratatune eval`` alone; none by default."""
        return {}

    # --- for a bench -----------------------------------------------------------------------------------------------

    @classmethod
    def pretended(cls, texts: Encoded, family: str, random: np.random.Generator) -> tuple[Self, Encoded]:
        """An objective of this kind with targets for random texts, for ``stratatune bench`` without data.

        ``texts`` [N] have no groups; see :func:`stratatune.objectives.asked.pretended_common` for the common fields.

        Raises:
            ConfigError: this kind has no such targets.
        """
        raise ConfigError([f"objective: {cls.name} has no made-up data"], "give data of your own: --train FILE")

    def loss_of_today(self, logits: Tensor, batch: Batch) -> Tensor:
        """The training loss from the output of transformers' own model, which has no :meth:`question`.

        ``logits`` are those of every token [B, T, C], or [B, C] of a head that pools.
        """
        import torch

        from stratatune.model.heads.token_scores import scores_of

        asked = self.question(batch, training=True)
        places = asked.places
        if places is not None and logits.ndim == 3:
            rows = torch.arange(len(logits), device=logits.device)[:, None]
            logits = logits[places] if places.dtype == torch.bool else logits[rows, places]
        if asked.following is not None:
            logits = scores_of(logits, asked.following)
        return self.loss(self.represent(logits, batch), batch)

    # --- for other modules -----------------------------------------------------------------------------------------

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names in the order of the logits; empty where the answer is not a class."""
        return ()

    @property
    def outputs(self) -> int:
        """Outputs of a new output layer, where the head has one."""
        return max(1, len(self.labels))

    @property
    def needs_evaluation(self) -> bool:
        """Whether a run needs evaluation data, by which :meth:`tuned` chooses."""
        return False

    @property
    def positions(self) -> Literal["one", "few", "all"]:
        """The positions of a text that are read: those of :attr:`reads`, or fewer in this very variant."""
        return self.reads

    @classmethod
    def positions_under(cls, options: Mapping[str, Any]) -> Literal["one", "few", "all"]:
        """:attr:`positions`, as far as the options written after the name tell it."""
        return cls.reads

    @property
    def smaller(self) -> bool:
        """Whether a smaller value of :attr:`metric` is better."""
        return self.metric in self.smaller_is_better

    def better(self, new: float, old: float | None) -> bool:
        """Whether a score of :attr:`metric` is strictly better than another; any is better than none."""
        if old is None:
            return True
        return new < old if self.smaller else new > old

    @property
    def only_rows(self) -> tuple[int, ...] | None:
        """The rows of the LM head that are read in training and in use; None: all, or there is no LM head."""
        return None

    @property
    def branches(self) -> tuple[int, ...]:
        """The number of tokens of each candidate that follow a text in a decoder's input; empty where none do."""
        return ()

    @property
    def prompt(self) -> str:
        """The text written around each text, as the key of a trunk cache names it."""
        return ""

    @property
    def position(self) -> str:
        """The position that is read, as text for people."""
        return self.place

    @property
    def probed(self) -> str:
        """What the probes of ``stratatune suggest`` predict, for people: "no depth predicts ..."."""
        return "the labels"

    @property
    def read_columns(self) -> tuple[str, ...] | None:
        """The names of all columns that it may read; None where it also finds some by their usual names."""
        if self.finds_columns:
            return None
        # Instead of the label column there may be one of 0 and 1 for each class.
        return (*self.text, *(columns_in(self.label) if self.label else ()), *self.labels)

    @property
    def asked_at_once(self) -> int:
        """The number of texts in one question where they come without columns: those of a line, or of a list."""
        return len(self.text)

    @property
    def converses(self) -> bool:
        """Whether a question may be a conversation, a list of messages."""
        return False

    def asks(self, columns: int) -> bool:
        """Whether a question, asked without names of columns, may be so many texts."""
        return columns == self.asked_at_once

    def answers_for(self, columns: int) -> bool:
        """Whether texts of ``columns`` columns can be predicted: as many as in training, or as a subclass allows."""
        return columns == len(self.text)

    def common(self) -> dict[str, Any]:
        """The fields that all objectives have, for :meth:`to_data`."""
        return {
            "objective": self.name,
            "text": list(self.text),
            "label": self.label,
            "metric": self.metric,
            "max_length": self.max_length,
            "task": self.task,
            "family": self.family,
            **({"problem_type": self.problem_type} if self.problem_type else {}),
        }
