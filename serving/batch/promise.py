"""Whether a batch can be done within its window, from what is open and how fast it is worked off. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Work is leased by earliest deadline; what is measured varies, so a promise keeps a tenth in reserve.
_RESERVE = 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWork:
    """Tokens that a batch can still cost, and until when they are due."""

    tokens: int
    expires_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The new batch is done in `eta_s`, and nobody else becomes late."""

    eta_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """It cannot be done in its window, or another one would not be; behind all that is open it takes `eta_s`.

    `retry_after_s`: when, without further batches, the same window can be kept; None = never, it is too much work.
    """

    eta_s: float
    retry_after_s: float | None


def promise(new: OpenWork, open_work: Sequence[OpenWork], *, tokens_per_s: float, now_s: float) -> Kept | Broken:
    """Play the work off by earliest deadline at the measured rate.

    Work that is late without the new batch does not speak against it twice: it counts as ahead, but not as harmed.
    """
    rate = tokens_per_s / _RESERVE
    window_s = new.expires_s - now_s
    ahead = sum(work.tokens for work in open_work if work.expires_s <= new.expires_s)
    eta_s = (ahead + new.tokens) / rate
    behind_s = (sum(work.tokens for work in open_work) + new.tokens) / rate
    if eta_s <= window_s and not _harms(new, open_work, rate, now_s):
        return Kept(eta_s=eta_s)
    alone_s = new.tokens / rate
    retry_after_s = behind_s - window_s if alone_s <= window_s else None
    return Broken(eta_s=behind_s, retry_after_s=None if retry_after_s is None else max(1.0, retry_after_s))


def _harms(new: OpenWork, open_work: Sequence[OpenWork], rate: float, now_s: float) -> bool:
    """Whether work that is due later, and in time without the new batch, becomes late with it."""
    done = 0
    for work in sorted(open_work, key=lambda each: each.expires_s):
        done += work.tokens
        if work.expires_s > new.expires_s:
            left_s = work.expires_s - now_s
            if done / rate <= left_s < (done + new.tokens) / rate:
                return True
    return False
