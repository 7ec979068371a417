"""Parts of `elastic` that need no competitor on a cluster: notices, the loss curve, cost of snapshots, resharding."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from orchestrator.adapters.ray_cluster import LocalCluster, NodeSize
from tests.benchmarks.elastic_ours import events_of
from tests.benchmarks.harness import say
from tests.benchmarks.systems import Ours, Workload
from tests.benchmarks.watching import Watch, watched
from tests.train.state.loss_curves import resized_against_fixed

NOTICE_DEADLINE_S = 30.0
# Notices come in fours, a second apart, as when a zone runs short: each is a measurement, one restart answers all.
TOGETHER = 4
NODES = 12
# The demo's model: all ranks stop within three steps, so a step has to be short where 12 ranks share two cores.
SMALL_MODEL = {"layers": 4, "d_model": 128, "heads": 4, "seq_len": 64, "dropout": 0.0}
APART_S = 1.0


# -- notices ------------------------------------------------------------------------------------------------------


def notices(workload: Workload, data: Path, *, count: int) -> dict[str, Any]:
    """Seconds from a notice until a snapshot taken after it is whole on nodes that stay; `count` notices to a job of
    twelve single-rank nodes on real Ray, leaving in fours and replaced. Its 24 micro-batches divide at 12, 8 and 4."""
    workload = replace(workload, min_workers=1, max_workers=NODES, global_batch_size=24, args=SMALL_MODEL, zero_stage=1)
    sizes = (NodeSize(num_cpus=0), *[NodeSize(num_cpus=1)] * NODES)
    answers: list[Answer] = []
    ended = ""
    with watched(Ours(), workload, data, sizes, patience_s=300.0) as (watch, cluster, workdir):
        watch.wait_steady(NODES)
        try:
            while len(answers) < count:
                answers += _one_round(watch, cluster, workdir / "home", len(answers), count)
        except (TimeoutError, RuntimeError) as error:  # what was measured until then is told all the same
            ended = str(error)
            say(f"notice: ended early: {ended}")
        safe = _events(workdir / "home", "SnapshotSafe")
        lag = [event["lag_steps"] for event in safe if event["lag_steps"] is not None]
    if not answers:
        raise RuntimeError(f"not one notice was answered: {ended}")
    safe_s = [one.safe_s for one in answers]
    parts = {part: [getattr(one, part) for one in answers] for part in ("heard_s", "stepped_s")}
    return {
        "notice_workload": {"args": workload.args, "ranks": [12, 8, 4], "zero_stage": workload.zero_stage},
        "notice_to_safe_s": {"p50": median(safe_s), "p99": _nearest_rank(safe_s, 0.99), "n": len(safe_s)},
        "notice_parts": {part: {"p50": median(s), "p99": _nearest_rank(s, 0.99)} for part, s in parts.items()},
        "notice_all_s": [round(one, 3) for one in safe_s],  # two shorter runs can be put together
        "notice_ended_early": ended,
        "mirror_lag_steps": max(lag, default=None),
    }


def _one_round(watch: Watch, cluster: LocalCluster, home: Path, done: int, count: int) -> list[Answer]:
    """Two groups of nodes leave, as many come. Each notice needs a node of its own, since none can be taken back."""
    began_s = time.monotonic()
    answers = [answer for _ in range(2) for answer in _one_group(watch, cluster, home)]
    shown = " ".join(f"{one.heard_s:.1f}/{one.stepped_s:.1f}/{one.safe_s:.1f}" for one in answers)
    say(f"notice: {done + len(answers)} of {count}, seconds until heard/stepped/safe: {shown}")
    answered_s = time.monotonic() - began_s
    for _ in range(NODES + 1 - len(cluster.nodes)):
        cluster.add_node(NodeSize(num_cpus=1))
    watch.wait_steady(NODES)
    say(f"notice: {answered_s:.0f} s of notices, {time.monotonic() - began_s - answered_s:.0f} s of new nodes")
    return answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Seconds from an announcement until the run's driver had heard it, until the first step that ended after that,
    and until the driver knew of a snapshot, of that step or later, all of whose parts are on two nodes."""

    heard_s: float
    stepped_s: float
    safe_s: float


def _one_group(watch: Watch, cluster: LocalCluster, home: Path) -> list[Answer]:
    """Announce the end of some nodes; how each announcement was answered."""
    leaving = [node.node_id for node in cluster.nodes[-TOGETHER:]]
    staying = len(cluster.nodes) - 1 - TOGETHER
    announced_s = {}
    for node_id in leaving:
        announced_s[node_id] = time.time()
        cluster.drain_node(node_id, deadline_s=NOTICE_DEADLINE_S)
        watch.pause(APART_S)
    watch.wait_steady(staying)
    for node_id in leaving:
        cluster.kill_node(node_id)
    return [_answer(node_id, at_s, home) for node_id, at_s in announced_s.items()]


def _answer(node_id: str, announced_s: float, home: Path) -> Answer:
    """Infinite times if there was none."""
    heard_s = [event["at_s"] for event in _events(home, "Noticed") if event["node_id"] == node_id]
    steps = [event for event in _events(home, "StepDone") if event["at_s"] >= announced_s]
    first = min(steps, key=lambda event: event["step"], default={"step": math.inf, "at_s": math.inf})
    safe_s = [event["at_s"] for event in _events(home, "SnapshotSafe") if event["step"] >= first["step"]]
    return Answer(
        heard_s=min(heard_s, default=math.inf) - announced_s,
        stepped_s=first["at_s"] - announced_s,
        safe_s=min(safe_s, default=math.inf) - announced_s,
    )


def _events(home: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in events_of(home, "bench") if event["kind"] == kind]


def _nearest_rank(values: list[float], share: float) -> float:
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


# -- loss ---------------------------------------------------------------------------------------------------------


def losses(*, quick: bool) -> dict[str, Any]:
    """Largest relative difference of the loss at any of 200 steps, dropout on: 4 ranks that become 6 and then 3
    against 4 all the way, for every ZeRO stage in fp32 and for stage 2 in bf16."""
    stages = ((1, "fp32"), (2, "fp32"), (3, "fp32"), (2, "bf16"))
    steps = 30 if quick else 200
    found = {}
    for stage, precision in stages:
        found[f"zero{stage}-{precision}"] = resized_against_fixed(stage, precision, steps=steps, sizes=(4, 6, 3))
        say(f"loss zero {stage} {precision}: {found[f'zero{stage}-{precision}']:.2e} over {steps} steps")
    fp32 = [value for name, value in found.items() if name.endswith("fp32")]
    return {"loss_max_rel_diff": max(fp32), "loss_max_rel_diff_bf16": found["zero2-bf16"], "loss": found}


# -- snapshots ----------------------------------------------------------------------------------------------------


def snapshot_overhead(workload: Workload, data: Path, *, cycles: int) -> dict[str, Any]:
    """What snapshots add to the mean step, as a fraction, paired inside one run: every cycle of steps from one
    snapshot to the next is compared with its own later half, in which nothing is copied or mirrored any more."""
    every = 20
    workload = replace(workload, snapshot_every_steps=every, min_workers=4, max_workers=4)
    sizes = (NodeSize(num_cpus=0), NodeSize(num_cpus=2), NodeSize(num_cpus=2))
    with watched(Ours(), workload, data, sizes, patience_s=1800.0) as (watch, _, workdir):
        watch.wait(lambda: len(watch.steps()) > every * (cycles + 2), f"{cycles} snapshots")
        ended = {event["step"]: event["at_s"] for event in _events(workdir / "home", "StepDone")}
    shares = []
    for first in range(2 * every, max(ended) - every, every):
        took = [ended[step + 1] - ended[step] for step in range(first, first + every)]
        undisturbed = sum(took[every // 2 :]) / (every - every // 2)
        shares.append(sum(took) / (every * undisturbed) - 1.0)
    return {
        "snapshot_overhead": median(shares),
        "snapshot_overhead_quartiles": [sorted(shares)[len(shares) // 4], sorted(shares)[3 * len(shares) // 4]],
        "snapshot_cycles": len(shares),
        "snapshot_every": every,
    }


# -- resharding ---------------------------------------------------------------------------------------------------


def reshard(*, quick: bool) -> dict[str, Any]:
    """The figures of `tests.benchmarks.reshard`, run in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.reshard", "--stages", "3,2,1", *(["--quick"] if quick else [])]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(Path(__file__).resolve().parents[2]):
        env = {**os.environ, "TMPDIR": folder}
        done = subprocess.run(command, stdout=subprocess.PIPE, env=env, check=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {"reshard_s": found["reshard_s"], "reshard": found["rows"]}
