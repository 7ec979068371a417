"""Take a rank's state out of the loop's way: copy it beside the next step's computation, then hash and hand it over.

Between two updates nobody writes the sharded state, so a thread may copy it while the next forward and backward run;
only the next update has to wait for the copy. Where the bytes go is a sink's business (a keeper, storage).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from jobs.train.config import StartRequest
from jobs.train.messages import Message, NotSaved, Snapshot
from jobs.train.state.describe import describe_state
from jobs.train.state.errors import StateError
from jobs.train.state.hashing import hash_blocks
from jobs.train.state.layout import PartLayout
from jobs.train.state.manifest import Manifest, Part
from jobs.train.state.naming import part_file
from jobs.train.state.parts import copy_part_into, describe_part
from jobs.train.state.view import ShardView


class SnapshotSink(Protocol):
    """Takes this rank's part of a step. `open` is called by the loop, `seal` by a background thread."""

    def open(self, step: int, nbytes: int, *, final: bool) -> memoryview:
        """A writable buffer of at least `nbytes`. `final`: the attempt ends with this one, so it must not be skipped.

        Raises: StateError if there is no room.
        """
        ...

    def seal(self, part: Part, manifest: Manifest) -> None:
        """The buffer of `open` now holds `part`; `manifest` describes the whole state but lists no parts.

        Raises: StateError.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a manifest says of the run, the same at every step."""

    run: str
    attempt: int
    rank: int
    world_size: int
    task: Mapping[str, Any]
    dataset_hash: str

    @classmethod
    def of(cls, request: StartRequest, dataset_hash: str) -> RunFacts:
        job = request.job
        return cls(
            run=job.run_id,
            attempt=job.attempt,
            rank=request.rank,
            world_size=request.world_size,
            task={"task": job.task, "args": dict(job.args)},
            dataset_hash=dataset_hash,
        )


class Saver:
    """Saves one step at a time; a second one waits until the first is sealed.

    `view_now` gives the state as it is now; where its pieces lie does not change while their number does not.
    """

    def __init__(
        self, facts: RunFacts, view_now: Callable[[], ShardView], sink: SnapshotSink, send: Callable[[Message], None]
    ) -> None:
        self._facts = facts
        self._view_now = view_now
        self._sink = sink
        self._send = send
        self._layout: PartLayout | None = None
        self._num_pieces = 0
        self._thread: threading.Thread | None = None
        self._copied = threading.Event()
        self._error: BaseException | None = None
        self._held_s = 0.0

    def save(self, step: int, replicated: Mapping[str, Any], *, final: bool) -> None:
        """Begin to save the state after `step`; returns while the copy is under way.

        A step that cannot be saved is reported and left out, unless it is the final one.
        Raises: StateError for the final one.
        """
        self._wait_sealed()
        started_s = time.monotonic()
        view = self._view_now()
        if self._layout is None or len(view.owned) != self._num_pieces:  # an optimizer's first step makes its moments
            self._layout, self._num_pieces = PartLayout.of(view), len(view.owned)
        manifest = self._describe(view, step, replicated)
        try:
            buffer = self._sink.open(step, self._layout.nbytes, final=final)
        except StateError as error:
            if final:
                raise
            self._send(NotSaved(step, str(error)))
            return
        self._held_s = time.monotonic() - started_s
        self._copied.clear()
        self._thread = threading.Thread(target=self._copy_and_seal, args=(self._layout, buffer, manifest), name="save")
        self._thread.start()
        if final:
            self._wait_sealed(fatal=True)

    def before_update(self) -> None:
        """Wait until nobody reads the state any more; call right before it is changed."""
        if self._thread is not None and not self._copied.is_set():
            started_s = time.monotonic()
            self._copied.wait()
            self._held_s += time.monotonic() - started_s

    def finish(self) -> None:
        """Wait until what was begun is sealed."""
        self._wait_sealed()

    def _wait_sealed(self, *, fatal: bool = False) -> None:
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error is not None and (fatal or not isinstance(error, StateError)):
            raise error

    def _copy_and_seal(self, layout: PartLayout, buffer: memoryview, manifest: Manifest) -> None:
        try:
            copy_part_into(layout, buffer)
            self._copied.set()
            self._sink.seal(self._describe_part(layout, buffer, manifest), manifest)
            self._send(Snapshot(manifest.step, layout.nbytes, self._held_s))
        except BaseException as error:
            self._error = error
            self._send(NotSaved(manifest.step, str(error)))
        finally:
            self._copied.set()

    def _describe(self, view: ShardView, step: int, replicated: Mapping[str, Any]) -> Manifest:
        facts = self._facts
        return describe_state(
            view,
            run=facts.run,
            step=step,
            attempt=facts.attempt,
            task=facts.task,
            dataset_hash=facts.dataset_hash,
            replicated=replicated,
        )

    def _describe_part(self, layout: PartLayout, buffer: memoryview, manifest: Manifest) -> Part:
        facts = self._facts
        return describe_part(
            layout,
            rank=facts.rank,
            file=part_file(facts.run, manifest.step, facts.attempt, facts.rank, facts.world_size),
            blocks=hash_blocks(buffer[: layout.nbytes]),
        )
