"""When to write a snapshot to storage, and when to try again. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jobs.train.keeper.values import SnapshotKey


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushRules:
    """`every_s` 0: only when asked. A flush that takes longer than `timeout_s` is given up; after a failure the next
    one waits `retry_s`."""

    every_s: float
    timeout_s: float
    retry_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushState:
    """`target`: being written since `since_s`. `due_at_s`: start the next one then; None: when asked. While one is
    being written it is set only if another was asked for since: the one under way may be older than what is wanted.

    `committed_step`: newest step in storage; -1 for none. `error`: "" after a success.
    """

    due_at_s: float | None
    target: SnapshotKey | None = None
    since_s: float = 0.0
    committed_step: int = -1
    error: str = ""


def begin(rules: FlushRules, first_in_s: float, committed_step: int, now_s: float) -> FlushState:
    """State at the start of an attempt."""
    return FlushState(due_at_s=now_s + first_in_s if rules.every_s else None, committed_step=committed_step)


def ask(state: FlushState, now_s: float) -> FlushState:
    """Somebody wants a checkpoint now."""
    return replace(state, due_at_s=now_s)


def advance(
    state: FlushState, rules: FlushRules, newest: SnapshotKey | None, failed: dict[SnapshotKey, str], now_s: float
) -> FlushState:
    """Give up what failed or hangs, start what is due; `failed`: snapshots that some node could not write, and why."""
    if state.target and state.target in failed:
        return _give_up(state, rules, failed[state.target], now_s)
    if state.target and now_s - state.since_s > rules.timeout_s:
        return _give_up(state, rules, f"storage took longer than {rules.timeout_s:g} s", now_s)
    due = state.due_at_s is not None and now_s >= state.due_at_s
    if due and not state.target and newest and newest.step > state.committed_step and newest not in failed:
        return replace(state, target=newest, since_s=now_s, due_at_s=None)
    return state


def committed(state: FlushState, rules: FlushRules, now_s: float) -> FlushState:
    """The target is in storage; a wish that came meanwhile is still one."""
    assert state.target is not None
    due = state.due_at_s
    if due is None and rules.every_s:
        due = now_s + rules.every_s
    return replace(state, target=None, committed_step=state.target.step, error="", due_at_s=due)


def wait_s(state: FlushState, rules: FlushRules, now_s: float) -> float | None:
    """Seconds until `advance` may decide something without news; None if only news can change anything."""
    if state.target:
        return max(0.0, state.since_s + rules.timeout_s - now_s)
    if state.due_at_s is not None and state.due_at_s > now_s:
        return state.due_at_s - now_s
    return None


def _give_up(state: FlushState, rules: FlushRules, error: str, now_s: float) -> FlushState:
    return replace(state, target=None, error=error, due_at_s=now_s + rules.retry_s)
