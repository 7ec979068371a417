"""An endpoint of the control plane on Ray Serve: as many replicas as its lease says, beside other endpoints.

All endpoints of a Ray cluster share its one Serve and the address of that; each answers below its own name. Whoever
comes again finds what runs (`start` is adopt or create), and what it started outlives it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, ReplicaState

from orchestrator.adapters.ray_serve.application import Part, application, parts, wanted_versions
from orchestrator.adapters.ray_serve.autoscale import write_lease
from orchestrator.adapters.ray_serve.deploy import _QUIET, _quiet_driver, _tls_options
from orchestrator.adapters.ray_serve.ports import free_port
from orchestrator.adapters.ray_serve.seating import write_seats
from orchestrator.adapters.ray_serve.support import check_supported
from orchestrator.policy.lending.rates import Counter
from orchestrator.registry import Registry, Version
from orchestrator.spec import Endpoint
from orchestrator.spec.errors import ExitCode, UserError

ASK_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Replicas of the part that has fewest of them: `answering` take requests; `present`: of the part that has most,
    those that start or drain included."""

    answering: int
    present: int


@dataclass(slots=True)
class HeldEndpoint:
    """One endpoint. `urls` by tier, once it was started; used from one thread, `arrivals` from another."""

    endpoint: Endpoint
    registry: Registry
    base: Path
    urls: dict[str, str] = field(default_factory=dict)
    ref: str = ""
    _start: Version | None = None
    _handles: dict[str, Any] = field(default_factory=dict)

    def start(self, seats: Mapping[str, int], begun_with: str | None = None) -> str:
        """Begin to serve with replicas on these nodes, or go on serving; returns before they answer. Raises: UserError.

        Returns the version that replicas are built with: said again as `begun_with`, no replica is built anew.
        """
        check_supported(self.endpoint)
        version = self.registry.get(begun_with or self.endpoint.spec.model)
        wanted_versions(self.endpoint, self.registry)  # an unknown canary is said before anything starts
        with _quiet_driver():
            self.urls = self._addresses(_serve(self.endpoint, self.base))
        self._start = version
        self.lease(seats)
        self._run(sum(seats.values()))
        self.ref = self.registry.get(self.endpoint.spec.model).ref
        return str(version.ref)

    def lease(self, seats: Mapping[str, int]) -> None:
        """Hold exactly so many replicas of each part from now on, on these nodes; those too many drain."""
        for part in self._parts():
            write_seats(part.name, seats)
            write_lease(part.name, sum(seats.values()))

    def count(self) -> Count:
        """How many there are. Raises: RayServeException, RuntimeError for replicas that cannot start."""
        applications = serve.status().applications
        answering, present = [], []
        for part in self._parts():
            found = applications.get(part.name)
            if found is None:
                return Count(answering=0, present=0)
            if found.status is ApplicationStatus.DEPLOY_FAILED:
                lines = [line.strip() for line in found.message.splitlines() if line.strip()]
                raise RuntimeError(lines[-1] if lines else "its replicas do not start")
            states = [one.replica_states for one in found.deployments.values()]
            answering.append(sum(one.get(ReplicaState.RUNNING, 0) for one in states))
            present.append(sum(sum(one.values()) for one in states))
        return Count(answering=min(answering), present=max(present))

    def arrivals(self) -> tuple[Counter, ...]:
        """Online requests that came to each replica since it started; one that leaves meanwhile says nothing."""
        found: list[Counter] = []
        for part in self._parts():
            if part.name not in self._handles:
                self._handles[part.name] = serve.get_deployment_handle("endpoint", part.name)
            asked = self._handles[part.name].broadcast("arrivals")
            answers = asked.results(timeout_s=ASK_TIMEOUT_S, return_exceptions=True)
            for answer in answers:
                if answer is not None and not isinstance(answer, BaseException):
                    name, at_s, total = answer
                    found.append(Counter(source=name, at_s=at_s, total=float(total)))
        return tuple(found)

    def nodes(self) -> dict[str, int]:
        """Replicas that are there, by node, those of all parts together."""
        found: dict[str, int] = {}
        names = {part.name for part in self._parts()}
        details = serve.context._get_global_client().get_serve_details()
        for name, running in details["applications"].items():
            for deployment in running["deployments"].values() if name in names else ():
                for replica in deployment["replicas"]:
                    node = replica.get("node_id")  # of one that starts, nobody knows yet
                    if node is not None:
                        found[node] = found.get(node, 0) + 1
        return found

    def refresh(self, replicas: int) -> bool:
        """Follow the registry's alias; whether other weights answer now."""
        ref = self.registry.get(self.endpoint.spec.model).ref
        if ref == self.ref:
            return False
        self._run(replicas)
        self.ref = ref
        return True

    def close(self) -> None:
        """Let the replicas finish within their drain time and take them down; with the last endpoint, Serve goes."""
        with _quiet_driver(), contextlib.suppress(RayServeException):
            for part in self._parts():
                serve.delete(part.name)
                write_lease(part.name, None)
                write_seats(part.name, None)
            if not serve.status().applications:
                serve.shutdown()

    def _parts(self) -> tuple[Part, ...]:
        return parts(_exact(self.endpoint), f"/{self.endpoint.metadata.name}")

    def _run(self, replicas: int) -> None:
        assert self._start is not None, "it was started"
        wanted = wanted_versions(self.endpoint, self.registry)
        targets = [
            serve.RunTarget(
                target=application(part, self.registry, self._start, wanted, base=self.base, initial=replicas),
                name=part.name,
                route_prefix=part.path,
                logging_config=_QUIET,
            )
            for part in self._parts()
        ]
        with _quiet_driver():
            serve.run_many(targets, wait_for_applications_running=False)

    def _addresses(self, url: str) -> dict[str, str]:
        below, dedicated = f"{url}/{self.endpoint.metadata.name}", self.endpoint.spec.placement == "dedicated"
        return {tier: f"{below}/{tier}" if dedicated else below for tier in self.endpoint.spec.tiers.present()}


def _exact(endpoint: Endpoint) -> Endpoint:
    """With replicas as the lease says, never as their load would have it: what is leased is paid for."""
    replicas = endpoint.spec.replicas.model_copy(update={"min": endpoint.spec.replicas.max})
    return endpoint.model_copy(update={"spec": endpoint.spec.model_copy(update={"replicas": replicas})})


def _serve(endpoint: Endpoint, base: Path) -> str:
    """Serve's address; Serve is started if it does not run. Raises: UserError where it listens elsewhere."""
    listen, tls = endpoint.spec.listen, _tls_options(endpoint, base)
    running = serve.context._get_global_client(raise_if_no_controller_running=False)
    if running is None:
        http = {"host": listen.host, "port": free_port(listen.host, listen.port), **tls}
        serve.start(proxy_location="HeadOnly", http_options=http, logging_config=_QUIET)
        running = serve.context._get_global_client()
    found = running.http_config
    if found.host != listen.host or listen.port not in (0, found.port) or found.ssl_certfile != tls.get("ssl_certfile"):
        raise UserError(
            f"spec.listen: endpoints of this Ray cluster answer at {found.host}:{found.port}",
            where=f"Endpoint {endpoint.metadata.name}",
            code=ExitCode.CONFLICT,
            next_step="Give it the same listen, or port 0, or another cluster",
        )
    host = f"[{found.host}]" if ":" in found.host else found.host
    return f"{'https' if tls else 'http'}://{host}:{found.port}"


def is_lost(error: BaseException) -> bool:
    """Whether an error means that Ray is gone, and not that the endpoint is wrong."""
    return isinstance(error, ray.exceptions.RayError | ConnectionError | RayServeException)
