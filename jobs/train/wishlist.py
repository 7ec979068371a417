"""What this rank wishes the group to do: what its supervisor asked for, and checkpoints by rank 0's clock."""

from __future__ import annotations

import time
from collections.abc import Callable

from jobs.train.channel import Channel


class Wishlist:
    """`every_s`, asked at every step: 0 = no checkpoints by the clock. Only one rank of a group should have a clock."""

    def __init__(
        self, channel: Channel, every_s: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._channel = channel
        self._every_s = every_s
        self._clock = clock
        self._last_s = clock()

    def take(self) -> tuple[bool, bool]:
        """(stop, checkpoint) for this step's sum; a checkpoint is wished once, a stop for good."""
        now_s, every_s = self._clock(), self._every_s()
        due = every_s > 0 and now_s - self._last_s >= every_s
        checkpoint = due or self._channel.checkpoint_wanted
        if checkpoint:
            self._channel.checkpoint_wanted = False
            self._last_s = now_s
        return self._channel.stop_reason is not None, checkpoint
