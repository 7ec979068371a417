"""The figures of a study's page, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from orchestrator.report.plots import _ACCENT, _INK, _SOFT, _plain, _svg
from orchestrator.report.study_values import KeyShare, StudyReport, TrialLine

_BEST = "#c92a2a"
# One hue from pale to dark: rank has a direction, and pale yellow on white could not be seen.
_RANKS = LinearSegmentedColormap.from_list("ranks", ["#d5dde3", "#74b3c1", _ACCENT, "#053b47"])
_QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
_NOT_DRAWN = -0.12


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
    axes.vlines(range(len(keys) + 1), 0.0, 1.0, color=_SOFT, linewidth=1.0)
    for number in sorted(range(len(trials)), key=lambda n: shades[n]):
        heights = [places[key][0][number] for key in (*keys, report.metric)]
        best = trials[number].is_best
        colour = _BEST if best else _RANKS(shades[number])
        axes.plot(range(len(heights)), heights, color=colour, linewidth=2.4 if best else 1.1, alpha=0.9)
    for at, key in enumerate((*keys, report.metric)):
        for height, label in places[key][1]:
            paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
            axes.annotate(
                label, (at, height), fontsize=7, xytext=(4, 0), textcoords="offset points", va="center", bbox=paper
            )
    axes.set_xticks(range(len(keys) + 1), [_in_two_lines(key) for key in (*keys, report.metric)], fontsize=8)
    axes.set_xlim(-0.15, len(keys) + 0.12 * len(keys))
    axes.set_yticks([])
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    return _svg(figure)


def curves_svg(report: StudyReport) -> str:
    """The metric over steps, one line a trial."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    trials = [trial for trial in report.trials if trial.curve]
    for trial in sorted(trials, key=lambda one: (one.is_best, one.is_finished)):
        colour, _ = _kind(trial)
        axes.plot(
            [step for step, _ in trial.curve],
            [value for _, value in trial.curve],
            color=colour,
            linewidth=2.0 if trial.is_best else 1.0,
            marker="o",
            markersize=4 if trial.is_best else 3,
        )
    for colour, name in dict.fromkeys(_kind(trial) for trial in sorted(trials, key=lambda one: not one.is_best)):
        axes.plot([], [], color=colour, marker="o", markersize=3, label=name)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(report.metric)
    _mark_reports(axes, trials)
    _limit_to_plausible(axes, trials, report.mode)
    axes.legend(frameon=False, fontsize=8)
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
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.spines["bottom"].set_bounds(0, 1)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"share of the variance of the results' ranks, {basis}")
    _plain(axes)
    axes.grid(visible=False, axis="y")
    return _svg(figure)


def spending_svg(report: StudyReport) -> str:
    """The best result so far over what had been spent by then."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    axes.step([x for x, _ in report.spending], [y for _, y in report.spending], where="post", color=_ACCENT)
    axes.set_xlim(left=0)
    axes.set_xlabel("device-hours")
    axes.set_ylabel(f"best {report.metric}")
    _plain(axes)
    return _svg(figure)


def _places(values: Sequence[object], is_log: bool) -> tuple[list[float], list[tuple[float, str]]]:
    """Heights 0..1 of values on their axis, and the axis' labels; what was not drawn lies below it."""
    below = [(_NOT_DRAWN, "not drawn")] if None in values else []
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if numbers and len(numbers) == sum(value is not None for value in values):
        low, high = min(numbers), max(numbers)
        log = is_log and low > 0
        scale = (lambda x: math.log(x)) if log else (lambda x: x)
        width = scale(high) - scale(low) or 1.0
        heights = [
            _NOT_DRAWN if not isinstance(v, int | float) else (scale(float(v)) - scale(low)) / width for v in values
        ]
        few = sorted(set(numbers))
        if len(few) <= len(_QUARTERS):  # a choice: its own values
            return heights, [*below, *(((scale(x) - scale(low)) / width, f"{x:.3g}") for x in few)]
        at = [low * (high / low) ** part if log else low + part * (high - low) for part in _QUARTERS]
        return heights, [*below, *((part, f"{x:.3g}") for part, x in zip(_QUARTERS, at, strict=True))]
    names = sorted({str(value) for value in values if value is not None})
    spread = max(1, len(names) - 1)
    heights = [_NOT_DRAWN if value is None else names.index(str(value)) / spread for value in values]
    return heights, [*below, *((number / spread, name) for number, name in enumerate(names))]


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
        labels[-1 if mode == "min" else 0] = (1.0 if mode == "min" else 0.0, f"{sign * most:.3g} or worse")
    return heights, labels


def _shades(results: Sequence[float], mode: str) -> list[float]:
    """1 for the best, 0 for the worst, by rank."""
    order = sorted(range(len(results)), key=lambda n: results[n], reverse=mode == "min")
    top = max(1, len(results) - 1)
    shades = [0.0] * len(results)
    for rank, number in enumerate(order):
        shades[number] = rank / top
    return shades


def _kind(trial: TrialLine) -> tuple[str, str]:
    """Colour and name of how a trial ended."""
    if trial.is_best:
        return _BEST, f"{trial.trial}, the best"
    return (_ACCENT, "ran to their end") if trial.is_finished else (_SOFT, "stopped early, failed or not done yet")


def _mark_reports(axes: Axes, trials: Sequence[TrialLine]) -> None:
    """Rungs are multiples of each other: on a plain axis all but the last two are one."""
    steps = sorted({step for trial in trials for step, _ in trial.curve})
    if len(steps) > 1 and steps[0] > 0 and steps[-1] >= 6 * steps[0]:
        axes.set_xscale("log")
    if len(steps) <= 8:
        axes.set_xticks(steps, [f"{step:,}" for step in steps])
        axes.xaxis.set_minor_locator(NullLocator())


def _limit_to_plausible(axes: Axes, trials: Sequence[TrialLine], mode: str) -> None:
    """One diverged trial must not flatten all the others; it is said that there is more."""
    sign = 1.0 if mode == "min" else -1.0
    values = sorted(sign * value for trial in trials for _, value in trial.curve)
    middle = values[len(values) // 2]
    plain = [value for value in values if value <= middle + 4 * (middle - values[0])]
    if len(values) < 8 or len(plain) == len(values) or plain[-1] == plain[0]:
        return
    edge = 0.05 * (plain[-1] - plain[0])
    axes.set_ylim(*sorted((sign * (plain[0] - edge), sign * (plain[-1] + edge))))
    said = f"{len(values) - len(plain)} of {len(values)} results are worse than what is drawn"
    axes.annotate(
        said, (0.5, 0.98 if mode == "min" else 0.02), xycoords="axes fraction", ha="center",
        va="top" if mode == "min" else "bottom", fontsize=8, color=_INK,
    )  # fmt: skip
