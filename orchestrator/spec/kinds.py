"""The kinds there are."""

from __future__ import annotations

from orchestrator.spec.endpoint import Endpoint
from orchestrator.spec.scenario import Scenario
from orchestrator.spec.train_job import TrainJob

Spec = TrainJob | Endpoint | Scenario

KINDS: dict[str, type[Spec]] = {kind.__name__: kind for kind in (TrainJob, Endpoint, Scenario)}
