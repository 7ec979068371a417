"""What a run has learned about its pools: how long each level has been offered, and how often levels fall and return.

A pool's memory is a staircase: (level, tick since which at least that level was offered), levels rising. The count of
now is its last step; a count that falls below a step ends it. Falls are compared with what the prior expected of the
very same steps, so a pool's `pace` says how many times faster than the prior it falls, whatever was held of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.policy.capacity.hazard import hazards, standing

HALF_LIFE_S = 2 * 86_400.0  # memory of a pool's pace: capacity changes its habits within days
POOL_WEIGHT = 1.0  # expected falls worth of belief that a pool is like the others
ALL_WEIGHT = 20.0  # expected falls worth of belief in the prior itself
RETURN_WEIGHT = 2.0  # probes worth of belief that a dip is as likely to return as to stay
DIP_MIN_AGE = 2  # a level seen for one tick only tells nothing about dips of held devices

Step = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PoolMemory:
    """One pool's staircase and its counts of falls, decayed by age. `dipped`: level that fell at the last probe."""

    steps: tuple[Step, ...] = ()
    most: int = 1
    falls: float = 0.0
    expected: float = 0.0
    returns: float = 0.0
    dips: float = 0.0
    dipped: int = 0

    @property
    def count(self) -> int:
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
    falls, expected, dipped = _judge_steps(memory, count, tick, tick_s)
    decay = 0.5 ** (tick_s / HALF_LIFE_S)
    steps, since = list(memory.steps), tick
    while steps and steps[-1][0] >= count:
        since = steps.pop()[1]
    steps.append((count, since))
    was_dip = memory.dipped > 0
    return replace(
        memory,
        steps=tuple(steps),
        most=max(memory.most, count),
        falls=memory.falls * decay + falls,
        expected=memory.expected * decay + expected,
        returns=memory.returns + (was_dip and count >= memory.dipped),
        dips=memory.dips + was_dip,
        dipped=dipped,
    )


def _judge_steps(memory: PoolMemory, count: int, tick: int, tick_s: float) -> tuple[float, float, int]:
    """Average falls and expected falls over the steps, and the level of a dip that begins here (0: none)."""
    table = hazards(tick_s)
    levels = [step for step in memory.steps if step[0] > 0]
    if not levels:
        return 0.0, 0.0, 0
    falls, expected, dipped = 0, 0.0, 0
    for level, since in levels:
        column = table[standing(level, memory.count, memory.most)]
        expected += column[min(tick - since, len(column)) - 1]
        if count < level:
            falls += 1
            if tick - since >= DIP_MIN_AGE and not dipped and not memory.dipped:
                dipped = level
    return falls / len(levels), expected / len(levels), dipped


def paces(memories: Sequence[PoolMemory]) -> list[float]:
    """How many times faster than the prior each pool falls: its own record, shrunk towards that of all pools."""
    everyone = (sum(m.falls for m in memories) + ALL_WEIGHT) / (sum(m.expected for m in memories) + ALL_WEIGHT)
    return [everyone * (m.falls + POOL_WEIGHT) / (m.expected * everyone + POOL_WEIGHT) for m in memories]
