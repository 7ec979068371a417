"""What moves with the width: the best learning rate and the best start of a narrow model, used in a wide one.

The scaled model searches both at once on a grid whose neighbours are factors of two; the plain one has only a rate,
and one start. How far apart the best values of the two widths lie is counted in steps of the grid. What matters is the
last question: how good the wide model is with the narrow one's values, against its own best, and against the best plain
model of that width.
"""

from __future__ import annotations

from typing import Any

from tests.benchmarks.harness import Options
from tests.benchmarks.study_bench import METRIC, Bench, cores, make_study

NARROW, WIDE = 64, 256
RATES = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
SCALED_RATES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
STARTS = (1.0, 2.0, 4.0, 8.0)
Point = tuple[float, float]


def mup(bench: Bench, options: Options) -> dict[str, Any]:
    """Both models at both widths."""
    steps = 40 if options.quick else 100
    with cores():
        scaled = {width: _grid(bench, "scaled", width, steps, SCALED_RATES, STARTS) for width in (NARROW, WIDE)}
        plain = {width: _grid(bench, "plain", width, steps, RATES, (1.0,)) for width in (NARROW, WIDE)}
    kinds = {"scaled": scaled, "plain": plain}
    best = {
        kind: {width: min(found, key=found.__getitem__) for width, found in widths.items()}
        for kind, widths in kinds.items()
    }
    moved = best["scaled"][NARROW]
    return {
        "mup": {
            "steps": steps,
            "best_rate_and_start": best,
            "rate_steps_apart": {
                "scaled": _apart(SCALED_RATES, best["scaled"], 0),
                "plain": _apart(RATES, best["plain"], 0),
            },
            "start_steps_apart": _apart(STARTS, best["scaled"], 1),
            "wide": {
                "scaled_with_the_narrow_values": scaled[WIDE][moved],
                "scaled_best": min(scaled[WIDE].values()),
                "plain_with_the_narrow_rate": plain[WIDE][best["plain"][NARROW]],
                "plain_best": min(plain[WIDE].values()),
            },
            "rates_apart_at_each_start": {
                start: _apart(SCALED_RATES, {width: _best_at(scaled[width], start) for width in (NARROW, WIDE)}, 0)
                for start in STARTS
            },
            "losses": {
                kind: {width: sorted((*point, loss) for point, loss in one.items()) for width, one in widths.items()}
                for kind, widths in kinds.items()
            },
        }
    }


def _grid(
    bench: Bench, kind: str, width: int, steps: int, rates: tuple[float, ...], starts: tuple[float, ...]
) -> dict[Point, float]:
    """The metric after `steps` by (rate, start)."""
    more = f", base_width: {NARROW}, init_scale: 1.0" if kind == "scaled" else ""
    space = f"optimizer.lr: {{type: choice, values: {list(rates)}}}"
    space += f", args.init_scale: {{type: choice, values: {list(starts)}}}" if kind == "scaled" else ""
    study = make_study(
        f"{kind}-{width}",
        task="jobs.models.gpt_mup:task" if kind == "scaled" else "jobs.models.gpt:task",
        args=f"{{layers: 2, d_model: {width}, heads: 4, seq_len: 64{more}}}",
        steps=steps,
        optimizer="{schedule: cosine, warmup_steps: 8, weight_decay: 0.0}",
        space=f"{{{space}}}",
        budget=f"{{trials: {len(rates) * len(starts)}}}",
    )
    found = {}
    for trial in bench.run(study).trials.values():
        point = (float(trial.config["optimizer.lr"]), float(trial.config.get("args.init_scale", 1.0)))
        value = trial.value(METRIC)
        found[point] = float("inf") if value is None else value
    return found


def _best_at(found: dict[Point, float], start: float) -> Point:
    return min((point for point in found if point[1] == start), key=lambda point: found[point])


def _apart(grid: tuple[float, ...], best: dict[int, Point], part: int) -> int:
    return grid.index(best[WIDE][part]) - grid.index(best[NARROW][part])
