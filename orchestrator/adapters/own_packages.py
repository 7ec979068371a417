"""Packages that a job asks for beside those that are installed: put into a folder of the home, once for every set.

The environment's own packages are never replaced: what is asked for must go with their versions, or it is refused. So
a job cannot bring another torch or Ray, and nothing that the ranks' processes have imported already is shadowed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import structlog

from jobs.data.folders import fsync_folder, workspace, writing
from orchestrator.spec.errors import ExitCode, UserError

log = structlog.get_logger(__name__)

PATIENCE_S = 1800.0
_SAID_LINES = 6


def install_packages(requirements: Sequence[str], home: Path) -> Path | None:
    """Where these packages can be imported from; None where none are asked for. Every node must see the home.

    Raises: UserError for what cannot be installed beside what there is.
    """
    if not requirements:
        return None
    present = _present()
    folder = home / "packages" / _key(requirements, present)
    if not folder.is_dir():
        with writing(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with workspace(folder.parent) as work:
                _install(requirements, present, work)
                try:
                    (work / "prefix").rename(folder)
                except OSError:
                    if not folder.is_dir():  # else somebody has just installed the same
                        raise
            fsync_folder(folder.parent)
    return _importable(folder)


def _present() -> dict[str, str]:
    """What is installed: name -> version."""
    found: dict[str, str] = {}
    for one in importlib.metadata.distributions():
        name: str | None = one.metadata["Name"]
        if name is not None:
            found.setdefault(name.lower(), one.version)
    return dict(sorted(found.items()))


def _key(requirements: Sequence[str], present: dict[str, str]) -> str:
    """Another environment, and so maybe other packages to add, is another folder."""
    what = [sorted(requirements), present, sys.version, sysconfig.get_platform()]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]


def _install(requirements: Sequence[str], present: dict[str, str], work: Path) -> None:
    """Into `work/prefix`. pip counts what the environment has as installed, and the constraints keep it as it is."""
    asked, kept = work / "requirements.txt", work / "constraints.txt"
    asked.write_text("".join(f"{one}\n" for one in requirements), encoding="utf-8")
    kept.write_text("".join(f"{name}=={version}\n" for name, version in present.items()), encoding="utf-8")
    (work / "prefix").mkdir()
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check",
        "--no-warn-script-location", "--prefix", str(work / "prefix"), "--constraint", str(kept),
        "--requirement", str(asked),
    ]  # fmt: skip
    log.info("installing a job's packages", requirements=list(requirements))
    where, step = "spec.runtime.pip", "Ask for other versions, or have them installed where the workers run"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        problem = f"pip has not ended within {PATIENCE_S / 60:.0f} minutes"
        raise UserError(problem, code=ExitCode.UNREACHABLE, where=where, next_step=step) from None
    if done.returncode:
        said = "; ".join(line.strip() for line in done.stderr.strip().splitlines()[-_SAID_LINES:])
        problem = f"pip cannot install {', '.join(requirements)} beside what is there: {said[-1500:]}"
        raise UserError(problem, code=ExitCode.NEVER, where=where, next_step=step)


def _importable(prefix: Path) -> Path:
    """The folder of a prefix from which its packages are imported; there is none where nothing had to be added."""
    return Path(sysconfig.get_path("purelib", "posix_prefix", vars={"base": str(prefix)}))
