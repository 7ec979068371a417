"""What a study would cost before it starts: steps at most and as expected, and in the budget's units where the time of
a step is known."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from orchestrator.cli.output import make_table
from orchestrator.policy.study.budget import Limits
from orchestrator.policy.study.rungs import forecast, largest_rung, report_steps
from orchestrator.policy.study.space import size_of
from orchestrator.policy.study.values import Rates, spent
from orchestrator.spec import Study


def describe_study(study: Study, rates: Rates, device_s_per_step: float | None) -> dict[str, Any]:
    """The forecast as JSON values; costs are None where a step's time or a device's price is not known."""
    spec = study.spec
    size = size_of(spec.space)
    found = forecast(spec, size)
    limits = Limits.of(spec.budget)
    steps = {"at_most": found.most_steps, "expected": found.expected_steps, "rung": largest_rung(report_steps(spec))}
    return {
        "name": study.metadata.name,
        "searcher": spec.searcher.name,
        "scheduler": spec.scheduler.name,
        "configurations": None if size == float("inf") else int(size),
        "trials": found.trials,
        "repeats": found.repeats,
        "reports_at_steps": list(report_steps(spec)),
        "full_grid_steps": None if size == float("inf") else int(size) * spec.template.steps,
        "steps": steps,
        "device_s_per_step": device_s_per_step,
        "cost": {name: _cost(count, rates, device_s_per_step) for name, count in steps.items()},
        "steps_within_budget": _steps_within(limits, rates, device_s_per_step),
        "budget": {"trials": limits.trials, "device_hours": limits.device_hours, "usd": limits.usd, "kwh": limits.kwh},
        "ended_by": _ended_by(study, rates, device_s_per_step, found.expected_steps),
    }


def _cost(steps: int | None, rates: Rates, device_s_per_step: float | None) -> dict[str, float | None] | None:
    if steps is None or device_s_per_step is None:
        return None
    used = spent(steps * device_s_per_step, rates)
    return {
        "device_hours": used.device_hours,
        "usd": None if rates.usd_per_device_hour is None else used.usd,
        "kwh": None if rates.watts_per_device is None else used.kwh,
    }


def _steps_within(limits: Limits, rates: Rates, device_s_per_step: float | None) -> int | None:
    """Steps that the limits on device-hours, USD and kWh hold; None where there is none, or nobody knows a step's."""
    if not device_s_per_step:
        return None
    held = [limit / so_far for _, so_far, limit in limits.parts(spent(device_s_per_step, rates)) if so_far > 0.0]
    return int(min(held)) if held else None


def _ended_by(study: Study, rates: Rates, device_s_per_step: float | None, expected: int | None) -> str | None:
    """The limit that the expected course breaks first; None where that cannot be told."""
    limits = Limits.of(study.spec.budget)
    only = [which.value for which, _, _ in limits.parts(spent(0.0, rates))]
    if limits.trials is None and expected is None and len(only) == 1:
        return only[0]
    if expected is None or device_s_per_step is None:
        return "trials" if limits.trials is not None and limits.parts(spent(0.0, rates)) == [] else None
    shares = [
        (so_far / limit, which.value)
        for which, so_far, limit in limits.parts(spent(expected * device_s_per_step, rates))
    ]
    return max([*shares, (1.0, "trials")])[1]


def plan_table(plan: dict[str, Any]) -> Table:
    """The forecast for people."""
    rows: list[list[object]] = [
        ["searcher, scheduler", f"{plan['searcher']}, {plan['scheduler']}"],
        ["configurations", "no end of them" if plan["configurations"] is None else plan["configurations"]],
        ["trials", "as many as the budget holds" if plan["trials"] is None else plan["trials"]],
        ["repeats with other seeds", plan["repeats"]],
        ["reports after steps", ", ".join(str(step) for step in plan["reports_at_steps"])],
    ]
    for name, words in (("expected", "expected"), ("at_most", "at most")):
        if plan["steps"][name] is not None:
            rows.append([f"steps, {words}", f"{plan['steps'][name]:,}{_cost_text(plan['cost'][name])}"])
    if plan["steps_within_budget"] is not None:
        rows.append(["steps that the budget holds", f"{plan['steps_within_budget']:,}"])
    rung = plan["steps"]["rung"]
    rows.append(["a rung: it may go over by", f"{rung:,} steps{_cost_text(plan['cost']['rung'])}"])
    budget = ", ".join(f"{value:g} {unit}" for unit, value in plan["budget"].items() if value is not None)
    rows += [["budget", budget], ["ends by", plan["ended_by"] or "not known before a step's time is"]]
    table = make_table([plan["name"], ""], rows)
    if plan["device_s_per_step"] is None:
        table.caption = "Costs need a step's time: --step-seconds, or a study of this name that has run a little."
        table.caption_justify = "left"
    return table


def _cost_text(cost: dict[str, float | None] | None) -> str:
    if cost is None:
        return ""
    parts = [f"{value:.4g} {unit}" for unit, value in cost.items() if value is not None]
    return f": {', '.join(parts)}"
