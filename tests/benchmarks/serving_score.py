"""From the client's records to figures: pure functions, so that a result can be computed again from its records."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

# What each tier promises: seconds, and seconds more per token asked for.
SLO_S: Mapping[str, tuple[float, float]] = {"keystroke": (0.3, 0.0), "interactive": (2.0, 0.05)}
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TierScore:
    """One tier in one run of a load. A refused or broken request has no latency: it counts as endless, and `p99_s` is
    None when more than one in a hundred is. A superseded request is left out only when its successor was answered."""

    sent: int
    p50_s: float | None
    p99_s: float | None
    answered_p99_s: float | None
    in_slo: float
    shed: float
    superseded: float
    goodput_rps: float


def score_tier(records: Sequence[Record], tier: str, *, seconds: float, warmup_s: float) -> TierScore | None:
    """Figures of the requests of one tier that were due after the warm-up; None when there were none."""
    mine = [r for r in records if r["tier"] == tier and r["at_s"] >= warmup_s]
    counted = [r for r in mine if not _rightly_superseded(r, records)]
    if not counted:
        return None
    latencies = sorted(_latency_s(r) for r in counted)
    answered = [value for value in latencies if math.isfinite(value)]
    good = sum(_latency_s(r) <= slo_s(r) for r in counted)
    return TierScore(
        sent=len(mine),
        p50_s=_quantile(latencies, 0.5),
        p99_s=_quantile(latencies, 0.99),
        answered_p99_s=_quantile(answered, 0.99),
        in_slo=good / len(counted),
        shed=sum(r["status"] in (429, 503) for r in counted) / len(counted),
        superseded=1 - len(counted) / len(mine),
        goodput_rps=good / (seconds - warmup_s),
    )


def slo_s(record: Record) -> float:
    """What this request was promised."""
    fixed_s, token_s = SLO_S[record["tier"]]
    return fixed_s + token_s * record["asked_tokens"]


def batch_tokens_per_s(records: Iterable[Record], *, start_s: float, end_s: float) -> float:
    """Tokens of batch answers over a stretch of time; an answer counts where it was being made."""
    tokens = 0.0
    for r in records:
        if r["tier"] == "batch" and r["status"] == 200 and r["done_s"] > r["sent_s"]:
            shared_s = min(end_s, r["done_s"]) - max(start_s, r["sent_s"])
            tokens += r["tokens"] * max(0.0, shared_s) / (r["done_s"] - r["sent_s"])
    return tokens / (end_s - start_s)


def wasted_tokens(records: Sequence[Record]) -> int:
    """Tokens made for answers that came after the session had asked anew: nobody reads them."""
    return sum(r["tokens"] for r in records if (after := _successor(r, records)) and r["done_s"] > after["at_s"])


def retry_accuracy(records: Iterable[Record]) -> tuple[int, int]:
    """Of the requests that came back when they had been told to: (admitted, all)."""
    hinted = [r for r in records if r["hinted"] and r["status"] is not None]
    return sum(r["status"] == 200 for r in hinted), len(hinted)


def summary(scores: Sequence[TierScore]) -> dict[str, Any]:
    """Median and range of every figure over the repeats."""
    columns: dict[str, list[Any]] = defaultdict(list)
    for score in scores:
        for name, value in asdict(score).items():
            columns[name].append(value)
    middle = {name: _median(values) for name, values in columns.items()}
    return {**middle, "ranges": {name: _range(values) for name, values in columns.items()}, "repeats": len(scores)}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def _latency_s(record: Record) -> float:
    if record["status"] != 200:
        # Cut off by the end of the run: it had waited so long. Refused or broken: for ever.
        return record["done_s"] - record["at_s"] if record["status"] is None and not record["finish"] else math.inf
    return float(record["done_s"] - record["at_s"])


def _rightly_superseded(record: Record, records: Sequence[Record]) -> bool:
    if record["finish"] != "superseded":
        return False
    after = _successor(record, records)
    return after is not None and after["status"] == 200


def _successor(record: Record, records: Sequence[Record]) -> Record | None:
    if record["session"] is None:
        return None
    later = (r for r in records if r["session"] == record["session"] and r["at_s"] > record["at_s"])
    return min(later, key=lambda r: r["at_s"], default=None)


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    if not ordered:
        return None
    value = ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]
    return value if math.isfinite(value) else None


def _median(values: Sequence[float | None]) -> float | None:
    value = median(math.inf if v is None else v for v in values)
    return value if math.isfinite(value) else None


def _range(values: Sequence[float | None]) -> list[float | None]:
    known = [value for value in values if value is not None]
    return [min(known, default=None), max(known, default=None) if len(known) == len(values) else None]
