"""A model that carries the code it is built by: imported from its own folder, beside other versions of itself."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

CODE_FOLDER = "code"
"""Within a model's folder; there is none where the task is part of what is installed."""

_opened: set[str] = set()


@contextlib.contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    """Modules are looked for in `folder` first; those of another model's folder are imported anew.

    A module of the same name that came from elsewhere stays: what is installed is never replaced. What was built from
    another folder keeps its classes. Afterwards the folder is looked into last, for imports within functions. Does
    nothing if there is no such folder.
    """
    path = str(folder.resolve())
    if not folder.is_dir():
        yield
        return
    for name in [name for name, module in sys.modules.items() if _is_anothers(module, path)]:
        del sys.modules[name]
    sys.path[:] = [path, *(one for one in sys.path if one not in _opened)]
    _opened.add(path)
    try:
        yield
    finally:
        sys.path[:] = [*(one for one in sys.path if one != path), path]


def _is_anothers(module: object, path: str) -> bool:
    file = getattr(module, "__file__", None) or ""
    return any(file.startswith(one + "/") for one in _opened if one != path)
