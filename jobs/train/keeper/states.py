"""Restores a rank from the nearest place that has the newest step: own node, other keepers, storage.

Implements `jobs.train.restoring.StateSource`; runs in the rank. Rank 0 asks, all ranks follow its plan; a plan that
fails on any rank is given up by all, and the next older state is tried.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.train import wire
from jobs.train.keeper.client import KeeperClient
from jobs.train.keeper.judge import Source
from jobs.train.keeper.restore import RestorePlan
from jobs.train.keeper.socket_transport import SocketTransport
from jobs.train.keeper.source import KeeperSource
from jobs.train.keeper.values import SnapshotKey
from jobs.train.restoring import Restored, StateSource
from jobs.train.state.checkpoints import steps
from jobs.train.state.compatibility import Expected, changes, require
from jobs.train.state.deepspeed_shards import view_of
from jobs.train.state.errors import StateError
from jobs.train.state.hashing import BLOCK_BYTES
from jobs.train.state.loading import fill
from jobs.train.state.manifest import Manifest
from jobs.train.state.storage import Storage
from jobs.train.state.view import ShardView

if TYPE_CHECKING:
    from jobs.train.config import RankJob
    from jobs.train.engine import Engine


class KeeperStates:
    """Keepers first, storage (`fallback`) where it is newer or all else fails.

    `share` gives every rank what rank 0 passed; `agree` is true if every rank passed true; both are collective.
    `timeout_s` bounds every question to another node's keeper.
    """

    def __init__(
        self,
        client: KeeperClient,
        *,
        rank: int,
        share: Callable[[str], str],
        agree: Callable[[bool], bool],
        storage: Storage | None,
        fallback: StateSource | None,
        timeout_s: float,
    ) -> None:
        self._client = client
        self._rank = rank
        self._share = share
        self._agree = agree
        self._storage = storage
        self._fallback = fallback
        self._timeout_s = timeout_s

    def load_newest(self, engine: Engine, job: RankJob, dataset_hash: str) -> Restored | None:
        """Collective. None if there is no state at all.

        Raises: WrongStateError, CorruptStateError if storage is asked and has nothing sound.
        """
        refused: list[SnapshotKey] = []
        problems: list[str] = []
        while True:
            plan = self._agreed_plan(job.run_id, tuple(refused))
            if plan.source is not Source.KEEPERS:
                restored = self._fallback.load_newest(engine, job, dataset_hash) if self._fallback else None
                said = [plan.detail, *problems, restored.detail if restored else ""]
                return restored and replace(restored, detail="; ".join(filter(None, said)))
            manifest = Manifest.from_bytes(plan.manifest.encode(), f"keepers, step {plan.step}")
            view = view_of(engine.deepspeed, moments=manifest.moments)
            expected = _expected(view, job, dataset_hash)
            require(expected, manifest)
            problem, read_bytes = self._fill(view, manifest, plan)
            if self._agree(not problem):
                view.set_scalars(manifest.scalars)
                view.publish()
                detail = "; ".join([plan.detail, *problems, *changes(expected, manifest)])
                return Restored(manifest=manifest, source="keepers", read_bytes=read_bytes, detail=detail)
            problems.append(f"step {plan.step} passed over: {problem or 'another rank could not read it'}")
            refused.append(next(iter(plan.places.values())).key.snapshot)

    def _agreed_plan(self, run: str, refused: tuple[SnapshotKey, ...]) -> RestorePlan:
        plan = self._plan(run, refused) if self._rank == 0 else None
        return wire.load(RestorePlan, self._share(wire.dump(plan).decode() if plan else ""))

    def _plan(self, run: str, refused: tuple[SnapshotKey, ...]) -> RestorePlan:
        """Rank 0 must not fail alone, the others wait for it: trouble is a plan, too."""
        step: int | None = None
        try:
            step = max(steps(self._storage, run), default=None) if self._storage else None
            return self._client.restore_plan(run, storage_step=step, refused=refused)
        except StateError as error:
            source = Source.STORAGE if step is not None else Source.NOTHING
            return RestorePlan(source=source, step=step or 0, detail=str(error), places={})

    def _fill(self, view: ShardView, manifest: Manifest, plan: RestorePlan) -> tuple[str, int]:
        """What went wrong ("" if nothing did), and the bytes read."""
        try:
            peers = self._client.peers()
            transport = _transport(peers, self._timeout_s)
        except (StateError, OSError) as error:
            return str(error), 0
        try:
            source = keeper_source(plan, manifest, peers["node"], self._client, transport, self._storage)
            return "", fill(view.wanted, manifest, source).read_bytes
        except StateError as error:
            return str(error), 0
        finally:
            transport.close()


def _expected(view: ShardView, job: RankJob, dataset_hash: str) -> Expected:
    return Expected(shapes=view.shapes, dataset_hash=dataset_hash, zero_stage=job.zero_stage, precision=job.precision)


def keeper_source(
    plan: RestorePlan,
    manifest: Manifest,
    node: str,
    client: KeeperClient,
    transport: SocketTransport,
    storage: Storage | None,
) -> KeeperSource:
    """The source that reads what `plan` names; `manifest` is the plan's."""
    return KeeperSource(
        plan.places,
        {part.file: part for part in manifest.parts},
        node=node,
        locate=client.locate,
        transport=transport,
        block_bytes=BLOCK_BYTES,
        storage=storage,
    )


def _transport(peers: dict[str, Any], timeout_s: float) -> SocketTransport:
    token = Path(peers["token_path"]).read_bytes() if peers["token_path"] else b""
    return SocketTransport(token, peers["addresses"], timeout_s=timeout_s)
