"""What the control plane is told of each attempt that it ordered, as a fold over the run's own events.

The control plane numbers what it orders; a run numbers its worker groups, and starts more of them (a failure that it
overcomes by itself). An ordered attempt lasts from its order to the next one's, and every second of every leased worker
in it is useful, lost or stalled, exactly. Pure: refuses to know clocks, files and Ray.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.adapters.jobs.letters import Letter
from orchestrator.adapters.jobs.notes import Notes
from orchestrator.adapters.ray_train.events import (
    AttemptClosed,
    AttemptOpened,
    CheckpointSaved,
    Event,
    Outcome,
    SnapshotSafe,
    StallPart,
    StepDone,
    StopAsked,
)
from orchestrator.adapters.ray_train.governor import Habits
from orchestrator.adapters.ray_train.tempo import Tempo
from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.policy.lending.session import NO_ENDING, Ending
from orchestrator.policy.queueing.orders import Measured, Phase, Report
from orchestrator.policy.resize import Outlook, RunPlan

_KEPT_STEPS = 100_000
WAITING = "waiting"
"""The part of a stall that no worker measured: before workers were asked for, or while there was no room."""


@dataclass(slots=True)
class Stay:
    """One ordered attempt. Worker-seconds of its leased workers."""

    letter: Letter
    until_s: float | None = None
    phase: Phase = Phase.STARTING
    useful_s: float = 0.0
    lost_s: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def workers(self) -> int:
        """Leased workers."""
        return self.letter.workers

    def stalled(self, until_s: float) -> tuple[tuple[str, float], ...]:
        """What is neither useful nor lost, by part; what was measured in parts is cut to what there is."""
        whole = self.workers * max(0.0, until_s - self.letter.at_s) - self.useful_s - self.lost_s
        left, found = max(0.0, whole), []
        for name, seconds in self.parts.items():
            found.append((name, min(seconds, left)))
            left -= min(seconds, left)
        return tuple((name, seconds) for name, seconds in [*found, (WAITING, left)] if seconds > 0)


@dataclass(slots=True)
class Group:
    """The worker group that runs."""

    world_size: int
    nodes: tuple[str, ...]
    opened_at_s: float
    last_step_at_s: float | None = None


class Chronicle:
    """Feed it with orders and events; ask for `reports`. `steps` is how many the job has in all; `ending`: what the
    end of its night takes, as earlier nights say."""

    def __init__(self, job: str, *, plan: RunPlan, steps: int, habits: Habits, ending: Ending = NO_ENDING) -> None:
        self._job = job
        self._plan = plan
        self._steps = steps
        self._habits = habits
        self._ending = ending
        self._tempo = Tempo(steps)
        self._stays: list[Stay] = []
        self._group: Group | None = None
        self._steps_done = 0
        self._cost: dict[int, tuple[int, float]] = {}
        self._safe_step, self._safe_at_s = 0, 0.0
        self._over_with_group = False
        self._notes = Notes()

    def remember(self, earlier: Iterable[Event]) -> None:
        """What earlier processes of the run have seen: how long its stops take is known from the first order on."""
        for event in earlier:
            if isinstance(event, StopAsked | AttemptClosed):
                self._tempo.observe(event)

    def take(self, letter: Letter) -> None:
        """An order has come. A stop changes nothing of the attempt that it ends, but an urgent one is over as soon as
        its group has gone: devices do not wait for what is still written to storage."""
        self._over_with_group = letter.stop and letter.urgent
        if letter.stop or (self._stays and letter.attempt <= self._stays[-1].letter.attempt):
            return
        if self._stays:
            self._stays[-1].until_s = letter.at_s
        self._stays.append(Stay(letter=letter))
        self._settle()

    def observe(self, event: Event) -> None:
        """Something has happened in the run."""
        self._tempo.observe(event)
        self._notes.observe(event)
        match event:
            case AttemptOpened():
                self._lose_after(event.start_step)
                self._steps_done = event.start_step
                self._group = Group(world_size=event.world_size, nodes=event.nodes, opened_at_s=event.at_s)
            case StepDone():
                self._step(event)
            case StallPart():
                stay = self._stay_at(event.at_s)
                if stay is not None and self._group is not None:
                    seconds = event.seconds * min(stay.workers, self._group.world_size)
                    stay.parts[event.part] = stay.parts.get(event.part, 0.0) + seconds
            case AttemptClosed():
                self._group = None
                self._free(event.at_s)
                if event.outcome is Outcome.PLANNED:
                    self._safe_step, self._safe_at_s = max(self._safe_step, event.step), event.at_s
            case SnapshotSafe() | CheckpointSaved():
                self._safe_step, self._safe_at_s = max(self._safe_step, event.step), event.at_s
            case _:
                pass

    def session(self, at_s: float, **data: str | float | int) -> None:
        """A stage of its night has begun, or was left out."""
        self._notes.session(at_s, **data)

    def reports(self, now_s: float) -> tuple[Report, ...]:
        """One for every ordered attempt whose end was not taken yet, oldest first."""
        return tuple(self._report(stay, now_s) for stay in self._stays)

    def finish(self, phase: Phase, detail: str, now_s: float, *, final: bool = False) -> tuple[Report, ...]:
        """The run is over and nobody is left: the ends of all attempts."""
        if not self._stays:
            return ()
        for stay in self._stays:
            stay.phase = Phase.STOPPED
        last = self._stays[-1]
        last.phase, last.until_s = phase, now_s
        if phase not in (Phase.STOPPED, Phase.SUCCEEDED):
            self._lose_after(self._safe_step)
        return tuple(self._report(stay, now_s, detail, final and stay is last) for stay in self._stays)

    def forget(self, attempt: int) -> None:
        """An attempt's end was said."""
        self._stays = [stay for stay in self._stays if stay.letter.attempt != attempt]

    # --- Inside ------------------------------------------------------------------------------------------------------

    def _step(self, event: StepDone) -> None:
        group = self._group
        if group is None:
            return
        self._lose_after(event.step - 1)
        began_s = group.last_step_at_s
        if began_s is None:
            began_s = max(group.opened_at_s, event.at_s - event.step_s)
        group.last_step_at_s = max(event.at_s, began_s)
        self._steps_done = event.step
        stay = self._stay_at(event.at_s)
        if stay is not None:
            cost = (group.last_step_at_s - began_s) * min(stay.workers, group.world_size)
            stay.useful_s += cost
            self._cost[event.step] = (stay.letter.attempt, cost)
            if len(self._cost) > _KEPT_STEPS:
                del self._cost[next(iter(self._cost))]
        self._settle()

    def _settle(self) -> None:
        """Once the newest order is what runs, it runs, and those before it are over."""
        group, newest = self._group, self._stays[-1] if self._stays else None
        if newest is None or group is None or group.last_step_at_s is None or not _sits(group, newest.letter.seats):
            return
        newest.phase = Phase.RUNNING
        for stay in self._stays[:-1]:
            stay.phase = Phase.STOPPED

    def _free(self, at_s: float) -> None:
        """A group has gone: nobody sits on the seats of earlier orders, for the next one takes those of the newest."""
        for stay in self._stays[:-1]:
            stay.phase = Phase.STOPPED
        if self._over_with_group and self._stays:
            self._stays[-1].phase, self._stays[-1].until_s = Phase.STOPPED, at_s

    def _stay_at(self, at_s: float) -> Stay | None:
        """The attempt that holds the leases at a time; work before the first order counts for the first."""
        begun = [stay for stay in self._stays if stay.letter.at_s <= at_s]
        return begun[-1] if begun else (self._stays[0] if self._stays else None)

    def _lose_after(self, step: int) -> None:
        """Steps after `step` will be made again: their cost is lost, in the attempt that loses them."""
        while self._cost and next(reversed(self._cost)) > step:  # ascending: a step that is made again drops the later
            _, (attempt, cost) = self._cost.popitem()
            if not self._stays:
                continue  # its end was said before what it had made was lost
            last = self._stays[-1]
            last.lost_s += cost
            if attempt == last.letter.attempt:
                last.useful_s -= cost

    def _report(self, stay: Stay, now_s: float, detail: str = "", final: bool = False) -> Report:
        newest = stay is self._stays[-1]
        until_s = now_s if stay.until_s is None else stay.until_s
        step_s = self._worker_s_per_step()
        return Report(
            job=self._job,
            attempt=stay.letter.attempt,
            phase=stay.phase,
            steps_done=self._steps_done,
            work_left_s=None if step_s is None else max(0, self._steps - self._steps_done) * step_s,
            unsaved_work_s=0.0 if step_s is None else max(0, self._steps_done - self._safe_step) * step_s,
            checkpoint_age_s=max(0.0, now_s - self._safe_at_s) if self._safe_at_s else 0.0,
            stalled_worker_s=stay.stalled(until_s),
            lost_worker_s=stay.lost_s,
            detail=detail if newest else "replaced",
            measured=self._measured() if newest and stay.phase is Phase.RUNNING else None,
            final=final,
            notes=self._notes.newest() if newest else (),
        )

    def _worker_s_per_step(self) -> float | None:
        left_s, group = self._tempo.progress().remaining_s, self._group
        left = self._steps - self._steps_done
        return None if left_s is None or group is None or left <= 0 else left_s / left * group.world_size

    def _measured(self) -> Measured | None:
        """What the resize policy needs; None until a step tells how long the rest takes."""
        progress = self._tempo.progress()
        if progress.remaining_s is None:
            return None
        lasting_s = min(self._habits.stay_s, progress.remaining_s)
        return Measured(
            plan=self._plan,
            outlook=(Outlook(workers=self._plan.max_workers, expected_s=lasting_s),),
            stall_s=progress.stall_s or self._habits.stall_s,
            stop_s=progress.stop_s or self._habits.stop_s,
            ending=self._ending,
            slow_stop_s=progress.slow_stop_s,
        )


def plan_of(*, min_workers: int, max_workers: int, batch: BatchPlan, habits: Habits) -> RunPlan:
    """The resize policy's plan of a job."""
    return RunPlan(batch=batch, min_workers=min_workers, max_workers=max_workers, rules=habits.rules)


def _sits(group: Group, seats: Mapping[str, int]) -> bool:
    """Whether a group sits on seats of a lease and nowhere else."""
    return all(count <= seats.get(node, 0) for node, count in Counter(group.nodes).items())
