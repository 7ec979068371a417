"""Tiered serving against what one would build without tiers: the same weights, core, loads and client, in one run.

    python -m tests.benchmarks.serving [--quick] [--seconds N] [--rival-seconds N] [--repeats N] [--systems a,b]
                                       [--loads a,b] [--rival-loads a,b] [--tune] [--rivals-python PYTHON]
                                       [--records DIR]

systems  ours, ours-int8, ours-on-serve (the same behind Ray Serve's proxy, as `tide serve` runs it), serve-batch (Ray
         Serve's @serve.batch with its defaults), serve-batch-tuned, serve-split-nice19 (an online and a batch
         deployment that share the core), fastapi-torch; bentoml and litserve with --rivals-python, an interpreter of an
         environment that has both and sees the packages of ours (a .pth file that names our site-packages)
loads    poisson (4 keystrokes/s, 0.5 interactive/s, a batch backlog that never empties), batch-alone, llm-requests (the
         recorded series), typist (a session per typist, a request per key), overload (0.5x to 3x, then 1x)

A 10.7-million-parameter byte model with random weights. The engine has core 0 alone; client, Ray's daemons and proxies
have core 1. Systems take turns in the order A B C, C B A, ...; before every turn the core's speed is measured. The last
line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks import serving_loads as loads
from tests.benchmarks import serving_score as score
from tests.benchmarks.harness import print_result, read_options, say
from tests.benchmarks.serving_systems import (
    ENGINE_CORE,
    GRID,
    SLOTS,
    SYSTEMS,
    TUNED,
    Running,
    StartError,
    running,
    tuned,
)

MODEL = {"layers": 6, "d_model": 384, "heads": 6, "seq_len": 512, "dropout": 0.0}
SEED = 7
DEFAULT_SYSTEMS = "ours,serve-batch,serve-batch-tuned,serve-split-nice19,fastapi-torch"
# Without tiers all of this load waits in one queue, which grows as long as the load lasts: a shorter run favours them.
SINGLE = frozenset({"serve-batch", "serve-batch-tuned", "fastapi-torch", "bentoml", "litserve"})
DEFAULT_LOADS = "batch-alone,poisson,llm-requests,typist,overload"
_BATCH_ALONE_SHARE = 0.25
_Records = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One system under one load, once."""

    system: str
    load: loads.Load
    records: _Records


def main() -> None:
    """Take turns and print the result."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and leave no server behind
    options = read_options(__doc__ or "", extra=_arguments())
    rest = options.rest
    seconds = rest.seconds or (8.0 if options.quick else 600.0)
    repeats = rest.repeats or (1 if options.quick else 3)
    rival_seconds = rest.rival_seconds or seconds
    rival_loads = rest.rival_loads or rest.loads
    chosen = {
        name: _loads(rival_loads.split(","), rival_seconds, options.data)
        if name in SINGLE
        else _loads(rest.loads.split(","), seconds, options.data)
        for name in rest.systems.split(",")
    }
    names = rest.systems.split(",")
    with tempfile.TemporaryDirectory(prefix="serving-") as work:
        folder = _model(Path(work, "model"))
        turns: list[Turn] = []
        left_out: dict[str, str] = {}
        tuning = None
        if rest.tune:
            try:
                tuning = _tune(Path(work, "tune"), folder, min(seconds, 8.0))
            except StartError as error:
                left_out["tuning"] = str(error)
                say(f"  not tuned: {error}")
        speeds: list[dict[str, Any]] = []
        for repeat in range(repeats):
            for name in names if repeat % 2 == 0 else reversed(names):
                if name in left_out:
                    continue
                speeds.append({"repeat": repeat, "system": name, "decode_8_rows_ms": _core_speed_ms(folder)})
                say(f"{repeat} {name}: core {speeds[-1]['decode_8_rows_ms']:.1f} ms per step of 8 rows")
                system = tuned(SYSTEMS[name], tuning)
                try:
                    with running(system, Path(work, f"{name}-{repeat}"), folder, rest.rivals_python) as started:
                        for load in chosen[name](repeat):
                            turns.append(_turn(started, name, load, SEED + repeat))
                            _keep(turns[-1], repeat, rest.records)
                except StartError as error:  # the others are measured all the same
                    left_out[name] = str(error)
                    say(f"  left out: {error}")
    print_result({**_result(turns, names, rest.warmup), "calibration": speeds, "tuning": tuning, "left_out": left_out,
                  **_settings(seconds, rival_seconds, repeats)}, quick=options.quick)  # fmt: skip


def _keep(turn: Turn, repeat: int, folder: Path | None) -> None:
    """Write down what the client saw, for whoever wants to look closer."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{turn.system}-{turn.load.name}-{repeat}.json").write_text(json.dumps(turn.records))


def _arguments() -> argparse.ArgumentParser:
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--seconds", type=float, help="of each load, and of 3x in overload")
    extra.add_argument("--rival-seconds", type=float, help="the same for single deployments, whose queues only grow")
    extra.add_argument("--rival-loads", help="loads of single deployments, where not all")
    extra.add_argument("--repeats", type=int)
    extra.add_argument("--systems", default=DEFAULT_SYSTEMS)
    extra.add_argument("--loads", default=DEFAULT_LOADS)
    extra.add_argument("--warmup", type=float, default=3.0, help="seconds at the start that are not counted")
    extra.add_argument("--rivals-python", help="interpreter of an environment with bentoml and litserve")
    extra.add_argument("--records", type=Path, help="folder for what the client saw of each request")
    extra.add_argument("--tune", action="store_true", help="run the grid of @serve.batch settings first")
    return extra


def _loads(names: Sequence[str], seconds: float, data: Path) -> Callable[[int], list[loads.Load]]:
    def chosen(repeat: int) -> list[loads.Load]:
        seed = SEED + repeat
        known: Mapping[str, Callable[[], loads.Load]] = {
            "batch-alone": lambda: loads.batch_alone(max(6.0, seconds * _BATCH_ALONE_SHARE), backlog=SLOTS),
            "poisson": lambda: loads.poisson_mix(seconds, seed=seed, backlog=SLOTS),
            "llm-requests": lambda: loads.recorded(data, seconds, backlog=SLOTS),
            "typist": lambda: loads.typists(seconds, seed=seed, backlog=SLOTS),
            "overload": lambda: loads.overload(min(seconds, 60.0), seed=seed, backlog=SLOTS),
        }
        return [known[name]() for name in names]

    return chosen


def _turn(system: Running, name: str, load: loads.Load, seed: int) -> Turn:
    turn = Turn(system=name, load=load, records=system.send(load, seed=seed))
    for tier in score.SLO_S:
        if found := score.score_tier(turn.records, tier, seconds=load.seconds, warmup_s=0.0):
            say(f"  {load.name} {tier}: p50 {found.p50_s}, p99 {found.p99_s} ({found.answered_p99_s} answered), "
                f"in SLO {found.in_slo:.3f}, shed {found.shed:.3f} of {found.sent}")  # fmt: skip
    say(f"  {load.name} batch: {score.batch_tokens_per_s(turn.records, start_s=0, end_s=load.seconds):.0f} tokens/s")
    return turn


def _result(turns: Sequence[Turn], names: Sequence[str], warmup_s: float) -> dict[str, Any]:
    alone = {name: _batch_alone(turns, name, warmup_s) for name in names}
    hinted = {name: _hinted(turns, name) for name in names}
    ours = next((name for name in names if name.startswith("ours")), None)
    return {
        "benchmark": "serving",
        "rows": [row for name in names for row in _rows(turns, name, warmup_s)],
        "batch_alone_tokens_per_s": alone[ours]["median"] if ours and alone[ours] else None,
        "batch_alone": alone,
        "retry_after_accuracy": hinted[ours]["accuracy"] if ours else None,
        "retry_after": hinted,
    }


def _rows(turns: Sequence[Turn], name: str, warmup_s: float) -> list[dict[str, Any]]:
    """One row per phase and tier."""
    scores: dict[tuple[str, str], list[score.TierScore]] = defaultdict(list)
    batch: dict[str, list[float]] = defaultdict(list)
    wasted: dict[str, list[int]] = defaultdict(list)
    for turn in turns:
        if turn.system != name or not turn.load.arrivals:
            continue
        for phase, start_s, end_s in _phases(turn.load, warmup_s):
            mine = [r for r in turn.records if r["tier"] == "batch" or r["phase"] == phase]
            batch[phase].append(score.batch_tokens_per_s(mine, start_s=start_s, end_s=end_s))
            wasted[phase].append(score.wasted_tokens(mine))
            for tier in score.SLO_S:
                if found := score.score_tier(mine, tier, seconds=end_s, warmup_s=start_s):
                    scores[phase, tier].append(found)
    return [_row(name, phase, tier, found, batch[phase], wasted[phase]) for (phase, tier), found in scores.items()]


def _row(
    name: str, phase: str, tier: str, found: Sequence[score.TierScore], batch: Sequence[float], wasted: Sequence[int]
) -> dict[str, Any]:
    figures = score.summary(found)
    figures["slo_goodput_per_core_rps"] = figures.pop("goodput_rps")  # there is one engine core
    figures["ranges"]["slo_goodput_per_core_rps"] = figures["ranges"].pop("goodput_rps")
    return {"system": name, "load": phase, "tier": tier, **figures, "batch_tokens_per_s": median(batch),
            "batch_tokens_per_s_range": [min(batch), max(batch)], "wasted_tokens": median(wasted)}  # fmt: skip


def _phases(load: loads.Load, warmup_s: float) -> list[tuple[str, float, float]]:
    """(phase, from, until) in order; the first one loses the warm-up."""
    if load.name != "overload":
        return [(load.arrivals[0].phase, warmup_s, load.seconds)]
    found, at_s = [], 0.0
    for phase, _, length_s in loads.overload_phases(load.seconds * 3 / (len(loads.MULTIPLES) + 3)):
        found.append((phase, max(warmup_s, at_s), at_s + length_s))
        at_s += length_s
    return found


def _batch_alone(turns: Sequence[Turn], name: str, warmup_s: float) -> dict[str, float] | None:
    runs = [turn for turn in turns if turn.system == name and turn.load.name == "batch-alone"]
    figures = [score.batch_tokens_per_s(run.records, start_s=warmup_s, end_s=run.load.seconds) for run in runs]
    return score.spread(figures) if figures else None


def _hinted(turns: Sequence[Turn], name: str) -> dict[str, Any]:
    admitted, hinted = 0, 0
    for turn in turns:
        if turn.system == name:
            good, count = score.retry_accuracy(turn.records)
            admitted, hinted = admitted + good, hinted + count
    return {"admitted": admitted, "returned": hinted, "accuracy": admitted / hinted if hinted else None}


def _tune(workdir: Path, folder: Path, seconds: float) -> list[dict[str, Any]]:
    """Every setting of the grid under the Poisson mix, in one deployment."""
    found = []
    load = loads.poisson_mix(seconds, seed=SEED, backlog=SLOTS)
    with running(SYSTEMS["serve-batch-tuned"], workdir, folder) as system:
        for settings in GRID:
            system.tune(settings)
            records = system.send(load, seed=SEED)
            tier = score.score_tier(records, "keystroke", seconds=seconds, warmup_s=0.0)
            assert tier is not None
            tokens = score.batch_tokens_per_s(records, start_s=0, end_s=seconds)
            found.append({**settings, "keystroke_p99_s": tier.p99_s, "batch_tokens_per_s": tokens})
            say(f"  {found[-1]}")
    return found


def _model(folder: Path) -> Path:
    import torch

    from jobs.models.load import ModelConfig, save_model
    from jobs.models.task import load_task

    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    task = "jobs.models.gpt:task"
    return save_model(load_task(task, MODEL).build_model(), ModelConfig(task=task, args=MODEL), folder)


def _core_speed_ms(folder: Path) -> float:
    """Median time of a decode step of 8 rows on the engine's core, measured in this process for about a second."""
    from serving.engine.protocol import DecodeRow, Sampling
    from serving.engine.torch_engine import load_engine

    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {ENGINE_CORE})
    try:
        engine = load_engine(folder, num_slots=8, max_context=128, precision="fp32")
        greedy, took = Sampling(temperature=0.0), []
        for slot in range(8):
            engine.prefill(slot, [32] * 16, start=0, sampling=greedy)
        for position in range(16, 76):
            start_s = time.perf_counter()
            engine.decode([DecodeRow(slot=slot, token=32, position=position, sampling=greedy) for slot in range(8)])
            took.append(time.perf_counter() - start_s)
        return 1000 * median(took)
    finally:
        os.sched_setaffinity(0, before)


def _settings(seconds: float, rival_seconds: float, repeats: int) -> dict[str, Any]:
    return {
        "model": {**MODEL, "parameters": "10.7M", "weights": "random", "seed": SEED},
        "seconds": seconds,
        "rival_seconds": rival_seconds,
        "repeats": repeats,
        "slots": SLOTS,
        "slo_s": score.SLO_S,
        "competitors": {"serve-batch": "defaults", "serve-batch-tuned": TUNED, "serve-split-nice19": TUNED,
                        "max_ongoing_requests": {"serve-batch": 5, "others": 100}},
    }  # fmt: skip


if __name__ == "__main__":
    main()
