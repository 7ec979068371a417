"""The price list of a scenario: one spot row per pool and at most one on-demand row.

Prices are kept as whole nano-dollars per device-hour, so that a bill is exact. Refuses to know how long anything ran.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from orchestrator.sim.faults import Faults, read_text

NANO = 1_000_000_000
COLUMNS = ("pool", "kind", "usd_per_device_hour")
MAX_USD = Decimal(1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceList:
    """Nano-dollars per device-hour: of every spot pool in series order, and on-demand (None = no such row)."""

    spot_nano: tuple[int, ...]
    on_demand_nano: int | None


def load_prices(path: Path, pools: Sequence[str], *, on_demand_needed: bool) -> PriceList:
    """Read `pool,kind,usd_per_device_hour` for exactly these pools.

    Raises: UserError (exit 3) naming file, line and column: a pool without a price, a price without a pool, a kind
    that is neither `spot` nor `on_demand`, a negative or unreadable price, no on-demand row where one is needed.
    """
    faults = Faults(path)
    spot: dict[str, int] = {}
    on_demand: int | None = None
    reader = csv.reader(io.StringIO(read_text(path)))
    header = [name.strip() for name in next(reader, [])]
    if tuple(header) != COLUMNS:
        faults.add(f"the header is {','.join(header)!r}; it must be {','.join(COLUMNS)!r}", line=1)
        faults.check()
    for cells in reader:
        line = reader.line_num
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(COLUMNS):
            faults.add(f"{len(cells)} cells; three are needed", line=line)
            continue
        name, kind, text = (cell.strip() for cell in cells)
        nano = _nano(text, line, faults)
        if kind == "on_demand":
            if on_demand is not None:
                faults.add("a second on_demand row; one price is expected", line=line, column="kind")
            on_demand = nano
        elif kind != "spot":
            faults.add(f"{kind!r} is neither 'spot' nor 'on_demand'", line=line, column="kind")
        elif name in spot:
            faults.add(f"a second price for pool {name!r}", line=line, column="pool")
        elif name not in pools:
            faults.add(f"price for {name!r}, which is no pool of the series", line=line, column="pool")
        else:
            spot[name] = nano
    for name in pools:
        if name not in spot:
            faults.add(f"pool {name!r} of the series has no spot price", column="pool")
    if on_demand_needed and on_demand is None:
        faults.add("no on_demand row, but on_demand.max_devices is above 0", column="kind")
    faults.check()
    return PriceList(spot_nano=tuple(spot[name] for name in pools), on_demand_nano=on_demand)


def _nano(text: str, line: int, faults: Faults) -> int:
    try:
        usd = Decimal(text)
    except InvalidOperation:
        usd = Decimal(-1)
    if not (usd.is_finite() and 0 <= usd <= MAX_USD) or usd * NANO != int(usd * NANO):
        faults.add(
            f"{text!r} is no price; dollars from 0 to {MAX_USD} with at most nine decimals",
            line=line,
            column="usd_per_device_hour",
        )
        return 0
    return int(usd * NANO)
