"""Who waits, in lines and by what they ask for: kept from one decision to the next, because few of many come and go.

A roll is told who waits now and enters what differs. What it says follows from those jobs alone, however it came to
be: a decision with a roll of earlier decisions is the one without (tests/policy/queueing/test_roll.py).
"""

from __future__ import annotations

import functools
import operator
from bisect import bisect_left, insort
from dataclasses import dataclass, field

from orchestrator.policy.queueing.values import Job, Shape

LineKey = tuple[str, int, str, str]
"""Queue, class, tenant, resource."""
SEATED = 1
"""The bit of a job that has devices: nothing that others wait for says anything of it."""
# Shapes that nobody asks for any more keep their bits until there are this many for each that is in use.
_MOST_BITS = 4
_SINCE = operator.attrgetter("since")


@dataclass(slots=True)
class Row:
    """Jobs of one line, first come first; the bit of what each of them asks for, and all those bits together."""

    jobs: list[Job] = field(default_factory=list)
    bits: list[int] = field(default_factory=list)
    mask: int = 0

    def copy(self) -> Row:
        """The same jobs, to be changed."""
        return Row(self.jobs.copy(), self.bits.copy(), self.mask)

    def enter(self, job: Job, bit: int) -> None:
        """A job at its place."""
        at = bisect_left(self.jobs, job.since, key=_SINCE)
        self.jobs.insert(at, job)
        self.bits.insert(at, bit)
        self.mask |= bit

    def strike(self, job: Job) -> None:
        """Take a job out."""
        at = self._at(job)
        del self.jobs[at], self.bits[at]
        self.mask = functools.reduce(operator.or_, self.bits, 0)

    def seat(self, job: Job) -> None:
        """A job that was given devices is asked for more at its place."""
        self.bits[self._at(job)] = SEATED
        self.mask |= SEATED

    def _at(self, job: Job) -> int:
        at = bisect_left(self.jobs, job.since, key=_SINCE)
        assert self.jobs[at].id == job.id, f"{job.id} stands in its line"
        return at


@dataclass(slots=True)
class Roll:
    """`rows`: plain jobs (`Job.plain`) by line; `special`: the others, by id. `groups`: ids of plain jobs by queue and
    by what they ask for, in order. `jobs`: everybody, by id."""

    rows: dict[LineKey, Row] = field(default_factory=dict)
    special: dict[str, Job] = field(default_factory=dict)
    groups: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    _bits: dict[Shape, int] = field(default_factory=dict)
    _waiting: tuple[Job, ...] = ()
    _known: set[int] = field(default_factory=set)

    def take(self, waiting: tuple[Job, ...]) -> None:
        """These wait now. Jobs are told apart by identity: one that has changed is another object."""
        if waiting is self._waiting:
            return
        fresh = set(map(id, waiting))
        gone, come = self._known - fresh, fresh - self._known
        before, self._waiting, self._known = self._waiting, (), set()  # what fails half-way is begun anew
        in_use = len(self.groups) + len(self.special)
        if 2 * (len(gone) + len(come)) > len(fresh) or len(self._bits) > _MOST_BITS * in_use + 64:
            self._begin(waiting)
        else:
            for job in [job for job in before if id(job) in gone] if gone else ():
                self._strike(job)
            for job in [job for job in waiting if id(job) in come] if come else ():
                self._enter(job)
        self._waiting, self._known = waiting, fresh

    def bit(self, job: Job) -> int:
        """The bit of what a job asks for."""
        found = self._bits.get(job.shape)
        if found is None:
            found = self._bits[job.shape] = SEATED << (len(self._bits) + 1)
        return found

    def _begin(self, waiting: tuple[Job, ...]) -> None:
        self.rows, self.special, self.groups, self.jobs, self._bits = {}, {}, {}, {}, {}
        for job in sorted(waiting, key=_SINCE):
            self._enter(job)

    def _enter(self, job: Job) -> None:
        self.jobs[job.id] = job
        if not job.plain:
            self.special[job.id] = job
            return
        bit = self.bit(job)
        self.rows.setdefault(job.line, Row()).enter(job, bit)
        insort(self.groups.setdefault((job.queue, bit), []), job.id)

    def _strike(self, job: Job) -> None:
        del self.jobs[job.id]
        if not job.plain:
            del self.special[job.id]
            return
        row, group = self.rows[job.line], (job.queue, self.bit(job))
        row.strike(job)
        if not row.jobs:
            del self.rows[job.line]
        ids = self.groups[group]
        del ids[bisect_left(ids, job.id)]
        if not ids:
            del self.groups[group]
