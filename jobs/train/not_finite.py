"""What follows from an update that was refused because the gradient is not finite: stop, skip, or roll back.

Every rank asks at the same step, because the norm of the gradient is the same on all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jobs.train.config import OnNan
from jobs.train.failures import NotFiniteError
from jobs.train.messages import Message, RolledBack, Skipped

# Data or state that is broken stays broken: going on longer would waste devices without a word.
MAX_IN_A_ROW = 10


class NotFiniteHandler:
    """Counts refusals in a row. `roll_back` loads the newest saved state and returns its step.

    `passed_over` lists (from, to]: steps whose updates a roll-back threw away, or refused; their samples count as used.
    """

    def __init__(
        self,
        policy: OnNan,
        *,
        passed_over: Sequence[tuple[int, int]],
        roll_back: Callable[[], int],
        report: Callable[[Message], None],
    ) -> None:
        self.passed_over = list(passed_over)
        self._policy = policy
        self._roll_back = roll_back
        self._report = report
        self._in_a_row = 0

    def applied(self) -> None:
        """An update went well."""
        self._in_a_row = 0

    def refused(self, step: int) -> None:
        """The update of `step` was refused. Raises: NotFiniteError where the job should not go on."""
        self._in_a_row += 1
        if self._policy == "stop":
            raise NotFiniteError(f"the gradient of step {step} is not finite")
        if self._in_a_row > MAX_IN_A_ROW:
            raise NotFiniteError(f"gradients are not finite, {self._in_a_row} steps in a row up to {step}")
        if self._policy == "skip":
            self._report(Skipped(step))
        else:
            to_step = self._roll_back()
            self.passed_over.append((to_step, step))
            self._report(RolledBack(step, to_step))
