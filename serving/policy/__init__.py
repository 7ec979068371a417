"""Pure tier scheduling: order, step budgets, admission, retry-after, replica targets.

Refuses to know torch, Ray, clocks and sockets; the replica and its simulator call the same functions.
"""

from serving.policy.admission import Admitted, RefusalReason, Refused
from serving.policy.plan import Idle, PlannedWork, StepPlan
from serving.policy.rows import Request
from serving.policy.scheduler import TierScheduler
from serving.policy.step_time import StepShape, StepTimeModel, calibrated, exact, untrained
from serving.policy.tiers import SERVICE_TIER_OF, SERVICE_TIERS, PolicyConfig, Tier, TierTarget

__all__ = [
    "SERVICE_TIERS",
    "SERVICE_TIER_OF",
    "Admitted",
    "Idle",
    "PlannedWork",
    "PolicyConfig",
    "RefusalReason",
    "Refused",
    "Request",
    "StepPlan",
    "StepShape",
    "StepTimeModel",
    "Tier",
    "TierScheduler",
    "TierTarget",
    "calibrated",
    "exact",
    "untrained",
]
