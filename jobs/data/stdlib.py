"""`python-stdlib`: real code that every machine has, the sources of the running interpreter's own standard library."""

from __future__ import annotations

import platform
import sysconfig
from pathlib import Path

from jobs.data.files import FileRules
from jobs.data.pack import PackRules, Progress, pack
from jobs.data.store import parse_ref, resolve
from orchestrator.spec.errors import ExitCode, UserError

NAME = "python-stdlib"

# Tests are half of the library and repetitive; lib2to3 and idlelib are absent from some distributions, site-packages is
# not the standard library.
_RULES = FileRules(
    include=("*.py",),
    exclude=("test", "tests", "lib2to3", "idlelib", "site-packages", "dist-packages"),
)


def ensure_dataset(ref: str, home: Path, *, progress: Progress | None = None) -> Path:
    """The folder of the data set `ref`, for `open_dataset`; `python-stdlib` is packed first where it is missing.

    Raises: UserError if there is no such data set.
    """
    try:
        return resolve(ref, home)
    except UserError as error:
        if error.code is not ExitCode.UNKNOWN or parse_ref(ref)[0] != NAME:
            raise
    pack_stdlib(home, progress=progress)
    return resolve(ref, home)


def pack_stdlib(home: Path, *, progress: Progress | None = None, source: Path | None = None) -> Path:
    """Pack the standard library (that of `source` instead of the running interpreter's where given)."""
    root = source or Path(sysconfig.get_paths()["stdlib"])
    origin = f"standard library of {platform.python_implementation()} {platform.python_version()}"
    return pack(root, name=NAME, home=home, rules=PackRules(files=_RULES), origin=origin, progress=progress).folder
