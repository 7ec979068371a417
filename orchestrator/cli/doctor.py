"""`tide doctor`: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import typer

from orchestrator.cli.home import home_dir
from orchestrator.cli.output import Format, Output, emit, make_table
from orchestrator.spec.errors import ExitCode, UnreachableError

app = typer.Typer()

# The versions whose private interfaces our adapters follow.
_SUPPORTED = {"ray": "2.60.", "deepspeed": "0.19.", "torch": "2."}
_MIN_MEMORY_BYTES = 4 * 2**30
_MIN_SHM_BYTES = 1 * 2**30
_MIN_DISK_BYTES = 5 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at; `state` is ok, warn or fail, `advice` is empty when ok."""

    name: str
    state: str
    found: str
    advice: str = ""


@app.command()
def doctor(output: Output = Format.TABLE) -> None:
    """Check this machine and say what to mend; exits 3 when something will not work."""
    checks = [check() for check in _CHECKS]
    marks = {"ok": "ok", "warn": "WARN", "fail": "FAIL"}
    rows = [(marks[check.state], check.name, check.found, check.advice) for check in checks]
    table = make_table(("", "CHECK", "FOUND", "WHAT TO DO"), rows)
    emit("Doctor", {"checks": [asdict(check) for check in checks]}, output, table=table)
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(ExitCode.INVALID)


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    return Check(name="Python", state="ok" if good else "fail", found=found, advice="" if good else "install 3.11+")


def _package(name: str) -> Callable[[], Check]:
    def check() -> Check:
        found = importlib.metadata.version(name)
        if found.startswith(_SUPPORTED[name]):
            return Check(name=name, state="ok", found=found)
        advice = f"{_SUPPORTED[name]}x is what the adapters are tested with: pip install -c constraints.txt {name}"
        return Check(name=name, state="warn", found=found, advice=advice)

    return check


def _compiler() -> Check:
    found = shutil.which("g++") or shutil.which("c++")
    if found:
        return Check(name="C++ compiler", state="ok", found=found)
    return Check(
        name="C++ compiler",
        state="warn",
        found="none",
        advice="DeepSpeed's compiled operators need g++ (apt install g++)",
    )


def _accelerator() -> Check:
    # Asking torch would initialise CUDA; the driver's own tool is enough to tell.
    found = "CUDA" if shutil.which("nvidia-smi") else "none: training and serving run on the CPU"
    return Check(name="accelerator", state="ok", found=found)


def _memory() -> Check:
    found = psutil.virtual_memory().available
    good = found >= _MIN_MEMORY_BYTES
    return Check(
        name="free memory",
        state="ok" if good else "warn",
        found=_gib(found),
        advice="" if good else f"the demo wants {_gib(_MIN_MEMORY_BYTES)}",
    )


def _shared_memory() -> Check:
    folder = Path("/dev/shm")  # noqa: S108 (the kernel's shared memory, where snapshots live)
    if not folder.is_dir():
        return Check(name="shared memory", state="warn", found="none", advice="snapshots fall back to storage")
    found = shutil.disk_usage(folder).free
    good = found >= _MIN_SHM_BYTES
    advice = "" if good else "snapshots are kept there: mount /dev/shm larger (docker run --shm-size=4g)"
    return Check(name="shared memory", state="ok" if good else "warn", found=_gib(found), advice=advice)


def _state_folder() -> Check:
    home = home_dir()
    found = shutil.disk_usage(home).free
    writable, roomy = os.access(home, os.W_OK), found >= _MIN_DISK_BYTES
    state = "fail" if not writable else "ok" if roomy else "warn"
    advice = {"fail": "set TIDE_HOME to a writable folder", "warn": "little disk left", "ok": ""}[state]
    return Check(name="state folder", state=state, found=f"{home}, {_gib(found)} free", advice=advice)


def _ray_token() -> Check:
    mode = os.environ.get("RAY_AUTH_MODE", "")
    if mode == "token" or not os.environ.get("RAY_ADDRESS"):
        return Check(name="Ray authentication", state="ok", found=mode or "clusters we start use a token")
    advice = "whoever reaches this cluster runs code on it: set RAY_AUTH_MODE=token on every node"
    return Check(name="Ray authentication", state="warn", found="off for RAY_ADDRESS", advice=advice)


def _ray_ports() -> Check:
    from orchestrator.adapters.ray_cluster import loopback

    if loopback.binds_loopback_only():
        return Check(name="Ray ports", state="ok", found="clusters we start listen on loopback only")
    return Check(
        name="Ray ports",
        state="warn",
        found="clusters we start listen on every interface, behind their token",
        advice="Ray keeps to loopback only where the kernel has IPv6: enable it, or let a firewall close the ports",
    )


def _ray_train() -> Check:
    from orchestrator.adapters.ray_train.seam_contract import broken

    missing = broken()
    if not missing:
        return Check(name="Ray Train", state="ok", found="resizes keep worker processes")
    return Check(
        name="Ray Train",
        state="warn",
        found=f"resizes start new worker processes: {missing[0]}",
        advice="install the Ray of constraints.txt for faster resizes; none loses a step either way",
    )


def _server() -> Check:
    from orchestrator.cli.control.connect import answering

    with answering() as client:
        if client is None:
            return Check(name="server", state="ok", found="none runs; 'tide submit' starts one of your own")
        found = client.readiness()
        where = f"{client.place}, version {found['version']}"
    if found["status"] != "ok":
        return Check(name="server", state="warn", found=f"{where}: {found['reason']}", advice="look into its log")
    decides = "decides" if found["leading"] else f"reads; {found['leader']} decides"
    trouble = found["last_error"]
    if trouble:
        return Check(name="server", state="warn", found=f"{where}, {decides}: {trouble}", advice="look into its log")
    return Check(name="server", state="ok", found=f"{where}, {decides}")


def _database() -> Check:
    from orchestrator.cli.db import database_url
    from orchestrator.ledger.database import open_database
    from orchestrator.ledger.schema import our_version, version_of

    if not os.environ.get("TIDE_DATABASE") and not (home_dir() / "tide.db").exists():
        return Check(name="database", state="ok", found="none yet; the first server makes one")
    database = open_database(database_url())
    try:
        with database.reading() as connection:
            found = version_of(connection)
    except UnreachableError:
        return Check(name="database", state="fail", found="does not answer", advice="start it, or mend TIDE_DATABASE")
    finally:
        database.close()
    if found == our_version():
        return Check(name="database", state="ok", found=f"version {found}")
    return Check(name="database", state="fail", found=f"version {found}", advice="back it up and run 'tide db upgrade'")


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"


_CHECKS: tuple[Callable[[], Check], ...] = (
    _python,
    *(_package(name) for name in _SUPPORTED),
    _compiler,
    _accelerator,
    _memory,
    _shared_memory,
    _state_folder,
    _ray_token,
    _ray_ports,
    _ray_train,
    _database,
    _server,
)
