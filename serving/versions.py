"""Which registered versions a running replica serves, and how they change without a restart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import structlog

from orchestrator.spec import Endpoint
from orchestrator.spec.errors import UserError
from serving.engine.replica import Replica
from serving.engine.rollout import Trial
from serving.engine.torch_engine import CachedModel, TorchEngine, load_placed
from serving.http.service import ServedModel
from serving.policy.canary import CanaryRules, RollBack, RollbackReason

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedVersion:
    """A registered version: `name@N`, where its files are, when it was registered."""

    ref: str
    folder: str
    created_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a replica shall serve: the stable version, and perhaps one on trial by these rules (None: those of the
    file that the replica was built from)."""

    stable: WantedVersion
    canary: WantedVersion | None = None
    rules: CanaryRules | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, as Ray Serve's `user_config` takes them."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Wanted:
        """The inverse of `to_json`."""
        canary, rules = document["canary"], document["rules"]
        return cls(
            stable=WantedVersion(**document["stable"]),
            canary=WantedVersion(**canary) if canary else None,
            rules=CanaryRules(**rules) if rules else None,
        )


class Versions:
    """Loads versions beside the running engine and puts them in between two steps."""

    def __init__(
        self,
        endpoint: Endpoint,
        replica: Replica,
        engine: TorchEngine,
        current: ServedModel,
        on_change: Callable[[ServedModel], None],
    ) -> None:
        self._endpoint = endpoint
        self._replica = replica
        self._engine = engine
        self._current = current
        self._on_change = on_change
        self._on_trial: str | None = None
        self._rules: CanaryRules | None = None

    @property
    def rolled_back(self) -> RollBack | None:
        """Why the version on trial was taken back, if it was."""
        return self._replica.rollout.rolled_back

    def apply(self, wanted: Wanted) -> None:
        """Serve these versions from now on; blocks while weights load. Raises: UserError; what is served stays then.

        Answers in progress keep the weights they began with. A canary that cannot be loaded is rolled back at once.
        """
        if wanted.stable.ref != self._current.ref:
            model = self._load(wanted.stable)
            self._replica.between_steps(lambda: self._engine.serve(model))
            self._current = ServedModel(id=self._current.id, ref=wanted.stable.ref, created_s=wanted.stable.created_s)
            self._on_change(self._current)
            _log.info("weights swapped", version=wanted.stable.ref)
        if (wanted.canary.ref if wanted.canary else None) != self._on_trial or wanted.rules != self._rules:
            self._rules = wanted.rules
            self._put_on_trial(wanted.canary)

    def _put_on_trial(self, canary: WantedVersion | None) -> None:
        before, self._on_trial = self._on_trial, canary.ref if canary else None
        try:
            model = self._load(canary) if canary else None
        except UserError as error:
            _log.warning("canary not started", version=self._on_trial, error=str(error))
            failed = RollBack(reason=RollbackReason.DID_NOT_START, detail=str(error))
            self._replica.between_steps(lambda: self._begin(before, canary, None, failed))
            return
        self._replica.between_steps(lambda: self._begin(before, canary, model, None))

    def _begin(
        self, before: str | None, canary: WantedVersion | None, model: CachedModel | None, failed: RollBack | None
    ) -> None:
        if before:
            self._engine.offer(before, None)
        trial = None
        if canary and model:
            self._engine.offer(canary.ref, model)
            rules = self._rules or canary_rules(self._endpoint)
            trial = Trial(version=canary.ref, rules=rules, since_s=self._replica.clock())
        self._replica.rollout.begin(trial)
        if canary and failed:
            self._replica.rollout.take_back(canary.ref, failed)

    def _load(self, version: WantedVersion) -> CachedModel:
        placed, _ = load_placed(Path(version.folder), self._endpoint.spec.engine.precision)
        model = cast(CachedModel, placed)
        try:
            self._engine.check_shapes(model)
        except ValueError as error:
            raise UserError(
                str(error), where=version.ref, next_step="Deploy the endpoint anew for another architecture."
            ) from error
        return model


def canary_rules(endpoint: Endpoint) -> CanaryRules:
    """The trial's rules in the endpoint's file. An SLO's budget is the strictest tier's."""
    canary, tiers = endpoint.spec.canary, endpoint.spec.tiers
    assert canary is not None
    slos = [tier.slo for tier in (tiers.keystroke, tiers.interactive) if tier]
    budget = min((1 - slo.percentile / 100 for slo in slos), default=0.01)
    rollback = canary.rollback
    return CanaryRules(
        weight=canary.weight,
        error_rate=rollback.error_rate,
        burn_rate=rollback.burn_rate,
        after_s=rollback.after,
        slo_budget=budget,
    )
