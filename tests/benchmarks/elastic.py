"""Elastic training against Ray Train's own elasticity: the same job, the same events, in one run.

    python -m tests.benchmarks.elastic [--quick] [--parts stall,kill,churn,notice,loss,snapshot,reshard] [--repeats N]
        [--zero-stage 1|2|3] [--model large|small] [--systems ours,ray] [--notices N] [--fresh-memory]

stall   a node joins a running 4-worker job, which goes on with 6: time from last step to next step, steps missing from
        60 s before to 60 s after against the undisturbed rate, steps made again
kill    a node is killed -9 at a random moment, its folders removed, another joins: steps made again
notice  nodes are announced to go, a hundred times: time until the state after the notice is safe on others
loss    200 steps with two resizes against the same at one size, dropout on
snapshot what snapshots add to the mean step
reshard state at one size loaded at another, against universal checkpoints and against reading the bytes
churn   recorded spot adds and removes (an eighth of the nodes, time compressed 8x): goodput

For both systems free memory is filled with page cache before each run (`resident.py`; `--fresh-memory` leaves it as it
is). The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from orchestrator.adapters.ray_cluster import NodeSize
from orchestrator.adapters.replay import Player, load_node_events, share_of
from tests.benchmarks import elastic_ray, elastic_state
from tests.benchmarks.elastic_ours import stall_parts, wrong_samples
from tests.benchmarks.harness import Options, print_result, read_options, say
from tests.benchmarks.resident import PageCacheFiller
from tests.benchmarks.steplog import changes, goodput, step_time_s, steps_missing
from tests.benchmarks.systems import Ours, RayElastic, System, Workload
from tests.benchmarks.watching import packed_dataset, watched

MODELS = {
    "large": {"layers": 6, "d_model": 384, "heads": 6, "seq_len": 64, "dropout": 0.0},  # 10.7 million parameters
    "small": elastic_state.SMALL_MODEL,  # 0.8 million: a stall of short steps shows what is not the step itself
}
SYSTEMS: dict[str, System] = {"ours": Ours(), "ray": RayElastic()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where one measurement runs."""

    systems: tuple[System, ...]
    workload: Workload
    data: Path
    margin_s: float
    seed: int
    filler: PageCacheFiller | None


def main() -> None:
    """Run the parts and print the result."""
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--parts", default="stall,kill,churn,notice,loss,snapshot,reshard")
    extra.add_argument("--repeats", type=int, default=3)
    extra.add_argument("--zero-stage", type=int, default=1)
    extra.add_argument("--notices", type=int, default=104)
    extra.add_argument("--model", choices=sorted(MODELS), default="large")
    extra.add_argument("--systems", default=",".join(SYSTEMS))
    extra.add_argument("--fresh-memory", action="store_true")
    options = read_options(__doc__ or "", extra=extra)
    setting = Setting(
        systems=tuple(SYSTEMS[name] for name in options.rest.systems.split(",")),
        workload=_workload(MODELS[options.rest.model], options.rest.zero_stage),
        data=packed_dataset(),
        margin_s=10.0 if options.quick else 60.0,
        seed=7,
        filler=None if options.quick or options.rest.fresh_memory else PageCacheFiller(),
    )
    repeats = 1 if options.quick else options.rest.repeats
    result: dict[str, Any] = {
        "benchmark": "elastic",
        "workload": asdict(setting.workload),
        "competitor": {"system": "Ray Train elastic + DeepSpeed universal checkpoint", **elastic_ray.environment()},
        "snapshot_every_steps": setting.workload.snapshot_every_steps,
    }
    parts: dict[str, Callable[[Setting, int, Options], dict[str, Any]]] = {
        "stall": _stall,
        "kill": _kill,
        "churn": _churn,
        "notice": lambda s, _, o: elastic_state.notices(s.workload, s.data, count=8 if o.quick else o.rest.notices),
        "loss": lambda _, __, o: elastic_state.losses(quick=o.quick),
        "snapshot": lambda s, _, o: elastic_state.snapshot_overhead(s.workload, s.data, cycles=4 if o.quick else 24),
        "reshard": lambda _, __, o: elastic_state.reshard(quick=o.quick),
    }
    failed: dict[str, str] = {}
    for part in options.rest.parts.split(","):
        try:
            found = parts[part](setting, repeats, options)
        except (Exception, KeyboardInterrupt):  # what the other parts took minutes to measure is not lost with it
            failed[part] = traceback.format_exc()
            say(failed[part])
            continue
        say(f"{part}: {json.dumps(found, default=str)}")
        result |= found
    print_result(result | {"failed": failed}, quick=options.quick)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _workload(model: dict[str, Any], zero_stage: int) -> Workload:
    # 12 micro-batches, so that 2, 3, 4 and 6 workers all divide them.
    return Workload(
        args=model,
        min_workers=2,
        max_workers=6,
        global_batch_size=12,
        micro_batch_size=1,
        steps=100_000,
        checkpoint_every_steps=25,
        snapshot_every_steps=10,
        zero_stage=zero_stage,
    )


# -- stall ------------------------------------------------------------------------------------------------------


def _stall(setting: Setting, repeats: int, options: Options) -> dict[str, Any]:
    found: dict[str, list[dict[str, float]]] = {system.name: [] for system in setting.systems}
    for repeat in range(repeats):
        for system in setting.systems:
            figures = _one_growth(system, setting)
            say(f"stall {repeat + 1}/{repeats} {system.name}: {figures}")
            found[system.name].append(figures)
    ours = found.get("ours", [])
    exact = (
        {
            "planned_steps_lost": max(int(f["steps_lost"]) for f in ours),
            # The ledger tells that a step's samples were not exactly its own, not in which direction.
            "samples_repeated": max(int(f["wrong_samples"]) for f in ours),
            "samples_skipped": max(int(f["wrong_samples"]) for f in ours),
        }
        if ours
        else {}
    )
    return {
        **exact,
        "stall_s": {name: median(f["stall_s"] for f in each) for name, each in found.items()},
        "steps_missing": {name: median(f["steps_missing"] for f in each) for name, each in found.items()},
        "growth": found,
    }


def _one_growth(system: System, setting: Setting) -> dict[str, float]:
    sizes = (NodeSize(num_cpus=0), NodeSize(num_cpus=2), NodeSize(num_cpus=2))
    with watched(system, setting.workload, setting.data, sizes, filler=setting.filler) as (watch, cluster, workdir):
        watch.wait_steady(4)
        watch.fill_memory()
        watch.wait(lambda: watch.span_s(4) > setting.margin_s + 5, "the steady time is over")
        announced_s = time.time()
        cluster.add_node(NodeSize(num_cpus=2))
        watch.wait(lambda: watch.span_s(6) > setting.margin_s, "6 workers have stepped long enough")
        steps = watch.steps()
        change = next(c for c in changes(steps) if c.to_size == 6)
        parts = stall_parts(workdir / "home", "bench") if system.name == "ours" else {}
        return {
            **{f"part_{part}_s": seconds for part, seconds in parts.items()},
            "stall_s": change.stall_s,
            "announced_to_first_step_s": change.first_at_s - announced_s,
            "steps_lost": float(change.steps_lost),
            "steps_missing": steps_missing(steps, announced_s=announced_s, change=change, margin_s=setting.margin_s),
            "wrong_samples": float(_wrong_samples(setting, workdir)) if system.name == "ours" else 0.0,
            "step_s_at_4": step_time_s(steps, 4),
            "step_s_at_6": step_time_s(steps, 6),
        }


def _wrong_samples(setting: Setting, workdir: Path) -> int:
    from jobs.data import open_dataset
    from jobs.models.task import load_task

    workload = setting.workload
    source = load_task(workload.task, workload.args).open_data(setting.data, "train")
    return wrong_samples(
        workdir / "home",
        "bench",
        num_samples=source.num_samples,
        manifest_hash=open_dataset(setting.data).manifest.hash,
        seed=workload.seed,
        batch=workload.global_batch_size,
    )


# -- kill -------------------------------------------------------------------------------------------------------


def _kill(setting: Setting, repeats: int, options: Options) -> dict[str, Any]:
    kills = {system.name: _kills_of(system, setting, repeats) for system in setting.systems}
    lost = [int(kill["steps_lost"]) for kill in kills.get("ours", [])]
    return {"kill_steps_lost": max(lost, default=None), "kills": kills}


def _kills_of(system: System, setting: Setting, repeats: int) -> list[dict[str, float]]:
    chance, found = random.Random(setting.seed), []
    sizes = (NodeSize(num_cpus=0), NodeSize(num_cpus=2), NodeSize(num_cpus=2))
    with watched(system, setting.workload, setting.data, sizes, filler=setting.filler) as (watch, cluster, _):
        for _ in range(repeats):
            watch.wait_steady(4)
            time.sleep(chance.uniform(5.0, 25.0))
            before = len(changes(watch.steps()))
            cluster.kill_node(chance.choice(cluster.nodes[1:]).node_id)
            cluster.add_node(NodeSize(num_cpus=2))
            watch.wait(lambda known=before: len(changes(watch.steps())) > known, "stepping again")
            watch.wait_steady(4)
            fresh = changes(watch.steps())[before:]
            found.append(
                {
                    "steps_lost": float(sum(change.steps_lost for change in fresh)),
                    "stall_s": sum(change.stall_s for change in fresh),
                }
            )
            say(f"kill {system.name}: {found[-1]}")
    return found


# -- churn ------------------------------------------------------------------------------------------------------


def _churn(setting: Setting, repeats: int, options: Options) -> dict[str, Any]:
    seconds, speed = (180.0, 8.0) if options.quick else (900.0, 8.0)
    recording = options.data / "preemption-events" / "aws-p3.csv"
    events = share_of(load_node_events(recording), share=8, seconds=seconds * speed)
    shares: dict[str, float] = {}
    for system in setting.systems:
        workload = replace(setting.workload, min_workers=1, max_workers=4)
        sizes = (NodeSize(num_cpus=0),)
        with watched(system, workload, setting.data, sizes, filler=setting.filler) as (watch, cluster, _):
            player = Player(cluster, NodeSize(num_cpus=1), events, speed=speed)
            player.start()
            watch.wait_steady(len(cluster.nodes) - 1)
            began_s = time.time()
            player.play(seconds)
            steps = watch.steps()
            shares[system.name] = goodput(steps, began_s=began_s, ended_s=began_s + seconds)
            say(f"churn {system.name}: goodput {shares[system.name]:.3f}, {len(changes(steps))} changes")
    return {"goodput": shares, "churn": {"seconds": seconds, "speed": speed, "events": len(events)}}


if __name__ == "__main__":
    main()
