"""Devices to jobs, turn by turn: queues in order, tenants by standing; heads are promised a start, others fill gaps.

A turn gives a job its minimum, or one that has workers some more, until its tenant stands above the next one. So
devices go to tenants by standing, whatever sizes and numbers of jobs they ask with.
"""

from __future__ import annotations

import heapq

from orchestrator.policy.queueing.board import Sitting
from orchestrator.policy.queueing.desk import Desk
from orchestrator.policy.queueing.early import honour_claims, keep_promises, serve_owners
from orchestrator.policy.queueing.gates import Passed
from orchestrator.policy.queueing.growth import grow
from orchestrator.policy.queueing.order import Entries, QueueKey, QueueLine, line_up
from orchestrator.policy.queueing.values import Job


def fill(desk: Desk, passed: Passed, growing: list[Job]) -> None:
    """Serve who goes first, then everybody in order. Every waiting job gets a start or a reason to wait, and jobs that
    run may be given more (`growing`)."""
    serve_owners(desk, passed)
    honour_claims(desk, passed)
    keep_promises(desk, passed)
    entries = Entries(seated=set(desk.starts), answered=set(desk.waits), growing=growing)
    lines = {line.name: line for line in line_up(desk.board, passed, entries, desk.known.brought)}
    heap = [key for line in lines.values() if (key := _key(desk, line)) is not None]
    heapq.heapify(heap)
    while heap:
        *_, name = heapq.heappop(heap)
        _turn(desk, lines[name], alone=not heap)
        if (key := _key(desk, lines[name])) is not None:
            heapq.heappush(heap, key)


def _key(desk: Desk, queue: QueueLine) -> QueueKey | None:
    """The queue's place by the next of its jobs that needs a turn; those that do not are answered on the way."""
    while (line := queue.next_line()) is not None:
        desk.known.pass_over(line, desk.seated, desk.waits)
        if (job := line.head) is not None:
            return queue.key(desk.board.candidates(job), job)
    return None


def _turn(desk: Desk, queue: QueueLine, *, alone: bool) -> None:
    line = queue.next_line()
    job = line.head if line is not None else None
    if line is None or job is None:
        return
    sitting = _sitting(desk, job)
    rival = queue.rival(line) if alone else None
    most = _turn_size(desk, job, sitting.workers if sitting is not None else 0, rival)
    if sitting is None:
        # A job that starts keeps its place in the line: it may be given more in its next turn.
        line.at += not desk.serve(job, most)
    else:
        line.at += not (sitting.workers < most and grow(desk.fitter, sitting, most))


def _sitting(desk: Desk, job: Job) -> Sitting | None:
    start = desk.starts.get(job.id)
    return start.sitting if start is not None else desk.board.sittings.get(job.id)


def _turn_size(desk: Desk, job: Job, workers: int, rival: tuple[float, str] | None) -> int:
    """How far one turn goes: as far as turns of one step each would go before its rival's. One step while other
    queues wait, too."""
    mine = desk.board.now.shares.member(job.tenant, job.resource)
    bigger = [size for size in job.sizes if size > workers]
    if rival is None or not bigger:
        return bigger[0] if bigger else workers
    reached = bigger[0]
    for size in bigger[1:]:
        if (mine.after((reached - workers) * job.devices_per_worker), job.tenant) > rival:
            break
        reached = size
    return reached
