"""Addresses by which a local cluster's processes listen on loopback only.

Ray 2.60 binds its servers (control store, raylets, workers, agents, metrics) to loopback when the node's address is
127.0.0.1, and to every interface for any other address, those of 127/8 included. But `ray.init` and `ray start` replace
127.0.0.1 in the address that they are given by the machine's outside one, where then nobody listens. The same address
written as an IPv6 one is not replaced. Where the kernel has no IPv6, nodes get addresses that Ray leaves alone: its
ports are then open to the network, behind the token only, and `tide doctor` says so.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import sys

_LOOPBACK = "127.0.0.1"
_MAPPED = "[::ffff:127.0.0.1]"


@functools.cache
def binds_loopback_only() -> bool:
    """Whether clusters started here can keep their ports off the network."""
    if sys.platform != "linux":
        return True  # there Ray itself stays on 127.0.0.1
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
        probe.bind((_MAPPED.strip("[]"), 0))
        return True
    return False


def node_address(index: int) -> str:
    """The address of node number `index` (from 1)."""
    if binds_loopback_only():
        return _LOOPBACK
    return f"127.0.{1 + index // 250}.{1 + index % 250}"


def for_ray_init(address: str) -> str:
    """`address` (host:port) in the form that `ray.init` does not replace."""
    host, _, port = address.rpartition(":")
    is_replaced = host == _LOOPBACK and sys.platform == "linux"
    return f"{_MAPPED}:{port}" if is_replaced else address
