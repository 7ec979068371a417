"""What a keeper answers to other keepers, and to ranks of other nodes that read its parts."""

from __future__ import annotations

from collections.abc import Callable

from jobs.train import wire
from jobs.train.keeper.landing import STALE, Landings
from jobs.train.keeper.reporting import Reporter
from jobs.train.keeper.runs import Runs
from jobs.train.keeper.store import PartStore
from jobs.train.keeper.transport import Fields, PeerRefusedError, Reply
from jobs.train.keeper.values import Inventory, PartKey, PartMeta, SnapshotKey, Verdicts

NOT_HELD, NOT_LEAD, UNKNOWN_QUESTION = "not_held", "not_lead", "unknown_question"
# What one `read` may ask for: a block is 4 MiB, and nobody needs more at once.
MAX_READ_BYTES = 64 * 2**20


class KeeperPeerService:
    """Implements `transport.PeerService`. `news` is called after anything that others of this keeper should see."""

    def __init__(
        self, store: PartStore, landings: Landings, runs: Runs, reporter: Reporter, news: Callable[[], None]
    ) -> None:
        self._store = store
        self._landings = landings
        self._runs = runs
        self._reporter = reporter
        self._news = news
        self._answers: dict[str, Callable[[Fields, memoryview], Reply]] = {
            "offer": self._offer,
            "block": self._block,
            "read": self._read,
            "entries": self._entries,
            "inventory": self._inventory,
            "report": self._report,
            "verdicts": self._verdicts,
        }

    def sink(self, op: str, fields: Fields, nbytes: int) -> memoryview:
        """Only blocks carry bytes; they land in their segment."""
        if op != "block":
            raise PeerRefusedError(UNKNOWN_QUESTION, f"{op!r} takes no payload")
        return self._landings.sink(wire.load(PartKey, fields["key"]), int(fields["index"]), nbytes)

    def handle(self, op: str, fields: Fields, payload: memoryview) -> Reply:
        answer = self._answers.get(op)
        if answer is None:
            raise PeerRefusedError(UNKNOWN_QUESTION, repr(op))
        return answer(fields, payload)

    def _offer(self, fields: Fields, payload: memoryview) -> Reply:
        meta = wire.load(PartMeta, fields["part"])
        key = meta.key.snapshot
        if self._runs.is_outdated(key):
            raise PeerRefusedError(STALE, f"step {key.step} of attempt {key.attempt} is not wanted any more")
        return Reply({"missing": self._landings.offer(meta, lambda: self._runs.droppable(key))})

    def _block(self, fields: Fields, payload: memoryview) -> Reply:
        sealed = self._landings.landed(wire.load(PartKey, fields["key"]), int(fields["index"]), payload)
        if sealed:
            self._news()
        return Reply({"sealed": sealed})

    def _read(self, fields: Fields, payload: memoryview) -> Reply:
        part = self._store.get(wire.load(PartKey, fields["key"]))
        offset, nbytes = int(fields["offset"]), int(fields["nbytes"])
        if part is None:
            raise PeerRefusedError(NOT_HELD, f"node {self._runs.node} does not hold this part")
        if not (0 <= offset <= offset + nbytes <= part.meta.nbytes and nbytes <= MAX_READ_BYTES):
            raise PeerRefusedError(NOT_HELD, f"bytes {offset}..{offset + nbytes} of {part.meta.nbytes}")
        return Reply({}, part.data()[offset : offset + nbytes])

    def _entries(self, fields: Fields, payload: memoryview) -> Reply:
        key = wire.load(SnapshotKey, fields["key"])
        parts = [part.meta for part in self._store.sealed(key.run) if part.meta.key.snapshot == key]
        return Reply({"parts": [wire.dump(meta).decode() for meta in parts]})

    def _inventory(self, fields: Fields, payload: memoryview) -> Reply:
        return Reply({"inventory": wire.dump(self._runs.inventory(str(fields["body"]))).decode()})

    def _report(self, fields: Fields, payload: memoryview) -> Reply:
        verdicts = self._reporter.receive(wire.load(Inventory, fields["body"]))
        if verdicts is None:
            raise PeerRefusedError(NOT_LEAD, f"node {self._runs.node} does not lead this attempt")
        self._news()
        return Reply({"verdicts": wire.dump(verdicts).decode()})

    def _verdicts(self, fields: Fields, payload: memoryview) -> Reply:
        self._runs.apply(wire.load(Verdicts, fields["body"]))
        self._news()
        return Reply({})
