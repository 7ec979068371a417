"""The night: how much of an endpoint's idle time training gets, and whether requests ever pay for it (P2).

`python -m tests.benchmarks.night [--data DIR] [--quick] [--plot FILE]`. Shares are of the oracle's lent
device-time; `lent_share_of_oracle` is over the days that served for no choice, `..._all` over all. The set-up is in
night_world.py, what it is compared with in night_peers.py.
"""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.adapters.endpoints.demand import load_demand
from orchestrator.policy.windows import Window, contains
from orchestrator.sim.series import load_series
from tests.benchmarks.harness import print_result, read_options, say
from tests.benchmarks.night_jumps import jump_rows
from tests.benchmarks.night_peers import (
    LEARN_DAYS,
    fixed_window,
    half_reserve,
    hindsight_margin,
    hourly_reserve,
    jump_safe_oracle,
    oracle,
    reactive,
    spot_by_slot,
    static_split,
)
from tests.benchmarks.night_world import (
    BY_HOUR,
    DAY,
    SLOT_S,
    TIMES,
    Played,
    Setup,
    by_policy,
    over_clock_change,
    set_up,
)

SERIES = ("m-large", "m-small")
DEVICES = 100
OTHER_SIZES = (10, 20, 200)
# Customers' zone against UTC: US west coast, London, Berlin, India, China.
OFFSETS_H = (-7.0, 1.0, 2.0, 5.5, 8.0)
FORECASTS: tuple[float | str, ...] = (1.0, 0.5, 1.5, BY_HOUR)
JOB_MIN, JOB_MAX = 100, 200
STALL_S = 30.0
CHANGES = {"Europe/Berlin": (dt.date(2026, 3, 29), dt.date(2026, 10, 25))}
PEERS: dict[str, Callable[[Setup], Played]] = {
    "static": static_split,
    "window-22-06": fixed_window,
    "reactive": reactive,
    "hourly-reserve": hourly_reserve,
    "half-reserve": half_reserve,
    "hindsight-margin": hindsight_margin,
    "oracle": oracle,
    "jump-safe-oracle": jump_safe_oracle,
}


def main() -> None:
    """Run every case, print a table on stderr and one JSON line on stdout."""
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--plot", type=Path)
    options = read_options("lending through the night", extra=extra)
    rows: list[dict[str, Any]] = []
    weeks = {name: load_demand(options.data / "serving-load" / "rate_600s.csv", name) for name in SERIES}
    setups = [set_up(series, DEVICES) for series in weeks.values()]
    for setup in setups:
        rows += _compare(setup, offset_h=None)
    if not options.quick:
        for series in weeks.values():
            for devices in OTHER_SIZES:
                rows += _compare(set_up(series, devices), offset_h=None, forecasts=(1.0,))
    spot = load_series(options.data / "h100-spot-13zone" / "capacity.csv")
    for setup in setups:
        for offset_h in OFFSETS_H[:1] if options.quick else OFFSETS_H:
            offered = spot_by_slot(spot.counts, spot.start, spot.tick_s, offset_h=offset_h, slots=len(setup.demand))
            joined = replace(setup, wanted=np.maximum(0, JOB_MAX - offered))
            rows += _compare(joined, offset_h=offset_h, spot=np.minimum(offered, JOB_MAX))
    jumps = [row for setup in setups for row in jump_rows(setup, every=DAY // (2 if options.quick else 16))]
    clock = [row for setup in setups for row in _clock_changes(setup)]
    if options.rest.plot:
        from tests.benchmarks.night_plot import draw

        draw([(setup, by_policy(setup)) for setup in setups], options.rest.plot)
    print_result(
        {
            "rows": rows,
            "jumps": jumps,
            "clock_changes": clock,
            "setup": {
                "devices": DEVICES,
                "slot_s": SLOT_S,
                "recall_lead_s": TIMES.lead_s,
                "recall_parts_assumed_s": [TIMES.snapshot_s, TIMES.drain_s, TIMES.cold_start_s],
                "stall_assumed_s": STALL_S,
                "days_of_choosing": LEARN_DAYS,
                "job_workers": [JOB_MIN, JOB_MAX],
            },
        },
        quick=options.quick,
    )


def _compare(
    setup: Setup,
    *,
    offset_h: float | None,
    forecasts: tuple[float | str, ...] = FORECASTS,
    spot: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """One set-up under every policy."""
    best = oracle(setup)
    rows = [
        _row(policy, play(setup), best, offset_h=offset_h, forecast=1.0, spot=spot) for policy, play in PEERS.items()
    ]
    for forecast in forecasts:
        played = by_policy(setup, forecast=forecast)
        rows.append(_row("tideline", played, best, offset_h=offset_h, forecast=forecast, spot=spot))
    for row in rows:
        say(
            f"{row['series']:8} D={row['devices']:3} offset {row['offset_h']} {row['policy']:17} x{row['forecast']} "
            f"breaches {row['breaches']:4} share {row['lent_share_of_oracle']:.3f} (all {row['lent_share_all']:.3f}) "
            f"night goodput {row['night_goodput']:.3f} resizes/day {row['resizes_per_day']:.0f}"
        )
    return rows


def _row(
    policy: str,
    played: Played,
    best: Played,
    *,
    offset_h: float | None,
    forecast: float | str,
    spot: np.ndarray | None,
) -> dict[str, Any]:
    rest = LEARN_DAYS * DAY
    lent, most = played.in_slices(), best.in_slices()
    return {
        "policy": policy,
        "series": played.setup.name,
        "devices": played.setup.devices,
        "offset_h": offset_h,
        "forecast": forecast,
        "breaches": int(played.breaches.sum()),
        "breaches_after_choosing": int(played.breaches[rest:].sum()),
        "lent_share_of_oracle": _share(lent[rest:], most[rest:]),
        "lent_share_all": _share(lent, most),
        "lent_share_first_days": _share(lent[:rest], most[:rest]),
        "lent_device_h": float(lent.sum()) * SLOT_S / 3600,
        "lent_too_short_device_h": float(played.lent.sum() - lent.sum()) * SLOT_S / 3600,
        "resizes_per_day": float(np.count_nonzero(np.diff(played.lent))) / (len(lent) / DAY),
        "night_goodput": _night_goodput(played),
        "emergency_slots": played.reasons.get("demand_above_capacity", 0),
        **({} if spot is None else _job(played, spot)),
    }


def _share(lent: np.ndarray, most: np.ndarray) -> float:
    return float(lent.sum()) / float(most.sum()) if most.sum() else 1.0


def _night_goodput(played: Played) -> float:
    """Of the device-time that endpoints are without at night, 22:00 to 06:00: the part in which training makes steps.

    Devices on their way back do nothing, and a change of the number of lent devices stalls all of them.
    """
    wall = (np.arange(len(played.lent)) * SLOT_S) % 86_400
    night = (wall >= 22 * 3600) | (wall < 6 * 3600)
    changed = np.diff(played.lent, prepend=played.lent[0]) != 0
    useful = played.lent * (SLOT_S - np.where(changed, STALL_S, 0.0))
    away = (played.setup.devices - played.serving) * SLOT_S
    return float(useful[night].sum() / away[night].sum()) if away[night].sum() else 0.0


def _job(played: Played, spot: np.ndarray) -> dict[str, float]:
    """One job of 100 to 200 workers on recorded spot and lent devices together: its useful worker-time and goodput."""
    workers = np.minimum(spot + played.lent, JOB_MAX)
    runs = workers >= JOB_MIN
    changed = np.diff(workers, prepend=0) != 0
    useful = np.where(runs, workers * (SLOT_S - np.where(changed, STALL_S, 0.0)), 0.0)
    alone = np.where(spot >= JOB_MIN, spot, 0)
    away = played.setup.devices - played.serving
    return {
        "job_useful_worker_h": float(useful.sum()) / 3600,
        "job_spot_alone_worker_h": float(alone.sum()) * SLOT_S / 3600,
        "job_training_goodput": float(useful.sum() / ((spot + away).sum() * SLOT_S)),
        "job_runs_share": float(runs.mean()),
    }


def _clock_changes(setup: Setup) -> list[dict[str, Any]]:
    """The week over a clock change, unbounded and with a declared window, and who is away after its close."""
    rows = []
    for zone, changes in CHANGES.items():
        night = Window(name="night", opens=dt.time(22), closes=dt.time(6), timezone=zone)
        for change in changes:
            moved = over_clock_change(setup, change, zone=zone, day=5)
            best = oracle(moved)
            for windows in ((), (night,)):
                played = by_policy(replace(moved, windows=windows))
                rows.append(
                    {
                        "policy": "tideline",
                        "series": setup.name,
                        "zone": zone,
                        "change": change.isoformat(),
                        "window": "22:00-06:00" if windows else None,
                        "breaches": int(played.breaches.sum()),
                        "lent_share_all": _share(played.in_slices(), best.in_slices()),
                        "lent_share_on_the_day": _share(
                            played.in_slices()[5 * DAY - DAY // 12 : 6 * DAY],
                            best.in_slices()[5 * DAY - DAY // 12 : 6 * DAY],
                        ),
                        "away_outside_window_slots": _away_outside(played, night) if windows else None,
                    }
                )
                say(f"clock change {rows[-1]}")
    return rows


def _away_outside(played: Played, window: Window) -> int:
    away = np.flatnonzero(played.serving < played.setup.devices)
    instants = (played.setup.begins_s + int(slot) * SLOT_S for slot in away)
    return sum(not contains(window, now_s=at_s) for at_s in instants)


if __name__ == "__main__":
    main()
