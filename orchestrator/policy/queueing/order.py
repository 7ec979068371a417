"""Whose turn it is: queues by what they borrow, then priority, then tenants by standing, then first come.

Jobs stand in their lines as the roll keeps them; a turn costs a heap operation. Jobs that are found to wait for the
same thing as an earlier one are passed over without a turn: waiting changes nobody's standing.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from orchestrator.policy.queueing.board import Board
from orchestrator.policy.queueing.deadlines import urgent
from orchestrator.policy.queueing.gates import Passed
from orchestrator.policy.queueing.quota import Account
from orchestrator.policy.queueing.roll import SEATED, LineKey, Row
from orchestrator.policy.queueing.shares import Member
from orchestrator.policy.queueing.values import Job

QueueKey = tuple[bool, float, float, str]
"""Whether its next job would borrow, what it borrows for its weight, how full it is, its name."""


@dataclass(slots=True)
class Line:
    """Jobs of one queue, class and tenant, in order; `at` is the next one.

    `row` is the roll's own wherever nobody was added: it is read only. `singly`: what others wait for does not say what
    all jobs here wait for that ask for the same, so each is answered by itself.
    """

    queue: str
    tenant: str
    resource: str
    member: Member
    row: Row
    singly: bool = False
    at: int = 0

    @property
    def head(self) -> Job | None:
        """The next job."""
        return self.row.jobs[self.at] if self.at < len(self.row.jobs) else None


@dataclass(slots=True)
class QueueLine:
    """All lines of one queue: classes from the highest down, and in each a heap of tenants by standing."""

    name: str
    classes: list[list[Line]]
    board: Board
    heap: list[tuple[float, str, str, Line]] = field(default_factory=list)
    _accounts: dict[tuple[str, ...], list[Account]] = field(default_factory=dict)

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
        accounts = self._accounts.get(pool_hint)
        if accounts is None:
            accounts = self._accounts[pool_hint] = [self.board.account(self.name, pool) for pool in pool_hint]
        used = nominal = borrowed = 0
        for account in accounts:
            used, nominal, borrowed = used + account.used, nominal + account.nominal, borrowed + account.borrowed
        weight = self.board.queues[self.name].weight
        filled = used / nominal if nominal else float(used)
        return used + job.min_devices > nominal, borrowed / weight, filled, self.name

    def _entry(self, line: Line, standing: float) -> tuple[float, str, str, Line]:
        return standing, line.tenant, line.resource, line


@dataclass(slots=True)
class Entries:
    """Who stands in line beside or instead of those on the roll: `seated` jobs that were given devices before anybody's
    turn, and others that have some and may be given more (`growing`); `answered` ones stand nowhere."""

    seated: Collection[str]
    answered: Collection[str]
    growing: Iterable[Job]


def line_up(board: Board, passed: Passed, entries: Entries, owners: Collection[str]) -> list[QueueLine]:
    """Everybody who has no answer yet, by name of queue. `owners`: tenants that brought devices.

    Within a tenant and class, jobs whose latest start for their deadline is near go first, then first come, first
    served; equal times end on the id, which moves nothing between tenants.
    """
    rows, apart, dated = _rows(passed, entries)
    queues: dict[str, dict[int, list[Line]]] = {}
    shares, rules, now_s = board.now.shares, board.snapshot.rules, board.snapshot.now_s
    for key, row in rows.items():
        queue, priority, tenant, resource = key
        if key in dated:
            row = _urgent_first(row, now_s, rules.urgent_s)
        line = Line(queue, tenant, resource, shares.member(tenant, resource), row, key in apart or tenant in owners)
        queues.setdefault(queue, {}).setdefault(priority, []).append(line)
    return [
        QueueLine(name, [classes[priority] for priority in sorted(classes, reverse=True)], board)
        for name, classes in sorted(queues.items())
    ]


def _rows(passed: Passed, entries: Entries) -> tuple[dict[LineKey, Row], set[LineKey], set[LineKey]]:
    """Rows of everybody who stands in line, with those that special jobs stand in and those that deadlines order."""
    roll, rows = passed.roll, dict(passed.rows)
    copied: dict[LineKey, Row] = {}
    apart: set[LineKey] = set()
    dated: set[LineKey] = set()

    def own(key: LineKey) -> Row:
        if key not in copied:
            copied[key] = rows[key] = rows[key].copy() if key in rows else Row()
        return copied[key]

    for job_id in (*entries.answered, *entries.seated):
        job = roll.jobs[job_id]
        if job.plain:
            (own(job.line).strike if job_id in entries.answered else own(job.line).seat)(job)
    beside = [job for job in passed.special.values() if job.id not in entries.answered]
    apart.update(job.line for job in beside)
    for job in beside:
        own(job.line).enter(job, SEATED if job.id in entries.seated else roll.bit(job))
    for job in entries.growing:
        own(job.line).enter(job, SEATED)
        beside.append(job)
    dated.update(job.line for job in beside if not job.plain and job.deadline_s is not None)
    return rows, apart, dated


def _urgent_first(row: Row, now_s: float, urgent_s: float) -> Row:
    late = [not urgent(job, now_s=now_s, urgent_s=urgent_s) for job in row.jobs]
    order = sorted(range(len(late)), key=late.__getitem__)
    return Row([row.jobs[at] for at in order], [row.bits[at] for at in order], row.mask)
