"""Turns what workers and the controller say into events of the run. Pure: lines and times in, events out.

It gathers what many ranks say separately: a snapshot counts when every rank has sealed its share, a part of a stall is
as long as its slowest rank's, an orderly stop is over when every worker has left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from jobs.train.messages import (
    Control,
    Failed,
    Finished,
    Message,
    NotSaved,
    Pace,
    Phase,
    Restored,
    RolledBack,
    Saved,
    Skipped,
    Snapshot,
    Step,
    Stopped,
    decode,
)
from orchestrator.adapters.ray_train.events import (
    CheckpointSaved,
    Event,
    Part,
    Remark,
    Snapshotted,
    StallPart,
    StepDone,
)
from orchestrator.adapters.ray_train.paces import Paces
from orchestrator.adapters.ray_train.protocol import (
    Announced,
    AttemptPlan,
    GroupIdle,
    GroupPlaced,
    GroupStarting,
    Held,
    Hung,
    Item,
    Joined,
    Leaving,
    Left,
    Said,
    StacksOf,
)

Metrics = Callable[[float], Mapping[str, float]]

# Which failure explains the others when one rank's end takes its peers along; the first one named wins.
ROOT_CAUSES = ("user_code", "nan", "state", "environment", "start", "internal", "killed", "hang", "lost_peer")


@dataclass(slots=True, kw_only=True)
class OpenAttempt:
    """What is known of the attempt that runs."""

    plan: AttemptPlan
    opened_at_s: float
    joined: set[int] = field(default_factory=set)
    nodes: dict[int, str] = field(default_factory=dict)
    left: dict[int, Left] = field(default_factory=dict)
    starting_at_s: float | None = None
    placed_at_s: float | None = None
    first_step_at_s: float | None = None
    stop_asked_at_s: float | None = None
    parts: dict[Part, float] = field(default_factory=lambda: defaultdict(float))
    snapshots: dict[int, dict[int, Snapshot]] = field(default_factory=lambda: defaultdict(dict))
    stacks: list[StacksOf] = field(default_factory=list)
    paces: Paces = field(default_factory=Paces)

    @property
    def is_stopped(self) -> bool:
        """Every worker left in order, with the state of one step saved."""
        return len(self.left) == self.plan.num_workers and all(x.how is Leaving.STOPPED for x in self.left.values())

    @property
    def is_finished(self) -> bool:
        """Every worker finished the job."""
        return len(self.left) == self.plan.num_workers and all(x.how is Leaving.FINISHED for x in self.left.values())

    @property
    def last_step(self) -> int:
        """The step at which the workers left; 0 where none says so."""
        return max((left.step for left in self.left.values()), default=0)

    def root_failure(self) -> Left | None:
        """The failure that explains the attempt's end best; None if no worker failed by itself."""
        failures = [left for left in self.left.values() if left.how is Leaving.FAILED]
        return min(failures, key=_root_order, default=None)


def _root_order(left: Left) -> tuple[int, float, int]:
    rank = ROOT_CAUSES.index(left.kind) if left.kind in ROOT_CAUSES else len(ROOT_CAUSES)
    return rank, left.at_s, left.worker


class Journal:
    """Reads items of one run. `attempt` is the one that is open; items of others are dropped."""

    def __init__(self, metrics: Metrics = lambda loss: {}) -> None:
        self.attempt: OpenAttempt | None = None
        self._metrics = metrics

    def open(self, plan: AttemptPlan, at_s: float) -> None:
        """From now on items belong to this attempt."""
        self.attempt = OpenAttempt(plan=plan, opened_at_s=at_s)

    def read(self, item: Item) -> Iterator[Event]:
        """The events that `item` means."""
        attempt = self.attempt
        if attempt is None or isinstance(item, GroupIdle | Held | Announced) or item.attempt != attempt.plan.attempt:
            return
        match item:
            case Said():
                yield from self._said(attempt, item, decode(item.line))
            case GroupStarting():
                attempt.starting_at_s = item.at_s
            case GroupPlaced():
                attempt.placed_at_s = item.at_s
                if attempt.starting_at_s is not None:
                    attempt.parts[Part.PLACEMENT] = item.at_s - attempt.starting_at_s
            case Joined():
                attempt.joined.add(item.worker)
                attempt.nodes[item.worker] = item.node_id
                if attempt.placed_at_s is not None and len(attempt.joined) == attempt.plan.num_workers:
                    attempt.parts[Part.PROCESS_START] += max(0.0, item.at_s - attempt.placed_at_s)
            case Left():
                attempt.left[item.worker] = item
            case StacksOf():
                attempt.stacks.append(item)
            case Hung():
                return  # for the hub

    def _said(self, attempt: OpenAttempt, item: Said, message: Message | Control) -> Iterator[Event]:
        number = attempt.plan.attempt
        match message:
            case Step():
                yield from self._step(attempt, item, message)
            case Phase():
                self._phase(attempt, message)
            case Pace():
                yield from attempt.paces.hear(attempt.plan, item, message)
            case Snapshot():
                yield from self._snapshot(attempt, item, message)
            case Saved():
                yield CheckpointSaved(at_s=item.at_s, attempt=number, step=message.step, path=message.path)
            case Skipped():
                detail = f"step {message.step}: loss or gradient was not finite, the update was left out"
                yield Remark(at_s=item.at_s, attempt=number, detail=detail)
            case RolledBack():
                detail = f"step {message.step}: loss or gradient was not finite, back to the state of {message.to_step}"
                yield Remark(at_s=item.at_s, attempt=number, detail=detail)
            case NotSaved():
                yield Remark(at_s=item.at_s, attempt=number, detail=f"step {message.step}: not saved: {message.detail}")
            case Restored() if message.detail and item.rank == 0:
                yield Remark(at_s=item.at_s, attempt=number, detail=f"restored step {message.step}: {message.detail}")
            case Stopped() | Finished() | Failed() | _:
                return  # the worker's `Left` says it for all its ranks

    def _step(self, attempt: OpenAttempt, item: Said, step: Step) -> Iterator[Event]:
        number = attempt.plan.attempt
        ended_at_s = item.at_s - step.age_s  # it is told a step late
        if attempt.first_step_at_s is None:
            attempt.first_step_at_s = ended_at_s
            for part, seconds in attempt.parts.items():
                yield StallPart(at_s=item.at_s, attempt=number, part=part, seconds=seconds)
            attempt.parts.clear()
        yield StepDone(
            at_s=ended_at_s,
            attempt=number,
            step=step.step,
            world_size=attempt.plan.world_size,
            loss=step.loss,
            lr=step.lr,
            grad_norm=step.grad_norm,
            num_tokens=step.tokens,
            step_s=step.step_s,
            mfu=step.mfu,
            ledger=(step.hash_hi, step.hash_lo),
            metrics=dict(self._metrics(step.loss)),
        )

    @staticmethod
    def _phase(attempt: OpenAttempt, phase: Phase) -> None:
        part = Part(phase.part)
        if part is Part.PROCESS_START:
            return  # the fork itself; the worker's start around it is measured here
        attempt.parts[part] = max(attempt.parts[part], phase.seconds)

    @staticmethod
    def _snapshot(attempt: OpenAttempt, item: Said, snapshot: Snapshot) -> Iterator[Event]:
        shares = attempt.snapshots[snapshot.step]
        shares[item.rank] = snapshot
        if len(shares) == attempt.plan.world_size:
            for step in [s for s in attempt.snapshots if s <= snapshot.step]:
                del attempt.snapshots[step]
            yield Snapshotted(
                at_s=item.at_s,
                attempt=attempt.plan.attempt,
                step=snapshot.step,
                num_bytes=sum(share.nbytes for share in shares.values()),
                seconds=max(share.seconds for share in shares.values()),
            )

    def closing_parts(self, at_s: float) -> Iterator[Event]:
        """The parts of the stall at the attempt's end: waiting for the last step, saving, and the way out."""
        attempt = self.attempt
        assert attempt is not None
        number = attempt.plan.attempt
        last_left_s = max((left.at_s for left in attempt.left.values()), default=at_s)
        parts = dict(attempt.parts)
        parts[Part.TEARDOWN] = max(0.0, at_s - last_left_s)
        for part, seconds in parts.items():
            yield StallPart(at_s=at_s, attempt=number, part=part, seconds=seconds)
        attempt.parts.clear()
