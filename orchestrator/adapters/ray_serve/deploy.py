"""Deploy a registered version on the Ray cluster this process is connected to, and take it down again."""

from __future__ import annotations

import contextlib
import logging
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, LoggingConfig, ReplicaState

from orchestrator.adapters.ray_serve.application import Part, application, check_same_place, parts, wanted_versions
from orchestrator.adapters.ray_serve.ports import free_port
from orchestrator.adapters.ray_serve.seen import why_failed
from orchestrator.adapters.ray_serve.support import check_keys, check_supported
from orchestrator.registry import Registry, Version
from orchestrator.spec import Endpoint
from orchestrator.spec.errors import ExitCode, UserError
from serving.versions import Wanted

_ASK_TIMEOUT_S = 10.0
_FOLLOW_POLL_S = 0.05
_QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)


@dataclass(slots=True, kw_only=True)
class Deployed:
    """A running endpoint. `model` is the name to ask for, `ref` the version that answers; `urls` holds the address of
    each tier, which is `url` for all of them unless placement is dedicated."""

    name: str
    url: str
    urls: Mapping[str, str]
    model: str
    ref: str
    endpoint: Endpoint
    registry: Registry
    start: Version
    base: Path
    canary_taken_back: str | None = None

    def close(self) -> None:
        """Let the replicas finish within their drain time, then take down everything that `deploy` started."""
        with _quiet_driver():
            serve.shutdown()

    def refresh(self) -> bool:
        """Follow the registry's alias, and end a trial that a replica has ended; whether anything changed.

        New weights are loaded beside the running ones and take over between two steps; no replica restarts. Returns
        when every replica has them. Raises: UserError, once, for a version that cannot be served; the one before is.
        """
        if self.endpoint.spec.canary and self.canary_taken_back is None:
            self.canary_taken_back = self._rolled_back()
        ref = self.registry.get(self.endpoint.spec.model).ref
        ref = self.ref if ref == self._refused else ref
        ended = self.canary_taken_back is not None and not self._trial_ended
        if ref == self.ref and not ended:
            return False
        before = self.start
        if self.endpoint.spec.engine.name != "torch":  # its replicas load no other weights: new ones take their place
            self.start = self.registry.get(ref)
        if error := self._followed(self._run(ref)):
            self._refused, self.start = ref, before
            self._followed(self._run(self.ref))  # or a replica that starts later would be told to serve it
            raise UserError(f"{ref} cannot be served: {error}", where=f"Endpoint {self.name}",
                            next_step=f"{self.ref} goes on; register a version that fits.")  # fmt: skip
        self.ref, self._trial_ended = ref, self._trial_ended or ended
        return True

    def update(self, endpoint: Endpoint) -> None:
        """Roll out another file: replicas are replaced one after the other, and the new ones start first.

        Raises: UserError for what cannot change while it runs; replicas that do not start leave the old ones.
        """
        check_supported(endpoint)
        check_same_place(endpoint, self.endpoint)
        self.start, self.endpoint = self.registry.get(endpoint.spec.model), endpoint
        self.canary_taken_back, self._trial_ended, self._refused = None, False, None
        self._run(self.start.ref)
        self.ref = self.start.ref

    def num_answering(self) -> int:
        """Replicas that are started and take requests."""
        statuses = serve.status().applications
        deployments = (statuses[part.name].deployments["endpoint"] for part in parts(self.endpoint))
        return sum(each.replica_states.get(ReplicaState.RUNNING, 0) for each in deployments)

    _trial_ended: bool = False
    _refused: str | None = None

    def _run(self, ref: str) -> Wanted:
        with_canary = self.canary_taken_back is None
        wanted = wanted_versions(self.endpoint, self.registry, stable=ref, with_canary=with_canary)
        with _quiet_driver():
            for part in parts(self.endpoint):
                app = application(part, self.registry, self.start, wanted, base=self.base)
                serve.run(app, name=part.name, route_prefix=part.path, logging_config=_QUIET)
        return wanted

    def _followed(self, wanted: Wanted) -> str | None:
        """Wait until every replica has tried what is wanted; the first one's reason not to serve it."""
        while True:
            replicas = [each for part in parts(self.endpoint) for each in _ask_all(part, "followed")]
            tried = [each for each in replicas if each.wish == wanted.to_json()]
            if len(tried) == len(replicas) >= self.num_answering():
                return next((str(each.error) for each in tried if each.error), None)
            time.sleep(_FOLLOW_POLL_S)

    def _rolled_back(self) -> str | None:
        for part in parts(self.endpoint):
            for reason in _ask_all(part, "rolled_back"):
                if reason:
                    return str(reason)
        return None


def _ask_all(part: Part, method: str) -> list[Any]:
    """What every replica of a part answers; one that fails or leaves meanwhile says nothing."""
    handle = serve.get_deployment_handle("endpoint", part.name)
    answers = handle.broadcast(method).results(timeout_s=_ASK_TIMEOUT_S, return_exceptions=True)
    return [answer for answer in answers if not isinstance(answer, BaseException)]


def deploy(endpoint: Endpoint, registry: Registry, *, base: Path | None = None) -> Deployed:
    """Serve the version that the endpoint names; returns when its replicas answer.

    `base`: the folder that paths in the endpoint's file are relative to; None = the current one.
    This process must be connected to a Ray cluster on which Serve does not run yet.
    Raises: UserError for an unknown version, a port that is taken, and a replica that does not start.
    """
    check_supported(endpoint)
    version = registry.get(endpoint.spec.model)
    wanted_versions(endpoint, registry)  # an unknown canary is said before anything starts
    base = (base or Path()).resolve()
    check_keys(endpoint, base)
    _check_serve_is_free()
    tls = _tls_options(endpoint, base)
    host, port = endpoint.spec.listen.host, free_port(endpoint.spec.listen.host, endpoint.spec.listen.port)
    url = f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
    urls = dict.fromkeys(endpoint.spec.tiers.present(), url)
    if endpoint.spec.placement == "dedicated":
        urls = {tier: f"{url}/{tier}" for tier in urls}
    deployed = Deployed(name=endpoint.metadata.name, url=url, urls=urls, model=version.model, ref=version.ref,
                        endpoint=endpoint, registry=registry, start=version, base=base)  # fmt: skip
    with _quiet_driver():
        try:
            http = {"host": host, "port": port, **tls}
            serve.start(proxy_location="HeadOnly", http_options=http, logging_config=_QUIET)
            deployed._run(version.ref)
        except BaseException as error:
            why = _why_not(endpoint)
            serve.shutdown()
            if isinstance(error, RuntimeError | RayServeException | TimeoutError | ray.exceptions.RayError):
                raise _start_error(endpoint, why or _last_line(error)) from error
            raise
    return deployed


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


def _why_not(endpoint: Endpoint) -> str | None:
    """What the replicas that did not start said, while Serve still knows."""
    with contextlib.suppress(RayServeException, ray.exceptions.RayError, RuntimeError, TimeoutError):
        applications = serve.status().applications
        found = [applications[part.name] for part in parts(endpoint) if part.name in applications]
        failed = [one for one in found if one.status is ApplicationStatus.DEPLOY_FAILED]
        return why_failed(failed[0]) if failed else None
    return None


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _start_error(endpoint: Endpoint, why: str) -> UserError:
    return UserError(
        f"the endpoint did not start: {why}",
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
