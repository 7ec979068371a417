"""Which tensors of a model a compression acts on: matrices of floating-point numbers, but those that are to be kept."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from jobs.transform.stored import Entry, StoredModel
from orchestrator.spec.errors import UserError


def matrices(model: StoredModel, keep: Sequence[str]) -> tuple[Entry, ...]:
    """Norms, biases and what a pattern of `keep` names are left out. Raises: UserError for a pattern without effect."""
    found = [entry for entry in model.entries.values() if entry.is_float and len(entry.shape) >= 2 and entry.numel]
    for pattern in keep:
        if not any(fnmatch.fnmatchcase(entry.name, pattern) for entry in found):
            names = ", ".join(sorted(entry.name for entry in found)[:4])
            problem = f"no matrix is called like {pattern!r}, which is to be kept; there are {names} and others"
            raise UserError(problem, where=model.label, next_step="Quote patterns, such as 'embedding.*'.")
    return tuple(entry for entry in found if not any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in keep))
