"""Who mirrors to whom: peers in other failure domains, evenly loaded. Pure.

A failure domain is what fails together, named by a topology path such as `gcp/us-central1/a/rack3`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrors:
    """`peers`: for every node the nodes it mirrors to. `weak`: nodes without `r` peers in as many other domains."""

    peers: Mapping[str, tuple[str, ...]]
    weak: tuple[str, ...]


def choose_mirrors(nodes: Iterable[str], domains: Mapping[str, str], r: int = 1) -> Mirrors:
    """Give every node `r` peers (fewer if there are not enough nodes).

    In this order: a domain that is neither the node's own nor one of its other peers'; few nodes mirrored to the same
    peer; a short way along the sorted topology paths, so that copies stay in the same zone where that is safe. A node
    without a domain counts as its own. Ties end on the node's name: the same nodes in any order give the same answer.

    Raises: ValueError for a negative `r`.
    Holds: with domains of equal size, and at least two of them, every node mirrors for exactly `r` others
    (tests/train/keeper/test_topology.py).
    """
    if r < 0:
        raise ValueError(f"r is {r}; a node mirrors to 0 or more others")
    names = set(nodes)
    domain = {name: domains.get(name) or f"node:{name}" for name in names}
    ring = sorted(names, key=lambda name: (domain[name], name))
    load = dict.fromkeys(ring, 0)
    peers: dict[str, tuple[str, ...]] = dict.fromkeys(ring, ())
    for _ in range(min(r, len(ring) - 1)):
        for at, name in enumerate(ring):
            taken = {domain[name], *(domain[peer] for peer in peers[name])}
            ahead = (ring[(at + far) % len(ring)] for far in range(1, len(ring)))
            free = [peer for peer in ahead if peer not in peers[name]]
            # `min` keeps the first of equals: the nearest along the ring.
            best = min(free, key=lambda peer: (domain[peer] in taken, load[peer]))
            peers[name] = (*peers[name], best)
            load[best] += 1
    weak = tuple(name for name in ring if len({domain[name], *(domain[peer] for peer in peers[name])}) <= r)
    return Mirrors(peers=peers, weak=weak)
