"""Who mirrors to whom."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.train.keeper.topology import choose_mirrors


def test_a_peer_lies_in_another_rack_but_the_same_zone():
    domains = {
        "a": "gcp/us/a/rack1", "b": "gcp/us/a/rack1", "c": "gcp/us/a/rack2", "d": "gcp/us/a/rack2",
        "e": "gcp/us/b/rack1", "f": "gcp/us/b/rack1",
    }  # fmt: skip
    found = choose_mirrors(domains, domains)
    assert found.peers == {"a": ("c",), "b": ("d",), "c": ("e",), "d": ("f",), "e": ("a",), "f": ("b",)}
    assert found.weak == ()


def test_two_peers_lie_in_two_other_domains():
    domains = {name: f"rack{i // 2}" for i, name in enumerate("abcdef")}
    for name, peers in choose_mirrors(domains, domains, 2).peers.items():
        assert len({domains[name], *(domains[peer] for peer in peers)}) == 3


def test_one_domain_is_better_than_no_copy_and_said_to_be_weak():
    found = choose_mirrors("ab", {"a": "rack", "b": "rack"})
    assert found.peers == {"a": ("b",), "b": ("a",)}
    assert found.weak == ("a", "b")


def test_a_node_alone_has_no_peer_and_is_weak():
    assert choose_mirrors("a", {}).peers == {"a": ()}
    assert choose_mirrors("a", {}).weak == ("a",)
    assert choose_mirrors("ab", {}, 0).peers == {"a": (), "b": ()}


def test_fewer_nodes_than_peers_wanted():
    assert choose_mirrors("abc", {}, 5).peers == {"a": ("b", "c"), "b": ("c", "a"), "c": ("a", "b")}


def test_a_negative_number_of_peers_is_refused():
    with pytest.raises(ValueError, match="r is -1"):
        choose_mirrors("ab", {}, -1)


@given(sizes=st.lists(st.integers(1, 6), max_size=8), r=st.integers(0, 3), order=st.randoms(use_true_random=False))
def test_every_node_has_distinct_peers_elsewhere_whatever_the_order(sizes, r, order):
    domains = {f"{rack}-{i}": f"rack{rack}" for rack, size in enumerate(sizes) for i in range(size)}
    nodes = list(domains)
    found = choose_mirrors(nodes, domains, r)
    order.shuffle(nodes)
    assert choose_mirrors(nodes, domains, r) == found
    for node, peers in found.peers.items():
        assert len(set(peers)) == len(peers) == min(r, len(nodes) - 1)
        assert node not in peers
        if len(sizes) > 1 and peers:
            assert domains[peers[0]] != domains[node]


@given(racks=st.integers(2, 6), size=st.integers(1, 6), r=st.integers(1, 3))
def test_equal_domains_share_the_load_evenly(racks, size, r):
    domains = {f"{rack}-{i}": f"rack{rack}" for rack in range(racks) for i in range(size)}
    wanted = min(r, len(domains) - 1)
    load = Counter(peer for peers in choose_mirrors(domains, domains, r).peers.values() for peer in peers)
    assert set(load.values()) == {wanted}
