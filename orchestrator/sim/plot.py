"""Draws a simulated run: capacity and workers, on-demand, progress against the deadline, stalls, and the bill.

A `.png` is the picture alone; an `.html` is one self-contained page with the picture as SVG and the figures beside it.
matplotlib's object interface only, so no display and no global state. Refuses to know policies and physics.
"""

from __future__ import annotations

import html
import io
import math
import os
import secrets
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter

from orchestrator.sim.engine import Run
from orchestrator.sim.result import Result
from orchestrator.sim.world import CARBON_UNITS_PER_KG, COST_UNITS_PER_USD, US_PER_HOUR
from orchestrator.spec.errors import ExitCode, UserError

SUFFIXES = (".png", ".html")
_OFFERED, _SPOT, _ON_DEMAND, _STALL, _LOST, _INK = "#ced4da", "#0b7285", "#f08c00", "#c92a2a", "#862e9c", "#1f2933"
_CARBON = "#5c7c2f"
_AHEAD, _BEHIND, _STOOD, _GRID = "#c5e4ea", "#ffd8a8", "#f5a9a9", "#e9ecef"
HOURS_A_DAY, MOST_MARKS = 24, 12
MAX_POINTS = 4000  # a year of ten-minute ticks is drawn by every 13th
MAX_BARS = 120  # of stalls: single ticks of a run of days would be hairlines


def check_target(path: Path) -> None:
    """Refuse a picture that could not be written before anything is simulated. Raises: UserError (exit 2)."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"--plot {path}: '{path.suffix}' is no form of picture; the name must end in .png or .html",
            code=ExitCode.USAGE,
        )
    if not path.absolute().parent.is_dir():
        raise UserError(f"--plot {path}: there is no folder {path.absolute().parent}", code=ExitCode.USAGE)


def draw_run(run: Run, result: Result, path: Path) -> None:
    """Write the picture of a run; an earlier file of that name is replaced in one move.

    Raises: UserError (exit 3) for a run without ticks, as `bound` is, or when the file cannot be written.
    """
    if not run.ticks:
        raise UserError(f"policy '{run.policy}' has no course to draw; it is a figure, not a run", where="--plot")
    figure = _figure(run, result)
    picture = io.BytesIO()
    if path.suffix.lower() == ".png":
        figure.suptitle(_heading(result), fontsize=11)
        figure.savefig(picture, format="png", dpi=110)
        data = picture.getvalue()
    else:
        figure.savefig(picture, format="svg", metadata={"Date": None})
        data = _page(picture.getvalue().decode(), result).encode()
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"cannot be written: {error.strerror}", where=str(path)) from None


def _heading(result: Result) -> str:
    saved = "" if result.savings is None else f", {result.savings:.1%} saved"
    kept = "kept" if result.deadline_met else "missed"
    return f"{result.scenario}: {result.policy}{saved}, deadline {kept}"


def _figure(run: Run, result: Result) -> Figure:
    figure = Figure(figsize=(11, 9), layout="constrained")
    held, progress, stalls, bill = figure.subplots(4, 1, sharex=True, height_ratios=[3, 2, 1.3, 1.6])
    step = -(-len(run.ticks) // MAX_POINTS)
    ticks, tick_h = run.ticks[::step], run.world.tick_us / US_PER_HOUR
    hours = np.arange(len(ticks)) * tick_h * step
    _draw_held(held, run, hours, step)
    done = _draw_progress(progress, run, hours, step)
    lost = _draw_stalls(stalls, run)
    carbon = _draw_bill(bill, run, result, hours, step)
    bill.set_xlabel(f"hours since {run.world.start.isoformat(timespec='minutes')}")
    for axes in (held, progress, stalls, bill):
        axes.spines[["top", "right"]].set_visible(False)
        if axes is not progress:
            axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
    for axes, others in ((held, ()), (progress, (done,)), (stalls, (lost,)), (bill, carbon)):
        _explain(axes, *others)
    days = len(run.ticks) * tick_h / HOURS_A_DAY
    if days >= 2:
        bill.xaxis.set_major_locator(MultipleLocator(HOURS_A_DAY * math.ceil(days / MOST_MARKS)))
    figure.align_ylabels()
    return figure


def _draw_held(axes: Axes, run: Run, hours: np.ndarray, step: int) -> None:
    ticks = run.ticks[::step]
    spot, on_demand = np.array([t.spot for t in ticks]), np.array([t.on_demand for t in ticks])
    offered = [t.available for t in ticks]
    axes.fill_between(hours, offered, step="post", color=_OFFERED, label="spot offered", linewidth=0)
    axes.fill_between(hours, spot, step="post", color=_SPOT, alpha=0.85, label="spot held", linewidth=0)
    total = spot + on_demand
    axes.fill_between(hours, spot, total, step="post", color=_ON_DEMAND, label="on-demand held", linewidth=0)
    for workers, name in ((run.world.min_workers, "min"), (run.world.max_workers, "max")):
        axes.axhline(workers, color=_INK, linewidth=0.7, linestyle=":")
        _beside(axes, workers, f"{name} {workers}")
    axes.set_ylabel("devices")


def _draw_progress(axes: Axes, run: Run, hours: np.ndarray, step: int) -> Axes:
    """How far the work is ahead of a steady pace to the deadline, or behind it; beside the curve itself such a lead
    would hardly be seen. Returns the second axes, of the part that is done."""
    world, tick_h = run.world, run.world.tick_us / US_PER_HOUR
    work_h, deadline_h = world.work_us / US_PER_HOUR, world.deadline_us / US_PER_HOUR
    done = np.array([t.done_us / US_PER_HOUR for t in run.ticks[::step]])
    ahead = done - np.minimum((hours + tick_h) / deadline_h, 1.0) * work_h
    for where, colour, name in ((ahead >= 0, _AHEAD, "ahead of a steady pace"), (ahead < 0, _BEHIND, "behind it")):
        if where.any():
            axes.fill_between(
                hours + tick_h, ahead, where=where, interpolate=True, color=colour, label=name, linewidth=0
            )
    axes.axhline(0.0, color=_INK, linewidth=0.8, linestyle="--")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.axvline(deadline_h, color=_STALL, linewidth=1.0, label="deadline")
    axes.set_ylabel("worker-hours")
    part = axes.twinx()
    part.plot(hours + tick_h, done / work_h, color=_SPOT, label="work done")
    if run.finished_us is not None:
        part.plot([run.finished_us / US_PER_HOUR], [1.0], "o", color=_SPOT, markersize=5, label="finished")
    part.set_ylim(0, 1.05)
    part.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    part.set_ylabel("of the work", color=_SPOT)
    part.spines["top"].set_visible(False)
    return part


def _explain(axes: Axes, *others: Axes) -> None:
    """One line above a panel that names what is drawn in it, on either of its axes."""
    found = [one.get_legend_handles_labels() for one in (axes, *others)]
    handles, names = [one for each in found for one in each[0]], [one for each in found for one in each[1]]
    axes.legend(
        handles, names, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(names), frameon=False, fontsize=9,
        borderpad=0.2, borderaxespad=0.2, columnspacing=1.4, handlelength=1.6,
    )  # fmt: skip


def _beside(axes: Axes, value: float, words: str) -> None:
    """A value's name at the right end of a panel."""
    at = ("axes fraction", "data")
    axes.annotate(words, (1.0, value), (4, 0), xycoords=at, textcoords="offset points", fontsize=8, va="center")


def _draw_stalls(axes: Axes, run: Run) -> Axes:
    """Share of the time in which the whole job stood, and devices that vanished, summed over bars of equal length.

    Returns the second axes, of devices.
    """
    each = -(-len(run.ticks) // MAX_BARS)
    starts = np.arange(0, len(run.ticks), each)
    tick_h = run.world.tick_us / US_PER_HOUR
    bars = [run.ticks[first : first + each] for first in starts]
    stood = [sum(t.stalled_us for t in bar) / (len(bar) * run.world.tick_us) for bar in bars]
    gone = np.array([sum(t.preempted for t in bar) for bar in bars])
    middles = (starts + each / 2) * tick_h
    axes.bar(middles, stood, width=each * tick_h * 0.9, color=_STOOD, label="time stalled", linewidth=0)
    axes.set_ylabel("share of time")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    lost = axes.twinx()
    lost.plot(middles[gone > 0], gone[gone > 0], "o", color=_LOST, markersize=3, label="devices lost")
    lost.set_ylabel("devices", color=_LOST)
    lost.set_ylim(bottom=0)
    lost.spines["top"].set_visible(False)
    return lost


def _draw_bill(bill: Axes, run: Run, result: Result, hours: np.ndarray, step: int) -> tuple[Axes, ...]:
    """What was paid, against on-demand alone; returns the second axes where there is one, of carbon."""
    ticks, hours = run.ticks[::step], hours + run.world.tick_us / US_PER_HOUR
    paid = [t.cost / COST_UNITS_PER_USD for t in ticks]
    bill.plot(hours, paid, color=_INK, label="paid")
    if result.on_demand_cost_usd is not None:
        bill.axhline(result.on_demand_cost_usd, color=_ON_DEMAND, linestyle="--", label="on-demand alone")
    bill.set_ylabel("US dollars")
    bill.yaxis.set_major_formatter("{x:,.0f}")
    if run.world.carbon is not None:
        return (_draw_carbon(bill, hours, [t.carbon / CARBON_UNITS_PER_KG for t in ticks]),)
    for value in (paid[-1], result.on_demand_cost_usd):
        if value is not None:
            _beside(bill, value, f"{value:,.0f}")
    return ()


def _draw_carbon(bill: Axes, hours: np.ndarray, kilograms: list[float]) -> Axes:
    carbon = bill.twinx()
    carbon.plot(hours, kilograms, color=_CARBON, linewidth=1.0, label="CO2 emitted")
    carbon.set_ylabel("kg CO2", color=_CARBON)
    carbon.set_ylim(bottom=0)
    carbon.spines["top"].set_visible(False)
    return carbon


def _page(svg: str, result: Result) -> str:
    rows = "".join(
        f"<div><dt>{html.escape(key)}</dt><dd>{html.escape(_shown(value))}</dd></div>"
        for key, value in result.as_dict().items()
    )
    title = html.escape(_heading(result))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<meta name='viewport' content='width=device-width'>"
        "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:68rem;margin:2rem auto;padding:0 1rem;color:#1f2933}"
        "h1{font-size:1.5rem}svg{width:100%;height:auto}dt{color:#52606d;font-size:.85rem}dd{margin:0;font-weight:600}"
        "dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(12rem,1fr));gap:.8rem 1.5rem}</style>"
        f"<h1>{title}</h1><dl>{rows}</dl>{svg[svg.index('<svg') :]}</html>\n"
    )


def _shown(value: object) -> str:
    """A figure for people: thousands apart, no more digits than say something."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.4f}"
        case _:
            return str(value)
