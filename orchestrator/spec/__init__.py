"""YAML to frozen specs: reads, checks, and reports every problem of a file at once with file:line:column.

Refuses to know anything that happens after reading: no Ray, no clock, no network, no database.
"""

from orchestrator.spec.cluster import Cluster
from orchestrator.spec.endpoint import Endpoint
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.kinds import KINDS, Spec
from orchestrator.spec.load import check_file, check_text, load_file, load_one, load_one_of, load_text
from orchestrator.spec.merge import Merge
from orchestrator.spec.problems import Code, Problem, SpecError
from orchestrator.spec.scenario import Scenario
from orchestrator.spec.study import Study
from orchestrator.spec.train_job import TrainJob

__all__ = [
    "KINDS",
    "Cluster",
    "Code",
    "Endpoint",
    "ExitCode",
    "Merge",
    "Problem",
    "Scenario",
    "Spec",
    "SpecError",
    "Study",
    "TrainJob",
    "UserError",
    "check_file",
    "check_text",
    "load_file",
    "load_one",
    "load_one_of",
    "load_text",
]
