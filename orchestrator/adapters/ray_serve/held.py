"""An endpoint of the control plane on Ray Serve: as many replicas as its lease says, beside other endpoints.

All endpoints of a Ray cluster share its one Serve and the address of that; each answers below its own name. Whoever
comes again finds what runs (`start` is adopt or create), and what it started outlives it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from orchestrator.adapters.endpoints.life import Document, Life
from orchestrator.adapters.endpoints.rollout import Progress
from orchestrator.adapters.ray_serve.application import (
    Held,
    Part,
    application,
    code_version,
    parts,
    surge,
    wanted_versions,
)
from orchestrator.adapters.ray_serve.autoscale import write_lease
from orchestrator.adapters.ray_serve.deploy import _QUIET, _quiet_driver
from orchestrator.adapters.ray_serve.following import Stand
from orchestrator.adapters.ray_serve.seating import write_seats
from orchestrator.adapters.ray_serve.seen import Count, SeenReplicas, left_behind, why_failed
from orchestrator.adapters.ray_serve.shared import addresses, has_room, shared_serve
from orchestrator.adapters.ray_serve.support import check_keys, check_supported
from orchestrator.policy.lending.rates import Counter
from orchestrator.registry import Registry, UnknownModelError
from orchestrator.spec import Endpoint, load_text
from orchestrator.spec.endpoint_changes import built_from, fixed_while_held
from orchestrator.spec.errors import ExitCode, UserError
from serving.versions import Wanted

MOST_MOVES = 8
"""Of replicas to their lease's nodes, until the lease is another: a Serve that cannot be steered is left alone."""


@dataclass(slots=True)
class HeldEndpoint:
    """One endpoint. `urls` by tier, once it was started; used from one thread, `arrivals` from another."""

    registry: Registry
    base: Path
    name: str = ""
    urls: dict[str, str] = field(default_factory=dict)
    _endpoint: Endpoint | None = None
    _life: Life | None = None
    _seats: dict[str, int] = field(default_factory=dict)
    _trying: str | None = None
    _refused: str | None = None
    _extra: int = 0
    _surge: int = 0
    _moves: int = 0
    _seen: SeenReplicas = field(default_factory=SeenReplicas)

    @property
    def endpoint(self) -> Endpoint:
        """What it is, or is becoming."""
        assert self._endpoint is not None, "it was started"
        return self._endpoint

    @property
    def life(self) -> Life:
        """What its replicas are made of, or are becoming."""
        assert self._life is not None, "it was started"
        return self._life

    # --- Beginning, and becoming something else ----------------------------------------------------------------------

    def first(self, document: Document) -> Life:
        """What its replicas are made of to begin with. Raises: UserError."""
        endpoint = _read(document)
        check_supported(endpoint)
        check_keys(endpoint, self.base)
        wanted = wanted_versions(endpoint, self.registry)  # an unknown canary is said before anything starts
        return Life(document=document, built=wanted.stable.ref, ref=wanted.stable.ref)

    def start(self, life: Life, seats: Mapping[str, int]) -> None:
        """Begin to serve with replicas on these nodes, or go on; returns before they answer. Raises: UserError.

        With the same `life` as before no replica is built anew.
        """
        endpoint = _read(life.document)
        self._life, self._endpoint, self._seats = life, endpoint, dict(seats)
        with _quiet_driver():
            self.urls = addresses(endpoint, shared_serve(endpoint, self.base))
        self.lease(seats)
        self._run()

    def plan(self, document: Document) -> Life:
        """What replicas would be made of. Raises: UserError for what cannot be served, or not where this one is."""
        endpoint, now = _read(document), self.life
        if fixed := fixed_while_held(self.endpoint, endpoint):
            raise UserError(f"{', '.join(fixed)} cannot change while it runs", where=f"Endpoint {self.name}",
                            code=ExitCode.CONFLICT, next_step="Cancel it and submit it anew")  # fmt: skip
        fresh = self.first(document)
        on_trial = endpoint.spec.canary == self.endpoint.spec.canary
        same = built_from(endpoint) == built_from(self.endpoint)
        if same and (endpoint.spec.model == self.endpoint.spec.model or fresh.ref == now.ref):
            fresh = replace(now, document=document)
        return replace(fresh, taken_back=now.taken_back if on_trial else None)

    def has_room(self, life: Life) -> bool:
        """Whether replicas can become that without an interruption: none is built anew, there is room for one more, or
        there are several, of which one after the other may go first."""
        return self._versions(life) == self._versions(self.life) or self._replicas != 1 or self._has_room_for_one()

    def roll(self, life: Life) -> None:
        """Begin to become that; `progress` says how far it has come."""
        self._life, self._endpoint = life, _read(life.document)
        self._trying, self._refused, self._moves = None, None, 0
        self.urls = addresses(self.endpoint, next(iter(self.urls.values())).partition(f"/{self.name}")[0])
        self._run()

    def progress(self) -> Progress:
        """How far replicas are what they are to be."""
        applications, wanted = serve.status().applications, self._replicas
        fresh, on_their_way = [], False
        for part, built in self._versions(self.life).items():
            found = applications.get(part)
            if found is None or found.status is not ApplicationStatus.RUNNING:
                on_their_way = True
            if found is not None and found.status is ApplicationStatus.DEPLOY_FAILED:
                return Progress(fresh=0, wanted=wanted, failed=why_failed(found))
            stands = self._seen.stands(part) if found is not None else []
            fresh.append(sum(one.built == built for one in stands))
            on_their_way = on_their_way or len(stands) != fresh[-1]
        least = min(fresh, default=0)
        return Progress(fresh=least, wanted=wanted, settled=not on_their_way and least == wanted)

    # --- As many as are leased ---------------------------------------------------------------------------------------

    def lease(self, seats: Mapping[str, int]) -> None:
        """Hold exactly so many replicas of each part from now on, on these nodes; those too many drain."""
        self._seats, self._moves = dict(seats), 0
        self._write_lease(0)

    def settle(self) -> bool:
        """Bring a replica that was replaced on another node back to where the lease is: a new one starts there, and
        then that one goes. True as long as that is under way."""
        nodes, parts_of_it = self.nodes(), len(self._parts())
        seats = {node: count * parts_of_it for node, count in self._seats.items()}
        astray = any(count > seats.get(node, 0) for node, count in nodes.items())
        if self._extra and (not astray or self.count().answering > self._replicas):
            self._write_lease(0)
        elif not self._extra and astray and sum(nodes.values()) == sum(seats.values()) and self._moves < MOST_MOVES:
            self._moves += 1
            self._write_lease(1)
        return self._extra > 0

    def extra(self, *, rolling: bool) -> int:
        """Replicas of all parts together that may be there beyond the lease, while it is `rolling` or settles."""
        return max(self._extra, self._surge if rolling else 0) * len(self._parts())

    def count(self) -> Count:
        """How many there are."""
        return self._seen.count(self._parts())

    def nodes(self) -> dict[str, int]:
        """Replicas that are there, by node, those of all parts together."""
        return self._seen.nodes(self._parts())

    def arrivals(self) -> tuple[Counter, ...]:
        """Online requests that came to each replica since it started."""
        return self._seen.arrivals(self._parts())

    # --- The registry, and a version on trial ------------------------------------------------------------------------

    def refresh(self) -> tuple[str, ...]:
        """Follow the registry's alias, and end a trial that a replica has ended; what there is to say of it.

        Weights are loaded beside the running ones, on the replicas' time: a later call says what came of it.
        """
        stands = [stand for part in self._parts() for stand in self._seen.stands(part.name)]
        return (*self._end_trial(stands), *self._follow_alias(stands))

    def overtaken(self) -> Life | None:
        """What replicas must become to follow the alias, where a running one cannot load other weights."""
        if self.endpoint.spec.engine.name == "torch":
            return None
        ref = self._named()
        return None if ref == self.life.ref else replace(self.life, built=ref, ref=ref)

    def canary(self) -> dict[str, Any] | None:
        """The version on trial, for people."""
        canary = self.endpoint.spec.canary
        if canary is None:
            return None
        return {"model": canary.model, "weight": canary.weight, "taken_back": self.life.taken_back}

    def _end_trial(self, stands: list[Stand]) -> tuple[str, ...]:
        reason = next((one.rolled_back for one in stands if one.rolled_back), None)
        canary = self.endpoint.spec.canary
        if canary is None or reason is None or self.life.taken_back is not None:
            return ()
        self._life = replace(self.life, taken_back=reason)
        self._run()
        return (f"canary {canary.model} was taken back: {reason}",)

    def _follow_alias(self, stands: list[Stand]) -> tuple[str, ...]:
        if self.endpoint.spec.engine.name != "torch":
            return ()
        ref, wish = self._named(), self._wanted().to_json()
        tried = [one.followed for one in stands if one.followed.wish == wish]
        error = next((one.error for one in tried if one.error), None)
        if self._trying is not None and error is not None:
            refused, self._refused, self._trying = self._trying, self._trying, None
            self._run()  # or a replica that starts later would be told to serve it
            return (f"{refused} cannot be served: {error}; {self.life.ref} goes on",)
        if self._trying is not None and stands and len(tried) == len(stands):
            self._life, self._trying = replace(self.life, ref=self._trying), None
            return (f"{self.life.ref} answers now",)
        if self._trying is None and ref not in (self.life.ref, self._refused):
            self._trying = ref
            self._run()
        return ()

    def _named(self) -> str:
        """The version that the file's model means now; the one that answers, where its alias was forgotten."""
        try:
            return self.registry.get(self.endpoint.spec.model).ref
        except UnknownModelError:
            return self.life.ref

    # --- Inside ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let the replicas finish within their drain time and take them down; with the last endpoint, Serve goes.

        Those of a set of tiers that its file had before, too. Raises: whatever Serve raises where they may be left.
        """
        with _quiet_driver(), contextlib.suppress(RayServeException):
            for name in left_behind(self.name):
                serve.delete(name)
                write_lease(name, None)
                write_seats(name, None)
            if not serve.status().applications:
                serve.shutdown()

    @property
    def _replicas(self) -> int:
        return sum(self._seats.values())

    def _parts(self) -> tuple[Part, ...]:
        return parts(self.endpoint, f"/{self.name}")

    def _versions(self, life: Life) -> dict[str, str]:
        """What replicas of each part are built from."""
        endpoint, start = _read(life.document), self.registry.get(life.built)
        return {part.name: code_version(part.endpoint, start) for part in parts(endpoint, f"/{self.name}")}

    def _wanted(self) -> Wanted:
        stable, taken_back = self._trying or self.life.ref, self.life.taken_back
        return wanted_versions(self.endpoint, self.registry, stable=stable, with_canary=taken_back is None)

    def _run(self) -> None:
        start, wanted = self.registry.get(self.life.built), self._wanted()
        held = Held(initial=self._replicas, surge=self._replicas < 2 or self._has_room_for_one())
        self._surge = surge(self.endpoint, held)
        targets = [
            serve.RunTarget(
                target=application(part, self.registry, start, wanted, base=self.base, held=held),
                name=part.name,
                route_prefix=part.path,
                logging_config=_QUIET,
            )
            for part in self._parts()
        ]
        with _quiet_driver():
            serve.run_many(targets, wait_for_applications_running=False)

    def _write_lease(self, extra: int) -> None:
        self._extra = extra
        for part in self._parts():
            write_seats(part.name, self._seats)
            write_lease(part.name, self._replicas + extra)

    def _has_room_for_one(self) -> bool:
        """Whether one more replica of each part could start."""
        return has_room(self.endpoint.spec.replicas.resources, len(self._parts()))


def _read(document: Document) -> Endpoint:
    (endpoint,) = load_text(json.dumps(dict(document)), where=str(document["metadata"]["name"]))
    assert isinstance(endpoint, Endpoint), "an endpoint's process has an Endpoint"
    return endpoint
