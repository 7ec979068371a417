"""Every key of every kind, read off the full examples: the list that a test compares with its golden file.

Renaming or removing a key breaks users' files, and adding one is a choice to be seen:
`python -m orchestrator.spec.golden FOLDER-OF-EXAMPLES` prints the list for the golden file, and ends with 1 where the
examples lack a key of the models.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from orchestrator.spec.kinds import KINDS, Spec
from orchestrator.spec.load import load_file
from orchestrator.spec.shape import reachable


def example_specs(folder: Path) -> Iterator[Spec]:
    """Every spec of every YAML file of a folder. Raises: SpecError."""
    for path in sorted(folder.glob("*.yaml")):
        yield from load_file(path)


def golden_keys(specs: Iterable[Spec]) -> list[str]:
    """The keys that these specs set, sorted: `Cluster.spec.pools[].name`; `{}` stands for a key of the user's own."""
    return sorted({key for spec in specs for key in _keys(spec, type(spec).__name__)})


def missing_keys(specs: Iterable[Spec]) -> list[str]:
    """Keys of the models that none of these specs sets, as `Model.key`, sorted."""
    shown = {key for spec in specs for key in _shown(spec)}
    everything = {model for kind in KINDS.values() for model in reachable(kind)}
    there = {(_owner(model, key), key) for model in everything for key in model.model_fields}
    return sorted(f"{model.__name__}.{key}" for model, key in there - shown)


def _keys(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, BaseModel):
        for key in value.model_fields_set:
            yield f"{path}.{key}"
            yield from _keys(getattr(value, key), f"{path}.{key}")
    elif isinstance(value, tuple):
        for item in value:
            yield from _keys(item, f"{path}[]")
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _keys(item, f"{path}{{}}")


def _shown(value: Any) -> Iterator[tuple[type[Any], str]]:
    if isinstance(value, BaseModel):
        for key in value.model_fields_set:
            yield _owner(type(value), key), key
            yield from _shown(getattr(value, key))
    elif isinstance(value, tuple | Mapping):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _shown(item)


def _owner(model: type[BaseModel], key: str) -> type[Any]:
    """The class that defines the key: one that several models inherit needs to be shown once."""
    return next(one for one in model.__mro__ if key in inspect.get_annotations(one))


def main(folder: Path) -> int:
    """Print the list; say what no example shows."""
    specs = list(example_specs(folder))
    sys.stdout.writelines(f"{key}\n" for key in golden_keys(specs))
    missing = missing_keys(specs)
    sys.stderr.writelines(f"{folder}: no example sets {key}; every key must stand in one\n" for key in missing)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
