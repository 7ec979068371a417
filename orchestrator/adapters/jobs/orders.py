"""What the desks of all that holds leases share: the newest order of their folder, and patience with a full disk."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

from orchestrator.adapters.jobs.folder import JobFolder
from orchestrator.adapters.jobs.letters import Letter


class Orders:
    """The orders of one folder, as they come. Its owner keeps threads apart."""

    def __init__(self, folder: JobFolder) -> None:
        self._folder = folder
        self._stamp: object = None
        self._newest: Letter | None = None
        self._is_overtaken = False

    def take(self) -> Letter | None:
        """An order that has come since the last look; None where there is no news."""
        stamp = self._folder.order_stamp()
        if stamp == self._stamp:
            return None
        letter = self._folder.read_order()
        self._stamp = stamp
        if letter is None or not letter.follows(self._newest):
            return None
        if self._newest is not None and self._newest.stop:
            self._is_overtaken = True
            return None  # what follows a stop is for the next process: this one may still be writing state
        self._newest = letter
        return letter

    @property
    def newest(self) -> Letter | None:
        """The order that holds."""
        return self._newest

    @property
    def is_overtaken(self) -> bool:
        """Whether an order for the next process has come, which waits for the end of this one."""
        return self._is_overtaken

    def wants_stop(self, now_s: float) -> int:
        """0 = go on, 1 = stop in order, 2 = at once, for the deadline has passed."""
        order = self._newest
        if order is None or not order.stop:
            return 0
        return 2 if order.until_s is not None and now_s > order.until_s else 1


class DiskPatience:
    """A disk that is full for a moment ends nothing: what could not be written is in the next report."""

    def __init__(self) -> None:
        self._trouble = ""

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Say what is wrong, once, and go on. Raises: what is no disk's but a network's."""
        try:
            yield
        except (ConnectionError, TimeoutError):
            raise
        except OSError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                traceback.print_exc()
