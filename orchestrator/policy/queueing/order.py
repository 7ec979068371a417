"""Whose turn it is: queues by what they borrow, then priority, then tenants by standing, then first come.

Jobs are sorted once; after that a turn costs a heap operation. Jobs that are found to wait for the same thing as an
earlier one are passed over without a turn: waiting changes nobody's standing.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.policy.queueing.board import Board
from orchestrator.policy.queueing.deadlines import urgent
from orchestrator.policy.queueing.shares import Member
from orchestrator.policy.queueing.values import Job

SEATED = -1
"""The place of a job that has devices."""
QueueKey = tuple[bool, float, float, str]
"""Whether its next job would borrow, what it borrows for its weight, how full it is, its name."""


@dataclass(slots=True)
class Line:
    """Jobs of one queue, class and tenant, in order; `at` is the next one.

    `places`: where each of them stands among those who wait; `SEATED` for one that has devices, which is answered by
    nobody: it gets its turn.
    """

    tenant: str
    resource: str
    member: Member
    jobs: list[Job] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    at: int = 0

    @property
    def head(self) -> Job | None:
        """The next job."""
        return self.jobs[self.at] if self.at < len(self.jobs) else None


@dataclass(slots=True)
class QueueLine:
    """All lines of one queue: classes from the highest down, and in each a heap of tenants by standing."""

    name: str
    classes: list[list[Line]]
    board: Board
    heap: list[tuple[float, str, str, Line]] = field(default_factory=list)

    def next_line(self) -> Line | None:
        """The line whose turn it is: of the highest class that has jobs, the tenant that stands lowest.

        Standings only rise while a decision is made, so an entry that has risen is put back where it belongs now.
        """
        while True:
            while self.heap:
                standing, _, _, line = self.heap[0]
                if line.head is None:
                    heapq.heappop(self.heap)
                elif (now := line.member.standing) > standing:
                    heapq.heapreplace(self.heap, self._entry(line, now))
                else:
                    return line
            if not self.classes:
                return None
            self.heap = [self._entry(line, line.member.standing) for line in self.classes.pop(0)]
            heapq.heapify(self.heap)

    def rival(self, line: Line) -> tuple[float, str]:
        """Standing and name of the next tenant of the class; infinite if there is none."""
        others = (
            (one[-1].member.standing, one[-1].tenant) for one in self.heap if one[-1] is not line and one[-1].head
        )
        return min(others, default=(float("inf"), ""))

    def key(self, pool_hint: tuple[str, ...], job: Job) -> QueueKey:
        """The queue's place among queues: within nominal before borrowing, little for its weight before much.

        Measured in the pools its next job could use, as if they were one.
        """
        used = nominal = borrowed = 0
        for pool in pool_hint:
            account = self.board.account(self.name, pool)
            used, nominal, borrowed = used + account.used, nominal + account.nominal, borrowed + account.borrowed
        weight = self.board.queues[self.name].weight
        filled = used / nominal if nominal else float(used)
        return used + job.min_devices > nominal, borrowed / weight, filled, self.name

    def _entry(self, line: Line, standing: float) -> tuple[float, str, str, Line]:
        return standing, line.tenant, line.resource, line


def line_up(board: Board, jobs: Sequence[Job], places: Sequence[int]) -> list[QueueLine]:
    """Sort jobs into lines, by name of queue; `places` as in `Line`.

    Within a tenant and class, jobs whose latest start for their deadline is near go first, then first come, first
    served; equal times end on the id, which moves nothing between tenants.
    """
    lines: dict[tuple[str, int, str, str], Line] = {}
    queues: dict[str, dict[int, list[Line]]] = {}
    shares, dated = board.now.shares, set()
    for at in sorted(range(len(jobs)), key=[job.since for job in jobs].__getitem__):
        job = jobs[at]
        line = lines.get(job.line)
        if line is None:
            line = lines[job.line] = Line(job.tenant, job.resource, shares.member(job.tenant, job.resource))
            queues.setdefault(job.queue, {}).setdefault(job.priority, []).append(line)
        line.jobs.append(job)
        line.places.append(places[at])
        if not job.plain and job.deadline_s is not None:
            dated.add(job.line)
    for key in dated:
        _urgent_first(lines[key], board.snapshot.now_s, board.snapshot.rules.urgent_s)
    return [
        QueueLine(name, [classes[priority] for priority in sorted(classes, reverse=True)], board)
        for name, classes in sorted(queues.items())
    ]


def _urgent_first(line: Line, now_s: float, urgent_s: float) -> None:
    late = [not urgent(job, now_s=now_s, urgent_s=urgent_s) for job in line.jobs]
    order = sorted(range(len(late)), key=late.__getitem__)
    line.jobs, line.places = [line.jobs[at] for at in order], [line.places[at] for at in order]
