"""A study for people: one row a trial."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from orchestrator.cli.output import make_table

_COLUMNS = ("TRIAL", "STATE", "STEP", "METRIC", "DEVICE-HOURS", "COST", "CONFIG")


def study_table(values: dict[str, Any], *, most_rows: int | None = None) -> Table:
    """Trials as they stand, the best ones first where not all fit."""
    trials = values["trials"]
    shown = trials if most_rows is None or len(trials) <= most_rows else _foremost(values, most_rows)
    rows = [_row(trial, values) for trial in shown]
    table = make_table(_COLUMNS, rows, right=("STEP", "METRIC", "DEVICE-HOURS", "COST"))
    table.title, table.title_justify = headline(values), "left"
    notes = [f"{len(trials) - len(shown)} more trials: 'tide study status {values['study']} -o json'"]
    notes = notes if len(shown) < len(trials) else []
    notes += [values["detail"]] if values["detail"] else []
    table.caption, table.caption_justify = "; ".join(notes) or None, "left"
    return table


def headline(values: dict[str, Any]) -> str:
    """One line: how far, how much, how good."""
    used, budget = values["spent"], values["budget"]
    parts = [f"{values['study']}: {values['state']}"]
    parts += [
        f"{_amount(used[unit])} of {_amount(budget[unit])} {unit}"
        for unit in ("trials", "device_hours", "usd", "kwh")
        if budget[unit] is not None
    ]
    if values["best"]:
        parts.append(f"best {values['metric']} {values['best']['value']:.4g} ({values['best']['trial']})")
    return ", ".join(parts)


def config_text(config: dict[str, Any]) -> str:
    """Values by key, short."""
    return " ".join(f"{key}={_value(value)}" for key, value in config.items())


def _row(trial: dict[str, Any], values: dict[str, Any]) -> list[str]:
    best = values["best"]
    mark = " *" if best and trial["trial"] == best["trial"] else ""
    value = "" if trial["value"] is None else f"{trial['value']:.4f}"
    cost = "" if trial["usd"] is None else f"{trial['usd']:.4f}"
    state = trial["state"] if trial["state"] != "failed" else f"failed: {trial['detail'][:60]}"
    step = f"{trial['step']}/{values['rungs'][-1]}"
    return [
        trial["trial"] + mark,
        state,
        step,
        value,
        f"{trial['device_hours']:.4f}",
        cost,
        config_text(trial["config"]),
    ]


def _foremost(values: dict[str, Any], most: int) -> list[dict[str, Any]]:
    """Running ones, then those that came furthest."""
    sign = 1.0 if values["mode"] == "min" else -1.0

    def key(trial: dict[str, Any]) -> tuple[bool, int, float, str]:
        value = trial["value"]
        return (trial["state"] != "running", -trial["step"], 0.0 if value is None else sign * value, trial["trial"])

    return sorted(values["trials"], key=key)[: max(1, most)]


def _amount(value: float | None) -> str:
    return "?" if value is None else str(value) if isinstance(value, int) else f"{value:.4g}"


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
