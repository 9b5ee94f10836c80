"""The base model before it is tuned: the score of an epoch 0, and the texts that an objective looks at first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from stratatune.cache.trunks.filling import fill_missing, take_rows
from stratatune.data.batching import plan_batches
from stratatune.data.encoded import Encoded
from stratatune.errors import ConfigError
from stratatune.model.backbone import Backbone
from stratatune.model.insertions import Insertions
from stratatune.model.unread import to_device
from stratatune.training.evaluate import BATCH_SIZE, Scores, evaluate, within_memory
from stratatune.training.forward import Forward
from stratatune.training.trials.sharing import ReadOnce

if TYPE_CHECKING:
    from stratatune.cache.feed import Feed
    from stratatune.data.batching import Batch
    from stratatune.training.session import Session


@dataclass(frozen=True)
class Untuned:
    """The base model of a tuned one, loaded once more.

    Attributes:
        forward: the tuned model's, whose objective and settings hold here too.
        load: gives the base model.
    """

    forward: Forward
    load: Callable[[], nn.Module]

    def represent(self, data: Encoded, feed: Any, *, batch_size: int = BATCH_SIZE) -> np.ndarray:
        """The base model's representation of each text of ``data``: float32 [N, E].

        ``feed`` gives the tuned model's hidden states at the frozen depth, which are the base's: below it nothing
        changes. So both models start from the same numbers, rounded as a cache rounds them.
        """
        forward = self.forward
        model: Any = to_device(self.load(), forward.device)
        backbone = Backbone(model.eval())
        family, objective, resolved = backbone.family, forward.objective, forward.attached.resolved

        def run(batch: Batch) -> torch.Tensor:
            question = replace(objective.question(batch, training=False), ids=batch.input_ids)
            with forward.mixed():
                if resolved.trains_embeddings:
                    hidden = family.trunk(batch.input_ids, batch.mask, batch.token_types, 0, question)
                else:
                    hidden = feed.hidden(batch)
                depth = resolved.frozen_depth
                logits = family.top(hidden, batch.mask, depth, Insertions(), question, backbone.head)
                return objective.represent(logits, batch)

        return _of_texts(forward, data, run, batch_size)


def represented(forward: Forward, data: Encoded, feed: Any, *, batch_size: int = BATCH_SIZE) -> np.ndarray:
    """The representation of each text of ``data`` by the model as it is now: float32 [N, E]."""
    was_training = forward.top.training
    forward.top.eval()
    found = _of_texts(forward, data, lambda batch: forward(batch, feed, training=False), batch_size)
    forward.top.train(was_training)
    return found


@torch.no_grad()
def _of_texts(forward: Forward, data: Encoded, run: Callable[[Batch], torch.Tensor], batch_size: int) -> np.ndarray:
    texts = replace(data.ungrouped(), given=None)
    found: np.ndarray | None = None
    batches = plan_batches(texts.lengths, batch_size=batch_size, seed=0, epoch=0, shuffle=False)
    for index in within_memory(forward, texts, batches):
        rows = run(forward.batch(texts, index)).float().cpu().numpy()
        if found is None:
            # The width of a text's vector is known only from the first batch.
            found = np.empty((len(texts), *rows.shape[1:]), np.float32)
        found[index] = rows
    assert found is not None
    return found


def look(session: Session) -> Scores | None:
    """Show the objective the untuned model's output for the data, and score it; call before the first step.

    A model whose plan changes nothing at first is its own base, from the trunk cache on; else the base is loaded.

    Returns:
        The scores of the base model on the evaluation data, where the objective wants them.
    """
    objective, scores = session.objective, None
    if session.reload is None and (objective.looks(training=False) or objective.base_first and session.taken):
        _refuse_streamed(session)
    if objective.looks(training=True):
        found = _untuned(session, session.train, session.feed)
        session.train, said = objective.looked(session.train, found, training=True)
        session.reporter.notice_once(said)
    if session.eval is None or session.eval_feed is None:
        return None
    share_texts(session, session.eval_feed, session.eval)
    if objective.looks(training=False) or objective.base_first:
        found = _untuned(session, session.eval, session.eval_feed)
        if objective.base_first:
            known = replace(session.eval, given=found)
            size = session.config.eval_batch_size
            scores = evaluate(session.forward, known, session.eval_feed, session.eval_parts, batch_size=size)
        if objective.looks(training=False):
            session.eval, said = objective.looked(session.eval, found, training=False)
            session.reporter.notice_once(said)
    share_texts(session, session.feed, session.train)
    return scores


def share_texts(session: Session, feed: Feed | ReadOnce, data: Encoded) -> None:
    """Take for ``data`` the hidden states of a corpus that other data of the run have, which search it too."""
    if session.config.corpus is None:
        return
    feed = feed.feed if isinstance(feed, ReadOnce) else feed
    known = ((session.train, session.feed), (session.eval, session.eval_feed))
    taken = [
        take_rows(feed, data, one.cache, theirs) for theirs, one in known if theirs is not None and one is not None
    ]
    if any(taken):
        fill_missing(feed, data, session.forward.pad_id, session.device)


def _refuse_streamed(session: Session) -> None:
    """Refuse a streamed trunk where the base model is needed after the plan has changed the model.

    Raises:
        ConfigError: it is.
    """
    if session.taken is not None:
        problem, fix = (
            "this objective asks the base model, and the run starts from tuned weights",
            "leave out --start-from",
        )
    elif not session.starts_as_base:
        problem, fix = "this objective asks the base model, which the plan changes from the start", "a plan of lora"
    elif session.test is not None:
        problem, fix = "this objective asks the base model again for the test data", "leave out --test"
    else:
        return
    raise ConfigError([f"trunk: streamed; {problem}"], f"use --trunk resident, or {fix}")


def _untuned(session: Session, data: Encoded, feed: Any) -> np.ndarray:
    # Methods that start as an identity (LoRA's B is zero) leave the base's numbers as they are, and those are cached.
    size = session.config.eval_batch_size
    if session.starts_as_base or session.reload is None:
        return represented(session.forward, data, feed, batch_size=size)
    return Untuned(session.forward, session.reload).represent(data, feed, batch_size=size)


def looked_later(session: Session, data: Encoded, feed: Any) -> Encoded:
    """Prepare data that are scored after training as the objective would have before it; ``feed`` is theirs."""
    if not session.objective.looks(training=False):
        return data
    assert session.reload is not None  # `_refuse_streamed` has seen to it
    size = session.config.eval_batch_size
    found = Untuned(session.forward, session.reload).represent(data, feed, batch_size=size)
    return session.objective.looked(data, found, training=False)[0]


def no_better(session: Session, history: list[dict[str, Any]]) -> str:
    """A warning where no epoch is better than the untuned base; empty where one is, or the base was not scored."""
    objective = session.objective
    if not history or history[0]["epoch"] != 0:
        return ""
    name = f"eval_{objective.metric}"
    base, trained = history[0][name], history[1:]
    if any(objective.better(one[name], base) for one in trained):
        return ""
    best = max(trained, key=lambda one: -one[name] if objective.smaller else one[name])
    kept = "the adapter leaves the base model as it is" if session.starts_as_base else "use that"
    return (
        f"tuning did not help: the untuned base has {objective.metric} {base:.4f}, the best epoch {best[name]:.4f}; "
        f"{kept}. Try a smaller lr, fewer epochs or more data"
    )
