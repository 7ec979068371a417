"""Data close to the ranks: a node that has a fast disk of its own trains from a copy there, fetched once for all runs.

What goes wrong with the copy costs speed, never the run: ranks then read where everybody does.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from jobs.data.cache import ShardCache
from orchestrator.spec.errors import UserError

log = structlog.get_logger(__name__)


def close_by(dataset_dir: Path, disk: Path) -> Path:
    """Where this node's ranks read a data set: its copy below `disk`, or `dataset_dir` itself."""
    try:
        cache = ShardCache(disk / "datasets")
        try:
            staged = cache.stage(dataset_dir)
        except UserError:  # most likely the disk is full of what earlier runs have left
            cache.prune(keep=frozenset({dataset_dir.name}))
            staged = cache.stage(dataset_dir)
    except (UserError, OSError) as error:
        log.warning("the data set is not copied to this node's disk", disk=str(disk), error=str(error))
        return dataset_dir
    log.info("data set on this node's disk", folder=str(staged.folder), fetched_bytes=staged.fetched_bytes)
    return staged.folder
