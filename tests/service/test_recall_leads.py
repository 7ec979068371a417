"""A job that stops more slowly than an owner's grace is told so, once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.policy.queueing.orders import Measured, Phase, Report
from orchestrator.policy.resize import Outlook, ResizeRules, RunPlan
from orchestrator.service.recall_leads import EVERY_S, RECALL_GRACE, RecallLeads
from tests.ledger.world import World, cluster, new

OWNED = """
  tenants:
  - {name: red, contributions: [{pool: p, devices: 2, recall_grace: 30s}]}
  - {name: blue}
"""


def slow(job: str, stop_s: float) -> Report:
    rules = ResizeRules(dwell_s=0.0, settle_s=0.0, collect_s=10.0, margin=0.1)
    plan = RunPlan(batch=BatchPlan(8, 1), min_workers=1, max_workers=2, rules=rules)
    outlook = (Outlook(workers=2, expected_s=900.0),)
    measured = Measured(plan=plan, outlook=outlook, stall_s=5.0, stop_s=3.0, slow_stop_s=stop_s)
    return Report(job=job, attempt=1, phase=Phase.RUNNING, measured=measured)


@pytest.mark.parametrize(
    ("tenant", "stop_s", "said"), [("blue", 45.0, 1), ("blue", 30.0, 0), ("red", 45.0, 0)],
    ids=["slower than the owner waits", "as fast as the owner waits", "the owner's own"],
)  # fmt: skip
def test_who_is_slower_than_an_owner_waits_is_told_so_once(world: World, tenant: str, stop_s: float, said: int) -> None:
    world.ledger.apply(cluster(OWNED))
    world.ledger.submit(new("a", 2, tenant=tenant, work_s=1e6))
    world.run(2.0)
    world.ledger.record((slow("a", stop_s),), now_s=world.clock.at_s)
    chore = RecallLeads(world.ledger, SimpleNamespace(terms={}))
    for at in range(3):
        chore(world.clock.at_s + at * EVERY_S)
    assert world.kinds("a").count(RECALL_GRACE) == said
    assert world.broken() == []
