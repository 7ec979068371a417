"""Virtual nodes with real keepers: real segments (tiny), an in-process network, a clock that only tests move."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from jobs.train.keeper.faults import Faults, Point, no_faults
from jobs.train.keeper.index import block_hash
from jobs.train.keeper.keeper import Keeper, KeeperConfig
from jobs.train.keeper.mirror import Retry
from jobs.train.keeper.topology import choose_mirrors
from jobs.train.keeper.transport import LocalNetwork, PeerGoneError, PeerService
from jobs.train.keeper.values import AttemptPlan, PartKey, SnapshotKey
from orchestrator.spec.errors import UserError

BLOCK_BYTES = 64
GRAIN_BYTES = 128
RUN = "run"
CHECKPOINT_EVERY_S = 100.0


class Crash(BaseException):
    """The process dies here."""


class CrashAt:
    """A fault that kills at the `nth` passing of a point; before and after, nothing happens."""

    def __init__(self, point: Point, nth: int = 1) -> None:
        self.point = point
        self.left = nth

    def __call__(self, point: Point) -> None:
        if point is self.point:
            self.left -= 1
            if self.left == 0:
                raise Crash(point)


class Mortal:
    """A node as others see it: when its keeper crashes while answering, it is gone."""

    def __init__(self, world: World, name: str, service: PeerService) -> None:
        self._world = world
        self._name = name
        self._service = service

    def sink(self, op, fields, nbytes):
        return self._or_gone(lambda: self._service.sink(op, fields, nbytes))

    def handle(self, op, fields, payload):
        return self._or_gone(lambda: self._service.handle(op, fields, payload))

    def _or_gone(self, answer):
        try:
            return answer()
        except Crash as crash:
            self._world.kill_keeper(self._name)
            raise PeerGoneError(self._name, f"crashed at {crash}") from None


@dataclass
class MemoryStorage:
    """Storage that can be full, read-only or gone (`broken`), and that keeps what was committed."""

    files: dict[str, bytes] = field(default_factory=dict)
    manifests: list[bytes] = field(default_factory=list)
    broken: str = ""
    writes_left: int = 10**9

    def write_part(self, file, data, nbytes):
        self._check()
        self.files[file] = b"".join(data)

    def commit(self, manifest, keep):
        self._check()
        self.manifests = [*self.manifests, manifest][-keep:]

    def _check(self):
        self.writes_left -= 1
        if self.broken or self.writes_left < 0:
            raise UserError(self.broken or "storage is full")


def content(key: PartKey, nbytes: int) -> bytes:
    """The bytes of a part: a function of its key, so that any mix-up shows."""
    return random.Random(repr(key)).randbytes(nbytes)


def entry_of(key: PartKey, data: bytes) -> dict[str, object]:
    blocks = [block_hash(data[at : at + BLOCK_BYTES]) for at in range(0, len(data), BLOCK_BYTES)]
    return {"rank": key.rank, "file": f"part-{key.snapshot.step}-{key.rank}", "nbytes": len(data), "blocks": blocks}


class World:
    """Nodes a, b, c, ... with keepers; ranks are dealt to nodes in turn."""

    def __init__(self, root: Path, *, nodes: int = 3, limit_bytes: int = 1 << 16, part_bytes: int = 200) -> None:
        self.root = root
        self.limit_bytes = limit_bytes
        self.part_bytes = part_bytes
        self.network = LocalNetwork()
        self.storage = MemoryStorage()
        self.now_s = 0.0
        self.keepers: dict[str, Keeper] = {}
        self.names = [chr(ord("a") + i) for i in range(nodes)]
        for name in self.names:
            self.boot(name)

    def boot(self, name: str, faults: Faults = no_faults) -> Keeper:
        """Start a keeper on a node; what the last one left is still there."""
        config = KeeperConfig(
            node=name,
            folder=self.root / name,
            limit_bytes=self.limit_bytes,
            mirror_streams=1,
            mirror_max_bytes_per_s=0.0,
            retry=Retry(first_s=1.0, most_s=8.0),
            flush_timeout_s=50.0,
            flush_retry_s=10.0,
            block_bytes=BLOCK_BYTES,
            grain_bytes=GRAIN_BYTES,
        )
        keeper = Keeper(config, self.network, lambda url: self.storage, clock=lambda: self.now_s, faults=faults)
        keeper.adopt()
        self.keepers[name] = keeper
        self.network.plug(name, Mortal(self, name, keeper.peer_service))
        return keeper

    def kill_keeper(self, name: str) -> None:
        """kill -9 of the keeper's process: the kernel closes what it had open, nothing else happens."""
        self.network.unplug(name)
        keeper = self.keepers.pop(name, None)
        if keeper is not None:
            keeper.close()

    def kill_node(self, name: str) -> None:
        """The machine is gone, with its memory."""
        self.kill_keeper(name)
        shutil.rmtree(self.root / name)

    def node_of(self, rank: int) -> str:
        return self.names[rank % len(self.names)]

    def begin(self, attempt: int = 0, world_size: int = 3, **changes) -> AttemptPlan:
        """Tell every living keeper of an attempt on the nodes that are alive."""
        self.names = sorted(self.keepers)
        domains = {name: f"zone/{name}" for name in self.names}
        plan = AttemptPlan(
            **{
                "run": RUN,
                "attempt": attempt,
                "world_size": world_size,
                "nodes": tuple(self.names),
                "lead": self.names[0],
                "mirrors": dict(choose_mirrors(self.names, domains, 1).peers),
                **changes,
            }
        )
        for name in self.names:
            self.tell(name, plan)
        return plan

    def tell(self, name: str, plan: AttemptPlan) -> None:
        """Begin an attempt on one node."""
        try:
            self.keepers[name].begin_attempt(plan)
        except Crash:
            self.kill_keeper(name)

    def key(self, step: int, attempt: int = 0, world_size: int = 3) -> SnapshotKey:
        return SnapshotKey(run=RUN, step=step, attempt=attempt, world_size=world_size)

    def alloc(self, part: PartKey, *, final: bool = False, owner: object = None) -> object:
        """One rank gets its segment and writes into it. Raises: RefusedError."""
        keeper = self.keepers[self.node_of(part.rank)]
        owner = owner or object()
        path = keeper.rank_service.alloc(part, self.part_bytes, owner, final=final, wait_s=0.0)
        with open(path, "r+b") as file:
            file.write(content(part, self.part_bytes))
        return owner

    def seal(self, part: PartKey, owner: object) -> None:
        header = {"step": part.snapshot.step} if part.rank == 0 else None
        keeper = self.keepers[self.node_of(part.rank)]
        keeper.rank_service.seal(part, entry_of(part, content(part, self.part_bytes)), header, owner)

    def snapshot(self, key: SnapshotKey, ranks: range | None = None, *, final: bool = False) -> None:
        """All ranks (or some) take a snapshot."""
        for rank in ranks if ranks is not None else range(key.world_size):
            part = PartKey(snapshot=key, rank=rank)
            self.seal(part, self.alloc(part, final=final))

    def settle(self) -> None:
        """Background work until nothing changes any more: for three turns, since a report changes nothing visible."""
        quiet = 0
        for _ in range(1_000):
            before = self._state()
            worked = [self.pump(name) for name in sorted(self.keepers)]
            quiet = quiet + 1 if not any(worked) and self._state() == before else 0
            if quiet == 3:
                return
        raise AssertionError("does not settle")

    def pump(self, name: str) -> bool:
        """One turn of a node's background work; a crash in it ends the keeper."""
        keeper = self.keepers.get(name)
        try:
            return keeper is not None and keeper.pump_once()
        except Crash:
            self.kill_keeper(name)
            return True

    def _state(self) -> object:
        return [
            (name, keeper.inventory(RUN), run.verdicts if (run := keeper.runs.get(RUN)) else None)
            for name, keeper in self.keepers.items()
        ]

    def steps(self, name: str) -> list[int]:
        """Steps of which a node holds sealed parts."""
        return sorted({part.meta.key.snapshot.step for part in self.keepers[name].store.sealed(RUN)})

    def close(self) -> None:
        for name in list(self.keepers):
            self.kill_keeper(name)
