"""What a folder must hold to become a version: `config.json`, safetensors weights, and nothing that runs when read."""

from __future__ import annotations

import json
import math
from pathlib import Path

from safetensors import SafetensorError, safe_open

from orchestrator.registry.errors import RegistryError

_CONFIG = "config.json"
_WEIGHTS = ".safetensors"
# In a file's metadata: how many parameters it stands for, where that is not the count of its numbers (quantized ones).
_COUNT_KEY = "num_parameters"
# Formats whose readers execute what the file says.
_PICKLED = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})


def list_files(folder: Path) -> tuple[str, ...]:
    """Relative posix paths of a model folder's files, sorted. Raises: RegistryError for what cannot be registered."""
    if not folder.is_dir():
        raise RegistryError("there is no such folder", where=str(folder))
    paths = sorted(entry.relative_to(folder).as_posix() for entry in folder.rglob("*") if entry.is_file())
    pickled = [path for path in paths if Path(path).suffix.lower() in _PICKLED]
    if pickled:
        raise RegistryError(f"{pickled[0]} is a pickle, which runs code when it is read",
                            where=str(folder), next_step="Save the weights as safetensors.")  # fmt: skip
    if _CONFIG not in paths or not any(path.endswith(_WEIGHTS) for path in paths):
        found = ", ".join(paths) or "nothing"
        raise RegistryError(f"a model folder holds {_CONFIG} and model{_WEIGHTS}; found {found}", where=str(folder))
    return tuple(paths)


def count_parameters(folder: Path, paths: tuple[str, ...]) -> int:
    """Numbers in all weight files, read from their headers. Raises: RegistryError for a file that does not parse."""
    _check_config(folder / _CONFIG)
    return sum(_count_in(folder / path) for path in paths if path.endswith(_WEIGHTS))


def _check_config(path: Path) -> None:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise RegistryError(f"not JSON: {error}", where=str(path)) from error
    if not isinstance(content, dict):
        raise RegistryError("the configuration must be a JSON object", where=str(path))


def _count_in(path: Path) -> int:
    try:
        with safe_open(path, framework="numpy") as weights:
            said = (weights.metadata() or {}).get(_COUNT_KEY, "")
            if said.isascii() and said.isdigit():
                return int(said)
            return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise RegistryError(f"not a whole safetensors file: {error}", where=str(path)) from error
