"""What every benchmark shares: its arguments, the machine it ran on, and its last line, one JSON object."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PACKAGES = ("tideline", "ray", "torch", "deepspeed", "numpy")


@dataclass(frozen=True, slots=True)
class Options:
    """`data` is the folder with recorded series; `quick` runs few and short cases whose figures are never quoted."""

    data: Path
    quick: bool
    rest: argparse.Namespace


def read_options(description: str, *, extra: argparse.ArgumentParser | None = None) -> Options:
    """Arguments of a benchmark: --data DIR (default $TIDE_DATA, then ../shared/data beside the project), --quick."""
    parents = [extra] if extra else []
    parser = argparse.ArgumentParser(description=description, parents=parents)
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TIDE_DATA") or beside))
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    return Options(arguments.data, arguments.quick, arguments)


def machine() -> dict[str, Any]:
    """Where and with what the figures came out."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def say(line: str) -> None:
    """Progress, on stderr at once."""
    print(line, file=sys.stderr, flush=True)


def print_result(result: Mapping[str, Any], *, quick: bool) -> None:
    """The last line on stdout."""
    print(json.dumps({**result, "quick": quick, "machine": machine()}, default=str), flush=True)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
