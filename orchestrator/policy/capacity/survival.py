"""What a run has learned about its pools: how long each level has been offered, and how often levels fall and return.

A pool's memory is a staircase: (level, tick since which at least that level was offered), levels rising. The count of
now is its last step; a count that falls below a step ends it. Falls are compared with what the prior expected of the
very same steps, so a pool's `pace` says how many times faster than the prior it falls, whatever was held of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.policy.capacity.hazard import hazards, standing

HALF_LIFE_S = 2 * 86_400.0  # memory of a pool's pace: capacity changes its habits within days
POOL_WEIGHT = 1.0  # expected falls worth of belief that a pool is like the others
ALL_WEIGHT = 20.0  # expected falls worth of belief in the prior itself
RETURN_WEIGHT = 2.0  # probes worth of belief that a dip is as likely to return as to stay
DIP_MIN_AGE = 2  # a level seen for one tick only tells nothing about dips of held devices

Step = tuple[int, int]


class PoolMemory(NamedTuple):
    """One pool's staircase and its counts of falls, decayed by age. `dipped`: level that fell at the last probe.

    `risks`: the prior's hazard of every step over the tick that begins, in the order of the steps.
    """

    steps: tuple[Step, ...] = ()
    risks: tuple[float, ...] = ()
    most: int = 1
    falls: float = 0.0
    expected: float = 0.0
    returns: float = 0.0
    dips: float = 0.0
    dipped: int = 0

    @property
    def offered(self) -> int:
        """Devices offered at the last probe."""
        return self.steps[-1][0] if self.steps else 0

    @property
    def return_chance(self) -> float:
        """Chance that a level which just fell is back at the next probe."""
        return (self.returns + RETURN_WEIGHT) / (self.dips + 2 * RETURN_WEIGHT)

    def since(self, level: int) -> int:
        """The tick since which at least `level` has been offered; `level` must not be above the count."""
        return next(tick for offered, tick in self.steps if offered >= level)


def observe(memory: PoolMemory, count: int, tick: int, tick_s: float) -> PoolMemory:
    """Take in one probe of a pool."""
    falls, expected, dipped = _judge_steps(memory, count, tick)
    decay = 0.5 ** (tick_s / HALF_LIFE_S)
    steps, since = memory.steps, tick
    kept = len(steps)
    while kept and steps[kept - 1][0] >= count:
        kept -= 1
        since = steps[kept][1]
    steps = (*steps[:kept], (count, since))
    most = max(memory.most, count)
    table = hazards(tick_s)
    was_dip = memory.dipped > 0
    return PoolMemory(
        steps=steps,
        risks=tuple([risk(table, level, count, most, tick + 1 - since) for level, since in steps]),
        most=most,
        falls=memory.falls * decay + falls,
        expected=memory.expected * decay + expected,
        returns=memory.returns + (was_dip and count >= memory.dipped),
        dips=memory.dips + was_dip,
        dipped=dipped,
    )


def risk(table: Sequence[Sequence[float]], level: int, count: int, most: int, age: int) -> float:
    """The prior's hazard over one tick of a level that has been offered for `age` ticks; no level has none."""
    if not level:
        return 0.0
    column = table[standing(level, count, most)]
    return column[min(age, len(column)) - 1]


def _judge_steps(memory: PoolMemory, count: int, tick: int) -> tuple[float, float, int]:
    """Average falls and expected falls over the steps, and the level of a dip that begins here (0: none)."""
    steps = memory.steps
    num_levels = len(steps) - (bool(steps) and not steps[0][0])
    if not num_levels:
        return 0.0, 0.0, 0
    expected = sum(memory.risks) / num_levels
    if count >= steps[-1][0]:
        return 0.0, expected, 0
    falls, dipped = 0, 0
    for level, since in steps:
        if count < level:
            falls += 1
            if tick - since >= DIP_MIN_AGE and not dipped and not memory.dipped:
                dipped = level
    return falls / num_levels, expected, dipped


def paces(memories: Sequence[PoolMemory]) -> list[float]:
    """How many times faster than the prior each pool falls: its own record, shrunk towards that of all pools."""
    everyone = (sum(m.falls for m in memories) + ALL_WEIGHT) / (sum(m.expected for m in memories) + ALL_WEIGHT)
    return [everyone * (m.falls + POOL_WEIGHT) / (m.expected * everyone + POOL_WEIGHT) for m in memories]
