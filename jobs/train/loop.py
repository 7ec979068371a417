"""The training loop of one rank: steps until the run is over or all ranks agree to leave.

Each step: run this rank's passes, update, add wishes to the step's sum, read the previous one, and do what follows
from it. Nothing here depends on which rank it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, SupportsFloat

from torch import Tensor

from jobs.train.agree import Contribution, Rhythm, Total, decide
from jobs.train.late import late
from jobs.train.messages import Phase
from jobs.train.not_finite import NotFiniteHandler
from jobs.train.passes import PreparedPass
from jobs.train.report import Reporter


class Model(Protocol):
    """What the loop needs of an engine; see `Engine`."""

    def run_pass(self, batch: Any, weight: float, seed: int) -> Tensor: ...

    def update(self, lr: float) -> bool: ...

    @property
    def grad_norm(self) -> Tensor | float: ...


class Saving(Protocol):
    """What the loop needs to save state; see `Saver`."""

    def save(self, step: int, replicated: dict[str, Any], *, final: bool) -> None: ...

    def before_update(self) -> None: ...

    def finish(self) -> None: ...


class Sum(Protocol):
    """A sum over ranks in flight."""

    def wait(self) -> list[float]: ...


class Wishes(Protocol):
    """What this rank has been asked for, from outside or by its clock; see `Wishlist`."""

    def take(self) -> tuple[bool, bool]:
        """(stop, checkpoint), to be put into this step's sum; a stop stays wished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the loop ended: after which step, and whether the run is over."""

    step: int
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """The parts of one attempt on one rank."""

    rhythm: Rhythm
    start_step: int
    learning_rate: Callable[[int], float]
    model: Model
    passes: Iterator[PreparedPass]
    saver: Saving
    reporter: Reporter
    not_finite: NotFiniteHandler
    wishes: Wishes
    begin_sum: Callable[[tuple[SupportsFloat, ...]], Sum]
    send_phase: Callable[[Phase], None]
    after_step: Callable[[int], None] = lambda step: None

    def run(self) -> Outcome:
        """Raises: whatever ends the attempt; the caller reports it."""
        in_flight: tuple[int, Sum] | None = None
        heard: list[Total] = []
        for step in range(self.start_step + 1, self.rhythm.steps + 1):
            # 1. compute: the gradient over exactly this step's samples, then the update
            loss, sample_hash = self._run_passes(step)
            self._update(step)
            # 2. say what this rank wishes, hear what all wished a step ago
            begun = self._contribute(loss, sample_hash)
            if in_flight is not None:
                heard.append(self._read(*in_flight))
            in_flight = (step, begun)
            # 3. decide, the same on every rank
            decision = decide(self.rhythm, step, heard)
            heard.clear()
            # 4. save and leave, where that was decided; the state must know its own step's samples
            if decision.saves:
                heard.append(self._read(*in_flight))
                in_flight = None
                self.saver.save(step, self._replicated(), final=decision.leave)
            if decision.leave:
                return Outcome(step=step, finished=decision.finished)
        return Outcome(step=self.start_step, finished=True)

    def _run_passes(self, step: int) -> tuple[Tensor | float, int]:
        """This rank's part of the mean loss and the hash of its samples."""
        loss: Tensor | float = 0.0
        sample_hash = 0
        for prepared in self.passes:
            assert prepared.step_index == step - 1, "the prefetcher walks another plan"
            loss = loss + self.model.run_pass(prepared.batch, prepared.weight, prepared.seed)
            sample_hash = (sample_hash + prepared.sample_hash) % 2**64
            if prepared.last_of_step:
                break
        return loss, sample_hash

    def _update(self, step: int) -> None:
        lr = self.learning_rate(step - 1)
        self.saver.before_update()
        if self.model.update(lr):
            self.not_finite.applied()
        else:
            self.saver.finish()
            self.not_finite.refused(step)
        self.reporter.step_ended(step, lr=lr, grad_norm=late(self.model.grad_norm))
        self.after_step(step)
        if step == self.start_step + 1:
            self.send_phase(Phase("first_step", self.reporter.last_step_s))

    def _contribute(self, loss: SupportsFloat, sample_hash: int) -> Sum:
        stop, checkpoint = self.wishes.take()
        mine = Contribution(
            stop=stop,
            checkpoint=checkpoint,
            loss=loss,
            hash_hi=sample_hash >> 32,
            hash_lo=sample_hash & 0xFFFFFFFF,
        )
        return self.begin_sum(mine.to_vector())

    def _read(self, step: int, begun: Sum) -> Total:
        total = Total.of(step, begun.wait())
        self.reporter.heard(total)
        return total

    def _replicated(self) -> dict[str, Any]:
        """What every rank knows alike and the next attempt needs."""
        return {
            "ledger": self.reporter.ledger.to_json(),
            "passed_over": [list(steps) for steps in self.not_finite.passed_over],
        }
