"""The night in one picture: demand, what serves, and what is lent, day by day, for each recorded endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tests.benchmarks.night_world import DAY, Counts, Played, Setup

_INK, _ACCENT, _SOFT, _WARM = "#1f2933", "#0b7285", "#ced4da", "#f08c00"
_EVERY = 40  # slots: one point each 20 minutes keeps the file small


def draw(cases: Sequence[tuple[Setup, Played, Played]], target: Path) -> None:
    """One panel an endpoint; the band between what serves and all devices is lent or on its way back."""
    figure = Figure(figsize=(10, 3.1 * len(cases)), layout="constrained")
    for axes, (setup, ours, best) in zip(np.atleast_1d(figure.subplots(len(cases), 1)), cases, strict=True):
        days = np.arange(len(setup.demand))[::_EVERY] / DAY
        serving = _least(ours.serving)
        axes.fill_between(days, serving, setup.devices, color=_SOFT, step="post", label="lent, or on its way back")
        axes.step(days, serving, where="post", color=_ACCENT, linewidth=1.1, label="serving (Tideline)")
        axes.step(days, _least(best.serving), where="post", color=_WARM, linewidth=0.7, label="serving (oracle)")
        axes.plot(
            days, _most(setup.demand / setup.capacity_rps), color=_INK, linewidth=0.9, label="demand, in replicas"
        )
        axes.set_title(f"{setup.name}: {setup.devices} devices", loc="left", fontsize=10)
        axes.set_ylabel("devices")
        axes.set_xlim(0, days[-1])
        axes.set_ylim(0, setup.devices)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("days since the first local midnight")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)


def _blocks(values: np.ndarray) -> np.ndarray:
    padded = np.concatenate([values, np.repeat(values[-1:], -len(values) % _EVERY)])
    return padded.reshape(-1, _EVERY)


def _least(values: Counts) -> np.ndarray:
    return _blocks(values).min(axis=1)


def _most(values: np.ndarray) -> np.ndarray:
    return _blocks(values).max(axis=1)
