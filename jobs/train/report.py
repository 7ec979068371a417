"""Turns the totals that arrive a step late into the step's message and its line in the sample ledger."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from jobs.train.agree import Total
from jobs.train.config import OnNan
from jobs.train.failures import NotFiniteError
from jobs.train.messages import Message, Step
from jobs.train.rank_metrics import StepCost
from jobs.train.sample_ledger import SampleLedger
from jobs.train.samples import Stream, join_halves


class LedgerError(AssertionError):
    """The ranks together did not use exactly the samples of the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What this rank knows of a step when it ends."""

    lr: float
    grad_norm: Callable[[], float]
    step_s: float
    ended_s: float


class Reporter:
    """Keeps the ledger on every rank; reports on rank 0."""

    def __init__(
        self,
        *,
        rank: int,
        stream: Stream,
        cost: StepCost,
        ledger: SampleLedger,
        on_nan: OnNan,
        send: Callable[[Message], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ledger = ledger
        self.last_loss = math.nan
        self.last_step_s = 0.0
        self.last_step_ended_s = clock()
        self._rank = rank
        self._stream = stream
        self._cost = cost
        self._on_nan = on_nan
        self._send = send
        self._clock = clock
        self._measured: dict[int, Measured] = {}

    def step_ended(self, step: int, *, lr: float, grad_norm: Callable[[], float]) -> None:
        """Call when the step's update has been given to the device; the norm is read when the step is reported."""
        now_s = self._clock()
        self.last_step_s = now_s - self.last_step_ended_s
        self._measured[step] = Measured(lr=lr, grad_norm=grad_norm, step_s=self.last_step_s, ended_s=now_s)
        self.last_step_ended_s = now_s

    def heard(self, total: Total) -> None:
        """The group's total of a step has arrived.

        Raises: LedgerError if samples were repeated or left out; NotFiniteError for a loss that is not finite where
        the job says to stop.
        """
        measured = self._measured.pop(total.step)
        used = join_halves(total.hash_hi, total.hash_lo)
        self.ledger = self.ledger.record(self._stream, total.step - 1, used)
        if self.ledger.num_bad_steps:
            raise LedgerError(f"step {total.step} did not use each of its samples once; this state must not be kept")
        self.last_loss = total.loss
        if not math.isfinite(total.loss) and self._on_nan == "stop":
            raise NotFiniteError(f"the loss of step {total.step} is {total.loss}")
        if self._rank == 0:
            self._send(self._message(total, measured, used))

    def _message(self, total: Total, measured: Measured, used: int) -> Step:
        return Step(
            step=total.step,
            loss=total.loss,
            lr=measured.lr,
            grad_norm=measured.grad_norm(),
            tokens=self._cost.tokens,
            step_s=measured.step_s,
            hash_hi=used >> 32,
            hash_lo=used & 0xFFFFFFFF,
            mfu=self._cost.mfu(measured.step_s),
            age_s=self._clock() - measured.ended_s,
        )
