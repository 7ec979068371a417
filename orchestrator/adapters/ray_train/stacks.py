"""Where the threads of ranks stand, read from outside while they run or hang.

By py-spy, else by the rank's own fault handler. Free of Ray. Values of variables are never read: they may be secrets.
Bounded in time whatever the ranks do.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

STACKS_S = 10.0
"""All of a worker's stacks must be there by then; what is not is left out, with the reason."""
ONE_S = 4.0
AT_ONCE = 4
STACK_SIGNAL = signal.SIGUSR2
"""Ranks answer it with their stacks on stderr (`jobs.train.rank`)."""
_QUIET_S, _LOOK_S = 0.2, 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class RankProcess:
    """A rank that runs on this node: its process, its log, and what its environment has beyond its starter's."""

    rank: int
    pid: int
    log: str
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStack:
    """The stacks of one rank's threads; `how` they were read, `py-spy`, `faulthandler` or `none` with the reason."""

    rank: int
    pid: int
    how: str
    text: str


def read_stacks(ranks: Mapping[int, RankProcess], *, within_s: float = STACKS_S) -> tuple[RankStack, ...]:
    """The stacks of these ranks, in order of rank. Never raises for what a rank does."""
    until_s = time.monotonic() + within_s
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="stacks") as pool:
        found = pool.map(lambda one: _of(one, until_s), [ranks[rank] for rank in sorted(ranks)])
        return tuple(found)


def is_rank(process: RankProcess) -> bool:
    """Whether that process is still this rank's, and not a later one of the same number."""
    try:
        name, _, rest = Path(f"/proc/{process.pid}/stat").read_text().partition(" (")[2].rpartition(") ")
    except OSError:
        return False
    return name == f"tide-rank-{process.rank}"[:15] and rest[:1] not in ("Z", "X")


def _of(process: RankProcess, until_s: float) -> RankStack:
    if until_s - time.monotonic() <= 0:
        return _none(process, "the time for all stacks was over")
    if not is_rank(process):
        return _none(process, f"process {process.pid} has ended, or is not a rank yet")
    trouble = "not installed"
    # A process that is stopped or traced already cannot be held still for reading: then it is read as it is.
    for how in ((), ("--nonblocking",)) if find_py_spy() else ():
        text, trouble = _py_spy(process.pid, how, max(_LOOK_S, min(ONE_S, until_s - time.monotonic())))
        if text:
            return RankStack(rank=process.rank, pid=process.pid, how="py-spy", text=text)
    text = _fault_handler(process, max(_QUIET_S, min(ONE_S, until_s - time.monotonic())))
    if text:
        return RankStack(rank=process.rank, pid=process.pid, how="faulthandler", text=text)
    return _none(process, f"py-spy: {trouble}; the rank's own handler said nothing")


def _none(process: RankProcess, why: str) -> RankStack:
    return RankStack(rank=process.rank, pid=process.pid, how="none", text=why)


def _py_spy(pid: int, how: tuple[str, ...], timeout_s: float) -> tuple[str, str]:
    """Its output, or why there is none. The process is held still for milliseconds while it is read."""
    command = [find_py_spy() or "py-spy", "dump", *how, "--pid", str(pid)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return "", f"no answer within {timeout_s:.1f} s"
    except OSError as error:
        return "", str(error)
    if done.returncode == 0:
        return done.stdout.decode("utf-8", "replace").strip(), ""
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return "", said[0] if said else f"ended with {done.returncode}"


def find_py_spy() -> str | None:
    """The program beside this interpreter, else the one on the path."""
    own = Path(sys.executable).with_name("py-spy")
    return str(own) if own.is_file() else shutil.which("py-spy")


def _fault_handler(process: RankProcess, timeout_s: float) -> str:
    """Ask the rank itself: what its log has got since, once it is quiet."""
    log = Path(process.log)
    try:
        begin = log.stat().st_size
        os.kill(process.pid, STACK_SIGNAL)
    except OSError:
        return ""
    until_s, size, quiet_since_s = time.monotonic() + timeout_s, begin, time.monotonic()
    while time.monotonic() < until_s:
        time.sleep(_LOOK_S)
        now = log.stat().st_size
        if now != size:
            size, quiet_since_s = now, time.monotonic()
        elif size > begin and time.monotonic() - quiet_since_s > _QUIET_S:
            break
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read(size - begin).decode("utf-8", "replace").strip()
    return text if "most recent call first" in text else ""
