"""The figures of a study's page, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.report.plots import _ACCENT, _SOFT, _plain, _svg
from orchestrator.report.study_values import KeyShare, StudyReport, TrialLine

_MAP = "viridis"


def parallel_svg(report: StudyReport) -> str:
    """One axis a key and one for the result, one line a trial; the better, the darker."""
    trials = [trial for trial in report.trials if trial.curve]
    keys = list(dict.fromkeys(key for trial in trials for key in trial.config))
    places = {key: _places([trial.config.get(key) for trial in trials], key in report.log_keys) for key in keys}
    results = [trial.curve[-1][1] for trial in trials]
    places[report.metric] = _result_places(results, report.mode)
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    shades = _shades(results, report.mode)
    for number in sorted(range(len(trials)), key=lambda n: shades[n]):
        heights = [places[key][0][number] for key in (*keys, report.metric)]
        best = trials[number].is_best
        colour = "#c92a2a" if best else colormaps[_MAP](1.0 - shades[number])
        axes.plot(range(len(heights)), heights, color=colour, linewidth=2.2 if best else 1.0, alpha=0.9)
    for at, key in enumerate((*keys, report.metric)):
        for height, label in places[key][1]:
            paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
            axes.annotate(
                label, (at, height), fontsize=7, xytext=(4, 0), textcoords="offset points", va="center", bbox=paper
            )
    axes.set_xticks(range(len(keys) + 1), [_in_two_lines(key) for key in (*keys, report.metric)], fontsize=8)
    axes.set_xlim(-0.15, len(keys) + 0.35)
    axes.set_yticks([])
    axes.grid(axis="x")
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    return _svg(figure)


def curves_svg(report: StudyReport) -> str:
    """The metric over steps, one line a trial."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for trial in sorted(report.trials, key=lambda one: (one.is_best, one.is_finished)):
        if trial.curve:
            axes.plot(
                [step for step, _ in trial.curve],
                [value for _, value in trial.curve],
                color="#c92a2a" if trial.is_best else _ACCENT if trial.is_finished else _SOFT,
                linewidth=2.0 if trial.is_best else 1.0,
                marker="o",
                markersize=3,
                label=f"{trial.trial} (best)" if trial.is_best else None,
            )
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(report.metric)
    _limit_to_plausible(axes, report.trials)
    if any(trial.is_best for trial in report.trials):
        axes.legend(frameon=False)
    _plain(axes)
    return _svg(figure)


def shares_svg(shares: Sequence[KeyShare], basis: str) -> str:
    """Bars of how much each key explains of the results that `basis` names; what chance explains as well is pale."""
    ordered = list(reversed(shares))
    figure = Figure(figsize=(9, 0.8 + 0.4 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    colours = [_ACCENT if one.is_significant else _SOFT for one in ordered]
    bars = axes.barh([one.key for one in ordered], [one.share for one in ordered], color=colours)
    axes.bar_label(bars, labels=[one.note for one in ordered], padding=3, fontsize=8)
    axes.set_xlim(0, 1.4)  # room for the note of a bar that fills its axis
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.set_xlabel(f"share of the variance of the results' ranks, {basis}")
    _plain(axes)
    return _svg(figure)


def spending_svg(report: StudyReport) -> str:
    """The best result so far over what had been spent by then."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    axes.step([x for x, _ in report.spending], [y for _, y in report.spending], where="post", color=_ACCENT)
    axes.set_xlabel("device-hours")
    axes.set_ylabel(f"best {report.metric}")
    _plain(axes)
    return _svg(figure)


def _places(values: Sequence[object], is_log: bool) -> tuple[list[float], list[tuple[float, str]]]:
    """Heights 0..1 of values on their axis, and the axis' labels; what was not drawn lies below it."""
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if numbers and len(numbers) == sum(value is not None for value in values):
        low, high = min(numbers), max(numbers)
        scale = (lambda x: math.log(x)) if is_log and low > 0 else (lambda x: x)
        width = scale(high) - scale(low) or 1.0
        heights = [-0.12 if not isinstance(v, int | float) else (scale(float(v)) - scale(low)) / width for v in values]
        return heights, [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]
    names = sorted({str(value) for value in values if value is not None})
    spread = max(1, len(names) - 1)
    heights = [-0.12 if value is None else names.index(str(value)) / spread for value in values]
    return heights, [(number / spread, name) for number, name in enumerate(names)]


def _in_two_lines(key: str) -> str:
    """Neighbours' names must not run into each other: the part above the last dot goes below."""
    above, dot, name = key.rpartition(".")
    return f"{name}\n({above})" if dot else key


def _result_places(results: Sequence[float], mode: str) -> tuple[list[float], list[tuple[float, str]]]:
    """One diverged trial must not press all the others together: it stands at the axis' end, which says so."""
    sign = 1.0 if mode == "min" else -1.0
    ordered = sorted(sign * value for value in results)
    best, middle = ordered[0], ordered[len(ordered) // 2]
    most = middle + 4 * (middle - best) if middle > best else ordered[-1]
    heights, labels = _places([sign * min(sign * value, most) for value in results], False)
    if ordered[-1] > most:
        labels[1 if mode == "min" else 0] = (1.0 if mode == "min" else 0.0, f"{sign * most:.3g} or worse")
    return heights, labels


def _shades(results: Sequence[float], mode: str) -> list[float]:
    """1 for the best, 0 for the worst, by rank."""
    order = sorted(range(len(results)), key=lambda n: results[n], reverse=mode == "min")
    top = max(1, len(results) - 1)
    shades = [0.0] * len(results)
    for rank, number in enumerate(order):
        shades[number] = rank / top
    return shades


def _limit_to_plausible(axes: Axes, trials: Sequence[TrialLine]) -> None:
    """One diverged trial must not flatten all the others."""
    values = sorted(value for trial in trials for _, value in trial.curve)
    if len(values) >= 8:
        low, middle, high = values[0], values[len(values) // 2], values[-1]
        most = middle + 4 * (middle - low)
        if high > most > middle:
            axes.set_ylim(low - 0.05 * (most - low), most)
