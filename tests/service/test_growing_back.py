"""A job that measures its resizes gives way and grows back, through the ledger and over a restart in between."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.adapters.ray_train.run import HABITS
from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.policy.queueing.orders import Measured, Phase, Report
from orchestrator.policy.resize import Outlook, RunPlan
from orchestrator.sim.outside import SimRunner
from tests.ledger.world import World, new

MEASURED = Measured(
    plan=RunPlan(batch=BatchPlan(24, 1), min_workers=4, max_workers=8, rules=HABITS.rules),
    outlook=(Outlook(workers=8, expected_s=900.0),),
    stall_s=1.0,
    stop_s=0.5,
)


class Measuring(SimRunner):
    """Says of jobs that run what a job's process says."""

    def reports(self) -> tuple[Report, ...]:
        said = SimRunner.reports(self)
        return tuple(replace(one, measured=MEASURED) if one.phase is Phase.RUNNING else one for one in said)


def test_it_grows_back_once_the_offer_has_settled(world: World) -> None:
    world.ledger.submit(new("patient", (4, 6, 8), work_s=1e6, priority=10))
    world.runner = Measuring(world.clock, world._work, world.physics)
    world.run(10.0)
    assert world.held() == {"patient": 8}
    world.ledger.submit(new("urgent", 4, work_s=40.0, priority=90))
    world.run(8.0)
    assert world.held() == {"patient": 4, "urgent": 4}
    world.restart()
    world.run(30.0)
    assert world.state("urgent") == "succeeded"
    assert world.held() == {"patient": 8}
    sizes = [row.world_size for row in world.ledger.read.attempts("patient")]
    assert sizes == [8, 4, 8]
