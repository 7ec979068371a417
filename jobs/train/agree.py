"""How all ranks come to leave, and to save, at the same step: one small sum a step, read a step late. Pure.

After step s every rank adds its wishes to a sum and goes on; after step s+1 it reads the total, which is there by then,
so nobody waits. All ranks read the same total at the same step, so they decide the same. At a step after which state
is saved, the total is read at once: the state must contain its own step's ledger.

The transport is somebody else's; this module knows what is summed, when it is read, and what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsFloat

VECTOR_LENGTH = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What one rank adds after a step.

    `loss` is its share of the weighted mean; a device may still be computing it, and nobody here looks at it. `hash_hi`
    and `hash_lo` are the halves of its samples' ledger hash.
    """

    stop: bool
    checkpoint: bool
    loss: SupportsFloat
    hash_hi: int
    hash_lo: int

    def to_vector(self) -> tuple[SupportsFloat, ...]:
        """For a float64 sum; halves of 32 bits stay exact over up to 2^21 ranks."""
        return (float(self.stop), float(self.checkpoint), self.loss, float(self.hash_hi), float(self.hash_lo))


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """What all ranks of a step together said."""

    step: int
    stop: bool
    checkpoint: bool
    loss: float
    hash_hi: int
    hash_lo: int

    @classmethod
    def of(cls, step: int, vector: Sequence[float]) -> Total:
        """From the summed vectors of the step's contributions."""
        stop, checkpoint, loss, high, low = vector
        return cls(step=step, stop=stop > 0, checkpoint=checkpoint > 0, loss=loss, hash_hi=int(high), hash_lo=int(low))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """What is known of a run's steps in advance, the same on every rank. 0 for `snapshot_every_steps` is never."""

    steps: int
    snapshot_every_steps: int

    def is_last(self, step: int) -> bool:
        """Whether the run is over after this step."""
        return step >= self.steps

    def snapshot_due(self, step: int) -> bool:
        """Whether a snapshot is taken after this step in any case."""
        return self.snapshot_every_steps > 0 and step % self.snapshot_every_steps == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What every rank does after a step. `finished` and `stop` exclude each other; both leave, both save."""

    finished: bool
    stop: bool
    snapshot: bool
    checkpoint: bool

    @property
    def leave(self) -> bool:
        return self.finished or self.stop

    @property
    def saves(self) -> bool:
        """Whether state is saved after this step, so that the step's own total is read before going on."""
        return self.leave or self.snapshot or self.checkpoint


def decide(rhythm: Rhythm, step: int, heard: Sequence[Total]) -> Decision:
    """What to do after `step`, given the totals read since the last decision (of earlier steps only).

    A rank that leaves or checkpoints also snapshots: that is where both take their bytes from.
    """
    assert all(total.step < step for total in heard), "the decision would depend on who reads faster"
    finished = rhythm.is_last(step)
    stop = not finished and any(total.stop for total in heard)
    checkpoint = any(total.checkpoint for total in heard)
    return Decision(
        finished=finished,
        stop=stop,
        snapshot=finished or stop or checkpoint or rhythm.snapshot_due(step),
        checkpoint=checkpoint,
    )
