"""Who asks what and when: arrival schedules of the serving benchmark, fixed by a seed before anything is sent.

Shapes of requests follow the facts of a 512-token byte model: recorded context lengths divided by 32, outputs by 8.
"""

from __future__ import annotations

import csv
import datetime
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

KEYSTROKE, INTERACTIVE, BATCH = "keystroke", "interactive", "batch"
KEYSTROKES_PER_S, INTERACTIVE_PER_S = 4.0, 0.5
KEYSTROKE_SHAPE, INTERACTIVE_SHAPE, BATCH_SHAPE = (64, 8), (64, 64), (64, 64)
MULTIPLES = (0.5, 1.0, 2.0, 3.0)
_CONTEXT_DIVISOR, _OUTPUT_DIVISOR = 32, 8
_MAX_PROMPT, _MAX_OUTPUT = 320, 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request to send `at_s` after the start, whatever became of the others. `phase` names the row it counts in."""

    at_s: float
    tier: str
    prompt_tokens: int
    max_tokens: int
    phase: str
    session: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A schedule, and how many batch requests are kept outstanding beside it. `retry`: refused ones come back once."""

    name: str
    seconds: float
    arrivals: tuple[Arrival, ...]
    batch_outstanding: int
    retry: bool = False


def poisson_mix(seconds: float, *, seed: int, backlog: int) -> Load:
    """4 keystrokes/s and 0.5 interactive requests/s, and a batch backlog that never empties."""
    arrivals = _mix(random.Random(seed), 0.0, seconds, 1.0, "poisson")
    return Load(name="poisson", seconds=seconds, arrivals=_sorted(arrivals), batch_outstanding=backlog)


def batch_alone(seconds: float, *, backlog: int) -> Load:
    """The backlog and nobody who waits."""
    return Load(name="batch-alone", seconds=seconds, arrivals=(), batch_outstanding=backlog)


def overload(seconds: float, *, seed: int, backlog: int) -> Load:
    """The mix at 0.5x, 1x, 2x, then 3x for `seconds`, then 1x again; the others last a third as long. A refused request
    comes back once, when it was told."""
    rng, at_s, arrivals = random.Random(seed), 0.0, []
    for phase, multiple, length_s in overload_phases(seconds):
        arrivals += list(_mix(rng, at_s, length_s, multiple, phase))
        at_s += length_s
    return Load(name="overload", seconds=at_s, arrivals=_sorted(arrivals), batch_outstanding=backlog, retry=True)


def overload_phases(seconds: float) -> list[tuple[str, float, float]]:
    """(phase, multiple of the mix, length) in order."""
    phases = [(f"overload-{m:g}x", m, seconds if m == max(MULTIPLES) else seconds / 3) for m in MULTIPLES]
    return [*phases, ("after-overload-1x", 1.0, seconds / 3)]


def typists(seconds: float, *, seed: int, backlog: int, count: int = 3) -> Load:
    """Typists who send a completion request at every key, 200-400 ms apart, and pause for thought after some keys."""
    rng, arrivals = random.Random(seed), []
    prompt, tokens = KEYSTROKE_SHAPE
    for typist in range(count):
        at_s, keys = rng.uniform(0, 1), rng.randint(5, 25)
        while at_s < seconds:
            arrivals.append(Arrival(at_s=at_s, tier=KEYSTROKE, prompt_tokens=prompt, max_tokens=tokens,
                                    phase="typist", session=f"typist-{typist}"))  # fmt: skip
            keys -= 1
            at_s += rng.uniform(0.2, 0.4) if keys else rng.uniform(1, 3)
            keys = keys or rng.randint(5, 25)
    return Load(name="typist", seconds=seconds, arrivals=_sorted(arrivals), batch_outstanding=backlog)


def recorded(folder: Path, seconds: float, *, backlog: int) -> Load:
    """The recorded requests: `code` as keystrokes, `conv` as interactive, from the first second of both."""
    arrivals = [
        *_series(folder / "llm-requests/code.csv", KEYSTROKE, seconds),
        *_series(folder / "llm-requests/conv.csv", INTERACTIVE, seconds),
    ]
    return Load(name="llm-requests", seconds=seconds, arrivals=_sorted(arrivals), batch_outstanding=backlog)


def _mix(rng: random.Random, start_s: float, seconds: float, multiple: float, phase: str) -> Iterator[Arrival]:
    for tier, per_s, (prompt, tokens) in (
        (KEYSTROKE, KEYSTROKES_PER_S, KEYSTROKE_SHAPE),
        (INTERACTIVE, INTERACTIVE_PER_S, INTERACTIVE_SHAPE),
    ):
        at_s = start_s + rng.expovariate(per_s * multiple)
        while at_s < start_s + seconds:
            yield Arrival(at_s=at_s, tier=tier, prompt_tokens=prompt, max_tokens=tokens, phase=phase)
            at_s += rng.expovariate(per_s * multiple)


def _series(path: Path, tier: str, seconds: float) -> Iterator[Arrival]:
    first: datetime.datetime | None = None
    with path.open(newline="") as lines:
        for line in csv.DictReader(lines):
            at = datetime.datetime.fromisoformat(line["TIMESTAMP"][:26])  # the series has a seventh digit
            first = first or at
            at_s = (at - first).total_seconds()
            if at_s >= seconds:
                return
            yield Arrival(
                at_s=at_s,
                tier=tier,
                prompt_tokens=_scaled(line["ContextTokens"], _CONTEXT_DIVISOR, _MAX_PROMPT),
                max_tokens=_scaled(line["GeneratedTokens"], _OUTPUT_DIVISOR, _MAX_OUTPUT),
                phase="llm-requests",
            )


def _scaled(text: str, divisor: int, most: int) -> int:
    return max(1, min(most, round(int(text) / divisor)))


def _sorted(arrivals: Sequence[Arrival] | Iterator[Arrival]) -> tuple[Arrival, ...]:
    return tuple(sorted(arrivals, key=lambda arrival: (arrival.at_s, arrival.tier)))
