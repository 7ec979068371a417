"""What every test gets: no network but loopback, no time limit for properties, skips that must be on the list."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import httpx
import pytest
from hypothesis import settings

# Set before anything imports Ray, DeepSpeed or torch.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# The first use of a model builds it, and machines are shared.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

_LOOPBACK = re.compile(r"^(127\.|::1$|localhost$|0\.0\.0\.0$|::$|$)")
_ALLOWED_SKIPS = Path(__file__).with_name("allowed_skips.txt")


def pytest_configure(config: pytest.Config) -> None:
    connect, own = socket.socket.connect, {socket.gethostname(), *_own_addresses()}

    def loopback_only(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if not (_LOOPBACK.match(str(host)) or host in own):
            raise OSError(f"tests reach loopback only, not {host}")
        return connect(self, address)

    socket.socket.connect = loopback_only  # type: ignore[method-assign,assignment]
    _be_patient()


def _be_patient() -> None:
    """A machine that stands still for six seconds is no failure of what is tested; httpx would give up after 5."""
    timeout = (httpx.get.__kwdefaults__ or {})["timeout"]
    for name in ("connect", "read", "write", "pool"):
        setattr(timeout, name, 120.0)


def _own_addresses() -> set[str]:
    try:
        return set(socket.gethostbyname_ex(socket.gethostname())[2])
    except OSError:
        return set()


def data_dir() -> Path:
    """The folder with recorded series: TIDE_DATA, else `../shared/data` beside the project."""
    named = os.environ.get("TIDE_DATA")
    return Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def recorded_data() -> Path:
    """The recorded series; the test is skipped where they are not on the machine."""
    folder = data_dir()
    if not folder.is_dir():
        pytest.skip("recorded series not on this machine (TIDE_DATA)")
    return folder


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print every skip with its count; a skip that is not on the list fails the run."""
    reasons = [_reason(report) for report in terminalreporter.stats.get("skipped", [])]
    allowed = [line for line in _ALLOWED_SKIPS.read_text().splitlines() if line and not line.startswith("#")]
    strange = sorted({reason for reason in reasons if not any(re.search(rule, reason) for rule in allowed)})
    terminalreporter.write_line(f"skipped: {len(reasons)}, of which {len(strange)} are not on the allowed list")
    for reason in strange:
        terminalreporter.write_line(f"  not allowed: {reason}", red=True)
    if strange:
        terminalreporter._session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _reason(report: pytest.TestReport) -> str:
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
