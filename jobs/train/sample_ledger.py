"""Proof that a run used every sample exactly once: what was used, summed, against what the step says it must be.

The ledger travels in every checkpoint. It knows sums of hashes, not samples; which rank used what is not its business.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.train.samples import Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleLedger:
    """Steps and samples used so far and the sum mod 2^64 of their hashes.

    `num_bad_steps` counts steps whose sum was not what the stream says: a sample repeated, skipped or foreign.
    """

    next_step: int = 0
    num_samples: int = 0
    hash_sum: int = 0
    num_bad_steps: int = 0

    def record(self, stream: Stream, step: int, used_hash: int) -> SampleLedger:
        """The ledger after `step`, whose samples' hashes summed to `used_hash` over all ranks.

        Raises: ValueError if the step is not the next one: a step run twice or left out is what the ledger is for.
        """
        if step != self.next_step:
            raise ValueError(f"step {step} recorded, but the next step of the ledger is {self.next_step}")
        return replace(
            self,
            next_step=step + 1,
            num_samples=self.num_samples + stream.global_batch_size,
            hash_sum=(self.hash_sum + used_hash) % 2**64,
            num_bad_steps=self.num_bad_steps + (used_hash != stream.step_hash(step)),
        )

    def verify(self, stream: Stream) -> bool:
        """Recompute the whole sum from the stream, steps 0..next_step-1; slow for long runs, meant for audits."""
        expected = sum(stream.step_hash(step) for step in range(self.next_step)) % 2**64
        return self.num_bad_steps == 0 and expected == self.hash_sum

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint; the sum is hexadecimal because JSON readers round large numbers."""
        return {
            "next_step": self.next_step,
            "num_samples": self.num_samples,
            "hash_sum": f"{self.hash_sum:016x}",
            "num_bad_steps": self.num_bad_steps,
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> SampleLedger:
        """The inverse of `to_json`; raises KeyError or ValueError for anything else."""
        return cls(
            next_step=int(saved["next_step"]),
            num_samples=int(saved["num_samples"]),
            hash_sum=int(saved["hash_sum"], 16),
            num_bad_steps=int(saved["num_bad_steps"]),
        )
