"""Why does this job wait, until when, and what would start it? The answer is tried on a copy before it is given.

Every cycle explains all jobs; the change that would help is looked for when somebody asks about one job, because it is
only said if a decision on a copy of the cluster with that change starts the job.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from orchestrator.policy.queueing.decide import decide_queues
from orchestrator.policy.queueing.decisions import Admit, Decisions, Explanation, Verdict
from orchestrator.policy.queueing.edits import (
    AddDevices,
    CutHeadroom,
    Edit,
    GiveBack,
    GrantMoney,
    GrantSteps,
    RaiseQuota,
    apply_edit,
)
from orchestrator.policy.queueing.remedies import remedies
from orchestrator.policy.queueing.values import Job, Snapshot

# A remedy that helps may uncover the next reason: quota, then devices, then places. Amounts double on every repeat,
# so this many steps cover any cluster.
_MOST_STEPS = 40
_AMOUNTS = (AddDevices, RaiseQuota, GrantMoney, GrantSteps, CutHeadroom, GiveBack)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is decided for one job, and, if it waits, edits after which the next decision starts it.

    `unblock` is empty if the job starts anyway, or where nothing that we know how to change would start it.
    """

    verdict: Verdict
    unblock: tuple[Edit, ...] = ()

    @property
    def why(self) -> Explanation | None:
        """The reason to wait; None if it starts."""
        return None if isinstance(self.verdict, Admit) else self.verdict.why


def why(snapshot: Snapshot, job_id: str, decisions: Decisions | None = None) -> Answer:
    """Explain one waiting job; `decisions` if they were made of this snapshot already. Raises: KeyError if no job of
    that id waits."""
    decisions = decide_queues(snapshot) if decisions is None else decisions
    verdict = decisions.verdict(job_id)
    if isinstance(verdict, Admit):
        return Answer(verdict=verdict)
    job = next(one for one in snapshot.waiting if one.id == job_id)
    firsts = list(remedies(snapshot, decisions, job, verdict.why, times=0))
    for first in firsts:
        if _starts(snapshot, job_id, [first]):
            return Answer(verdict=verdict, unblock=_trimmed(snapshot, job_id, [first]))
    for first in firsts:
        edits = _follow(snapshot, job_id, [first])
        if edits is not None:
            return Answer(verdict=verdict, unblock=_trimmed(snapshot, job_id, edits))
    return Answer(verdict=verdict)


def what_if(snapshot: Snapshot, edits: Iterable[Edit]) -> Decisions:
    """The decisions that a cluster with these edits would get; the snapshot stays as it is."""
    return decide_queues(edited(snapshot, edits))


def edited(snapshot: Snapshot, edits: Iterable[Edit]) -> Snapshot:
    """A copy with edits made, in order."""
    for edit in edits:
        snapshot = apply_edit(snapshot, edit)
    return snapshot


def _follow(snapshot: Snapshot, job_id: str, edits: list[Edit]) -> list[Edit] | None:
    """Go on from a first remedy, reason by reason, until the job starts; None if that leads nowhere."""
    for times in range(1, _MOST_STEPS):
        changed = edited(snapshot, edits)
        decisions = decide_queues(changed)
        verdict = decisions.verdict(job_id)
        if isinstance(verdict, Admit):
            return edits
        job = next(one for one in changed.waiting if one.id == job_id)
        following = next(_new_remedies(changed, decisions, job, verdict.why, edits, times), None)
        if following is None:
            return None
        edits = _merged(edits, following)
    return None


def _new_remedies(
    snapshot: Snapshot, decisions: Decisions, job: Job, reason: Explanation, edits: list[Edit], times: int
) -> Iterator[Edit]:
    amounts = [edit for edit in edits if isinstance(edit, _AMOUNTS)]
    for edit in remedies(snapshot, decisions, job, reason, times=times):
        # What is no amount either helped when it was made, or never will.
        if edit not in edits or edit in amounts:
            yield edit


def _merged(edits: list[Edit], edit: Edit) -> list[Edit]:
    """Add an edit; amounts of the same thing become one."""
    for at, other in enumerate(edits):
        match (other, edit):
            case (AddDevices(pool=one, devices=before), AddDevices(pool=two, devices=more)) if one == two:
                return [*edits[:at], AddDevices(one, before + more), *edits[at + 1 :]]
            case (RaiseQuota(), RaiseQuota()) if (other.queue, other.pool) == (edit.queue, edit.pool):
                return [*edits[:at], RaiseQuota(edit.queue, edit.pool, other.devices + edit.devices), *edits[at + 1 :]]
            case (GrantMoney(tenant=one, micro_usd=before), GrantMoney(tenant=two, micro_usd=more)) if one == two:
                return [*edits[:at], GrantMoney(one, before + more), *edits[at + 1 :]]
            case (GrantSteps(tenant=one, steps=before), GrantSteps(tenant=two, steps=more)) if one == two:
                return [*edits[:at], GrantSteps(one, before + more), *edits[at + 1 :]]
            case (CutHeadroom(pool=one, devices=before), CutHeadroom(pool=two, devices=more)) if one == two:
                return [*edits[:at], CutHeadroom(one, before + more), *edits[at + 1 :]]
    return [*edits, edit]


def _trimmed(snapshot: Snapshot, job_id: str, edits: list[Edit]) -> tuple[Edit, ...]:
    """Leave out what is not needed, and halve what is more than enough, as long as the job still starts."""
    for edit in list(edits):
        without = [one for one in edits if one is not edit]
        if without and _starts(snapshot, job_id, without):
            edits = without
    for at, edit in enumerate(edits):
        if isinstance(edit, AddDevices | RaiseQuota):
            edits[at] = _least(snapshot, job_id, edits, at, edit)
    return tuple(edits)


def _least(snapshot: Snapshot, job_id: str, edits: list[Edit], at: int, edit: AddDevices | RaiseQuota) -> Edit:
    """The smallest amount found by bisection that still starts the job."""
    low, best = 0, edit
    while best.devices - low > 1:
        middle = (low + best.devices) // 2
        smaller = _with_amount(edit, middle)
        if _starts(snapshot, job_id, [*edits[:at], smaller, *edits[at + 1 :]]):
            best = smaller
        else:
            low = middle
    return best


def _with_amount(edit: AddDevices | RaiseQuota, devices: int) -> AddDevices | RaiseQuota:
    match edit:
        case AddDevices(pool=pool):
            return AddDevices(pool, devices)
        case RaiseQuota(queue=queue, pool=pool):
            return RaiseQuota(queue, pool, devices)


def _starts(snapshot: Snapshot, job_id: str, edits: list[Edit]) -> bool:
    return isinstance(what_if(snapshot, edits).verdict(job_id), Admit)
