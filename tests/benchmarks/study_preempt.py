"""What recorded preemptions add to a search, ours and Ray Tune's own.

Nodes of one core each come and go as every `SHARE`-th node of the recording did, `SPEED` times as fast, each by
SIGKILL of all its processes and without notice. A node's processes are bound to a core that the fewest nodes have: one
that comes up must not slow those that train, which it would not do were it a machine. Compressed are the time between
events and the ten minutes that are the most between two states on storage (the template's default; the tuned
competitor's, too), and nothing else: starting a node, a seat and an attempt takes what it takes, so the ratio is above
what the same recording would cost in its own time. The undisturbed runs have two nodes that stay, which is what
`concurrency.max` can use. When the recording is over (seven minutes), two nodes stay in the others, too, so that every
search ends: `outlasted` says that one came so far. A run that failed, or took `LIMIT_S` and was stopped, is printed and
left out of the ratios.

What a run cost is counted in steps that trials ran (steps run twice count twice) and in device-seconds of trials,
from start to end of each attempt. Neither counts waiting for nodes. Seconds want a machine that nobody else uses.
"""

from __future__ import annotations

import math
import os
import time
import traceback
from collections.abc import Callable
from statistics import median
from typing import Any

from orchestrator.adapters.ray_cluster import LocalCluster, LocalNode, NodeSize
from orchestrator.adapters.replay import Player, load_node_events, share_of
from orchestrator.adapters.replay.recording import NodeEvent
from orchestrator.policy.study.values import TrialState
from orchestrator.spec import Study
from tests.benchmarks.harness import Options, say
from tests.benchmarks.study_bench import RATES, Bench, best_of, make_study, seeds_of, steps_of
from tests.benchmarks.study_plain import DEFAULTS, LIMIT_S, TUNED, Form, beside, run_plain

SHARE, SPEED, CORES = 20, 100.0, 2
SAVE_EVERY_S = 600.0 / SPEED
SAY_EVERY_S = 20.0
_NODE = NodeSize(num_cpus=1)


class OneCoreNodes:
    """A cluster whose new nodes get a core each, as long as there are enough."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._cores = sorted(os.sched_getaffinity(0))
        self._core_of: dict[str, int] = {}

    def add_node(self, size: NodeSize | None = None) -> LocalNode:
        taken = list(self._core_of.values())
        core = min(self._cores, key=lambda one: (taken.count(one), one))
        os.sched_setaffinity(0, {core})  # of this thread, and of the processes that it starts
        try:
            node = self._cluster.add_node(size)
        finally:
            os.sched_setaffinity(0, self._cores)
        self._core_of[node.node_id] = core
        return node

    def drain_node(self, node_id: str, *, deadline_s: float, reason: str = "spot notice") -> None:
        self._cluster.drain_node(node_id, deadline_s=deadline_s, reason=reason)

    def kill_node(self, node_id: str) -> None:
        del self._core_of[node_id]
        self._cluster.kill_node(node_id)

    def __len__(self) -> int:
        return len(self._core_of)


class World:
    """The nodes of one run; `tick` plays what is due, in the main thread, as Ray's nodes must be."""

    def __init__(self, cluster: LocalCluster, events: list[NodeEvent], name: str) -> None:
        self._nodes = OneCoreNodes(cluster)
        self._player = Player(self._nodes, _NODE, events, speed=SPEED, notice_s=0.0)
        self._player.start()
        self._name = name
        self._began_s: float | None = None
        self._said_s = 0.0
        self.outlasted = False

    def tick(self) -> None:
        elapsed_s = self.elapsed_s
        self._player.play_due(elapsed_s)
        while math.isinf(self._player.next_at_s) and len(self._nodes) < CORES:
            self.outlasted = True
            self._nodes.add_node(_NODE)
        if elapsed_s - self._said_s >= SAY_EVERY_S:
            self._said_s = elapsed_s
            next_in = f"next event in {self._player.next_at_s - elapsed_s:.0f} s"
            next_in = "no more events" if math.isinf(self._player.next_at_s) else next_in
            say(f"{self._name}: {elapsed_s:.0f} s, {len(self._nodes)} nodes up, {self.kills} killed, {next_in}")

    @property
    def elapsed_s(self) -> float:
        """Since it was first asked for."""
        now_s = time.monotonic()
        self._began_s = now_s if self._began_s is None else self._began_s
        return now_s - self._began_s

    @property
    def kills(self) -> int:
        return self._player.played["remove"]


def preempt(bench: Bench, options: Options) -> dict[str, Any]:
    """The same search undisturbed and under recorded preemptions."""
    recording = load_node_events(options.data / "preemption-events" / "aws-p3.csv")
    rows = []
    seeds = seeds_of(options, most=3)
    for seed in seeds:
        played = share_of(recording, share=SHARE, remainder=seed - 1)
        # What the defaults lose to a killed node is the same for every seed: all trials on it.
        systems = ("ours", TUNED) if rows else ("ours", TUNED, DEFAULTS)
        say(f"preempt: seed {seed}, {len(rows) + 1} of {len(seeds)}, {2 * len(systems)} searches of some minutes each")
        rows.append(_row(bench, seed, played, systems, steps=81 if options.quick else 243))
    return {
        "preempt": rows,
        "preempt_share_and_speed": [SHARE, SPEED],
        **{f"preempted_{what}_ratio": summary(rows, what) for what in ("steps", "device_s")},
    }


def summary(rows: list[dict[str, Any]], what: str) -> dict[str, dict[str, Any]]:
    """Preempted over undisturbed by system, over the seeds whose two runs came to an end; the defaults' is of what was
    left of the search."""
    found = {}
    for name in ("ours", TUNED.name, DEFAULTS.name):
        pairs = [(_ended(row, f"{name}_preempted", what), _ended(row, f"{name}_calm", what)) for row in rows]
        ratios = [preempted / calm for preempted, calm in pairs if preempted and calm]
        found[name] = {
            "median": median(ratios) if ratios else None,
            "range": [min(ratios), max(ratios)] if ratios else None,
            "seeds": len(ratios),
        }
    return found


def _ended(row: dict[str, Any], run: str, what: str) -> float | None:
    """What a run cost; None where it was not made, failed or was stopped at its limit."""
    found = row.get(run, {})
    return None if found.get("timed_out") else found.get(what)


def _row(
    bench: Bench, seed: int, played: list[NodeEvent], systems: tuple[str | Form, ...], *, steps: int
) -> dict[str, Any]:
    calm = [NodeEvent(at_s=0.0, event="add", node=f"node-{number}") for number in range(CORES)]
    row: dict[str, Any] = {"seed": seed}
    for system in systems:
        for disturbed, events in (("calm", calm), ("preempted", played)):
            study = _study(f"preempt-{seed}-{disturbed}", seed, steps)
            name = system if isinstance(system, str) else system.name
            row[f"{name}_{disturbed}"] = _run(bench, study, system, events, f"seed {seed}, {name}, {disturbed}")
    return row


def _run(bench: Bench, study: Study, system: str | Form, events: list[NodeEvent], name: str) -> dict[str, Any]:
    """One search; one that breaks off leaves its error in the result, and the others their turn."""

    def run(world: World) -> dict[str, Any]:
        if isinstance(system, str):
            return _ours(bench, study, world)
        return run_plain(study, bench.home, system, world.tick).to_json()

    say(f"{name}: begins")
    try:
        found = _in_world(events, run, name)
    except Exception as error:
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {error}"}
    say(f"{name}: {found}")
    return found


def _study(name: str, seed: int, steps: int) -> Study:
    return make_study(
        name,
        args="{layers: 2, d_model: 64, heads: 1, seq_len: 64}",
        batch=16,
        seed=seed,
        steps=steps,
        optimizer="{schedule: cosine, warmup_steps: 8, weight_decay: 0.0}",
        space=f"{{optimizer.lr: {{type: choice, values: {RATES}}}}}",
        scheduler="{name: asha, grace_steps: 27, reduction_factor: 3}",
        budget="{trials: 9}",
        every=f"{SAVE_EVERY_S:g}s",
    )


def _in_world(events: list[NodeEvent], run: Callable[[World], dict[str, Any]], name: str) -> dict[str, Any]:
    began_s = time.monotonic()
    with LocalCluster((NodeSize(num_cpus=0),)) as cluster:
        world = World(cluster, events, name)
        found = run(world)
        ran_s = world.elapsed_s
    return {
        "kills": world.kills,
        "wall_s": time.monotonic() - began_s,
        "timed_out": ran_s >= LIMIT_S,
        "outlasted": world.outlasted,
        **found,
    }


def _ours(bench: Bench, study: Study, world: World) -> dict[str, Any]:
    record = beside(lambda: bench.run(study, wants_stop=lambda: int(world.elapsed_s >= LIMIT_S)), world.tick)
    states = [trial.state for trial in record.trials.values()]
    best = best_of(study, record)
    return {
        "trials": len(states),
        "starts": sum(trial.attempts for trial in record.trials.values()),
        "failed": states.count(TrialState.FAILED),
        "finished": states.count(TrialState.FINISHED),
        "steps": steps_of(record),
        "lost_steps": sum(trial.lost_steps for trial in record.trials.values()),
        "device_s": record.device_s,
        "best": best if math.isfinite(best) else None,
    }
