"""A night on real Ray: a Serve endpoint lends its devices to an elastic training job and has them back for the morning.

    python -m tests.benchmarks.night_live [--quick] [--seconds N] [--devices N] [--without-lending]

16 hours, from 20:00 to 12:00, in 320 s: demand falls to a fifth of its peak, and rises again from 05:00 to 10:00. Ray,
Ray Serve, the HTTP requests, Ray Train, DeepSpeed and every process start are real. A device is one CPU of Ray's
bookkeeping, and a replica's engine waits where a device would compute (`engine.step_time`), so that replicas have a
capacity of their own on a machine with few cores: 5 requests a second each, 3.5 of them counted on. The job's passes
wait, too. Lending decides once a second by the clock of the compressed day; two earlier days of the same demand are
played into its memory first. Requests are sent on schedule whatever becomes of earlier ones.

A breach is a request that is not answered within 2 s, refused ones included. `--without-lending` sends the same load to
the same endpoint with nothing lent. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
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

from orchestrator.adapters.endpoints.live import Lending, LiveEndpoints
from orchestrator.adapters.ray_cluster import LocalCluster, NodeSize
from orchestrator.adapters.ray_serve import Deployed, deploy
from orchestrator.adapters.ray_train.lease import FileLease, Lease
from orchestrator.policy.lending.values import Decision, Emergency, Keep, Standing
from orchestrator.spec.errors import UnreachableError
from tests.benchmarks.elastic_ours import steps_of
from tests.benchmarks.harness import print_result, read_options, say
from tests.benchmarks.night_live_parts import (
    BEGIN_H,
    COLD_START_S,
    DRAIN_S,
    HOURS,
    PEAK_LOAD,
    POOL,
    REPLICA_RPS,
    ROOT,
    RUN,
    SLO_S,
    SNAPSHOT_S,
    DayClock,
    Place,
    earlier_days,
    endpoint_of,
    make_load,
    registry_in,
    terms_of,
    training,
)
from tests.benchmarks.serving_loads import Load
from tests.benchmarks.watching import packed_dataset


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

    def note(self, real_s: float, decision: Decision | None, standing: Standing, workers: int, rps: float) -> None:
        if decision is not None and not isinstance(decision, Keep):
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
                           "lent": standing.lent, "returning": standing.returning, "workers": workers})  # fmt: skip


def play(deployed: Deployed, node_id: str, home: Path, lease: FileLease | None, devices: int, load: Load) -> Any:
    """The night; returns the diary and the client's records. Without a job's lease nothing is lent."""
    scale = HOURS * 3600 / load.seconds
    clock, terms = DayClock(scale), terms_of(devices, scale)
    peak_rps = PEAK_LOAD * devices * REPLICA_RPS
    place = Place(deployed, clock, devices, node_id)
    lending = Lending(name="night", terms=terms, around=place, memory=earlier_days(terms, peak_rps, scale),
                      window_s=4 * scale)  # fmt: skip
    live, diary = LiveEndpoints((lending,), clock), Diary()
    plan, result = home / "plan.json", home / "result.json"
    shape = {"urls": {"interactive": deployed.url}, "seed": 7, "batch_shape": (1, 1)}
    plan.write_text(json.dumps({**asdict(load), **shape}))
    client = subprocess.Popen([sys.executable, "-m", "tests.benchmarks.serving_client", str(plan), str(result)],
                              cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    clock.start()
    allowed = 1
    while client.poll() is None:
        began_s = time.time()
        if lease is not None:
            allowed = _look(live, lease, devices, allowed)
        standing, sample = live.standing("night"), live.demand("night")
        workers = steps_of(home / "job", RUN)[-1]["world_size"] if lease is not None else 0
        rps = sample.rps * scale if sample else 0.0
        diary.note(began_s - clock.zero_s, live.decision("night"), standing, workers, rps)
        time.sleep(max(0.0, began_s + 1.0 - time.time()))
    if client.returncode:
        raise RuntimeError(f"the client ended with {client.returncode}")
    return diary, json.loads(result.read_text())


def _look(live: LiveEndpoints, lease: FileLease, devices: int, allowed: int) -> int:
    """One turn of the cycle: what endpoints do not keep is the job's, beside its own device."""
    try:
        now_allowed = 1 + devices - live.headroom()[POOL]
    except UnreachableError as error:
        say(f"  {error}")
        return allowed
    if now_allowed != allowed:
        lease.write(Lease(workers=now_allowed))
        say(f"       the job may hold {now_allowed} devices")
    return now_allowed


def summary(diary: Diary, records: list[dict[str, Any]], steps: list[dict[str, Any]], load: Load) -> dict[str, Any]:
    """Figures from what was seen."""
    latencies = [r["done_s"] - r["at_s"] if r["status"] == 200 else math.inf for r in records]
    breaches = [r for r, waited_s in zip(records, latencies, strict=True) if waited_s > SLO_S]
    answered = sorted(one for one in latencies if math.isfinite(one))
    lent_at = {int(line["at_s"]) for line in diary.lines if line["lent"] or line["returning"]}
    changes = [line for before, line in zip([{}, *diary.lines], diary.lines, strict=False)
               if any(before.get(key) != line[key] for key in ("serving", "lent", "returning", "workers"))]  # fmt: skip
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
    with tempfile.TemporaryDirectory(prefix="tide-night-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        head, pool = NodeSize(num_cpus=0), NodeSize(num_cpus=devices + 1, resources={POOL: devices})
        with LocalCluster((head, pool)) as cluster, contextlib.ExitStack() as stack:
            deployed = deploy(endpoint_of(devices), registry_in(home))
            stack.callback(deployed.close)
            lease = None
            if not options.rest.without_lending:
                lease = stack.enter_context(training(home / "job", cluster.address, devices, packed_dataset()))
            say(f"{devices} replicas answer at {deployed.url}; {len(load.arrivals)} requests in {load.seconds:.0f} s")
            diary, records = play(deployed, cluster.nodes[1].node_id, home, lease, devices, load)
            figures = summary(diary, records, steps_of(home / "job", RUN) if lease else [], load)
    print_result({"benchmark": "night_live", "devices": devices, "seconds": load.seconds, "slo_s": SLO_S,
                  "lending": lease is not None, **figures}, quick=options.quick)  # fmt: skip


if __name__ == "__main__":
    main()
