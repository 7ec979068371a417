"""A night on real Ray: a Serve endpoint lends its devices to an elastic training job and has them back for the morning.

    python -m tests.benchmarks.night_live [--quick] [--seconds N] [--devices N] [--without-lending]

16 hours, from 20:00 to 12:00, in 320 s: demand falls to a fifth of its peak, and rises again from 05:00 to 10:00. The
control loop and its ledger, endpoint and job as holders of leases with a process each, Ray, Ray Serve, the HTTP
requests, Ray Train, DeepSpeed and every process start are real. A device is one CPU of Ray's bookkeeping, and a
replica's engine waits where a device would compute (`engine.step_time`), so that replicas have a capacity of their own
on a machine with few cores: 5 requests a second each, 3.5 of them counted on. The job's passes wait, too. Lending
decides in every cycle, once a second, by the clock of the compressed day; two earlier days of the same demand are
written into its memory first. Requests are sent on schedule whatever becomes of earlier ones.

A breach is a request that is not answered within 2 s, refused ones included. `--without-lending` sends the same load to
the same endpoint with nothing lent. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from orchestrator.policy.lending.values import Decision, Emergency, Keep, Standing
from tests.benchmarks.elastic_ours import steps_of
from tests.benchmarks.harness import print_result, read_options, say
from tests.benchmarks.night_live_parts import (
    BEGIN_H,
    COLD_START_S,
    DRAIN_S,
    HOURS,
    PEAK_LOAD,
    REPLICA_RPS,
    ROOT,
    RUN,
    SLO_S,
    SNAPSHOT_S,
    DayClock,
    Plane,
    make_load,
    plane,
    registry_in,
)
from tests.benchmarks.serving_loads import Load


@dataclass(slots=True)
class Back:
    """One recall: real seconds after it until training had let go, and until all of its replicas answered."""

    at_s: float
    left_after_s: float | None = None
    served_after_s: float | None = None


@dataclass(slots=True)
class Diary:
    """What was seen, by the second."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    recalls: dict[float, Back] = field(default_factory=dict)
    decisions: dict[str, int] = field(default_factory=dict)
    emergencies: int = 0
    last: Decision | None = None

    def note(
        self, real_s: float, decision: Decision | None, standing: Standing, workers: int, rps: float,
        held: dict[str, int],
    ) -> None:  # fmt: skip
        known, self.last = self.last is decision, decision
        if decision is not None and not known and not isinstance(decision, Keep):
            name = f"{type(decision).__name__} ({decision.reason})"
            self.decisions[name] = self.decisions.get(name, 0) + 1
            self.emergencies += isinstance(decision, Emergency)
            say(f"{real_s:5.0f} s {name} {decision.replicas}: {decision.detail}")
        open_calls = {one.called_s for one in standing.returns}
        not_left = {one.called_s for one in standing.returns if not one.left}
        for called_s in open_calls:
            self.recalls.setdefault(called_s, Back(at_s=real_s))
        for called_s, back in self.recalls.items():
            if called_s not in not_left and back.left_after_s is None:
                back.left_after_s = real_s - back.at_s
            if called_s not in open_calls and back.served_after_s is None:
                back.served_after_s = real_s - back.at_s
        self.lines.append({"at_s": round(real_s, 1), "rps": round(rps, 2), "serving": standing.serving,
                           "lent": standing.lent, "returning": standing.returning, "workers": workers,
                           "leased": held.get("night", 0), "trains_on": held.get(RUN, 0)})  # fmt: skip


def play(found: Plane, clock: DayClock, load: Load) -> Any:
    """The night; returns the diary and the client's records."""
    scale, diary, home = HOURS * 3600 / load.seconds, Diary(), found.home
    plan, result = home / "plan.json", home / "result.json"
    shape = {"urls": {"interactive": found.sight().urls["interactive"]}, "seed": 7, "batch_shape": (1, 1)}
    plan.write_text(json.dumps({**asdict(load), **shape}))
    client = subprocess.Popen([sys.executable, "-m", "tests.benchmarks.serving_client", str(plan), str(result)],
                              cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    clock.start()
    while client.poll() is None:
        began_s = time.time()
        workers, lender = steps_of(home, RUN)[-1]["world_size"], found.endpoints.lenders.get("night")
        standing = Standing(serving=found.sight().answering) if lender is None else lender.standing
        rps = lender.demand.rps * scale if lender is not None and lender.demand is not None else 0.0
        diary.note(began_s - clock.zero_s, None if lender is None else lender.decision, standing, workers, rps,
                   found.held())  # fmt: skip
        time.sleep(max(0.0, began_s + 1.0 - time.time()))
    if client.returncode:
        raise RuntimeError(f"the client ended with {client.returncode}")
    return diary, json.loads(result.read_text())


def summary(diary: Diary, records: list[dict[str, Any]], steps: list[dict[str, Any]], load: Load) -> dict[str, Any]:
    """Figures from what was seen."""
    latencies = [r["done_s"] - r["at_s"] if r["status"] == 200 else math.inf for r in records]
    breaches = [r for r, waited_s in zip(records, latencies, strict=True) if waited_s > SLO_S]
    answered = sorted(one for one in latencies if math.isfinite(one))
    lent_at = {int(line["at_s"]) for line in diary.lines if line["lent"] or line["returning"]}
    watched = ("serving", "lent", "returning", "workers", "leased")
    changes = [line for before, line in zip([{}, *diary.lines], diary.lines, strict=False)
               if any(before.get(key) != line[key] for key in watched)]  # fmt: skip
    ramp_s = load.seconds * (29 - BEGIN_H) / HOURS
    away = [line["at_s"] for line in diary.lines if line["lent"] or line["returning"]]
    backs = list(diary.recalls.values())
    return {
        "requests": len(records),
        "breaches": len(breaches),
        "breaches_while_lent": sum(int(r["at_s"]) in lent_at for r in breaches),
        "breach_times_s": [round(r["at_s"], 1) for r in breaches][:50],
        "latency_s": {"p50": median(answered), "p99": answered[math.ceil(0.99 * len(answered)) - 1],
                      "max": answered[-1]},
        "decisions": diary.decisions,
        "emergencies": diary.emergencies,
        "most_lent": max((line["lent"] for line in diary.lines), default=0),
        "most_workers": max((line["workers"] for line in diary.lines), default=0),
        "lent_device_s": sum(line["lent"] for line in diary.lines),
        "morning_ramp_s": [ramp_s, load.seconds * (34 - BEGIN_H) / HOURS],
        "all_back_s": max(away, default=None),
        "lead_counted_on_s": SNAPSHOT_S + DRAIN_S + COLD_START_S,
        "recalls": [asdict(one) for one in backs],
        "steps": len(steps),
        "changes": changes,
    }  # fmt: skip


def main() -> None:
    """Play the night and print the result."""
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--seconds", type=float)
    extra.add_argument("--devices", type=int, default=6)
    extra.add_argument("--without-lending", action="store_true")
    options = read_options(__doc__ or "", extra=extra)
    devices = options.rest.devices
    load = make_load(options.rest.seconds or (200.0 if options.quick else 320.0), PEAK_LOAD * devices * REPLICA_RPS, 7)
    lends, clock = not options.rest.without_lending, DayClock(HOURS * 3600 / load.seconds)
    with tempfile.TemporaryDirectory(prefix="tide-night-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        registry_in(home)
        with plane(home, devices, clock, clock.scale, lends=lends) as found:
            urls = sorted(set(found.sight().urls.values()))
            say(f"{devices} replicas answer at {urls[0]}; {len(load.arrivals)} requests in {load.seconds:.0f} s")
            diary, records = play(found, clock, load)
            figures = summary(diary, records, steps_of(home, RUN), load)
    print_result({"benchmark": "night_live", "devices": devices, "seconds": load.seconds, "slo_s": SLO_S,
                  "lending": lends, **figures}, quick=options.quick)  # fmt: skip


if __name__ == "__main__":
    main()
