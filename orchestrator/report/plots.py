"""The figures of a run report, as inline SVG; matplotlib's object interface only, so no display and no global state."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.report.values import Day, LadderRung, Span, StepPoint

_INK, _ACCENT, _SOFT = "#1f2933", "#0b7285", "#adb5bd"
_KINDS = {"useful": "#0b7285", "stall": "#f08c00", "lost": "#c92a2a", "other": "#adb5bd"}


def training_svg(steps: Sequence[StepPoint]) -> str:
    """Loss, throughput and world size over steps, one above the other on a shared axis."""
    figure = Figure(figsize=(9, 6.2), layout="constrained")
    loss, speed, size = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2, 1.4])
    x = [point.step for point in steps]
    loss.plot(x, [point.loss / math.log(2) for point in steps], color=_ACCENT, linewidth=1.2)
    loss.set_ylabel("loss (bits/byte)")
    speed.plot(x, [point.tokens_per_s for point in steps], color=_INK, linewidth=0.9)
    speed.set_ylabel("tokens/s")
    speed.set_ylim(bottom=0)
    speed.yaxis.set_major_formatter("{x:,.0f}")
    size.step(x, [point.world_size for point in steps], where="post", color=_ACCENT)
    size.set_ylabel("workers")
    size.set_ylim(0, max(point.world_size for point in steps) + 1)
    size.yaxis.get_major_locator().set_params(integer=True)
    size.set_xlabel("optimizer step")
    for axes in (loss, speed, size):
        _plain(axes)
    return _svg(figure)


def timeline_svg(spans: Sequence[Span]) -> str:
    """Lanes of coloured bars over wall time: what each part of the run was doing when."""
    lanes = list(dict.fromkeys(span.lane for span in spans))
    figure = Figure(figsize=(9, 0.9 + 0.45 * len(lanes)), layout="constrained")
    axes = figure.subplots()
    for span in spans:
        width = max(span.end_s - span.start_s, 0.0)
        y = len(lanes) - 1 - lanes.index(span.lane)
        axes.barh(y, width, left=span.start_s, height=0.62, color=_KINDS[span.kind], edgecolor="white", linewidth=0.4)
    _name_wide_bars(axes, spans, lanes)
    axes.set_yticks(range(len(lanes)), list(reversed(lanes)))
    axes.set_xlabel("seconds since the start")
    for kind in dict.fromkeys(span.kind for span in spans):
        axes.barh(0, 0, color=_KINDS[kind], label=kind)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.02 + 0.5 / max(len(lanes), 1)), ncols=4, frameon=False)
    _plain(axes)
    return _svg(figure)


def ladder_svg(rungs: Sequence[LadderRung]) -> str:
    """Bits per byte of known compressors and of this model, best at the top."""
    ordered = sorted(rungs, key=lambda rung: -rung.bits_per_byte)
    figure = Figure(figsize=(9, 0.7 + 0.36 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    colours = [_ACCENT if rung.ours else _SOFT for rung in ordered]
    bars = axes.barh([rung.name for rung in ordered], [rung.bits_per_byte for rung in ordered], color=colours)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set_xlabel("bits per byte of held-out source text (lower is better)")
    axes.margins(x=0.1)
    _plain(axes)
    return _svg(figure)


def day_svg(day: Day) -> str:
    """Who holds the devices, how many workers the job has, and how long customers waited, by the hour of the day."""
    figure = Figure(figsize=(9, 6.2), layout="constrained")
    devices, size, waits = figure.subplots(3, 1, sharex=True, height_ratios=[3, 1.6, 2])
    x = [_hour(day, line.at_s) for line in day.lines]
    serving = [line.serving for line in day.lines]
    back = [line.serving + line.returning for line in day.lines]
    devices.fill_between(x, serving, step="post", color=_ACCENT, alpha=0.55, label="serves")
    devices.fill_between(x, serving, back, step="post", color=_KINDS["stall"], alpha=0.6, label="comes back")
    devices.fill_between(x, back, day.replicas, step="post", color=_SOFT, alpha=0.7, label="lent to training")
    devices.plot(x, [line.demand_replicas for line in day.lines], color=_INK, linewidth=1.4, label="customers need")
    devices.set_ylabel("replicas")
    devices.set_ylim(0, day.replicas + 0.8)
    devices.set_yticks(range(day.replicas + 1))
    devices.legend(loc="upper center", ncols=4, frameon=False, fontsize=8)
    size.step(x, [line.spot_nodes for line in day.lines], where="post", color=_SOFT, label="spot nodes")
    size.step(x, [line.workers for line in day.lines], where="post", color=_ACCENT, label="the job's workers")
    size.set_ylim(0, max(max(line.workers, line.spot_nodes) for line in day.lines) + 1.5)
    size.yaxis.get_major_locator().set_params(integer=True)
    size.set_ylabel("number")
    size.legend(loc="upper center", ncols=2, frameon=False, fontsize=8)
    _draw_waits(waits, day)
    waits.set_xlim(day.begin_h, day.begin_h + day.hours)
    waits.set_xlabel("hour of the day")
    waits.xaxis.set_major_formatter(lambda hour, _: f"{int(hour) % 24:02d}:00")
    for axes in (devices, size, waits):
        _plain(axes)
    return _svg(figure)


def _draw_waits(waits: Axes, day: Day) -> None:
    late = [bool(one.problem) or one.waited_s > day.promised_s for one in day.requests]
    for is_late, colour, name in ((False, _INK, "in time"), (True, _KINDS["lost"], "late or refused")):
        chosen = [one for one, each in zip(day.requests, late, strict=True) if each is is_late]
        if chosen:
            places = [_hour(day, one.at_s) for one in chosen], [one.waited_s for one in chosen]
            waits.scatter(*places, 6, colour, label=name)
    waits.axhline(day.promised_s, color=_KINDS["stall"], linewidth=1, linestyle="--", label="promised")
    waits.set_ylabel("answer (s)")
    waits.set_ylim(0, 1.35 * max([day.promised_s, *(one.waited_s for one in day.requests)]))
    waits.legend(loc="upper center", ncols=3, frameon=False, fontsize=8)


def _hour(day: Day, at_s: float) -> float:
    return day.begin_h + at_s / day.seconds * day.hours


def _name_wide_bars(axes: Axes, spans: Sequence[Span], lanes: Sequence[str]) -> None:
    whole = max(span.end_s for span in spans) - min(span.start_s for span in spans)
    for span in spans:
        width = span.end_s - span.start_s
        # About 90 characters span the axis: a label goes onto its bar only where it fits.
        if width > whole * (len(span.label) + 2) / 90:
            y = len(lanes) - 1 - lanes.index(span.lane)
            axes.text(span.start_s + width / 2, y, span.label, ha="center", va="center", fontsize=8, color="white")


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both", alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    # No date and fixed ids: the same values give the same page.
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
