"""Failure domains come from node labels: ours first, then Ray's own, by the names that the installed Ray gives them."""

from __future__ import annotations

import pytest
from ray import _raylet

from orchestrator.adapters.ray_train import domains
from orchestrator.adapters.ray_train.domains import (
    REGION_LABEL,
    TOPOLOGY_LABEL,
    ZONE_LABEL,
    domain_of,
    place_of,
    read_domains,
)
from orchestrator.adapters.ray_train.fleet import _mirrors


def test_rays_own_labels_have_the_names_we_read():
    assert (_raylet.RAY_NODE_REGION_KEY, _raylet.RAY_NODE_ZONE_KEY) == (REGION_LABEL, ZONE_LABEL)


@pytest.mark.parametrize(
    ("labels", "domain"),
    [
        ({}, ""),
        ({ZONE_LABEL: "us-central1-a"}, "us-central1-a"),
        ({REGION_LABEL: "us-central1", ZONE_LABEL: "us-central1-a"}, "us-central1/us-central1-a"),
        ({ZONE_LABEL: "a", TOPOLOGY_LABEL: "gcp/us-central1/a/rack3"}, "gcp/us-central1/a/rack3"),
        ({ZONE_LABEL: "a", TOPOLOGY_LABEL: ""}, "a"),
        ({"site": "frankfurt"}, ""),
    ],
)
def test_the_narrowest_known_place_is_the_domain(labels, domain):
    assert domain_of(labels) == domain


def test_a_place_is_the_domains_path():
    assert place_of({TOPOLOGY_LABEL: "/gcp/us-central1/a/rack3"}) == ("gcp", "us-central1", "a", "rack3")
    assert place_of({}) == ()


def test_mirrors_leave_the_zone_of_living_nodes(monkeypatch):
    zones = {"n1": "a", "n2": "a", "n3": "b", "n4": "b", "n5": "b"}
    seen = [{"NodeID": n, "Alive": n != "n5", "Labels": {ZONE_LABEL: zone}} for n, zone in zones.items()]
    monkeypatch.setattr(domains.ray, "nodes", lambda: [*seen, {"NodeID": "n6", "Alive": True, "Labels": {}}])
    found = read_domains()
    assert found == {"n1": "a", "n2": "a", "n3": "b", "n4": "b"}
    for node, peers in _mirrors(["n1", "n2", "n3", "n4"], set(), found, 1).items():
        assert [zones[node] != zones[peer] for peer in peers] == [True]


def test_a_leaving_node_mirrors_out_of_its_zone_too():
    zones = {"n1": "a", "n2": "a", "n3": "b", "n4": "b"}
    assert zones[_mirrors(["n2", "n3", "n4"], {"n1"}, zones, 1)["n1"][0]] == "b"
    assert _mirrors(["n2"], {"n1"}, zones, 1)["n1"] == ("n2",)
