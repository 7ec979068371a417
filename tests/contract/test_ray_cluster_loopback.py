"""Addresses that keep Ray's ports on loopback; that they do is tested on real clusters in `tests/cluster/`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.adapters.ray_cluster import loopback


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    loopback.binds_loopback_only.cache_clear()
    yield
    loopback.binds_loopback_only.cache_clear()


def test_ray_is_given_an_address_that_it_does_not_replace() -> None:
    from ray._raylet import is_localhost  # type: ignore[attr-defined]

    assert is_localhost("127.0.0.1")
    host, _, _ = loopback.for_ray_init("127.0.0.1:6379").rpartition(":")
    assert not is_localhost(host.strip("[]"))


def test_other_addresses_are_left_alone() -> None:
    assert loopback.for_ray_init("127.0.1.2:6379") == "127.0.1.2:6379"


def test_without_ipv6_every_node_has_a_loopback_address_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_ipv6(*args: object) -> None:
        raise OSError("address family not supported")

    monkeypatch.setattr("socket.socket", no_ipv6)
    assert not loopback.binds_loopback_only()
    addresses = [loopback.node_address(index) for index in range(1, 600)]
    assert len(set(addresses)) == len(addresses)
    assert all(address.startswith("127.0.") and address != "127.0.0.1" for address in addresses)
