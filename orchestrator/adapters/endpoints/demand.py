"""Recorded demand: requests/s of endpoints on a regular grid, read from a CSV file (`t_seconds,NAME_rps,...`).

Seconds count from a local midnight. A zero is a missing measurement: it is carried forward and counted, as is a row
that is not there. Refuses to know endpoints, devices and policies.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from orchestrator.sim.faults import Faults, read_text
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.fields import did_you_mean

_SUFFIX = "_rps"
_MAX_POINTS = 5_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandSeries:
    """Demand at `i * tick_s` seconds, and straight lines between; `holes`: points that repeat the one before."""

    name: str
    tick_s: float
    rps: tuple[float, ...]
    holes: int = 0

    @property
    def length_s(self) -> float:
        """From the first point to the last."""
        return (len(self.rps) - 1) * self.tick_s

    def at(self, offset_s: float) -> float:
        """Demand at a time. Raises: ValueError outside the series."""
        if not 0.0 <= offset_s <= self.length_s:
            raise ValueError(f"{self.name}: {offset_s} s is outside the series, which runs from 0 to {self.length_s} s")
        index = min(int(offset_s // self.tick_s), len(self.rps) - 2)
        part = (offset_s - index * self.tick_s) / self.tick_s
        return self.rps[index] * (1.0 - part) + self.rps[index + 1] * part


def load_demand(path: Path, name: str) -> DemandSeries:
    """Read the column `NAME_rps` of a file. Raises: UserError that names file, line and column of all that is wrong."""
    faults = Faults(path)
    reader = csv.reader(io.StringIO(read_text(path)))
    column = _column(path, [cell.strip() for cell in next(reader, [])], name)
    times: list[float] = []
    values: list[float] = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        line = reader.line_num
        if len(cells) <= column:
            faults.add(f"{len(cells)} cells; the header has more", line=line)
            continue
        at_s, rps = _number(cells[0]), _number(cells[column])
        if at_s is None:
            faults.add(f"{cells[0]!r} is not a number of seconds from 0", line=line, column="t_seconds")
        elif times and at_s <= times[-1]:
            what = "the same time as" if at_s == times[-1] else "earlier than"
            faults.add(f"{at_s:g} is {what} the row before; times must increase", line=line, column="t_seconds")
        if rps is None:
            faults.add(
                f"{cells[column]!r} is not a demand; it must be a number from 0", line=line, column=name + _SUFFIX
            )
        times.append(at_s or 0.0)
        values.append(rps or 0.0)
    if not faults.found and (len(times) < 2 or not any(values)):
        faults.add(f"{len(times)} rows, {sum(map(bool, values))} of them with a demand; at least two are needed")
    faults.check()
    return _on_grid(path, name, times, values)


def _column(path: Path, header: list[str], name: str) -> int:
    if not header or header[0] != "t_seconds":
        raise UserError(f"the first column is {header[:1]}; it must be t_seconds", where=f"{path}:1")
    known = [one.removesuffix(_SUFFIX) for one in header[1:] if one.endswith(_SUFFIX)]
    if name not in known:
        raise UserError(
            f"there is no column {name + _SUFFIX!r}",
            code=ExitCode.UNKNOWN,
            where=f"{path}:1",
            next_step=did_you_mean(name, tuple(known)) or f"Known: {', '.join(known)}",
        )
    return header.index(name + _SUFFIX)


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _on_grid(path: Path, name: str, times: list[float], values: list[float]) -> DemandSeries:
    tick_s = statistics.median(after - before for before, after in itertools.pairwise(times))
    points = [round((at_s - times[0]) / tick_s) for at_s in times]
    faults = Faults(path)
    for before, here, at_s in zip(points, points[1:], times[1:], strict=False):
        if before == here:
            faults.add(f"{at_s:g} falls on the same {tick_s:g} s tick as the row before", column="t_seconds")
    if points[-1] >= _MAX_POINTS:
        faults.add(f"{points[-1] + 1} ticks of {tick_s:g} s; at most {_MAX_POINTS}")
    faults.check()
    measured = {point: value for point, value in zip(points, values, strict=True) if value > 0}
    rps, last = [], next(iter(measured.values()))
    for point in range(points[-1] + 1):
        last = measured.get(point, last)
        rps.append(last)
    return DemandSeries(name=name, tick_s=tick_s, rps=tuple(rps), holes=len(rps) - len(measured))
