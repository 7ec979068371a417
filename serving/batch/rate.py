"""How fast a replica does batch work, measured while there is more of it than it can hold."""

from __future__ import annotations

import math

_HALF_LIFE_S = 60.0
_PRIOR_S = 5.0


class RateMeter:
    """Tokens per second of time in which the replica was full; begins with an estimate worth a few seconds.

    Time in which rows were missing says nothing about how fast more of them would be done, and is not counted.
    """

    def __init__(self, estimate_tokens_per_s: float) -> None:
        self._tokens = estimate_tokens_per_s * _PRIOR_S
        self._seconds = _PRIOR_S if estimate_tokens_per_s > 0 else 0.0

    def observe(self, tokens: int, elapsed_s: float, *, was_full: bool) -> None:
        """`tokens` were finished in the last `elapsed_s`; older measurements fade."""
        if not was_full or elapsed_s <= 0:
            return
        kept = math.exp(-math.log(2) * elapsed_s / _HALF_LIFE_S)
        self._tokens = self._tokens * kept + tokens
        self._seconds = self._seconds * kept + elapsed_s

    @property
    def tokens_per_s(self) -> float:
        """0 while nothing is known."""
        return self._tokens / self._seconds if self._seconds else 0.0
