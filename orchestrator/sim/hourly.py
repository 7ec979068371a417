"""Prices and carbon intensity that change by the hour: one CSV with a time and a column per pool, `on_demand` beside.

A row holds from its time to the next row's, whatever the gaps. Every bad row is named by file, line and column.
"""

from __future__ import annotations

import csv
import io
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from orchestrator.sim.course import Course
from orchestrator.sim.faults import Faults, read_text
from orchestrator.sim.prices import MAX_USD, NANO
from orchestrator.sim.series import read_moment

ON_DEMAND = "on_demand"
MICRO = 1_000_000
MAX_G_PER_KWH = Decimal(100_000)
MAX_GAP_RATIO = 1.5  # of the median gap: what lasts longer than that is told as a hole


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """What the cells hold: its name in errors, how many whole units one is counted as, and the largest."""

    what: str
    units: int
    most: Decimal


USD_PER_DEVICE_HOUR = Quantity(what="price in dollars per device-hour", units=NANO, most=MAX_USD)
G_PER_KWH = Quantity(what="intensity in grams of CO2 per kWh", units=MICRO, most=MAX_G_PER_KWH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hourly:
    """The steps of a run as read: what its columns leave open stays at `otherwise`. `holes`: rows that seem missing."""

    course: Course
    holes: int


def load_hourly(
    path: Path,
    pools: Sequence[str],
    quantity: Quantity,
    *,
    start: datetime,
    end: datetime,
    otherwise: Sequence[int] | None = None,
    on_demand_needed: bool = False,
) -> Hourly:
    """Read `time,POOL,...[,on_demand]` for a run from `start` to `end`.

    A pool without a column keeps its rate in `otherwise` (on-demand's last); without `otherwise` that is an error.
    Raises: UserError (exit 3) naming file, line and column.
    """
    faults = Faults(path)
    reader = csv.reader(io.StringIO(read_text(path)))
    header = [name.strip() for name in next(reader, [])]
    _check_header(header, pools, faults, complete=otherwise is None, on_demand_needed=on_demand_needed)
    faults.check()
    times, rows = _rows(reader, header, quantity, faults)
    if not times and not faults.found:
        faults.add("no rows after the header; at least one is needed")
    elif times and times[0] > start:
        faults.add(
            f"the first row, {times[0].isoformat()}, is after the start of the run, {start.isoformat()}; what holds "
            "then must be known",
            line=2,
            column="time",
        )
    faults.check()
    held = list(otherwise) if otherwise is not None else [0] * (len(pools) + 1)
    column_of = {name: at for at, name in enumerate([*pools, ON_DEMAND])}
    rates = []
    for row in rows:
        for name, value in zip(header[1:], row, strict=True):
            held[column_of[name]] = value
        rates.append(tuple(held))
    return Hourly(course=_course(times, rates, start, end), holes=_holes(times, start, end))


def _check_header(
    header: list[str], pools: Sequence[str], faults: Faults, *, complete: bool, on_demand_needed: bool
) -> None:
    if not header or header[0] != "time":
        faults.add(f"the first column is {header[0]!r}; it must be 'time'" if header else "is empty", line=1)
        return
    known = {*pools, ON_DEMAND}
    for name in dict.fromkeys(header[1:]):
        if name not in known:
            faults.add(f"{name!r} is no pool of the series, nor {ON_DEMAND!r}", line=1, column=name)
        elif header.count(name) > 1:
            faults.add("two columns with this name", line=1, column=name)
    wanted = [*pools, *([ON_DEMAND] if on_demand_needed else [])] if complete else []
    for name in wanted:
        if name not in header:
            faults.add(f"there is no column for {name!r}", line=1)
    if len(header) == 1:
        faults.add("no columns after 'time'", line=1)


def _rows(reader: Any, header: list[str], quantity: Quantity, faults: Faults) -> tuple[list[datetime], list[list[int]]]:
    times: list[datetime] = []
    rows: list[list[int]] = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        line = reader.line_num
        if len(cells) != len(header):
            faults.add(f"{len(cells)} cells; the header has {len(header)}", line=line)
            continue
        moment = read_moment(cells[0], line, faults)
        if moment is None:
            continue
        if times and moment <= times[-1]:
            what = "the same time as" if moment == times[-1] else "earlier than"
            faults.add(f"{cells[0].strip()} is {what} the row before; times must increase", line=line, column="time")
        times.append(moment)
        rows.append([_whole(c, quantity, line, n, faults) for c, n in zip(cells[1:], header[1:], strict=True)])
    return times, rows


def _whole(cell: str, quantity: Quantity, line: int, column: str, faults: Faults) -> int:
    try:
        value = Decimal(cell.strip())
    except InvalidOperation:
        value = Decimal(-1)
    if not (value.is_finite() and 0 <= value <= quantity.most) or value * quantity.units % 1:
        decimals = len(str(quantity.units)) - 1
        faults.add(
            f"{cell.strip()!r} is no {quantity.what}; a number from 0 to {quantity.most} with at most {decimals} "
            "decimals",
            line=line,
            column=column,
        )
        return 0
    return int(value * quantity.units)


def _course(times: Sequence[datetime], rates: Sequence[tuple[int, ...]], start: datetime, end: datetime) -> Course:
    """The steps inside the run, in microseconds from its start; what held before the start is the first."""
    first = sum(moment <= start for moment in times) - 1
    kept = [(moment, rate) for moment, rate in list(zip(times, rates, strict=True))[first:] if moment < end]
    since_us = [max(0, (moment - start) // timedelta(microseconds=1)) for moment, _ in kept]
    return Course(tuple(since_us), tuple(rate for _, rate in kept))


def _holes(times: Sequence[datetime], start: datetime, end: datetime) -> int:
    """How many rows seem to be missing inside the run, by the usual gap between rows."""
    gaps = [(b - a).total_seconds() for a, b in itertools.pairwise(times)]
    if not gaps:
        return 0
    usual = statistics.median(gaps)
    missing = 0
    for here, after in zip(times, [*times[1:], end], strict=True):
        if after > start and here < end and (after - here).total_seconds() > MAX_GAP_RATIO * usual:
            missing += round((min(after, end) - max(here, start)).total_seconds() / usual) - 1
    return max(0, missing)
