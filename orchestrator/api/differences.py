"""What applying another Cluster would do: what changes at once, and who must give something back before it may.

Pure: documents, rows and leases in, sentences out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from orchestrator.ledger.rows import JobRow, LeaseRow
from orchestrator.spec import Cluster

_NAMED = ("pools", "queues", "tenants", "windows", "levels")
_MOST_NAMES = 5


def live_changes(before: Cluster | None, after: Cluster) -> list[str]:
    """Every part that differs, as one line each; all of them hold from the next cycle on."""
    if before is None:
        return ["everything: no Cluster was applied before"]
    old, new = before.to_document()["spec"], after.to_document()["spec"]
    found: list[str] = []
    for part in sorted(old.keys() | new.keys()):
        if part in _NAMED:
            found += _by_name(part, old.get(part, []), new.get(part, []))
        elif old.get(part) != new.get(part):
            found.append(f"{part}: {_shown(old.get(part))} -> {_shown(new.get(part))}")
    return found


def _by_name(part: str, old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> Iterator[str]:
    olds, news = {one["name"]: one for one in old}, {one["name"]: one for one in new}
    noun = part.removesuffix("s")
    for name in sorted(olds.keys() | news.keys()):
        if name not in news:
            yield f"{noun} {name}: removed"
        elif name not in olds:
            yield f"{noun} {name}: added"
        else:
            for key in sorted(olds[name].keys() | news[name].keys()):
                if olds[name].get(key) != news[name].get(key):
                    yield f"{noun} {name}: {key}: {_shown(olds[name].get(key))} -> {_shown(news[name].get(key))}"


def must_drain(before: Cluster | None, after: Cluster, jobs: Iterable[JobRow], leases: Sequence[LeaseRow]) -> list[str]:
    """What is in use and would go: sentences with the jobs in question; none = it may be applied."""
    if before is None:
        return []
    live = list(jobs)
    return [
        *_pools(before, after, leases),
        *_gone("queue", {one.name for one in after.spec.queues} or {"default"}, ((job.queue, job.id) for job in live)),
        *_tenants(after, live),
        *_gone(
            "window",
            {one.name for one in after.spec.windows},
            ((job.shape.window, job.id) for job in live if job.shape.window is not None),
        ),
        *_address(before, after, leases),
    ]


def _pools(before: Cluster, after: Cluster, leases: Sequence[LeaseRow]) -> Iterator[str]:
    counts = {pool.name: pool.count for pool in after.spec.pools}
    for pool in before.spec.pools:
        mine = [lease for lease in leases if lease.pool == pool.name]
        leased, most = sum(lease.devices for lease in mine), counts.get(pool.name, 0)
        if mine and most is not None and leased > most:
            what = f"may hold {most}" if pool.name in counts else "is removed"
            yield f"pool {pool.name} {what} and {leased} devices are leased by {_names(one.holder for one in mine)}"


def _tenants(after: Cluster, live: Sequence[JobRow]) -> Iterator[str]:
    known = {one.name for one in after.spec.tenants}
    return _gone("tenant", known, ((job.tenant, job.id) for job in live)) if known else iter(())


def _gone(noun: str, known: set[str], used: Iterable[tuple[str, str]]) -> Iterator[str]:
    by_name: dict[str, list[str]] = {}
    for name, job in used:
        if name not in known:
            by_name.setdefault(name, []).append(job)
    for name, jobs in sorted(by_name.items()):
        yield f"{noun} {name} is removed and {_names(jobs)} {'use' if len(set(jobs)) > 1 else 'uses'} it"


def _address(before: Cluster, after: Cluster, leases: Sequence[LeaseRow]) -> Iterator[str]:
    old, new = before.spec.ray.address, after.spec.ray.address
    if old != new and leases:
        yield f"ray.address goes from {old} to {new} and {_names(one.holder for one in leases)} run there"


def _names(names: Iterable[str]) -> str:
    all_ = sorted(set(names))
    more = f" and {len(all_) - _MOST_NAMES} more" if len(all_) > _MOST_NAMES else ""
    return ", ".join(all_[:_MOST_NAMES]) + more


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
