"""Recorded capacity: how many devices of each pool could be had, on a regular grid of ticks.

Reads the CSV form (`time` with offset, one column of counts per pool) and the single-instance JSON form. Rows snap to
a grid whose step is the median gap; a grid point without a row repeats the one before and is listed in `holes`.
Refuses to know jobs, prices and policies.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from orchestrator.policy.capacity.view import Counts
from orchestrator.sim.faults import Faults, read_text
from orchestrator.spec.errors import UserError

MAX_COUNT = 10_000_000  # a count above this is a damaged file, and int32 sums stay exact below it
MAX_GRID_POINTS = 5_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacitySeries:
    """Counts on a grid: point i is at `start + i * tick_s`. Shape of `counts`: (grid points, pools)."""

    source: Path
    pools: tuple[str, ...]
    start: datetime
    tick_s: int
    counts: Counts
    holes: tuple[int, ...] = ()

    @property
    def num_ticks(self) -> int:
        """Number of grid points."""
        return int(self.counts.shape[0])

    def time_of(self, index: int) -> datetime:
        """Wall time of a grid point."""
        return self.start + timedelta(seconds=index * self.tick_s)

    def index_of(self, moment: datetime) -> int:
        """The grid point nearest to a moment; UserError when that is outside the series."""
        index = round_half_up((moment - self.start).total_seconds() / self.tick_s)
        if not 0 <= index < self.num_ticks:
            raise UserError(
                f"start {moment.isoformat()} is outside the series, which runs from {self.start.isoformat()} "
                f"to {self.time_of(self.num_ticks - 1).isoformat()}",
                where=str(self.source),
            )
        return index


def round_half_up(value: float) -> int:
    """Nearest integer, halves upwards (Python's round goes to even, which would move every second tie)."""
    return math.floor(value + 0.5)


def load_series(path: Path) -> CapacitySeries:
    """Read a series by its suffix: `.json` is the single-instance form, everything else CSV.

    Raises: UserError (exit 3) that names file, line and column of everything wrong.
    """
    return load_json(path) if path.suffix == ".json" else load_csv(path)


def load_csv(path: Path) -> CapacitySeries:
    """Read `time,POOL,POOL,...` with ISO 8601 times with offset and whole counts."""
    faults = Faults(path)
    reader = csv.reader(io.StringIO(read_text(path)))
    header = [name.strip() for name in next(reader, [])]
    pools = _pools(header, faults)
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
        if moment and times and moment <= times[-1]:
            what = "the same time as" if moment == times[-1] else "earlier than"
            faults.add(f"{cells[0].strip()} is {what} the row before; times must increase", line=line, column="time")
        if moment:
            times.append(moment)
            rows.append([_count(c, line, n, faults) for c, n in zip(cells[1:], pools, strict=True)])
    if not faults.found and len(rows) < 2:
        faults.add(f"{len(rows)} rows of counts; at least two are needed to know the tick")
    faults.check()
    return _on_grid(path, pools, times, rows)


def load_json(path: Path) -> CapacitySeries:
    """Read `{"metadata": {"gap_seconds": s}, "data": [count, ...]}`; the pool is named after the file."""
    faults = Faults(path)
    try:
        document = json.loads(read_text(path))
        gap, data = document["metadata"]["gap_seconds"], document["data"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"is not a single-instance series: {error!r}; metadata.gap_seconds and data are needed", where=str(path)
        ) from None
    if not isinstance(gap, int | float) or not math.isfinite(gap) or round_half_up(gap) < 1:
        faults.add(f"metadata.gap_seconds is {gap!r}; it must be at least one second")
    if not isinstance(data, list) or not data:
        faults.add("data is empty; at least one count is needed")
    for i, value in enumerate(data if isinstance(data, list) else []):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
            faults.add(f"data[{i}] is {value!r}; counts are whole numbers from 0")
    faults.check()
    counts = np.asarray(data, dtype=np.int32).reshape(-1, 1)
    start = datetime(1970, 1, 1, tzinfo=UTC)
    return CapacitySeries(
        source=path, pools=(path.stem,), start=start, tick_s=round_half_up(gap), counts=_frozen(counts)
    )


def _pools(header: list[str], faults: Faults) -> list[str]:
    if not header or header[0] != "time":
        faults.add(f"the first column is {header[0]!r}; it must be 'time'" if header else "is empty", line=1)
        faults.check()
    pools = header[1:]
    if not pools:
        faults.add("no pool columns after 'time'", line=1)
    for name in sorted({n for n in pools if pools.count(n) > 1}):
        faults.add("two columns with this name", line=1, column=name)
    if "" in pools:
        faults.add(f"column {pools.index('') + 2} has no name", line=1)
    return pools


def read_moment(cell: str, line: int, faults: Faults) -> datetime | None:
    """An ISO 8601 time with offset; None, and a fault noted, when the cell holds none."""
    try:
        moment = datetime.fromisoformat(cell.strip())
    except ValueError:
        faults.add(
            f"{cell!r} is not an ISO 8601 time, such as 2025-10-04T00:10:00-07:00; zone names are not read",
            line=line,
            column="time",
        )
        return None
    if moment.tzinfo is None:
        faults.add(f"{cell.strip()!r} has no offset; write it as {cell.strip()}+00:00", line=line, column="time")
        return None
    return moment


def _count(cell: str, line: int, pool: str, faults: Faults) -> int:
    text = cell.strip()
    if text.isascii() and text.isdigit() and int(text) <= MAX_COUNT:
        return int(text)
    faults.add(f"count {cell!r} must be a whole number from 0 to {MAX_COUNT}", line=line, column=pool)
    return 0


def _on_grid(path: Path, pools: list[str], times: Sequence[datetime], rows: list[list[int]]) -> CapacitySeries:
    """Snap rows to the grid of the median gap. Raises UserError when two rows share a grid point."""
    gaps = [(b - a).total_seconds() for a, b in itertools.pairwise(times)]
    tick_s = round_half_up(statistics.median(gaps))
    faults = Faults(path)
    if tick_s < 1:
        faults.add(f"the median gap between rows is {statistics.median(gaps)} s; ticks are at least one second")
        faults.check()
    points = [round_half_up((moment - times[0]).total_seconds() / tick_s) for moment in times]
    for before, here, moment in zip(points, points[1:], times[1:], strict=False):
        if before == here:
            faults.add(f"{moment.isoformat()} falls on the same {tick_s} s tick as the row before", column="time")
    if points[-1] >= MAX_GRID_POINTS:
        faults.add(f"{points[-1] + 1} ticks of {tick_s} s between first and last row; at most {MAX_GRID_POINTS}")
    faults.check()
    source_row = np.zeros(points[-1] + 1, dtype=np.int64)
    source_row[points] = np.arange(len(points))
    filled = np.maximum.accumulate(source_row)
    present = np.zeros(points[-1] + 1, dtype=bool)
    present[points] = True
    return CapacitySeries(
        source=path,
        pools=tuple(pools),
        start=times[0],
        tick_s=tick_s,
        counts=_frozen(np.asarray(rows, dtype=np.int32)[filled]),
        holes=tuple(np.flatnonzero(~present).tolist()),
    )


def _frozen(counts: Counts) -> Counts:
    counts.setflags(write=False)
    return counts
