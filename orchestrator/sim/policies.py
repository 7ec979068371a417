"""Finds a policy by the name a scenario chooses it by, and plays it.

Only this file knows that `bound` and `foresight` read the whole series, and that a fixed gang has definitions of its
own.
"""

from __future__ import annotations

import difflib
import re

from orchestrator.policy.capacity.tideline import Tideline
from orchestrator.policy.capacity.view import CapacityPolicy
from orchestrator.sim.engine import Run, simulate
from orchestrator.sim.reference.bound import bound
from orchestrator.sim.reference.common import WithSafetyNet
from orchestrator.sim.reference.foresight import foresee
from orchestrator.sim.reference.line import TrailingMin, UniformProgress
from orchestrator.sim.reference.simple import Gang, Greedy, OnDemand
from orchestrator.sim.reference.single_gang import SingleGang
from orchestrator.sim.world import World
from orchestrator.spec.errors import UserError
from orchestrator.spec.scalars import shown

BOUND, FORESIGHT = "bound", "foresight"
KNOWING = (FORESIGHT, BOUND)
"""What is no policy: it knows the whole series."""
NAMES = (
    "tideline",
    "on-demand",
    "gang-100",
    "gang-128",
    "greedy",
    "uniform-progress",
    "trailing-min-1h",
    "trailing-min-2h",
    "sliced",
    *KNOWING,
)


def play(world: World, name: str) -> Run:
    """Simulate a world under a policy by name; `gang-N` and `trailing-min-Nh` (or `Nm`) take any whole number.

    Raises: UserError (exit 3) when there is no such policy, or it does not fit this job.
    """
    match name:
        case "bound":
            return bound(world)
        case "foresight":
            return _foreseen(world)
    return simulate(world, find_policy(name, world))


def _foreseen(world: World) -> Run:
    """The plan of somebody who knows the series, played. Raises: UserError where it has no exact one."""
    try:
        run = foresee(world).run
    except ValueError as error:
        raise UserError(str(error), where=f"{world.name}: policy 'foresight'") from None
    if run is None:
        problem = "the work cannot be done by the deadline, even by who knows the series"
        raise UserError(problem, where=f"{world.name}: policy 'foresight'")
    return run


def find_policy(name: str, world: World) -> CapacityPolicy:
    """The policy of that name for this world; `greedy` and `uniform-progress` of a fixed gang are its own kind."""
    fixed = world.min_workers == world.max_workers
    numbered = re.fullmatch(r"gang-([1-9]\d{0,5})|trailing-min-([1-9]\d{0,3})([mh])", name)
    if fixed and name in ("greedy", "uniform-progress", "sliced"):
        return SingleGang(name)
    if numbered and numbered[1]:
        return _gang(world, int(numbered[1]))
    if numbered:
        return WithSafetyNet(TrailingMin(name, int(numbered[2]) * (60 if numbered[3] == "m" else 3600)))
    match name:
        case "tideline":
            return Tideline()
        case "on-demand":
            return OnDemand()
        case "greedy":
            return WithSafetyNet(Greedy())
        case "uniform-progress":
            return WithSafetyNet(UniformProgress())
        case "sliced":
            raise UserError(
                "policy 'sliced' is for one gang of fixed size; workers.min and max differ", where=world.name
            )
    raise _unknown(name)


def _gang(world: World, workers: int) -> CapacityPolicy:
    if not world.min_workers <= workers <= world.max_workers:
        raise UserError(
            f"policy 'gang-{workers}' holds {workers} workers; this job takes {world.min_workers} to "
            f"{world.max_workers}",
            where=world.name,
        )
    return WithSafetyNet(Gang(workers))


def _unknown(name: str) -> UserError:
    close = difflib.get_close_matches(name, NAMES, n=1)
    meant = f"Did you mean {close[0]}?" if close else ""
    return UserError(
        f"there is no policy {shown(name)}; it must be one of {', '.join(NAMES)}", where="policy", next_step=meant
    )
