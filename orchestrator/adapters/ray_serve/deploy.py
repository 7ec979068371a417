"""Deploy a registered version on the Ray cluster this process is connected to, and take it down again."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ray
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from orchestrator.adapters.ray_serve.replica import EndpointReplica
from orchestrator.adapters.ray_serve.support import check_supported
from orchestrator.registry import Registry, Version
from orchestrator.spec import Endpoint
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.names import split_reference
from serving.app import ReplicaSpec
from serving.http.service import ServedModel

# Serve's own queues know no tiers: let everything through to the replica, whose scheduler refuses what is too much.
_UNBOUNDED = 100_000
_QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """A running endpoint. `model` is the name to ask for, `ref` the version that answers."""

    name: str
    url: str
    model: str
    ref: str

    def close(self) -> None:
        """Let the replicas finish within their drain time, then take down everything that `deploy` started."""
        with _quiet_driver():
            serve.shutdown()


def deploy(endpoint: Endpoint, registry: Registry, *, base: Path | None = None) -> Deployed:
    """Serve the version that the endpoint names; returns when its replicas answer.

    `base`: the folder that paths in the endpoint's file are relative to; None = the current one.
    This process must be connected to a Ray cluster on which Serve does not run yet.
    Raises: UserError for an unknown version, a port that is taken, and a replica that does not start.
    """
    check_supported(endpoint)
    version = registry.get(endpoint.spec.model)
    _check_serve_is_free()
    base = (base or Path()).resolve()
    tls = _tls_options(endpoint, base)
    host, port = endpoint.spec.listen.host, _free_port(endpoint.spec.listen.host, endpoint.spec.listen.port)
    with _quiet_driver():
        try:
            serve.start(
                proxy_location="HeadOnly", http_options={"host": host, "port": port, **tls}, logging_config=_QUIET
            )
            serve.run(
                _application(endpoint, registry, version, base), name=endpoint.metadata.name, logging_config=_QUIET
            )
        except BaseException as error:
            serve.shutdown()
            if isinstance(error, RuntimeError | RayServeException | TimeoutError):
                raise _start_error(endpoint, error) from error
            raise
    shown = f"[{host}]" if ":" in host else host
    scheme = "https" if tls else "http"
    return Deployed(name=endpoint.metadata.name, url=f"{scheme}://{shown}:{port}", model=version.model, ref=version.ref)


def _application(endpoint: Endpoint, registry: Registry, version: Version, base: Path) -> serve.Application:
    replicas = endpoint.spec.replicas
    resources = replicas.resources.as_ray()
    model = ServedModel(
        id=split_reference(endpoint.spec.model)[0], ref=version.ref, created_s=int(version.created_at.timestamp())
    )
    deployment = serve.deployment(
        EndpointReplica,
        name="endpoint",
        num_replicas=replicas.min,
        max_ongoing_requests=_UNBOUNDED,
        graceful_shutdown_timeout_s=replicas.drain,
        ray_actor_options={
            "num_cpus": resources.pop("CPU", 0),
            "num_gpus": resources.pop("GPU", 0),
            "memory": resources.pop("memory", None),
            "resources": resources,
        },
    )
    spec = ReplicaSpec(
        endpoint=endpoint, model=model, folder=registry.folder(version), base=base, state=registry.root.resolve().parent
    )
    return deployment.bind(spec)


def _tls_options(endpoint: Endpoint, base: Path) -> dict[str, str]:
    """The proxy's options for HTTPS. Raises: UserError for files that are no certificate with its key."""
    tls = endpoint.spec.listen.tls
    if tls is None:
        return {}
    cert, key = base / tls.cert, base / tls.key
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise UserError(f"listen.tls: {cert} and {key} are no certificate and its key: {reason}",
                        where=f"Endpoint {endpoint.metadata.name}",
                        next_step="Both are PEM files; the key has no password.") from None  # fmt: skip
    return {"ssl_certfile": str(cert), "ssl_keyfile": str(key)}


def _check_serve_is_free() -> None:
    if not ray.is_initialized():
        raise UserError("this process is not connected to a Ray cluster", code=ExitCode.UNREACHABLE)
    with _quiet_driver(), contextlib.suppress(RayServeException):
        serve.context._get_global_client()
        raise UserError(
            "Ray Serve runs on this cluster already, with an address of its own",
            code=ExitCode.CONFLICT,
            next_step="Take it down first, or serve on another cluster.",
        )


def _free_port(host: str, port: int) -> int:
    """The port if nobody listens there, or any free one for 0. Raises: UserError.

    Serve's proxy binds it a moment later; one that is taken meanwhile makes the start fail.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"cannot listen on {host}:{port}: {error.strerror}",
                code=ExitCode.CONFLICT,
                next_step="Choose another listen.port; 0 takes any free one.",
            ) from error
        free: int = probe.getsockname()[1]
        return free


def _start_error(endpoint: Endpoint, error: Exception) -> UserError:
    """The last line of Serve's message is the replica's own exception."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return UserError(
        f"the endpoint did not start: {lines[-1] if lines else type(error).__name__}",
        where=f"Endpoint {endpoint.metadata.name}",
        code=ExitCode.UNREACHABLE,
        next_step="--debug shows the replica's traceback.",
    )


@contextlib.contextmanager
def _quiet_driver() -> Iterator[None]:
    """Keep Serve's progress lines off the terminal of whoever deploys."""
    logger = logging.getLogger("ray.serve")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
