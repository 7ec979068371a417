"""The ports of a live control plane, wired: Ray where the Cluster says, job processes, logs.

Whether Ray is there is nobody's condition to start: until it answers its pools are out of sight, and orders wait.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.adapters.capacity.joined import JoinedCapacity
from orchestrator.adapters.capacity.kuberay.groups import WorkerGroups
from orchestrator.adapters.capacity.kuberay.source import KubeRaySource
from orchestrator.adapters.capacity.kuberay.wiring import kuberay
from orchestrator.adapters.capacity.ray_nodes import RayCapacitySource, answers, read_nodes
from orchestrator.adapters.capacity.trace import TraceSource
from orchestrator.adapters.endpoints.holders import EndpointHolders, Holding, live_terms, sights_in
from orchestrator.adapters.jobs.archive import FileLogArchive
from orchestrator.adapters.jobs.runner import JobRunner
from orchestrator.adapters.ray_cluster.host import RayAddress, find_host, start_host
from orchestrator.ledger.errors import UnknownJobError
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.states import ENDED
from orchestrator.policy.lending.values import RecallTimes, Terms
from orchestrator.policy.queueing.places import Pool
from orchestrator.ports import Order, Report, UnreachableError
from orchestrator.service.folders import JOBS_FOLDER, RAY_FOLDER
from orchestrator.service.footprint import Footprints
from orchestrator.service.holdings import Holdings, Revisions
from orchestrator.service.local_nodes import default_cluster, nodes_for
from orchestrator.service.loop import LivePorts
from orchestrator.service.metrics import PlaneMetrics
from orchestrator.service.node_health import HeldCapacity, NodeHealth, Probes
from orchestrator.service.recall_leads import RecallLeads
from orchestrator.service.scaling import Scaling
from orchestrator.service.schedules import Schedules
from orchestrator.service.staging import Staging
from orchestrator.spec import Cluster, load_one
from orchestrator.spec.cluster_pools import KubeRayCapacity, RayCapacity, TraceCapacity
from orchestrator.spec.errors import UserError

__all__ = ["LivePorts", "live_ports", "require_adapters"]


BETWEEN_STARTS_S = 30.0
"""Between two attempts to start a local Ray: one that cannot start is not started twice a second."""


class _Clock:
    def __init__(self, now_s: Callable[[], float]) -> None:
        self.now_s = now_s


class Rehearsal:
    """A runner for recorded capacity: decisions are real, and nothing can be started on devices that are not there."""

    def reports(self) -> tuple[Report, ...]:
        """Nothing runs."""
        return ()

    def acknowledge(self, ended: Sequence[Report]) -> None:
        """Nothing ends."""

    def ask(self, order: Order) -> None:
        """Orders wait. Raises: UnreachableError, always."""
        raise UnreachableError("devices of a recorded series run nothing")


class Surroundings:
    """Where the Cluster that holds says that Ray is, and its capacity; follows the Cluster as it changes."""

    def __init__(self, ledger: Ledger, state: Path, base: Path, now_s: Callable[[], float]) -> None:
        self._ledger = ledger
        self._state = state
        self._base = base
        self._now_s = now_s
        self._generation = 0
        self._host_started_s = float("-inf")
        self._cluster: Cluster | None = None
        self._capacity = JoinedCapacity((), ())
        self._of_ray: RayCapacitySource | None = None
        self._groups: tuple[tuple[KubeRaySource, WorkerGroups], ...] = ()

    def sizable(self) -> tuple[WorkerGroups, ...]:
        """Worker groups that the Cluster which holds lets us size."""
        self._follow()
        return tuple(groups for _, groups in self._groups if groups.names)

    def observe(self) -> tuple[Pool, ...]:
        """All pools (`ports.Capacity`)."""
        self._follow()
        return self._capacity.observe()

    def addresses(self) -> Mapping[str, str]:
        """Where the daemons of Ray's nodes answered when they were last seen."""
        return {} if self._of_ray is None else self._of_ray.addresses

    def ray(self) -> RayAddress:
        """Where Ray is; a local cluster is started if there is none. Raises: UnreachableError while there is none."""
        self._follow()
        if self._cluster is None:
            raise UnreachableError("no Cluster was applied yet")
        connection = self._cluster.spec.ray
        token_file = None if connection.token_file is None else self._base / connection.token_file
        match connection.address:
            case "local":
                return self._local(self._cluster)
            case "auto":
                return RayAddress(host_port=_on_this_machine(), token_file=token_file or _own_token_file())
            case address:
                return RayAddress(host_port=str(address), token_file=token_file or _own_token_file())

    def lending(self, one: Holding, times: RecallTimes) -> Terms | None:
        """The terms under which an endpoint lends; None = not at all."""
        self._follow()
        return None if self._cluster is None else live_terms(self._cluster, one, times)

    def notices(self) -> dict[str, Any] | None:
        """Where nodes look for the end that is announced to them; None: by what machine each of them is."""
        self._follow()
        if self._cluster is None or "notices" not in self._cluster.spec.model_fields_set:
            return None
        said = self._cluster.spec.notices
        file = "" if said.file is None else str(said.file)
        return {"sources": list(said.sources), "file": file, "poll_s": said.poll, "deadline_s": said.deadline}

    def prices(self) -> list[dict[str, Any]]:
        """What a device of each pool costs and draws."""
        self._follow()
        pools = () if self._cluster is None else self._cluster.spec.pools
        return [
            {"resource": one.resource, "usd": None if one.price is None else str(one.price), "watts": one.power_w}
            for one in pools
        ]

    def _local(self, cluster: Cluster) -> RayAddress:
        folder = self._state / RAY_FOLDER
        try:
            return find_host(folder)
        except UnreachableError:
            now_s = self._now_s()
            if not 0 <= now_s - self._host_started_s < BETWEEN_STARTS_S:
                self._host_started_s = now_s
                start_host(folder, nodes_for(cluster))
            raise

    def _follow(self) -> None:
        generation = self._ledger.read.generation()
        if generation == self._generation:
            return
        found = self._ledger.read.cluster()
        assert found is not None, "a generation has a document"
        self._generation, self._cluster = found
        self._capacity = self._sources(self._cluster)

    def _sources(self, cluster: Cluster) -> JoinedCapacity:
        pools = cluster.spec.pools
        of_ray = [pool for pool in pools if isinstance(pool.capacity, RayCapacity)]
        of_trace = [pool for pool in pools if isinstance(pool.capacity, TraceCapacity)]
        self._of_ray = RayCapacitySource(of_ray, self.ray) if of_ray else None
        sources = [self._of_ray] if self._of_ray is not None else []
        traces = [TraceSource(of_trace, self._base, self._now_s)] if of_trace else []
        for source, groups in self._groups:
            source.close()
            groups.close()
        of_kube = [pool for pool in pools if isinstance(pool.capacity, KubeRayCapacity)]
        self._groups = (kuberay(of_kube, self.ray, self._base),) if of_kube else ()
        return JoinedCapacity([*sources, *traces, *(one for one, _ in self._groups)], [pool.name for pool in pools])


class ApplyCluster:
    """A chore: the Cluster that this server was started with is the one that holds, once it leads."""

    def __init__(self, ledger: Ledger, cluster: Cluster | None) -> None:
        self._ledger = ledger
        self._cluster = cluster
        self._done = False

    def __call__(self, now_s: float) -> None:
        """Apply it once; the default only where none was ever applied."""
        if self._done:
            return
        if self._cluster is not None:
            self._ledger.apply(self._cluster)
        elif self._ledger.read.generation() == 0:
            self._ledger.apply(default_cluster())
        self._done = True


def live_ports(
    ledger: Ledger, *, cluster: Path | None, state: Path, clock: Callable[[], float] = time.time
) -> LivePorts:
    """Ports on Ray as a Cluster says: the one in the file `cluster`, else the one that holds, else this machine.

    `state`: the folder of data sets, models, runs and logs. Nothing is started yet.
    Raises: UserError for a file that is no Cluster, or one that asks for what this version has no adapter for.
    """
    given = None if cluster is None else load_one(cluster, Cluster)
    if given is not None:
        require_adapters(given, str(cluster))
    base = Path.cwd() if cluster is None else cluster.resolve().parent
    around = Surroundings(ledger, state, base, clock)
    logs = state / "logs" / "jobs"
    jobs = JobRunner(
        state / JOBS_FOLDER,
        command=(sys.executable, "-m", "orchestrator.adapters.jobs.process"),
        document=ledger.read.document,
        surroundings=lambda: {
            "ray": around.ray().host_port,
            "home": str(state),
            "logs": str(logs),
            "notices": around.notices(),
            "prices": around.prices(),
        },
        environment=lambda: around.ray().environment(),
        is_reachable=lambda: _answers(around.ray),
        now_s=clock,
        is_over=lambda job: _is_over(ledger, job),
    )
    metrics = PlaneMetrics(ledger.read)
    capacity = HeldCapacity(around, lambda: ledger.node_holds)
    endpoints = EndpointHolders(
        Holdings(ledger),
        terms=around.lending,
        sight=sights_in(state / JOBS_FOLDER / "jobs"),
        clock=_Clock(clock),
        memories=state / "endpoints",
    )
    metrics.leads = endpoints.leads
    return LivePorts(
        clock=_Clock(clock),
        capacity=capacity,
        endpoints=endpoints,
        ledger=ledger,
        runner=Rehearsal() if given is not None and _is_recorded(given) else jobs,
        logs=FileLogArchive(logs),
        chores=(
            ApplyCluster(ledger, given),
            Schedules(ledger),
            Staging(ledger, state),
            NodeHealth(ledger, capacity.nodes, Probes(around.addresses, answers)),
            Scaling(around.sizable, capacity, endpoints, ledger),
            Revisions(ledger, jobs.revise),
            RecallLeads(ledger, endpoints),
        ),
        observe=metrics.observe,
        metrics=metrics,
        describe=endpoints.describe,
        footprint=Footprints(ledger, base, clock),
    )


def _is_over(ledger: Ledger, job: str) -> bool:
    try:
        return ledger.read.job(job).state in ENDED
    except UnknownJobError:
        return True


def _is_recorded(cluster: Cluster) -> bool:
    return any(isinstance(pool.capacity, TraceCapacity) for pool in cluster.spec.pools)


def require_adapters(cluster: Cluster, where: str) -> None:
    """Refuse what cannot be observed, or run on. Raises: UserError."""
    pools = cluster.spec.pools
    sources = {pool.capacity.source for pool in pools}
    if "trace" in sources and len(sources) > 1:
        raise UserError(
            f"spec.pools: sources {' and '.join(sorted(sources))} in one Cluster; recorded devices run nothing, so it "
            "must be one of them",
            where=where,
            next_step="Rehearse with trace alone",
        )
    named = {_cluster_of(pool.capacity) for pool in pools if isinstance(pool.capacity, KubeRayCapacity)}
    if len(named) > 1:
        raise UserError(
            f"spec.pools: groups of {len(named)} RayClusters ({', '.join(sorted(named))}); a Cluster has one Ray: all "
            "must be of one RayCluster, by the same api, token_file and ca_file",
            where=where,
            next_step="Write a Cluster, and run a server, for each",
        )
    if named and cluster.spec.ray.address == "local":
        raise UserError(
            "spec.ray.address: local starts a Ray on this machine, which has no pods; it must lead to the RayCluster's "
            "head, such as NAME-head-svc:6379",
            where=where,
            next_step="Name the head service",
        )


def _cluster_of(capacity: KubeRayCapacity) -> str:
    at = " ".join(str(part) for part in (capacity.api, capacity.token_file, capacity.ca_file) if part is not None)
    return f"{capacity.namespace}/{capacity.cluster}" + (f" at {at}" if at else "")


def _answers(find: Callable[[], RayAddress]) -> bool:
    try:
        read_nodes(find())
    except UnreachableError:
        return False
    return True


def _on_this_machine() -> str:
    from ray._private.services import find_bootstrap_address

    found = find_bootstrap_address(None)
    if not found:
        raise UnreachableError("no Ray cluster runs on this machine, and ray.address is auto")
    return str(found)


def _own_token_file() -> Path | None:
    """Ray's own place for a token, if there is one."""
    path = Path.home() / ".ray" / "auth_token"
    return path if path.is_file() else None
