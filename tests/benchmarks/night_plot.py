"""The night in one picture: demand, what serves, and what is lent, day by day, for each recorded endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tests.benchmarks.night_world import DAY, Played, Setup

_INK, _ACCENT, _SOFT = "#1f2933", "#0b7285", "#ced4da"
_EVERY = 20  # slots: the instants of the recording, so that its peaks are in the picture


def draw(cases: Sequence[tuple[Setup, Played]], target: Path) -> None:
    """One panel an endpoint; the band above what serves is lent or on its way back."""
    figure = Figure(figsize=(10, 3.1 * len(cases)), layout="constrained")
    for axes, (setup, ours) in zip(np.atleast_1d(figure.subplots(len(cases), 1)), cases, strict=True):
        days = np.arange(len(setup.demand))[::_EVERY] / DAY
        serving = ours.serving[::_EVERY]
        axes.fill_between(days, serving, setup.devices, color=_SOFT, step="post", label="lent, or on its way back")
        axes.step(days, serving, where="post", color=_ACCENT, linewidth=1.1, label="serving")
        axes.plot(
            days, setup.demand[::_EVERY] / setup.capacity_rps, color=_INK, linewidth=0.9, label="demand, in replicas"
        )
        axes.set_title(f"{setup.name}: {setup.devices} devices", loc="left", fontsize=10)
        axes.set_ylabel("devices")
        axes.set_xlim(0, days[-1])
        axes.set_ylim(0, setup.devices)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("days since the first local midnight")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(target, dpi=72, metadata={"Date": None} if target.suffix == ".svg" else None)
