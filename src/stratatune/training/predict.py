"""Use a trained adapter: predictions and scores, equal to those of the evaluation that ended its training."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stratatune._compat import accelerator_for
from stratatune.cache.codec import Codec
from stratatune.cache.keys import CacheKey, default_root
from stratatune.cache.policy import MEMORY_SHARE
from stratatune.cache.rows import estimate_bytes
from stratatune.cache.store import TrunkCache
from stratatune.cache.trunks.filling import fill
from stratatune.cache.trunks.source import building_batches
from stratatune.data.batching import pad_id
from stratatune.data.corpus import read_corpus
from stratatune.data.encoded import Encoded, concatenate
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import Table
from stratatune.data.several import is_file, refuse_paths
from stratatune.data.source_form import of_source
from stratatune.data.sources import SUFFIXES
from stratatune.data.tasks import TASKS
from stratatune.data.written import AS_USUAL, BadRows, Written
from stratatune.errors import ConfigError, DataError, ModelError, NotFiniteError, counted, did_you_mean, shown
from stratatune.exits.onnx_folder import holds_onnx
from stratatune.files import make_folder
from stratatune.hub import fetched
from stratatune.model.artefact import load_artefact, load_base_of
from stratatune.model.attach import Tuned
from stratatune.model.finite import first_not_finite
from stratatune.model.shared_bases import SharedBases
from stratatune.model.tokenizers import check_ids, unknown_words
from stratatune.model.tops import tops_in
from stratatune.model.twins import share_frozen
from stratatune.model.unread import Unread, to_device
from stratatune.objectives.objective import Objective
from stratatune.objectives.registry import objective_from
from stratatune.outside import path_exists
from stratatune.spelling import on_command_line, spelled
from stratatune.training.cache_policy import free_memory
from stratatune.training.config import IN_MEMORY, words
from stratatune.training.evaluate import BATCH_SIZE, Scores, evaluate
from stratatune.training.forward import Forward
from stratatune.training.generate import BATCH_SIZE as GENERATED_AT_ONCE
from stratatune.training.generate import generate_texts
from stratatune.training.generation import checked, prompts_in
from stratatune.training.machine import in_bf16
from stratatune.training.prediction import Prediction
from stratatune.training.settings import looks_like_path
from stratatune.training.streaming import room_for_saved, settle_waves, trunk_of_saved
from stratatune.training.tops import SeveralTops
from stratatune.training.untuned import Untuned

if TYPE_CHECKING:
    from stratatune.training.listening import Listener

ENGINES = ("torch", "onnx")
"""The engines that can run a trained model."""
_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}
"""What torch calls them, and their names here."""


class Predictor:
    """A trained adapter on its base model, for predictions.

    Args:
        folder: a run's folder, its ``adapter`` folder, an ONNX export, or the name of one on the hub (``user/name``).
        base: where the base model is now, if it has moved.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``fp32``, ``bf16`` or ``auto`` (bf16 if the hardware supports it); None: the precision of
            training.
        trunk: ``resident`` in memory, ``streamed`` from the checkpoint, or ``auto``: as it fits.
        memory_limit: the process's limit, such as ``6GB``, or a number of bytes; None: the free memory.
        eval_batch_size: examples per batch; None: 64, or 16 if text is generated. Answers that are not sampled do
            not depend on it, beyond rounding.
        engine: ``torch``, or ``onnx`` for a folder that ``export --to onnx`` wrote; None: the one that the folder is
            made for.
        threshold: the score from which on a label is predicted (multilabel), or the second of two classes
            (classification), instead of the threshold from training.
        bases: shared base models that are already loaded (:class:`stratatune.model.shared_bases.SharedBases`).

    Attributes:
        notices: warnings about the adapter, one line each.
        model: the tuned model; with several tops, the first one's; there is none where onnxruntime runs it.
        attached: its attached state, and those of the other tops.
        forward: the tuned model under its objective.
        codec: the precision to which hidden states at the frozen depth are rounded.

    Raises:
        ModelError: nothing trained is there, or the base model is not the one it was trained on.
        ConfigError: no such engine, device or precision, or an engine that does not have it; a batch size below 1; a
            threshold outside 0 and 1, or of a model that has none.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        base: str | None = None,
        device: str = "auto",
        precision: str | None = None,
        trunk: str = "auto",
        memory_limit: str | int | None = None,
        eval_batch_size: int | None = None,
        engine: str | None = None,
        threshold: float | None = None,
        bases: SharedBases | None = None,
    ) -> None:
        if precision is not None and precision not in (legal := words("precision")):
            near = _PRECISIONS.get(str(precision), str(precision))
            raise ConfigError([f"precision: {shown(precision)}"], did_you_mean(near, legal))
        check_batch_size(eval_batch_size)
        if threshold is not None and not (isinstance(threshold, float) and 0 < threshold < 1):
            raise ConfigError([f"threshold: {shown(threshold)}"], "legal: a number between 0 and 1")
        self.batch_size = eval_batch_size or BATCH_SIZE
        """Examples of a batch."""
        self._generated_at_once = eval_batch_size or GENERATED_AT_ONCE
        memory_limit = None if memory_limit is None else str(memory_limit)  # as a run's settings take a number
        self._said: list[str] = []
        self.remember: tuple[Path, int] | None = None
        """The folder of trunk caches that keeps the trunk's output for texts, and the bytes that it may take."""
        self.generation: dict[str, Any] = {}
        """Options of transformers' ``generate`` for :meth:`predict` and :meth:`score`."""
        self._listener: Listener | None = None
        self._corpus: str | None = None  # the name of the corpus that the run searched
        self._folder = folder = fetched(folder)
        if _engine(engine, folder) == "onnx":
            own = None if precision == "auto" else precision
            given = {"base": base, "device": None if device in ("auto", "cpu") else device, "precision": own}
            if trunk != "auto" or memory_limit is not None:
                asked = f"trunk: {trunk!r}" if trunk != "auto" else f"memory_limit: {memory_limit!r}"
                raise ConfigError([f"{asked}; onnxruntime holds the whole model in memory"], "leave it out")
            self._open_onnx(folder, given)
        elif tops := tops_in(folder):
            self._open_tops(tops, folder, base, device, precision, trunk, memory_limit, bases or SharedBases())
        else:
            self._open(folder, base, device, precision, trunk, memory_limit, bases)
        if threshold is not None:
            self.objective = self.objective.decided_from(threshold)
            self.forward = replace(self.forward, objective=self.objective)

    def _open_tops(self, tops: Sequence[Path], folder: Path, *how: Any) -> None:
        """Open each top as a model that shares the first one's frozen weights, and all of them as one."""
        parts, shared, notices = list[Forward](), list[Any](), list[str]()
        for top in reversed(tops):  # the model opened last stays: the first top's, whose trunk runs
            self._open(top, *how)
            parts.insert(0, self.forward)
            shared.append(self._shared)
            notices += self.notices
        for other in parts[1:]:
            share_frozen(other.attached, self.model)
        self._shared, self.notices = shared, list(dict.fromkeys(notices))
        self.attached = [one.attached for one in parts]
        self.forward = SeveralTops.of(parts, folder)
        self.objective = self.forward.objective

    def _open(
        self,
        folder: Path,
        base: str | None,
        device: str,
        precision: str | None,
        trunk: str,
        memory_limit: str | None,
        bases: SharedBases | None,
    ) -> None:
        why = trunk_of_saved(folder, base, trunk, memory_limit, device)
        room = room_for_saved(why, memory_limit, device)
        artefact = load_artefact(folder, base, unread=why is not None, room_above=room, bases=bases)
        self._shared: Any = artefact.shared  # it lives as long as this predictor
        self.notices = [*artefact.notices, *([why] if why else [])]
        record = artefact.record
        place = folder / "adapter" if (folder / "adapter").is_dir() else folder
        saved = record["reading"]
        self.objective = objective_from(saved, artefact.tokenizer)
        self._corpus = saved.get("corpus")
        self.device = accelerator_for(device, (), folder).device
        self.model: Any = to_device(artefact.model, self.device)
        settle_waves(self.model.attached, memory_limit)
        self.tokenizer = artefact.tokenizer
        self.attached = [self.model.attached]
        self._vocab = self.model.attached.resolved.shape.vocab
        # In the precision of training unless another is requested: then the numbers are those of its evaluation.
        autocast = torch.bfloat16 if in_bf16(precision or saved.get("precision", "fp32"), self.device) else None
        pad = pad_id(self.tokenizer)
        self.forward: Any = Forward.of(self.model.attached, self.objective, pad, self.device, autocast)
        self.forward.top.eval()  # the mode that scoring restores: else what is generated afterwards would have dropout
        self.codec = Codec.from_data(saved)
        unread = why is not None
        self._untuned = Untuned(
            self.forward, lambda: load_base_of(record, place, base, record["output"], unread=unread).model
        )

    def _open_onnx(self, folder: Path, given: Mapping[str, str | None]) -> None:
        from stratatune.training.onnx_engine import open_onnx

        if errors := [f"{name}: {value!r}; an ONNX export has its own" for name, value in given.items() if value]:
            raise ConfigError(errors, "leave it out: the file runs as it was written, on the CPU")
        opened = open_onnx(folder)
        self.model, self.attached = None, []
        self.notices, self.tokenizer, self._vocab = opened.notices, opened.tokenizer, opened.vocab
        self.forward = opened.forward
        self.objective, self.device = opened.forward.objective, opened.forward.device

    def __repr__(self) -> str:
        plan = f", plan='{self.attached[0].resolved.plan}'" if self.attached else ""
        return f"Predictor({str(self._folder)!r}, objective={self.objective.name!r}{plan})"

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names, empty where the label is not a class."""
        return self.objective.labels

    @property
    def text_columns(self) -> int:
        """The number of texts in one question of this model."""
        return self.objective.asked_at_once

    def predict(
        self,
        source: Any,
        *,
        split: str | None = None,
        bad_rows: BadRows | None = None,
        delimiter: str | None = None,
        encoding: str | None = None,
        columns: Mapping[str, str] | None = None,
        written: Written = AS_USUAL,
        **generation: Any,
    ) -> Prediction:
        """Read texts from ``source`` (a path, a table, a list of texts or of pairs) and predict each.

        Args:
            source: a source of :func:`stratatune.data.readers.read`.
            split: the split of a folder, a hub id or a DatasetDict.
            bad_rows: rows with a blank text: ``refuse`` (the default) them, ``skip`` them, or read an ``empty`` text.
            delimiter: the column separator of a csv or tsv file: a character or its name, such as ``tab``; None:
                detected.
            encoding: the encoding of a text file; None: by its byte-order mark, else UTF-8.
            columns: the columns that have another name than in training: ``{"text": "review"}`` reads the column
                ``review`` where the model learnt from ``text``.
            written: the same four as one value, for those that are not given.
            generation: options of generated text for this call, such as ``max_new_tokens=20`` (docs/decoders.md lists
                them); they override the attribute of this name.

        Raises:
            DataError: the source cannot be read, or lacks the text columns, or an option of its format has a value that
                is not legal.
            ConfigError: the model writes no text, or an option or its value is not legal; a separator or an encoding,
                and ``source`` is no file; other names for columns, and it is a list of texts.
        """
        given = {"bad_rows": bad_rows, "delimiter": delimiter, "encoding": encoding, "columns": columns}
        written = of_source(source, written, **given)
        options = checked(generation)
        if options and not self.objective.writes:
            said = f"{', '.join(options)}: this model learnt {self.objective.name} and generates no text"
            raise ConfigError([said], "leave out the options for generated text")
        refuse_paths(source, SUFFIXES)
        table = self._read_texts(source, split, written)
        self._said.clear()
        with self.writing(options):
            said = self.objective.answer(table, self)
        table = replace(table, notices=(*table.notices, *said.notices, *dict.fromkeys(self._said)))
        found = Prediction(table, said.columns, said.labels, said.probabilities, said.values, said.chances)
        return found.for_every_row()

    def _read_texts(self, source: Any, split: str | None, written: Written) -> Table:
        """Read texts to predict; a text in the place of a path is told from one."""
        try:
            return self.read(source, split=split, written=written)
        except DataError as error:
            if not isinstance(source, str) or path_exists(Path(source)) or looks_like_path(source, files=True):
                raise
            place = "after --text" if on_command_line() else "into a list, predict([TEXT])"
            raise DataError(error.message, f"{error.hint}; a text itself goes {place}") from error

    @contextlib.contextmanager
    def writing(self, options: Mapping[str, Any], listener: Listener | None = None) -> Iterator[None]:
        """Generate text by these options for a while; a seed leaves torch's own random state as it was.

        ``listener`` follows the answers as they are generated.
        """
        usual, seed = self.generation, options.get("seed")
        self._listener = listener
        self.generation = {**usual, **{name: value for name, value in options.items() if name != "seed"}}
        devices = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices, enabled=seed is not None):
                if seed is not None:
                    torch.manual_seed(seed)
                yield
        finally:
            self.generation, self._listener = usual, None

    def output(self, table: Table) -> np.ndarray:
        """The objective's predictions for every row of ``table``, as :attr:`Scores.output`; labels are ignored."""
        data, scores = self._scores((replace(table, labels=None, label_column=None),))
        self._said += data.notices
        return scores.output

    def untuned(self, table: Table) -> np.ndarray:
        """The output for every row of ``table`` by the base model, as it was before tuning."""
        if self.model is None:
            raise ModelError("an ONNX export holds the tuned model alone", "ask the run's own folder")
        plain = self.objective.encode(replace(table, labels=None, label_column=None), self.tokenizer)
        with self._feed(plain) as feed:
            found = self._untuned.represent(plain, feed, batch_size=self.batch_size)
        return found if plain.groups is None else found[plain.groups.values]

    def generate(
        self,
        texts: Sequence[str] | Sequence[list[int]],
        *,
        max_new_tokens: int = 64,
        **options: Any,
    ) -> list[str]:
        """Generate the model's answer to each text with transformers' own ``generate``; greedy by default.

        A decoder also takes token ids, as a chat template makes them.
        ``options`` are those of ``generate``: ``num_beams``, ``do_sample``, ``temperature``, ...

        Raises:
            DataError: one text in place of a list, or a row that is neither a text nor token ids.
            ModelError: the model writes no text, or its trunk is streamed.
        """
        if self.model is None or not self.model.can_generate():
            said = f"this model learnt {self.objective.name} and generates no text"
            raise ModelError(said, "predict gives its answers")
        texts = prompts_in(texts)
        if Unread.of(self.model) is not None:
            raise ModelError(
                "the trunk is streamed, and every token that is generated asks for the whole model",
                "use --trunk resident, on a machine that holds it",
            )
        settings = {"max_new_tokens": max_new_tokens, "do_sample": False, **self.generation, **options}
        with torch.no_grad(), self.forward.mixed():
            longest, room, size = self.objective.max_length, self._room, self._generated_at_once
            return generate_texts(self.model, self.tokenizer, texts, longest, settings, room, size, self._listener)

    @property
    def _room(self) -> int | None:
        """The positions that texts and answers can take, where the model has a table of them; else None."""
        attached = self.model.attached
        if attached.backbone.row.position_table is None:
            return None
        return attached.resolved.shape.max_tokens - sum(one.positions for _, one in attached.resolved.insertions)

    def score(
        self,
        source: Any,
        *,
        split: str | None = None,
        corpus: Any = None,
        corpus_column: str | None = None,
        bad_rows: BadRows | None = None,
        delimiter: str | None = None,
        encoding: str | None = None,
        columns: Mapping[str, str] | None = None,
        written: Written = AS_USUAL,
    ) -> dict[str, Any]:
        """Metrics on labelled data: ``{"metrics": {...}, "n": N, "notices": [...], "by_class": {...}}``.

        ``by_class`` is that of :meth:`stratatune.objectives.objective.Objective.by_class`, over all rows; missing
        without classes.

        Args:
            source: labelled data, a source of :func:`stratatune.data.readers.read`.
            split: the split of a folder, a hub id or a DatasetDict.
            corpus: documents that are searched besides those of ``source``, likewise: a file, a list of texts, ...
                (``vectors``).
            corpus_column: the column of the corpus' texts; None: its only one, or the only one with a usual name.
            bad_rows, delimiter, encoding, columns, written: as in :meth:`predict`; rows without a label are bad too.

        Raises:
            DataError: the source or the corpus cannot be read, or the source has no labels, or one unseen in training,
                or an option has a value that is not legal.
            ConfigError: a corpus for a model that searches none; the options of a file, as in :meth:`predict`.
        """
        given = {"bad_rows": bad_rows, "delimiter": delimiter, "encoding": encoding, "columns": columns}
        written = of_source(source, written, **given)
        refuse_paths(source, SUFFIXES)
        documents = self._documents(corpus, corpus_column, written)
        task = TASKS.get(self.objective.task or "")
        # A named task is scored as in training: on each of its dev splits, and averaged (MNLI has two).
        splits = (split,) if split or task is None or _is_one_file(source) else task.dev_splits
        parts = tuple(self.read(source, split=part, written=written, need_labels=True) for part in splits)
        parts = parts if documents is None else tuple(replace(part, corpus=documents) for part in parts)
        self._said.clear()
        data, scores = self._scores(parts)
        metrics = {**scores.metrics, "loss": scores.loss}
        generated = type(self.objective).further_scores is not Objective.further_scores
        # Each token that is generated asks for the whole model, the loss only once.
        without = generated and Unread.of(self.model) is not None
        metrics |= {} if without else self.objective.further_scores(parts, self)
        said = [
            *(["the trunk is streamed, so no text is generated and scored (ROUGE)"] if without else []),
            *(f"{part.source}: {notice}" for part in parts for notice in part.notices),
            *self._about_the_corpus(documents, parts),
            *data.notices,
            *scores.notices,
            *self._said,
        ]
        found = self.objective.by_class(scores.output, data)
        return {
            "metrics": metrics,
            "n": sum(map(len, parts)),
            "notices": said,
            **({"by_class": found} if found else {}),
        }

    def _documents(self, corpus: Any, column: str | None, written: Written) -> Table | None:
        """Read a corpus to score with.

        Raises:
            ConfigError: this model searches none, or there is none for the column.
        """
        if corpus is None:
            if column is not None:
                raise ConfigError([f"corpus_column: {column!r}; there is no corpus"], "give --corpus, or leave it out")
            return None
        if "corpus" not in self.objective.settings:
            raise ConfigError(
                [f"corpus: this model learnt {self.objective.name}, which searches no documents"], "leave it out"
            )
        return read_corpus(corpus, column, written)

    def _about_the_corpus(self, documents: Table | None, parts: Sequence[Table]) -> list[str]:
        """The corpus' own notices; without one, that the scores are not those of a run that had one."""
        if documents is not None:
            return [f"{documents.source}: {notice}" for notice in documents.notices]
        if self._corpus is None or any(part.labels is not None for part in parts):
            return []
        what = "a corpus given in memory" if self._corpus == IN_MEMORY else f"the corpus {self._corpus}"
        return [spelled(f"the run searched {what} too, and this score is without it: give --corpus FILE")]

    def read(
        self, source: Any, *, split: str | None = None, written: Written = AS_USUAL, need_labels: bool = False
    ) -> Table:
        """The texts of ``source`` as this model reads them; arguments and errors as those of :meth:`predict`."""
        objective = self.objective
        options = ReadOptions(
            text=objective.text,
            label=objective.label if need_labels else None,
            labels=objective.labels if need_labels else (),
            scored=objective.label is not None,
            task=objective.task,
            split=split,
            need_labels=need_labels,
            written=written,
            keep_whole=not need_labels,
        )
        known = objective.read_columns if written.columns else None
        if odd := [name for name, _ in written.columns if known is not None and name not in known]:
            raise DataError(f"column: {odd[0]!r} is no column that this model reads", did_you_mean(odd[0], known or ()))
        table = objective.read(source, options)
        if not objective.answers_for(len(table.texts)):
            raise DataError(
                f"{table.source}: {counted(len(table.texts), 'text column')}", f"this model reads {self.text_columns}"
            )
        return table

    def encode(self, table: Table) -> Encoded:
        """Encode a table as token ids.

        Raises:
            DataError: its texts cannot be encoded.
            ModelError: the tokenizer gives a token for which the model has no embedding.
        """
        encoded = self.objective.encode(table, self.tokenizer)
        check_ids(encoded.ids, self.tokenizer, self._vocab, table.source)
        return encoded

    def _scores(self, parts: tuple[Table, ...]) -> tuple[Encoded, Scores]:
        if self.model is not None and not isinstance(self.model, Tuned):
            said = "the model of this predictor has no plan any more: it was merged, or its plan was removed"
            raise ModelError(said, "make a new Predictor of the run, and merge what st.load returns")
        encoded = [self.encode(part) for part in parts]
        for part, one in zip(parts, encoded, strict=True):
            self._said += unknown_words(one.ids, self.tokenizer, part.source)
        data = concatenate(encoded)
        with self._feed(data) as feed:
            if self.model is not None and data.targets and self.objective.looks(training=False):
                found = self._untuned.represent(data, feed, batch_size=self.batch_size)
                data, said = self.objective.looked(data, found, training=False)
                self._said += said
            sizes = [one.examples for one in encoded]
            try:
                return data, evaluate(self.forward, data, feed, sizes, batch_size=self.batch_size, alone=True)
            except NotFiniteError as error:
                said = "" if self.model is None else first_not_finite(self.model.named_parameters())
                if not said:
                    raise
                raise NotFiniteError(error.message, f"the weight {said} holds NaN or infinite values") from error

    @contextlib.contextmanager
    def _feed(self, data: Encoded) -> Iterator[Any]:
        """A feed of the hidden states of ``data``; a streamed trunk needs a cache, which lives as long as the feed."""
        if self.model is None:
            from stratatune.training.onnx_engine import NoTrunk

            yield NoTrunk()
            return
        unread = Unread.of(self.model)
        if unread is None and self.remember is not None:
            from stratatune.training.pooled import pooled_feed

            yield pooled_feed(self.forward, data, self.tokenizer, self.codec, *self.remember)
            return
        attached, root = self.model.attached, default_root()
        if unread is None and not self._repeats(data):
            yield self.forward.feed(codec=self.codec)
            return
        key = CacheKey(
            weights=attached.base_hash,
            tokenizer="",
            template="",
            data=data.kept_as,
            max_length=self.objective.max_length,
            depth=attached.resolved.frozen_depth,
            positions="read" if self.forward.one_position else "all",
            dtype=self.codec.name,  # pyright: ignore[reportArgumentType]
            versions=(),
        )
        with contextlib.ExitStack() as opened:
            place = None
            if unread is not None:
                make_folder(root)
                place = Path(opened.enter_context(tempfile.TemporaryDirectory(dir=root, prefix="predict-")))
            made = TrunkCache.open(
                place,
                key,
                data.lengths,
                attached.resolved.cached_width,
                distinct=data.distinct,
                scales=self.codec.own_scales,
            )
            opened.callback(made.close)
            feed = self.forward.feed(made, self.codec)
            if unread is not None:
                unread.put_away(attached.own_blocks())
            batches = building_batches(data, self.batch_size)
            fill(feed, data, self.forward.pad_id, self.device, lambda examples: None, batches)
            yield feed

    def _repeats(self, data: Encoded) -> bool:
        """Whether enough labelled texts repeat to run the trunk over the distinct ones first, and memory holds those.

        Without labels equal texts have equal predictions, and the whole model runs once for them
        (:func:`stratatune.training.evaluate.evaluate`).
        """
        resolved = self.model.attached.resolved
        if not (data.targets and data.distinct.many and resolved.frozen_depth) or resolved.trains_embeddings:
            return False
        positions = "read" if self.forward.one_position else "all"
        lengths = data.lengths[data.distinct.first]
        size = estimate_bytes(lengths, resolved.cached_width, self.codec.name, positions)
        return size <= MEMORY_SHARE * free_memory()


def check_batch_size(size: Any) -> None:
    """Refuse what is no number of examples; None is the usual one.

    Raises:
        ConfigError: it is not a whole number of 1 or more.
    """
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ConfigError([f"eval_batch_size: {shown(size)}"], "give a whole number, 1 or more")


def _engine(asked: str | None, folder: Path) -> str:
    """The engine by its name; None: the one that the folder is made for.

    Raises:
        ConfigError: there is no such engine.
    """
    if asked is None:
        return "onnx" if holds_onnx(folder) else "torch"
    if asked not in ENGINES:
        raise ConfigError([f"engine: {asked!r}"], f"legal: {', '.join(ENGINES)}")
    return asked


def _is_one_file(source: Any) -> bool:
    return not isinstance(source, str | Path) or is_file(source)
