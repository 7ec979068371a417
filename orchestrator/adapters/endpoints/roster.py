"""What the control plane is told of each ordered attempt of an endpoint, as a fold over what is seen of its replicas.

An ordered attempt lasts from its order to the next one's; it is useful where a replica answers, and stalled where
one is leased and does not answer yet. Pure: refuses to know clocks, files, Ray and Serve.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.adapters.jobs.letters import Letter
from orchestrator.policy.queueing.orders import Phase, Report

COLD_START = "cold_start"
"""The part of a stall in which a leased replica does not answer yet."""


@dataclass(slots=True)
class Turn:
    """One ordered attempt; `cold_s` in replica-seconds; `resumed`: another process saw its begin."""

    letter: Letter
    phase: Phase = Phase.STARTING
    cold_s: float = 0.0
    resumed: bool = False


class Roster:
    """Feed it with orders and counts; ask for `reports`."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._turns: list[Turn] = []
        self._seen_s: float | None = None
        self.cold_starts_s: list[float] = []

    @property
    def wanted(self) -> int:
        """Replicas of the newest order."""
        return self._turns[-1].letter.workers if self._turns else 0

    @property
    def seats(self) -> dict[str, int]:
        """Replicas of the newest order, by node."""
        return dict(self._turns[-1].letter.seats) if self._turns else {}

    def take(self, letter: Letter) -> None:
        """An order has come; a stop changes nothing of the attempt that it ends."""
        if not letter.stop and not (self._turns and letter.attempt <= self._turns[-1].letter.attempt):
            self._turns.append(Turn(letter=letter))

    def resume(self, last: Report, now_s: float) -> None:
        """Go on with the newest order where another process has said this of it: what it did not see, nobody counts."""
        newest = self._turns[-1]
        assert last.attempt == newest.letter.attempt, "said of the newest order"
        newest.phase = Phase.RUNNING if last.phase is Phase.RUNNING else Phase.STARTING
        newest.cold_s, newest.resumed = dict(last.stalled_worker_s).get(COLD_START, 0.0), True
        self._seen_s = now_s

    def see(self, *, answering: int, present: int, now_s: float) -> None:
        """So many replicas answer and are there, starting and draining ones included."""
        if not self._turns:
            return
        newest = self._turns[-1]
        since_s = newest.letter.at_s if self._seen_s is None else max(self._seen_s, newest.letter.at_s)
        newest.cold_s += max(0, self.wanted - answering) * max(0.0, now_s - since_s)
        self._seen_s = now_s
        if present <= self.wanted:
            for turn in self._turns[:-1]:
                turn.phase = Phase.STOPPED
            if answering >= self.wanted and newest.phase is Phase.STARTING:
                newest.phase = Phase.RUNNING
                if newest.cold_s and not newest.resumed:
                    took_s = max(0.0, now_s - newest.letter.at_s)  # clocks are set back
                    self.cold_starts_s = [*self.cold_starts_s, took_s][-20:]

    def reports(self) -> tuple[Report, ...]:
        """One for every ordered attempt whose end was not taken yet, oldest first."""
        return tuple(self._report(turn) for turn in self._turns)

    def finish(self, phase: Phase, detail: str, *, final: bool = False) -> tuple[Report, ...]:
        """Nothing of it is left: the ends of all attempts."""
        for turn in self._turns:
            turn.phase = Phase.STOPPED
        if self._turns:
            self._turns[-1].phase = phase
        return tuple(self._report(turn, detail, final and turn is self._turns[-1]) for turn in self._turns)

    def forget(self, attempt: int) -> None:
        """An attempt's end was said."""
        self._turns = [turn for turn in self._turns if turn.letter.attempt != attempt]

    def _report(self, turn: Turn, detail: str = "", final: bool = False) -> Report:
        newest = turn is self._turns[-1]
        return Report(
            job=self._job,
            attempt=turn.letter.attempt,
            phase=turn.phase,
            stalled_worker_s=((COLD_START, turn.cold_s),) if turn.cold_s else (),
            detail=detail if newest else "replaced",
            final=final,
        )
