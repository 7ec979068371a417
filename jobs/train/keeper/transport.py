"""The port between keepers: one question, one answer, with bytes on either side.

Implementations: `LocalNetwork` (virtual nodes in one process, for tests and single-process clusters) and
`socket_transport.SocketTransport` (TCP or unix stream); the same contract tests run against both.
Every operation may be repeated: a caller that got no answer just asks again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Fields = Mapping[str, Any]
EMPTY = memoryview(b"")


class PeerGoneError(Exception):
    """A peer does not answer: dead, unreachable, or not the one with our token. Try again later, or another one."""

    def __init__(self, node: str, detail: str) -> None:
        super().__init__(f"keeper of node {node}: {detail}")
        self.node = node


class PeerRefusedError(Exception):
    """A peer answered that it will not; `code` is one of the keeper's refusals (`peer_service`)."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Reply:
    """JSON values and bytes."""

    fields: Fields
    payload: memoryview = EMPTY


class PeerService(Protocol):
    """What answers at the other end."""

    def sink(self, op: str, fields: Fields, nbytes: int) -> memoryview:
        """Memory into which the payload of this question will be received, `nbytes` long: no copy in between.

        Raises: PeerRefusedError.
        """
        ...

    def handle(self, op: str, fields: Fields, payload: memoryview) -> Reply:
        """Answer. `payload` is what `sink` gave, filled. Raises: PeerRefusedError."""
        ...


class PeerTransport(Protocol):
    """Reaches other keepers by node name. Thread-safe."""

    def call(self, node: str, op: str, fields: Fields, payload: memoryview = EMPTY) -> Reply:
        """Ask the keeper of `node`. Raises: PeerGoneError, PeerRefusedError."""
        ...


class LocalNetwork:
    """Virtual nodes in one process. `unplug` takes a node away, `plug` brings one (back)."""

    def __init__(self) -> None:
        self._services: dict[str, PeerService] = {}

    def plug(self, node: str, service: PeerService) -> None:
        """From now on `node` answers with `service`."""
        self._services[node] = service

    def unplug(self, node: str) -> None:
        """From now on `node` does not answer."""
        self._services.pop(node, None)

    def call(self, node: str, op: str, fields: Fields, payload: memoryview = EMPTY) -> Reply:
        service = self._services.get(node)
        if service is None:
            raise PeerGoneError(node, "is not there")
        target = EMPTY
        if len(payload):
            target = service.sink(op, fields, len(payload))
            target[:] = payload
        return service.handle(op, fields, target)


class WithOwnNode:
    """A transport that asks the own node's service directly, which may come later (`bind`), and others as before."""

    def __init__(self, node: str, transport: PeerTransport) -> None:
        self._node = node
        self._transport = transport
        self._own = LocalNetwork()

    def bind(self, service: PeerService) -> None:
        """Who answers for the own node."""
        self._own.plug(self._node, service)

    def call(self, node: str, op: str, fields: Fields, payload: memoryview = EMPTY) -> Reply:
        network: PeerTransport = self._own if node == self._node else self._transport
        return network.call(node, op, fields, payload)
