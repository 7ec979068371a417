"""Both ways between keepers keep the same promises; the socket one also keeps strangers out."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from jobs.train.keeper.socket_transport import PeerServer, SocketTransport
from jobs.train.keeper.transport import EMPTY, LocalNetwork, PeerGoneError, PeerRefusedError, Reply

TIMEOUT_S = 20.0
TOKEN = b"secret"


class Echo:
    """Answers with what it got; refuses `no`; receives payloads into its own memory."""

    def __init__(self) -> None:
        self.memory = memoryview(bytearray(1 << 20))
        self.asked: list[str] = []

    def sink(self, op, fields, nbytes):
        if op == "no sink":
            raise PeerRefusedError("no_room", "full")
        return self.memory[:nbytes]

    def handle(self, op, fields, payload):
        self.asked.append(op)
        if op == "no":
            raise PeerRefusedError("stale", "not wanted")
        if op == "bad":
            raise KeyError("key")
        return Reply({"op": op, **fields}, payload)


class Network:
    """A transport and a way to plug services into it, the same for both implementations."""

    def __init__(self, kind: str, folder) -> None:
        self.kind = kind
        self.folder = folder
        self.local = LocalNetwork()
        self.transport = self.local if kind == "local" else SocketTransport(TOKEN, {}, timeout_s=TIMEOUT_S)
        self.servers: dict[str, PeerServer] = {}

    def plug(self, node: str, service: Echo) -> None:
        if self.kind == "local":
            self.local.plug(node, service)
            return
        address = "tcp:127.0.0.1:0" if self.kind == "tcp" else f"unix:{self.folder / node}"
        self.servers[node] = PeerServer(service, TOKEN, address, timeout_s=TIMEOUT_S)
        self.servers[node].start()
        self.transport.set_addresses({name: server.address for name, server in self.servers.items()})

    def unplug(self, node: str) -> None:
        if self.kind == "local":
            self.local.unplug(node)
        else:
            self.servers.pop(node).close()

    def close(self) -> None:
        if self.kind != "local":
            self.transport.close()
            for server in self.servers.values():
                server.close()


@pytest.fixture(params=["local", "tcp", "unix"])
def network(request, tmp_path) -> Iterator[Network]:
    made = Network(request.param, tmp_path)
    yield made
    made.close()


def test_a_question_and_its_payload_arrive_and_come_back(network):
    network.plug("a", Echo())
    data = memoryview(bytes(range(256)) * 1000)
    reply = network.transport.call("a", "echo", {"x": [1, "z"]}, data)
    assert reply.fields == {"op": "echo", "x": [1, "z"]}
    assert reply.payload == data


def test_the_payload_lands_in_the_memory_that_the_service_gave(network):
    echo = Echo()
    network.plug("a", echo)
    network.transport.call("a", "echo", {}, memoryview(b"hello"))
    assert bytes(echo.memory[:5]) == b"hello"


def test_a_refusal_comes_with_its_code_and_the_next_question_is_answered(network):
    network.plug("a", Echo())
    for op, code in (("no", "stale"), ("no sink", "no_room")):
        with pytest.raises(PeerRefusedError) as refusal:
            network.transport.call("a", op, {}, memoryview(b"x" * 100_000))
        assert refusal.value.code == code
    assert network.transport.call("a", "yes", {}).fields == {"op": "yes"}


def test_a_node_that_is_not_there_is_gone(network):
    with pytest.raises(PeerGoneError):
        network.transport.call("nobody", "echo", {})
    network.plug("a", Echo())
    network.transport.call("a", "echo", {})
    network.unplug("a")
    with pytest.raises(PeerGoneError):
        network.transport.call("a", "echo", {})


def test_a_node_that_came_back_is_found_again(network):
    network.plug("a", Echo())
    network.transport.call("a", "echo", {})
    network.unplug("a")
    network.plug("a", Echo())
    assert network.transport.call("a", "echo", {}).fields == {"op": "echo"}


def test_many_threads_may_ask_at_once(network):
    network.plug("a", Echo())
    answers: list[object] = []

    def ask(n: int) -> None:
        answers.append(network.transport.call("a", "echo", {"n": n}).fields["n"])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == list(range(16))


@pytest.fixture
def server(tmp_path) -> Iterator[tuple[PeerServer, Echo]]:
    echo = Echo()
    made = PeerServer(echo, TOKEN, "tcp:127.0.0.1:0", timeout_s=TIMEOUT_S)
    made.start()
    yield made, echo
    made.close()


def test_another_token_is_kept_out_and_its_question_never_reaches_the_service(server):
    peer, echo = server
    stranger = SocketTransport(b"other", {"a": peer.address}, timeout_s=TIMEOUT_S)
    with pytest.raises(PeerGoneError, match="does not accept our token"):
        stranger.call("a", "echo", {})
    assert echo.asked == []


def test_the_token_never_crosses_the_wire(server):
    """A man in the middle sees two random challenges and their digests."""
    peer, _ = server
    seen = bytearray()
    listener = socket.create_server(("127.0.0.1", 0))

    def relay() -> None:
        client, _ = listener.accept()
        host, port = peer.address.removeprefix("tcp:").split(":")
        upstream = socket.create_connection((host, int(port)))

        def copy(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(4096):
                    seen.extend(data)
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        back = threading.Thread(target=copy, args=(upstream, client))
        back.start()
        copy(client, upstream)
        back.join()
        client.close()
        upstream.close()

    thread = threading.Thread(target=relay)
    thread.start()
    address = "tcp:{}:{}".format(*listener.getsockname())
    transport = SocketTransport(TOKEN, {"a": address}, timeout_s=TIMEOUT_S)
    transport.call("a", "echo", {})
    transport.close()
    thread.join()
    listener.close()
    assert TOKEN not in seen
    assert len(seen) > 100


def test_a_server_that_is_no_keeper_is_told_apart(tmp_path):
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\n" * 4)

    thread = threading.Thread(target=answer)
    thread.start()
    transport = SocketTransport(TOKEN, {"a": f"tcp:127.0.0.1:{listener.getsockname()[1]}"}, timeout_s=TIMEOUT_S)
    with pytest.raises(PeerGoneError, match="no keeper answers at this address"):
        transport.call("a", "echo", {})
    thread.join()
    listener.close()


def test_a_malformed_question_is_refused_and_the_server_goes_on(server):
    peer, _ = server
    transport = SocketTransport(TOKEN, {"a": peer.address}, timeout_s=TIMEOUT_S)
    with pytest.raises(PeerRefusedError) as refusal:
        transport.call("a", "bad", {})
    assert refusal.value.code == "malformed"
    assert transport.call("a", "echo", {}).fields == {"op": "echo"}
    transport.close()


def test_garbage_closes_one_connection_and_not_the_server(server):
    peer, _ = server
    host, port = peer.address.removeprefix("tcp:").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(b"\xff" * 200)
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(4096):
                pass
    transport = SocketTransport(TOKEN, {"a": peer.address}, timeout_s=TIMEOUT_S)
    assert transport.call("a", "echo", {}).payload == EMPTY
    transport.close()


def test_an_address_of_no_known_form_is_refused():
    with pytest.raises(ValueError, match="write tcp:HOST:PORT or unix:PATH"):
        PeerServer(Echo(), TOKEN, "http://x", timeout_s=TIMEOUT_S)
