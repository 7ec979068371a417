"""What Ray Serve says of one endpoint's replicas, and what they say of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ray import serve
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, DeploymentStatus, ReplicaState

from orchestrator.adapters.ray_serve.application import Part
from orchestrator.adapters.ray_serve.following import Stand
from orchestrator.policy.lending.rates import Counter

ASK_TIMEOUT_S = 5.0
_OUR_ERROR = "orchestrator.spec.errors.UserError: "  # as Ray writes it before its text


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Replicas of the part that has fewest of them: `answering` take requests; `present`: of the part that has most,
    those that start or drain included. `failed`: why they cannot start."""

    answering: int
    present: int
    failed: str | None = None


@dataclass(slots=True)
class SeenReplicas:
    """Handles to ask them by; `arrivals` is used from one thread, all else from another."""

    _handles: dict[str, Any] = field(default_factory=dict)
    _asking: dict[str, Any] = field(default_factory=dict)

    def count(self, of: Sequence[Part]) -> Count:
        """How many there are."""
        applications = serve.status().applications
        answering, present, failed = [], [], None
        for part in of:
            found = applications.get(part.name)
            if found is None:
                return Count(answering=0, present=0)
            if found.status is ApplicationStatus.DEPLOY_FAILED:
                failed = why_failed(found)
            states = [one.replica_states for one in found.deployments.values()]
            answering.append(sum(one.get(ReplicaState.RUNNING, 0) for one in states))
            present.append(sum(sum(one.values()) for one in states))
        return Count(answering=min(answering), present=max(present), failed=failed)

    def arrivals(self, of: Sequence[Part]) -> tuple[Counter, ...]:
        """Online requests that came to each replica since it started; one that leaves meanwhile says nothing."""
        found: list[Counter] = []
        for part in of:
            if part.name not in self._handles:
                self._handles[part.name] = serve.get_deployment_handle("endpoint", part.name)
            asked = self._handles[part.name].broadcast("arrivals")
            answers = asked.results(timeout_s=ASK_TIMEOUT_S, return_exceptions=True)
            for answer in answers:
                if answer is not None and not isinstance(answer, BaseException):
                    name, at_s, total = answer
                    found.append(Counter(source=name, at_s=at_s, total=float(total)))
        return tuple(found)

    def nodes(self, of: Sequence[Part]) -> dict[str, int]:
        """Replicas that are there, by node, those of all parts together."""
        found: dict[str, int] = {}
        names = {part.name for part in of}
        details = serve.context._get_global_client().get_serve_details()
        for name, running in details["applications"].items():
            for deployment in running["deployments"].values() if name in names else ():
                for replica in deployment["replicas"]:
                    node = replica.get("node_id")  # of one that starts, nobody knows yet
                    if node is not None:
                        found[node] = found.get(node, 0) + 1
        return found

    def stands(self, part: str) -> list[Stand]:
        """How its replicas stand; those that do not answer, or not yet, say nothing."""
        if part not in self._asking:
            self._asking[part] = serve.get_deployment_handle("endpoint", part)
        try:
            answers = self._asking[part].broadcast("stand").results(timeout_s=ASK_TIMEOUT_S, return_exceptions=True)
        except (DeploymentUnavailableError, TimeoutError):
            return []
        return [answer for answer in answers if isinstance(answer, Stand)]


def left_behind(endpoint: str) -> list[str]:
    """Applications that are there below an endpoint's path, whatever its file says now."""
    details = serve.context._get_global_client().get_serve_details()["applications"]
    return [name for name, one in details.items() if f"{one.get('route_prefix')}/".startswith(f"/{endpoint}/")]


def why_failed(application: ApplicationStatusOverview) -> str:
    """Why an application does not start: the last that its replicas said, else what Serve says of them."""
    failed = [one for one in application.deployments.values() if one.status is DeploymentStatus.DEPLOY_FAILED]
    lines = [line for one in [application, *failed] for line in map(str.strip, one.message.splitlines()) if line]
    return lines[-1].removeprefix(_OUR_ERROR) if lines else "its replicas do not start"
