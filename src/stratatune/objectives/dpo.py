"""``dpo``: answers that people prefer to others, by a decoder's LM head (direct preference optimisation)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

import numpy as np
from pydantic import Field

from stratatune.data.chat_tokens import ChatTemplate
from stratatune.data.conversations import read_conversations
from stratatune.data.encoded import IGNORED, Encoded, Targets, offsets_of
from stratatune.data.preference_tokens import behind_the_same, encode_preferences, fault_of
from stratatune.data.preferences import ANSWERS, QUERY
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import Table
from stratatune.data.roles import read_roles, roles_in
from stratatune.data.splitting import RowGroups
from stratatune.errors import ConfigError
from stratatune.objectives.answers import Answers, Using, written_after
from stratatune.objectives.asked import Asked, common_of, pretended_common
from stratatune.objectives.chat_templates import template_of
from stratatune.objectives.grouped import members, of_members, without_faulty
from stratatune.objectives.metrics import check_metric
from stratatune.objectives.objective import Objective
from stratatune.objectives.preferred import ALONE, PREFERRED, equal_answers, queries_in
from stratatune.objectives.spoken import example, first_learnt, shared_system, stop_tokens, unwritten, written_by
from stratatune.objectives.tensors import at_places
from stratatune.objectives.text_loss import likelihoods
from stratatune.objectives.written import LARGEST_FACTOR, check_number, check_pieces, chosen

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

    from stratatune.data.batching import Batch
    from stratatune.model.question import Question

METRICS = ("reward_accuracy", "reward_margin", "chosen_reward", "rejected_reward")
Loss = Literal["sigmoid", "ipo", "hinge"]
_LEGAL = "chosen and rejected, with a prompt or without: texts, or lists of messages"
_REFERENCE = "reference"
_PROMPT = ("prompt",)


@dataclass(frozen=True, kw_only=True)
class PreferenceOptimisation(Objective):
    """The chosen answer becomes likelier than the rejected one, measured from the untuned model.

    The reward of an answer is ``beta`` times how much its log-probability has grown.

    Attributes:
        beta: how strongly the model is held to the untuned one.
        by: the loss of the difference of the rewards. ``sigmoid``: Rafailov et al. 2023 (arXiv 2305.18290); ``ipo``:
            Azar et al. 2023 (arXiv 2310.12036), by the mean over an answer's tokens; ``hinge``: Zhao et al. 2023 (arXiv
            2305.10425).
        smoothing: the share of the preferences taken to be the wrong way round, under ``sigmoid``.
        sft: the weight of the loss of the chosen answer itself, a token.
        mini_batch: texts that go through the top at once; larger batches are learnt from by gradient caching.
        chat_template: of conversations, in Jinja; empty where the data were texts.
        stop_tokens: those that end an answer.
        system: the system prompt that all training conversations share; a plain text follows it.
    """

    name: ClassVar[str] = "dpo"
    summary: ClassVar[str] = "answers that are preferred to others (DPO), with a decoder's LM head"
    settings: ClassVar[frozenset[str]] = frozenset({"template"})
    head: ClassVar[str] = "lm"
    finds_columns: ClassVar[bool] = True
    families: ClassVar[frozenset[str]] = frozenset({"decoder"})
    longest: ClassVar[int] = 1024
    reads: ClassVar[Literal["one", "few", "all"]] = "all"
    metrics: ClassVar[tuple[str, ...]] = METRICS
    bounded: ClassVar[frozenset[str]] = frozenset({"reward_accuracy"})
    options: ClassVar[Mapping[str, type]] = {
        "beta": float,
        "loss": str,
        "smoothing": float,
        "sft": float,
        "mini_batch": int,
    }
    place: ClassVar[str] = "the last token of each answer"
    writes: ClassVar[bool] = True
    base_is_reference: ClassVar[bool] = True
    rates: ClassVar[float] = 0.05

    beta: Annotated[float, Field(gt=0)] = 0.1
    by: Loss = "sigmoid"
    smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    sft: Annotated[float, Field(ge=0)] = 0.0
    mini_batch: Annotated[int, Field(ge=0)] = 0
    chat_template: str = ""
    stop_tokens: tuple[Annotated[int, Field(ge=0)], ...] = ()
    system: str = ""

    # --- how it is chosen and made ---------------------------------------------------------------------------------

    @classmethod
    def settle(cls, asked: Asked) -> tuple[Self, list[str]]:
        own = _options(asked.options)
        metric = check_metric(asked.metric or METRICS[0], cls.metrics, "dpo")
        table, notices = asked.data, list[str]()
        if ANSWERS in table.further:
            asked.check_fast("dpo")
            template = ChatTemplate(template_of(asked), asked.tokens)
            rows = [list(row.values()) for row in table.further[ANSWERS]]
            chosen_ones = zip(table.rows, (behind_the_same(row)[0] for row in rows), strict=True)
            row, tokens = first_learnt(template, table.source, chosen_ones)
            own["stop_tokens"], unclosed = stop_tokens(template, tokens)
            own["system"] = shared_system(one for row in rows for one in row)
            notices = [example(template, tokens, row), *unclosed, *unwritten(template, table, rows)]
            own["chat_template"] = template.text
        elif asked.template is not None:
            problem = f"template: {asked.template}; {table.source} holds texts, which no chat template is applied to"
            raise ConfigError([problem], "leave it out, or write prompt, chosen and rejected as lists of messages")
        elif getattr(asked.tokens, "chat_template", None):
            notices = [
                "the data are texts, so the model's chat template is not used: lists of messages are put into it"
            ]
        common = {**common_of(asked, metric), "text": table.columns if QUERY in roles_in(table) else _PROMPT}
        return cls(**common, **own), notices

    @property
    def piece(self) -> int:
        return self.mini_batch

    @property
    def asked_at_once(self) -> int:
        """One: the prompt. The other columns hold answers, which only training and scores read."""
        return 1

    @property
    def converses(self) -> bool:
        return bool(self.chat_template)

    def answers_for(self, columns: int) -> bool:
        """Always true: data to predict have one column of prompts, those to score also the answers."""
        return True

    # --- data ------------------------------------------------------------------------------------------------------

    @classmethod
    def read(cls, source: Any, options: ReadOptions) -> Table:
        """Read a chosen and a rejected answer for each prompt; to predict, prompts and conversations."""
        if not options.need_labels:
            return read_conversations(source, replace(options, text=(options.text_columns or ())[:1] or None))
        # One column is the prompt's; the others are found by their names.
        text = options.text if len(options.text_columns or ()) > 1 else None
        table = read_roles(source, (PREFERRED, ALONE), _LEGAL, replace(options, text=text), spoken=True)
        return without_faulty(table, _faults(table), options.written.bad_rows)

    @classmethod
    def groups_by_row(cls, table: Table) -> RowGroups | None:
        """The preferences of each prompt."""
        return queries_in(table)

    def encode(self, table: Table, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        """Encode the answers of each row with their prompt: a group, the chosen one first.

        The log-probabilities of the untuned model are NaN until :meth:`looked` fills them in.
        """
        spoken = ANSWERS in table.further
        if spoken != bool(self.chat_template):
            held, trained = ("lists of messages", "texts") if spoken else ("texts", "lists of messages")
            raise ConfigError([f"{table.source} holds {held}, and the model is trained on {trained}"], "use one form")
        template = ChatTemplate(self.chat_template, tokenizer) if spoken else None
        data = encode_preferences(table, tokenizer, template, self.max_length)
        return _with_reference(data, np.full(len(data), np.nan, np.float32))

    @classmethod
    def pretended(cls, texts: Encoded, family: str, random: np.random.Generator) -> tuple[Self, Encoded]:
        """Make up preferences: of two neighbours the second halves are the answers, the first one's the chosen one."""
        pairs = np.arange(len(texts) // 2 * 2).reshape(-1, 2)
        starts = (texts.lengths + 1) // 2
        places = [np.arange(start - 1, end - 1) for start, end in zip(starts, texts.lengths, strict=True)]
        sizes = np.array([len(one) for one in places])
        data = replace(texts, places=Targets(np.concatenate(places), offsets_of(sizes))).with_groups(pairs.tolist())
        made = cls(**{**pretended_common(texts, family, METRICS[0]), "label": None})
        return made, _with_reference(data, np.zeros(len(data), np.float32))

    # --- the untuned model's output, seen first --------------------------------------------------------------------

    def looks(self, *, training: bool) -> bool:
        return True

    def looked(self, data: Encoded, found: np.ndarray, *, training: bool) -> tuple[Encoded, list[str]]:
        """Add the log-probability of each answer under the untuned model: ``found`` [N, 2]."""
        return _with_reference(data, found[:, 0]), []

    # --- learning --------------------------------------------------------------------------------------------------

    def question(self, batch: Batch, *, training: bool) -> Question:
        """The question for the tokens of the answers, by those that predict them."""
        asked, following = at_places(batch), _following(batch)
        return replace(asked, following=following[following != IGNORED])

    def represent(self, logits: Tensor, batch: Batch) -> Tensor:
        """The summed log-probability of each answer, and the number of its tokens [B, 2].

        ``logits`` are the scores of the answers' tokens [n, 2], as :attr:`Question.following` asks for them.
        """
        return likelihoods(logits, _following(batch))

    def loss(self, logits: Tensor, batch: Batch, *, training: bool = True) -> Tensor:
        """The mean over pairs of a chosen and a rejected answer: ``logits`` [B, 2] as :meth:`represent` gives them."""
        from torch.nn.functional import logsigmoid

        assert batch.groups is not None
        rows = logits[batch.groups.clamp(min=0)]  # [G, K, 2]
        there = batch.groups[:, 1:] >= 0
        grown = rows[..., 0] - batch.targets[_REFERENCE]
        if self.by == "ipo":
            grown = grown / rows[..., 1]
        lead = (grown[:, :1] - grown[:, 1:])[there]  # [P]
        if self.by == "ipo":
            losses = (lead - 1 / (2 * self.beta)) ** 2
        elif self.by == "hinge":
            losses = (1 - self.beta * lead).relu()
        else:
            right, wrong = logsigmoid(self.beta * lead), logsigmoid(-self.beta * lead)
            losses = -(1 - self.smoothing) * right - self.smoothing * wrong
        if self.sft:
            own = -rows[:, 0, 0] / rows[:, 0, 1]
            losses = losses + self.sft * own[:, None].expand(there.shape)[there]
        return losses.mean()

    def weight(self, batch: Batch) -> float:
        """The number of pairs of a chosen and a rejected answer."""
        assert batch.groups is not None
        return float((batch.groups[:, 1:] >= 0).sum())

    # --- using -----------------------------------------------------------------------------------------------------

    def predict(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """The summed log-probability of each answer and the number of its tokens, one example's after another's."""
        return of_members(logits, batch).float().cpu().numpy()

    def rows(self, data: Encoded) -> np.ndarray:
        return members(data)

    def score(self, output: np.ndarray, data: Encoded, unit: float) -> tuple[dict[str, float], list[str]]:
        """How often the chosen answer has the higher reward (half where equal), and the mean rewards."""
        assert data.groups is not None
        rewards = self.beta * (output[:, 0] - data.targets[_REFERENCE].values)
        first = np.repeat(data.groups.starts, data.groups.sizes)
        rejected = np.arange(len(rewards)) != first
        best, worst = rewards[first[rejected]], rewards[rejected]
        # Rewards that differ by rounding alone are equal: before the first step all are 0.
        near = np.abs(best - worst) <= unit * self.beta * np.abs(output[rejected, 0])
        right = np.where(near, 0.5, best > worst)
        values = (right, best - worst, best, worst)
        return {name: float(one.mean()) for name, one in zip(METRICS, values, strict=True)}, []

    def by_class(self, output: np.ndarray, data: Encoded) -> dict[str, Any]:
        return {}

    def answer(self, table: Table, using: Using) -> Answers:
        """The answer to each prompt, or the assistant's next message in each conversation."""
        if not self.chat_template:
            return written_after(table.texts[0], using, self.max_length)
        template = ChatTemplate(self.chat_template, using.tokenizer)
        return Answers.of_texts(*written_by(template, table, using, self.system, self.stop_tokens, self.max_length))

    @property
    def probed(self) -> str:
        return "which answer is the chosen one"

    def for_probes(self, data: Encoded, seed: int) -> Encoded:
        """Each answer alone, read at its last token: as chosen (1) or not (0)."""
        assert data.groups is not None
        texts = replace(data.ungrouped(), places=None, read=(data.lengths - 1).astype(np.int32))
        is_first = np.zeros(len(data.groups.values), np.int64)
        is_first[data.groups.starts] = 1
        return texts.subset(data.groups.values).with_labels(is_first)


def _faults(table: Table) -> dict[int, str]:
    """What is wrong with each row whose answers cannot be compared, by its position."""
    if ANSWERS in table.further:
        rows = (fault_of(list(row.values())) for row in table.further[ANSWERS])
        return {at: fault for at, fault in enumerate(rows) if fault}
    return equal_answers(table, "the rejected answer is the chosen one")


def _following(batch: Batch) -> Tensor:
    """The tokens of the answers [B, U], -100 after their end."""
    assert batch.places is not None
    following = batch.input_ids.gather(1, (batch.places + 1).clamp(min=0))
    return following.masked_fill(batch.places < 0, IGNORED)


def _with_reference(data: Encoded, found: np.ndarray) -> Encoded:
    """The data with the untuned model's log-probability of each text [N], as a target of its examples."""
    assert data.groups is not None
    return data.with_targets(found[data.groups.values].astype(np.float32), data.groups.offsets, _REFERENCE)


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options as fields.

    Raises:
        ConfigError: a value that is not legal.
    """
    beta, smoothing = given.get("beta", 0.1), given.get("smoothing", 0.0)
    by = chosen("dpo", "loss", given.get("loss", "sigmoid"), get_args(Loss))
    check_number("dpo", "beta", beta, 0 < beta <= LARGEST_FACTOR, f"above 0, up to {LARGEST_FACTOR:g}")
    check_number("dpo", "smoothing", smoothing, 0 <= smoothing < 0.5, "from 0 to below 0.5")
    sft = given.get("sft", 0.0)
    check_number("dpo", "sft", sft, 0 <= sft <= LARGEST_FACTOR, f"from 0 to {LARGEST_FACTOR:g}")
    if smoothing and by != "sigmoid":
        raise ConfigError([f"objective: dpo: smoothing {smoothing} with loss={by}"], "it goes with loss=sigmoid")
    mini = check_pieces("dpo", given.get("mini_batch", 0))
    return {"beta": beta, "by": by, "smoothing": smoothing, "sft": sft, "mini_batch": mini}
