"""Whom an admission would make late: two forecasts, with the request and without it, played as far as it takes to know.

A decision costs what is looked at here, so both stop early: at the first row that certainly is harmed, and at the first
moment at which nobody is here any more, because whoever comes after that is as late as without the request.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from serving.policy.costs import Costs, Run
from serving.policy.forecast import Effort, Forecast
from serving.policy.rows import Row

# Forecasts differ by less for reasons of rounding.
_NO_DELAY_S = 1e-3
# Who must end later than so many allowances after the deadline is protected no more. With room for rounding.
_MAX_ALLOWANCES_LATE = 1.001


class Harm:
    """`last_s`: until when each row must be done that may not be delayed beyond that. `after` is the forecast with the
    request, `before` makes the one without it, which is played only when it matters."""

    def __init__(self, last_s: Mapping[str, float], after: Forecast, before: Callable[[], Forecast]) -> None:
        self._last_s = last_s
        self._line = sorted((at_s, row_id) for row_id, at_s in last_s.items())
        self._next = 0
        self._after = after
        self._make_before = before

    @cached_property
    def _before(self) -> Forecast:
        return self._make_before()

    def is_done_to_anybody(self, effort: Effort) -> bool:
        """Whether somebody would be late who would not be without the request, or would be less so."""
        late: list[str] = []
        until_s = self._line[-1][0]  # the request itself is in it
        while True:
            for row_id in self._overdue():
                if self._is_certain(row_id):
                    return True
                late.append(row_id)
            after = self._after
            if after.is_idle or after.now_s > until_s or effort.left <= 0:
                break
            after.stretch()
        # What was not played to its end says nothing of who would be late anyway.
        late += self._unknown()
        if late and effort.left > 0:
            self._before.finish(late, until_s)
            if effort.left > 0:
                late = [row_id for row_id in late if self._delay_s(row_id) >= _NO_DELAY_S]
        return bool(late)

    def _overdue(self) -> list[str]:
        """Who was to be done by now and was not, each once."""
        line, finish_s, found = self._line, self._after.finish_s, []
        while self._next < len(line) and line[self._next][0] < self._after.now_s:
            at_s, row_id = line[self._next]
            self._next += 1
            if finish_s.get(row_id, math.inf) > at_s:
                found.append(row_id)
        return found

    def _unknown(self) -> list[str]:
        """Who is not known to be done in time where the forecast ended; nobody, where it ended with the last row."""
        if self._after.is_idle:
            return []
        return [
            row_id for at_s, row_id in self._line[self._next :] if self._after.finish_s.get(row_id, math.inf) > at_s
        ]

    def _is_certain(self, row_id: str) -> bool:
        """Whether this row would have been in time and is delayed by what counts."""
        self._before.finish((row_id,), self._last_s[row_id])
        without_s = self._before.finish_s.get(row_id, math.inf)
        with_s = self._after.finish_s.get(row_id, self._after.now_s)
        return with_s - without_s >= _NO_DELAY_S

    def _delay_s(self, row_id: str) -> float:
        """How much later a row finishes after all; nothing for one whose end lies beyond the forecasts anyway."""
        finish_s = self._before.finish_s.get(row_id, math.inf)
        return self._after.finish_s.get(row_id, math.inf) - finish_s if finish_s < math.inf else 0.0


def last_moments_s(runs: Sequence[Run], coming: Sequence[Row], costs: Costs, start_s: float) -> dict[str, float]:
    """When each row must be finished by prediction, so that it keeps the deadline it works towards; one that has not
    begun is to keep the one it was promised.

    Without those that end more than a whole allowance late, however few come after them: one answer that is far too
    long for its tier must not close the replica to all others.
    """
    last_s = {}
    for run in runs:
        request = run.request
        towards_s = run.due_s(start_s) if run.started else request.deadline_s
        if towards_s - request.deadline_s <= (request.deadline_s - request.arrival_s) * _MAX_ALLOWANCES_LATE:
            last_s[request.id] = towards_s - costs.margin_s
    for row in coming:
        last_s[row.request.id] = row.request.deadline_s - costs.margin_s
    return last_s
