"""Let trials that are alike learn from a batch together: one forward and one backward pass for all of them.

What trains is stacked, [N, P] for N trials with P trained values each. Every trial's parameters, and the moments of its
optimiser, are views of its row, so that its checkpoints, scores and artefact are made as usual, and it may go on alone
at any time. ``torch.vmap`` runs the top over the rows. What is frozen has no row: its product with N batches is one
larger product, and what comes before the first trained tensor is computed once. Clipping and AdamW go over the stack,
with each trial's own limit, rate and decay.

Only trials with the same batches are alike, so one seed's. Batches of other seeds at the same place of the epoch have
other lengths: padded to the longest of 16, they hold 2.7 times the tokens on lengths like SST-2's, 2.5 times on RTE's.
And trials of one seed draw the same dropout, each by itself too, so that on the CPU one draw serves all and every trial
has the numbers that it would have alone, up to rounding.

Before a group's first step, loss and gradient of every trial are held against what it computes alone. Where they do not
agree, or an operation cannot be stacked, the trials take turns, and a notice says so.
"""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from stratatune.data.batching import Batch
from stratatune.progress import Reporter
from stratatune.training import distributed
from stratatune.training.checkpoint import random_state, set_random_state
from stratatune.training.session import Ask, Learnt, Session

CHOICES = ("auto", "never", "always")
_SHAKE = 0.02
"""The distance by which the trained values are moved for the comparison: a zero would hide all that it multiplies."""


class Together:
    """Finds the trials that are alike and lets them learn together.

    Args:
        choice: ``auto``: on a GPU; ``never``; ``always``.
        reporter: gets one notice for each kind of trials that cannot.
    """

    def __init__(self, choice: str, reporter: Reporter) -> None:
        self.choice, self.reporter = choice, reporter
        self._groups: dict[str, AlikeTrials] = {}
        self._refused: set[str] = set()

    def companies(self, asks: Sequence[Ask]) -> Iterator[list[int]]:
        """Yield the trials that come next, as numbers of ``asks``: one alone, or several on the same batch.

        Trials that are alike but not at the same place (a run was stopped while it wrote its checkpoints) wait for the
        one that is furthest back.
        """
        alike: dict[str, list[int]] = {}
        for number, ask in enumerate(asks):
            alike.setdefault(ask.session.likeness if self._may(ask) else f"{number}", []).append(number)
        for key, members in alike.items():
            behind = min(asks[number].position for number in members)
            company = [number for number in members if asks[number].position == behind]
            if len(company) == 1 and (group := self._groups.pop(key, None)) is not None:
                group.hand_back()  # the others have ended, and it goes on alone
            yield company

    def _may(self, ask: Ask) -> bool:
        session = ask.session
        wanted = self.choice == "always" or (self.choice == "auto" and session.device.type == "cuda")
        possible = not session.top.attached.resolved.trains_embeddings and distributed.world() == 1
        possible = possible and session.train.given is None and session.at_once is None
        possible = possible and not session.divides
        return wanted and possible and session.likeness not in self._refused

    def learn(self, asks: Sequence[Ask]) -> list[Learnt] | None:
        """Let trials on the same batch learn from it together; None: they cannot, and nothing has changed."""
        started, reader = time.perf_counter(), asks[0].session
        batch = reader.forward.batch(reader.train, asks[0].index)
        before = reader.feed.clock.trunk_seconds
        hidden = reader.feed.hidden(batch)
        in_trunk = reader.feed.clock.trunk_seconds - before
        losses = self._tried(asks, batch, hidden)
        if losses is None:
            return None
        each = (time.perf_counter() - started - in_trunk) / len(asks)
        charged = [each + in_trunk, *[each] * (len(asks) - 1)]  # its feed's clock counts the trunk as the first's
        weight = reader.forward.objective.weight(batch)
        return [
            Learnt(loss, batch.tokens, weight, seconds, norm)
            for (loss, norm), seconds in zip(losses, charged, strict=True)
        ]

    def _tried(self, asks: Sequence[Ask], batch: Batch, hidden: Tensor) -> list[tuple[float, float]] | None:
        key, state = asks[0].session.likeness, random_state()
        group = self._groups.get(key)
        try:
            if group is None:
                group = self._groups[key] = AlikeTrials(asks)
                group.prove(batch, hidden)
            elif not group.is_of(asks):  # one has ended
                group.hand_back()
                group = self._groups[key] = AlikeTrials(asks)
            return group.learn(asks, batch, hidden)
        except Exception as error:  # if stacking did not cause it, one trial at a time meets it again
            set_random_state(state)
            self._refused.add(key)
            if (group := self._groups.pop(key, None)) is not None:
                group.hand_back()
            why = " ".join(str(error).split())[:200]
            self.reporter.notice(f"{len(asks)} trials take turns, because they cannot be trained together: {why}")
            return None


class AlikeTrials:
    """N trials whose trained values are rows of one matrix.

    Args:
        asks: the trials' requests; the trials are alike and at the same batch.

    Raises:
        ValueError: their trained tensors are not of one kind.
    """

    def __init__(self, asks: Sequence[Ask]) -> None:
        self.sessions: list[Session] = [ask.session for ask in asks]
        self.width = len(asks)
        """The number of trials that are computed at once; halved where memory does not hold them."""
        for session in self.sessions:
            if session.copies is not None:  # the rows are the masters, which functional_call puts in their modules
                session.copies.remove()
        trained = [session.top.attached.trained() for session in self.sessions]
        device = self.sessions[0].device
        settings = [_by_parameter(ask.optimiser) for ask in asks]
        by_name = {
            name: tuple(own[id(t[name])] for own, t in zip(settings, trained, strict=True)) for name in trained[0]
        }
        first = {setting: place for place, setting in reversed(list(enumerate(by_name.values())))}
        # Parameters with the same rate and decay are side by side.
        names = sorted(trained[0], key=lambda name: first[by_name[name]])
        if len({(p.dtype, p.device) for one in trained for p in one.values()}) > 1:
            raise ValueError("the trained tensors have several dtypes")
        self.shapes = {name: trained[0][name].shape for name in names}
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        like = trained[0][names[0]]
        self.values, self.first, self.second = like.new_zeros(3, len(asks), sum(self.sizes)).unbind()  # each [N, P]
        self.steps = torch.zeros(len(asks), len(names), device=device)  # one each: a fused AdamW counts each up
        within = any(p.grad is not None for one in trained for p in one.values())  # of a step that is not due yet
        self.gradient: Tensor | None = torch.zeros_like(self.values) if within else None
        for row, (ask, own) in enumerate(zip(asks, trained, strict=True)):
            self._take_in(row, ask.optimiser.state, own)

        def column(value: Callable[[Session], float]) -> Tensor:
            return self._column([value(session) for session in self.sessions])

        self.clip = column(lambda session: session.config.clip or math.inf)
        self.eps = column(lambda session: session.config.adam_eps)
        self.betas: tuple[float, float] = asks[0].optimiser.param_groups[0]["betas"]
        self.parts: list[tuple[slice, Tensor, Tensor]] = []  # columns, their rates [N, 1], their decays [N, 1]
        start = 0
        for setting, members in itertools.groupby(names, key=lambda name: by_name[name]):
            stop = start + sum(self.shapes[name].numel() for name in members)
            rates, decays = zip(*setting, strict=True)
            self.parts.append((slice(start, stop), self._column(rates), self._column(decays)))
            start = stop

    def _column(self, values: Sequence[float]) -> Tensor:
        """[N, 1]."""
        return torch.tensor(values, dtype=self.values.dtype, device=self.values.device).unsqueeze(1)

    def _take_in(self, row: int, state: Any, trained: dict[str, Any]) -> None:
        """Move a trial's parameters and moments into its row; its own tensors become views of it."""
        start = 0
        for place, (name, shape) in enumerate(self.shapes.items()):
            parameter, columns = trained[name], slice(start, start + shape.numel())
            moments = state[parameter]
            value, first, second = (t[row, columns].view(shape) for t in (self.values, self.first, self.second))
            value.copy_(parameter.data)
            if self.gradient is not None and parameter.grad is not None:
                self.gradient[row, columns].view(shape).copy_(parameter.grad)
                parameter.grad = None
            if moments:
                first.copy_(moments["exp_avg"])
                second.copy_(moments["exp_avg_sq"])
            self.steps[row, place] = moments.get("step", 0)
            parameter.data = value
            moments |= {"step": self.steps[row, place], "exp_avg": first, "exp_avg_sq": second}
            start = columns.stop

    def is_of(self, asks: Sequence[Ask]) -> bool:
        """Whether these are exactly its trials."""
        return len(asks) == len(self.sessions) and all(a.session is s for a, s in zip(asks, self.sessions, strict=True))

    def hand_back(self) -> None:
        """Give every trial the gradient that it has accumulated so far."""
        if self.gradient is None:
            return
        for row, session in enumerate(self.sessions):
            trained, pieces = session.top.attached.trained(), self.gradient[row].split(self.sizes)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True):
                trained[name].grad = piece.view(shape).clone()
        self.gradient = None

    def learn(self, asks: Sequence[Ask], batch: Batch, hidden: Tensor) -> list[tuple[float, float]]:
        """Compute every trial's gradient on a batch and, if it is due, its step; returns losses and gradients' norms.

        Nothing is changed before the last computation that may fail, and nothing of a trial whose numbers are not
        finite.
        """
        losses, gradient = self._computed(batch, hidden)
        weight = self.sessions[0].forward.objective.weight(batch)
        # Back to a sum: batches of one step may weigh differently, and scale divides by all of them.
        if asks[0].among > 1:
            gradient *= weight
        # Gathered here over the batches of a step, not in .grad; hand_back gives it to trials that go on alone.
        self.gradient = gradient if self.gradient is None else self.gradient.add_(gradient)
        norms = torch.zeros_like(losses)
        if asks[0].due:
            self.gradient *= asks[0].scale(weight)
            norms = self._step(self.gradient, losses, self._column([ask.factor for ask in asks]))
            self.gradient = None
        return list(zip(losses.tolist(), norms.tolist(), strict=True))

    def _computed(self, batch: Batch, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Compute losses [N] and gradients [N, P], for as many trials at once as memory holds."""
        state = random_state()
        while True:
            found: list[tuple[Tensor, Tensor]] = []
            try:
                for start in range(0, len(self.sessions), self.width):
                    set_random_state(state)
                    found.append(self._of_rows(slice(start, start + self.width), batch, hidden))
                return torch.cat([losses for losses, _ in found]), torch.cat([gradient for _, gradient in found])
            except torch.OutOfMemoryError:
                # Halving keeps the numbers: rows are independent, and every part starts from the same random state.
                if self.width == 1:
                    raise
                self.width = (self.width + 1) // 2
            # Outside the except block: its traceback still holds the tensors of the failed attempt.
            found.clear()
            torch.cuda.empty_cache()

    def _of_rows(self, rows: slice, batch: Batch, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The losses [n] of some trials and their gradients [n, P]."""
        forward = self.sessions[0].forward
        objective = forward.objective
        question = objective.question(batch, training=True)
        values = self.values[rows].detach().requires_grad_()

        def loss(trained: dict[str, Tensor]) -> Tensor:
            with forward.mixed():
                logits = functional_call(forward.top, trained, (hidden, batch.mask, question))
                found = objective.represent(logits, batch)
            return objective.loss(found, batch)

        # The same draw for all, as each would make by itself. A GPU's fused kernels know no such thing.
        draw = "same" if hidden.device.type == "cpu" else "different"
        pieces = zip(self.shapes.items(), values.split(self.sizes, dim=1), strict=True)
        stacked = {f"model.{name}": piece.unflatten(1, shape) for (name, shape), piece in pieces}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # one by one, where nothing is stacked
            losses = torch.vmap(loss, randomness=draw)(stacked)
        return losses.detach(), torch.autograd.grad(losses.sum(), values)[0]

    @torch.no_grad()
    def _step(self, gradient: Tensor, losses: Tensor, factor: Tensor) -> Tensor:
        """Clip and step: ``torch.nn.utils.clip_grad_norm_`` and ``torch.optim.AdamW``, row by row.

        A row whose loss or gradient is not finite stays as it is.

        Args:
            gradient: [N, P].
            losses: [N].
            factor: [N, 1].

        Returns:
            The gradients' norms before clipping [N].
        """
        norms = gradient.norm(dim=1, keepdim=True)
        odd = ~(norms.squeeze(1) + losses).isfinite()
        whole = (self.values, self.first, self.second, self.steps)
        before = [(tensor, tensor[odd].clone()) for tensor in whole] if odd.any() else []
        # The 1e-6 is that of clip_grad_norm_.
        gradient *= (self.clip / (norms + 1e-6)).clamp(max=1.0)
        one, two = self.betas
        self.steps += 1
        # In double precision, as beta**count near 1 loses its difference to 1 in fp32.
        count = self.steps[:, :1].double()
        first_share, second_share = ((1 - beta**count).to(gradient.dtype) for beta in (one, two))  # [N, 1]
        self.first.lerp_(gradient, 1 - one)
        self.second.mul_(two).addcmul_(gradient, gradient, value=1 - two)
        for columns, rates, decays in self.parts:
            rate, value = rates * factor, self.values[:, columns]
            spread = (self.second[:, columns].sqrt() / second_share.sqrt()).add_(self.eps)
            # AdamW's decoupled decay comes before the step, as in torch.
            value *= 1 - rate * decays
            value -= rate / first_share * (self.first[:, columns] / spread)
        for tensor, kept in before:
            tensor[odd] = kept
        return norms.squeeze(1)

    def prove(self, batch: Batch, hidden: Tensor) -> None:
        """Compare loss and gradient of every trial with what its own modules compute alone, without dropout.

        The values are moved for it, each trial's elsewhere, and put back.

        Raises:
            ValueError: they differ by more than rounding.
        """
        # A separate generator: the comparison must not move the trials' random numbers.
        kept, generator = self.values.clone(), torch.Generator().manual_seed(0)
        self.values += _SHAKE * torch.randn(self.values.shape, generator=generator).to(self.values)
        try:
            for session in self.sessions:
                session.top.eval()
            losses, gradient = self._computed(batch, hidden)
            for row, session in enumerate(self.sessions):
                loss, alone = self._alone(session, batch, hidden)
                # Half the digits: sums in another order differ by rounding, a wrong gradient by far more.
                bound = math.sqrt(torch.finfo(session.forward.autocast or self.values.dtype).eps)
                far = float((gradient[row] - alone).norm()), float((losses[row] - loss).abs())
                if not (far[0] <= bound * float(alone.norm()) and far[1] <= bound * max(1.0, abs(float(loss)))):
                    raise ValueError(
                        f"gradients differ by {far[0]:.1e} of {float(alone.norm()):.1e} from those of each trial alone"
                    )
        finally:
            self.values.copy_(kept)
            for session in self.sessions:
                session.top.train()

    def _alone(self, session: Session, batch: Batch, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """A trial's loss and gradient [P] by its own modules."""
        trained, forward = session.top.attached.trained(), session.forward
        loss = forward.objective.loss(forward.above(hidden, batch, training=True), batch)
        found = torch.autograd.grad(loss, [trained[name] for name in self.shapes])
        return loss.detach(), torch.cat([one.flatten() for one in found])


def _by_parameter(optimiser: Any) -> dict[int, tuple[float, float]]:
    """Each parameter's own rate and decay, by its identity."""
    groups = optimiser.param_groups
    return {id(p): (group["initial_lr"], group["weight_decay"]) for group in groups for p in group["params"]}
