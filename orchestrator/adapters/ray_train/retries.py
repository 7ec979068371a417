"""Whether a failed attempt is tried again, and when. Pure. Planned restarts never come here: nothing is charged for
them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from orchestrator.adapters.ray_train.events import Cause

FIRST_DELAY_S = 1.0
MAX_DELAY_S = 60.0

# Failures that the same code on the same samples would repeat.
DETERMINISTIC = frozenset({"nan"})
# The same, as long as the attempt has made no step: nothing that worked has broken.
DETERMINISTIC_AT_START = frozenset({"user_code", "state", "environment"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudget:
    """Failures and preemptions in a row that are borne; None = any number."""

    failures: int
    preemptions: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryState:
    """Failures since the run last made progress: since an attempt last started further on than the one before."""

    failures: int = 0
    preemptions: int = 0
    start_step: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failed attempt: what ended it (`kind` as ranks name it), where it had started, and the steps it made."""

    cause: Cause
    kind: str
    start_step: int
    num_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Try again, not before `delay_s` from now."""

    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """No further attempt; `reason` completes the sentence 'the job failed: ...'."""

    reason: str


def after_failure(budget: RetryBudget, state: RetryState, failure: Failure) -> tuple[Retry | GiveUp, RetryState]:
    """Decide about one failure; the first retry of a kind is immediate, later ones wait twice as long each."""
    if failure.start_step > state.start_step:
        state = RetryState(start_step=failure.start_step)
    at_start = failure.num_steps == 0 and failure.kind in DETERMINISTIC_AT_START
    if failure.kind in DETERMINISTIC or at_start:
        return GiveUp(reason="the same would happen again"), state
    if failure.cause is Cause.NODE_LOSS:
        state = replace(state, preemptions=state.preemptions + 1)
        return _judge(state.preemptions, budget.preemptions, "lost capacity"), state
    state = replace(state, failures=state.failures + 1)
    return _judge(state.failures, budget.failures, "failures"), state


def _judge(count: int, limit: int | None, what: str) -> Retry | GiveUp:
    if limit is not None and count > limit:
        return GiveUp(reason=f"{count} {what} without progress; {limit} are borne")
    return Retry(delay_s=0.0 if count == 1 else min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** (count - 2)))
