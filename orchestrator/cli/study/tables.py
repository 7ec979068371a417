"""A study for people: one row a trial, in 80 columns where the configuration allows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from orchestrator.cli.output import make_table

_MOST_NOTES = 3


def study_table(values: dict[str, Any], *, most_rows: int | None = None) -> RenderableType:
    """Trials as they stand, the best ones first where not all fit; above them how far, below what is to be said."""
    trials = values["trials"]
    shown = trials if most_rows is None or len(trials) <= most_rows else _foremost(values, most_rows)
    priced = values["spent"]["usd"] is not None
    metric = values["metric"]
    columns = ("TRIAL", "STATE", "RUNG", "STEP", metric, "DEVICE-H", *(("USD",) if priced else ()), "CONFIG")
    names = short_names([trial["config"] for trial in trials])
    rows = [_row(trial, values, names, priced=priced) for trial in shown]
    table = make_table(columns, rows, right=columns[2:-1])
    parts: list[RenderableType] = [Text(headline(values)), table]
    return Group(*parts, *(Text(note, style="dim") for note in _notes(values, len(shown))))


def headline(values: dict[str, Any]) -> str:
    """One line: how far, how much, how good."""
    used, budget = values["spent"], values["budget"]
    parts = [f"{values['study']}: {values['state']}"]
    parts += [
        f"{_amount(used[unit])} of {_amount(budget[unit])} {name}"
        for unit, name in (("trials", "trials"), ("device_hours", "device-hours"), ("usd", "USD"), ("kwh", "kWh"))
        if budget[unit] is not None
    ]
    if best := values["best"]:
        seeds = len(best["results"])
        value, of = (best["mean"], f", mean of {seeds} seeds") if seeds > 1 else (best["value"], "")
        parts.append(f"best {values['metric']} {value:.4g} ({best['trial']}{of})")
    return ", ".join(parts)


def short_names(configs: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Each key by its last part, where no other key ends in the same."""
    keys = list(dict.fromkeys(key for config in configs for key in config))
    ends = [key.rpartition(".")[2] for key in keys]
    return {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}


def config_text(config: dict[str, Any], names: dict[str, str] | None = None) -> str:
    """Values by key, short."""
    names = names or {}
    return " ".join(f"{names.get(key, key)}={_value(value)}" for key, value in config.items())


def _notes(values: dict[str, Any], num_shown: int) -> list[str]:
    trials = values["trials"]
    failed = [f"{trial['trial']} failed: {trial['detail']}" for trial in trials if trial["state"] == "failed"]
    notes = failed[-_MOST_NOTES:]
    if len(failed) > len(notes):
        notes.append(f"{len(failed) - len(notes)} more failed")
    if num_shown < len(trials):
        notes.append(f"{len(trials) - num_shown} more trials: 'tide study status {values['study']}'")
    return [*notes, *([values["detail"]] if values["detail"] else [])]


def _row(trial: dict[str, Any], values: dict[str, Any], names: dict[str, str], *, priced: bool) -> list[str]:
    best, rungs = values["best"], values["rungs"]
    mark = " *" if best and trial["trial"] == best["trial"] else ""
    return [
        trial["trial"] + mark,
        trial["state"],
        f"{sum(rung <= trial['step'] for rung in rungs)}/{len(rungs)}",
        str(trial["step"]),
        "" if trial["value"] is None else f"{trial['value']:.4f}",
        f"{trial['device_hours']:.4f}",
        *([f"{trial['usd'] or 0.0:.4f}"] if priced else []),
        config_text(trial["config"], names),
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
