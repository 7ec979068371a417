"""The one Serve of a Ray cluster, which all of its endpoints share: its address, its room, and whether it is lost."""

from __future__ import annotations

from pathlib import Path

import ray
from ray import serve
from ray._private.state import state as ray_state
from ray.serve.exceptions import RayServeException

from orchestrator.adapters.ray_serve.deploy import _QUIET, _tls_options
from orchestrator.adapters.ray_serve.ports import free_port
from orchestrator.spec import Endpoint
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.job_parts import Resources


def shared_serve(endpoint: Endpoint, base: Path) -> str:
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


def addresses(endpoint: Endpoint, url: str) -> dict[str, str]:
    """Where an endpoint answers below Serve's address, by tier."""
    below, dedicated = f"{url}/{endpoint.metadata.name}", endpoint.spec.placement == "dedicated"
    return {tier: f"{below}/{tier}" if dedicated else below for tier in endpoint.spec.tiers.present()}


def has_room(resources: Resources, replicas: int) -> bool:
    """Whether Ray has so many replicas' resources free, wherever they are."""
    asked = [(name, many) for name, many in resources.as_ray().items() if many]
    free = ray_state.available_resources_per_node().values()
    return sum(min((int(room.get(name, 0) // many) for name, many in asked), default=1) for room in free) >= replicas
