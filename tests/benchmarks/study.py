"""Studies: what a search with early stopping saves, what preemptions add to it, and what moves with the width.

    python -m tests.benchmarks.study [--data DIR] [--quick] [--parts asha,preempt,budget,pbt,mup] [--seeds N]
        [--first-seed N]

asha     a grid of learning rates and weight decays, every configuration to its end against the same grid under ASHA:
         share of the steps, ratio of the best validation loss, over seeds (of data order and initial weights)
preempt  one search on nodes that come and go as recorded, time compressed, against the same undisturbed; and Ray
         Tune's own Tuner, with its defaults and tuned, on the same nodes and events (`study_preempt.py`)
budget   four real searches with a budget in trials, device-hours, USD and kWh: how far over it each ends, in rungs
pbt      a population whose learning rate may change against the best constant one (`study_pbt.py`)
mup      the best learning rate and start at width 64 and at width 256, on one grid, scaled and plain (`study_mup.py`)

Every trial has one rank, one thread, DeepSpeed ZeRO 1; all but `pbt`'s are a byte GPT on the standard library's
sources. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from orchestrator.policy.study.rungs import largest_rung, report_steps
from orchestrator.policy.study.values import Rates, spent
from tests.benchmarks.harness import Options, print_result, read_options, say
from tests.benchmarks.study_bench import Bench, best_of, cores, make_study, seeds_of, steps_of
from tests.benchmarks.study_mup import mup
from tests.benchmarks.study_pbt import pbt
from tests.benchmarks.study_preempt import preempt

RATES = Rates(usd_per_device_hour=3.6, watts_per_device=360.0)


def main() -> None:
    """Run the parts and print the result."""
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--parts", default="asha,preempt,budget,pbt,mup")
    extra.add_argument("--seeds", type=int, default=5)
    extra.add_argument("--first-seed", type=int, default=1)
    options = read_options(__doc__ or "", extra=extra)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    parts = {"asha": asha, "preempt": preempt, "budget": budget, "pbt": pbt, "mup": mup}
    result: dict[str, Any] = {"model": "byte GPT, 1 layer, width 32, 64 bytes", "seeds": options.rest.seeds}
    home = Path(tempfile.mkdtemp(prefix="tide-study-"))
    try:
        bench = Bench(home)
        for name in options.rest.parts.split(","):
            found = parts[name](bench, options)
            say(f"{name}: {json.dumps(found, default=str)}")
            result |= found
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print_result(result, quick=options.quick)


def asha(bench: Bench, options: Options) -> dict[str, Any]:
    """Steps and best loss of ASHA against the whole grid."""
    steps = 81 if options.quick else 243
    rows = []
    with cores():
        for seed in seeds_of(options):
            whole = make_study(f"grid-{seed}", seed=seed, steps=steps)
            cut = make_study(
                f"asha-{seed}",
                seed=seed,
                steps=steps,
                scheduler="{name: asha, grace_steps: 9, reduction_factor: 3}",
            )
            grid_record, asha_record = bench.run(whole), bench.run(cut)
            rows.append(
                {
                    "seed": seed,
                    "grid_steps": steps_of(grid_record),
                    "asha_steps": steps_of(asha_record),
                    "grid_best": best_of(whole, grid_record),
                    "asha_best": best_of(cut, asha_record),
                    "grid_device_s": grid_record.device_s,
                    "asha_device_s": asha_record.device_s,
                }
            )
    shares = [row["asha_steps"] / row["grid_steps"] for row in rows]
    ratios = [row["asha_best"] / row["grid_best"] for row in rows]
    return {
        "steps_share": mean(shares),
        "steps_share_range": [min(shares), max(shares)],
        "loss_ratio": mean(ratios),
        "loss_ratio_range": [min(ratios), max(ratios)],
        "asha": rows,
    }


def budget(bench: Bench, options: Options) -> dict[str, Any]:
    """Real searches, each ended by its budget in another unit."""
    seconds = 20.0 if options.quick else 60.0
    cost = spent(seconds, RATES)
    budgets = {
        "trials": "{trials: 7}",
        "device_hours": f"{{device_hours: {cost.device_hours}}}",
        "usd": f'{{usd: "{cost.usd}"}}',
        "kwh": f"{{kwh: {cost.kwh}}}",
    }
    with cores():
        return {"budget": {unit: _budget(bench, unit, text, seconds) for unit, text in budgets.items()}}


def _budget(bench: Bench, unit: str, text: str, seconds: float) -> dict[str, Any]:
    study = make_study(
        f"budget-{unit.replace('_', '-')}",
        budget=text,
        space="{optimizer.lr: {type: loguniform, min: 3e-4, max: 0.1}}",
        searcher="{name: tpe}",
        scheduler="{name: asha, grace_steps: 9, reduction_factor: 3}",
    )
    record = bench.run(study, RATES)
    used = spent(record.device_s, RATES)
    found = {
        "trials": len(record.searched),
        "device_hours": used.device_hours,
        "usd": used.usd,
        "kwh": used.kwh,
        "closed": str(record.close_reason),
    }
    if unit == "trials":
        return {"budget": study.spec.budget.trials, **found}
    rung_s = largest_rung(report_steps(study.spec)) * record.device_s / max(1, steps_of(record))
    over_s = record.device_s - seconds
    return {"budget_device_s": seconds, **found, "over_s": over_s, "rung_s": rung_s, "over_rungs": over_s / rung_s}


if __name__ == "__main__":
    main()
