"""What a study's page is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialLine:
    """One trial: its drawn values, its measured curve as (step, value), and whether it ran to its end."""

    trial: str
    config: Mapping[str, object]
    curve: tuple[tuple[int, float], ...]
    is_finished: bool
    is_best: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyShare:
    """How much of the results' variance a key explains; `note` says when that may be chance."""

    key: str
    share: float
    note: str
    is_significant: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyReport:
    """Everything the page shows; empty parts are left out of it. `spending` is (device-hours, best so far)."""

    title: str
    metric: str
    mode: str
    summary: tuple[tuple[str, str], ...]
    log_keys: frozenset[str] = frozenset()
    trials: tuple[TrialLine, ...] = ()
    shares: tuple[KeyShare, ...] = ()
    shares_basis: str = ""
    spending: tuple[tuple[float, float], ...] = ()
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
