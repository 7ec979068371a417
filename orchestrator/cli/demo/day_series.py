"""The day that the demo plays: customers' demand and spot nodes on offer, hour by hour from the evening on.

Recorded ones where they are (`TIDE_DATA`, else `../shared/data` beside the checkout): the request rate of a production
endpoint, and the zones' sum of launchable spot devices at the same hour. Else one that was drawn by hand, and says so.
"""

from __future__ import annotations

import csv
import datetime as dt
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.sim.series import load_series
from orchestrator.spec.errors import ExitCode, UserError

BEGIN_H, HOURS = 21.0, 12.0
HISTORY_H = 45.0
"""Hours before the evening that lending has seen: the first whole day of the recording, and this one."""
RECORDED = "an endpoint's request rate (ServeGen m-small) and spot H100s on offer in 13 zones, both recorded"
DRAWN = "drawn by hand: the recorded series are not here (TIDE_DATA)"
_RATES, _CAPACITY = Path("serving-load/rate_600s.csv"), Path("h100-spot-13zone/capacity.csv")
_COLUMN = "m-small_rps"
# The recording's second evening at 21:00, and the same hour of a day of the capacity series eight hours ahead of UTC.
_RATES_BEGIN_S = 86_400.0 + BEGIN_H * 3600
_CAPACITY_BEGIN = dt.datetime(2025, 10, 5, 13, tzinfo=dt.UTC)
_DEVICES_PER_NODE = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class DaySeries:
    """`demand` as a part of the played day's peak: (hours after the evening's begin, share), earlier days included;
    `nodes`: spot nodes on offer in each hour of the played day."""

    demand: tuple[tuple[float, float], ...]
    nodes: tuple[int, ...]
    source: str

    def demand_at(self, hours: float) -> float:
        """Demand at a time, straight lines between points."""
        before = max((point for point in self.demand if point[0] <= hours), default=self.demand[0])
        after = min((point for point in self.demand if point[0] >= hours), default=self.demand[-1])
        if after[0] <= before[0]:
            return before[1]
        return before[1] + (after[1] - before[1]) * (hours - before[0]) / (after[0] - before[0])

    def nodes_at(self, hours: float) -> int:
        """Spot nodes on offer."""
        return self.nodes[min(max(int(hours), 0), len(self.nodes) - 1)]


def find_day(configs: Path) -> DaySeries:
    """The recorded day, else the drawn one that lies in `configs`. Raises: UserError for a file that is not one."""
    data = Path(os.environ.get("TIDE_DATA") or Path(__file__).resolve().parents[4] / "shared" / "data")
    if (data / _RATES).is_file() and (data / _CAPACITY).is_file():
        return _normalised(_recorded_demand(data / _RATES), _recorded_nodes(data / _CAPACITY), RECORDED)
    return drawn_day(configs / "days" / "drawn.csv")


def drawn_day(path: Path) -> DaySeries:
    """The day of a file of `hour,demand,nodes` that begins in the evening. Raises: UserError."""
    rows = _rows(path, ("hour", "demand", "nodes"))
    if len(rows) != 24:
        raise UserError(f"{len(rows)} hours; a day has 24", where=str(path), code=ExitCode.INVALID)
    shares = [float(row["demand"]) for row in rows]
    days = int(HISTORY_H // 24) + 1
    demand = [(float(hour - 24 * day), shares[hour]) for day in range(days, -1, -1) for hour in range(24)]
    return _normalised(demand, [int(row["nodes"]) for row in rows[: int(HOURS)]], DRAWN)


def _recorded_demand(path: Path) -> list[tuple[float, float]]:
    rows = _rows(path, ("t_seconds", _COLUMN))
    points = [((float(row["t_seconds"]) - _RATES_BEGIN_S) / 3600, float(row[_COLUMN])) for row in rows]
    return [point for point in points if -HISTORY_H <= point[0] <= HOURS + 1]


def _recorded_nodes(path: Path) -> list[int]:
    """One node for so many devices that all zones offer, by the mean of each hour."""
    series = load_series(path)
    first, a_hour = series.index_of(_CAPACITY_BEGIN), round(3600 / series.tick_s)
    sums = [sum(int(count) for count in row) for row in series.counts[first : first + int(HOURS) * a_hour]]
    if first < 0 or len(sums) < int(HOURS) * a_hour:
        raise UserError(f"the series does not hold {HOURS:.0f} h from {_CAPACITY_BEGIN}", where=str(path))
    return [sum(sums[at : at + a_hour]) // a_hour // _DEVICES_PER_NODE for at in range(0, len(sums), a_hour)]


def _normalised(demand: Sequence[tuple[float, float]], nodes: Sequence[int], source: str) -> DaySeries:
    peak = max(share for hour, share in demand if 0 <= hour <= HOURS)
    return DaySeries(demand=tuple((hour, share / peak) for hour, share in demand), nodes=tuple(nodes), source=source)


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    except OSError as error:
        step = "Name a folder such as cluster-configs/ with --configs"
        raise UserError(f"the day cannot be read: {error.strerror}", where=str(path), next_step=step) from None
    rows = list(csv.DictReader(lines))
    for line, row in enumerate(rows, start=2):
        for column in columns:
            if not _is_number(row.get(column)):
                problem = f"line {line}: column {column!r}: {row.get(column)!r} is no number from 0"
                raise UserError(problem, where=str(path), code=ExitCode.INVALID)
    return rows


def _is_number(text: str | None) -> bool:
    try:
        return text is not None and 0 <= float(text) < float("inf")
    except ValueError:
        return False
