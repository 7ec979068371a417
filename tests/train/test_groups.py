import socket
import threading

import pytest

from jobs.train.groups import wait_until_listening
from jobs.train.host_names import GLIBC_DEFAULT, configured_hosts, names_from_hosts_file


def test_a_rank_waits_for_the_store_that_comes_later() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        waiting = threading.Thread(target=wait_until_listening, args=("127.0.0.1", server.getsockname()[1], 30.0))
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive(), "nobody listens yet"
        server.listen()
        waiting.join(30.0)
        assert not waiting.is_alive()


def test_a_store_that_never_comes_is_left_to_the_store_to_report() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        wait_until_listening("127.0.0.1", server.getsockname()[1], 0.05)


def test_names_are_looked_up_as_configured_before_and_after() -> None:
    with names_from_hosts_file():
        assert socket.getnameinfo(("127.0.0.1", 80), 0)[0] == "localhost"
    assert socket.getaddrinfo("localhost", 80)


@pytest.mark.parametrize(
    ("text", "services"),
    [
        (
            "passwd: files\nhosts: files mdns4_minimal [NOTFOUND=return] dns\n",
            "files mdns4_minimal [NOTFOUND=return] dns",
        ),
        ("hosts:\tfiles # dns\n", "files"),
        ("# hosts: files\nnetworks: files\n", GLIBC_DEFAULT),
        ("hosts:\n", GLIBC_DEFAULT),
    ],
)
def test_the_machines_own_configuration_is_read(tmp_path, text: str, services: str) -> None:
    path = tmp_path / "nsswitch.conf"
    path.write_text(text)
    assert configured_hosts(path) == services


def test_a_machine_without_the_file_has_glibcs_default(tmp_path) -> None:
    assert configured_hosts(tmp_path / "none") == GLIBC_DEFAULT
