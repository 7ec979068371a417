"""Which ranks are slower than the others, by what each needs for a pass of its own, without waiting for anybody.

All ranks make a step in the same time, the slowest one's; what tells them apart is how long a rank computes by itself.
Pure: rounds of measurements in, names and the next state out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_low


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What one rank needed for a pass of its own in a round, in seconds."""

    rank: int
    node: str
    pass_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StragglerRules:
    """A rank is named once it was `slow` times slower than the median in so many `rounds` in a row, and is no more
    once it was below `fair` times in as many. Between the two, nothing changes."""

    slow: float = 1.5
    fair: float = 1.2
    rounds: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class StragglerState:
    """`slow`: ranks that were named. `streaks`: rounds in a row that spoke for a change, by rank."""

    slow: frozenset[int] = frozenset()
    streaks: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A rank has become a straggler, or (`over`) is one no more. `ratio`: its last pass to the median's."""

    rank: int
    node: str
    ratio: float
    over: bool


def name_stragglers(
    paces: Sequence[Pace], state: StragglerState, rules: StragglerRules
) -> tuple[tuple[Named, ...], StragglerState]:
    """What one more round changes. Ranks that were not measured in it stay what they are.

    The lower of two medians is taken: of two ranks, the slower one is named and not the average of both.
    """
    measured = sorted((pace for pace in paces if pace.pass_s > 0), key=lambda pace: pace.rank)
    if len(measured) < 2:
        return (), state
    usual_s = median_low(pace.pass_s for pace in measured)
    named: list[Named] = []
    streaks, slow = dict(state.streaks), set(state.slow)
    for pace in measured:
        ratio, is_slow = pace.pass_s / usual_s, pace.rank in slow
        speaks_for_change = ratio < rules.fair if is_slow else ratio >= rules.slow
        before = streaks.pop(pace.rank, 0)
        streak = before + 1 if speaks_for_change else 0
        if streak >= rules.rounds:
            named.append(Named(rank=pace.rank, node=pace.node, ratio=ratio, over=is_slow))
            slow ^= {pace.rank}
        elif streak:
            streaks[pace.rank] = streak
    return tuple(named), StragglerState(slow=frozenset(slow), streaks=streaks)
