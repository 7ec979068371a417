"""What could be held of each pool, and what each choice risks at the next tick.

Only the steps of a pool's staircase are worth considering, and what is held now: any level between two steps is as old
as the upper one and smaller. Under `debounced` a level above the count of now is *warned*: it is lost if the next
probe is low, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.policy.capacity.hazard import hazards
from orchestrator.policy.capacity.survival import PoolMemory, risk
from orchestrator.policy.capacity.view import LossReading, Terms


class Option(NamedTuple):
    """Holding `level` devices of a pool.

    `fall`: chance that the next probe forces a change. `cost_s`: expected seconds of the whole job that this takes.
    `gamble`: chance to lose devices that are warned already. `stay`: share of the level that is there to be used over
    the next ticks, below 1 only for a gamble.
    """

    level: int
    fall: float = 0.0
    cost_s: float = 0.0
    gamble: float = 0.0
    stay: float = 1.0


NOTHING = Option(0)
GAMBLE_TICKS = 1.5  # ticks over which a warned level is compared with giving it up


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """The choices of one pool; `held` and `most` index the one held now and the largest that is not warned."""

    choices: tuple[Option, ...]
    held: int
    most: int


def pool_options(terms: Terms, memory: PoolMemory, pace: float, held: int, tick: int) -> PoolOptions:
    """Every level of one pool worth considering, lowest first, with nothing at all before them."""
    back, count = memory.return_chance, memory.offered
    choices = [NOTHING]
    levels = [(step[0], hazard) for step, hazard in zip(memory.steps, memory.risks, strict=True) if step[0]]
    if 0 < held <= count and all(level != held for level, _ in levels):
        age = tick - memory.since(held) + 1
        levels.append((held, risk(hazards(terms.tick_s), held, count, memory.most, age)))
        levels.sort()
    cost_s, held_at = _fall_cost_s(terms, back), 0
    for level, hazard in levels:
        fall = 1.0 - math.exp(-pace * hazard)
        if level == held:
            held_at = len(choices)
        choices.append(Option(level, fall, fall * cost_s))
    most = len(choices) - 1
    if held > count:
        held_at = len(choices)
        stay = (1.0 + back * (GAMBLE_TICKS - 1.0)) / GAMBLE_TICKS
        choices.append(Option(held, gamble=1.0 - back, stay=stay))
    return PoolOptions(tuple(choices), held_at, most)


def _fall_cost_s(terms: Terms, return_chance: float) -> float:
    """Seconds a fall costs the whole job: the loss and its stall, or under `debounced` the better of two answers.

    There a low probe is a warning: giving the devices up at once costs a stall, waiting costs stall and loss unless
    the next probe is back.
    """
    lost_s = terms.stall_s + terms.loss_s
    if terms.loss is LossReading.DROP:
        return lost_s
    return min(terms.stall_s, (1.0 - return_chance) * lost_s)
