"""The kinds there are."""

from __future__ import annotations

from orchestrator.spec.cluster import Cluster
from orchestrator.spec.endpoint import Endpoint
from orchestrator.spec.merge import Merge
from orchestrator.spec.scenario import Scenario
from orchestrator.spec.study import Study
from orchestrator.spec.train_job import TrainJob

Spec = Cluster | TrainJob | Study | Endpoint | Merge | Scenario

KINDS: dict[str, type[Spec]] = {kind.__name__: kind for kind in (Cluster, TrainJob, Study, Endpoint, Merge, Scenario)}
