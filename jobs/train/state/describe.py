"""The manifest of a state that is about to be committed, from any rank's view and what the run knows of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.train.state.kinds import BUFFER
from jobs.train.state.manifest import Manifest, Part
from jobs.train.state.view import ShardView


def describe_state(
    view: ShardView,
    *,
    run: str,
    step: int,
    attempt: int,
    task: Mapping[str, Any],
    dataset_hash: str,
    replicated: Mapping[str, Any],
    parts: Sequence[Part] = (),
) -> Manifest:
    """The manifest of what this rank's view, any rank's, tells; `parts` may follow later (`dataclasses.replace`).

    `task` is {"task": "module:factory", "args": {...}}; `replicated` must be JSON values.
    """
    buffers = {piece.name for piece in view.wanted if piece.kind == BUFFER}
    manifest = Manifest(
        run=run,
        step=step,
        attempt=attempt,
        world_size=view.world_size,
        zero_stage=view.zero_stage,
        precision=view.precision,
        task=dict(task),
        dataset_hash=dataset_hash,
        model={name: shape for name, shape in view.shapes.items() if name not in buffers},
        buffers={name: shape for name, shape in view.shapes.items() if name in buffers},
        tied=dict(view.tied),
        scalars=dict(view.scalars),
        replicated=dict(replicated),
        parts=tuple(sorted(parts, key=lambda part: part.rank)),
    )
    assert manifest.tensor_names == tuple(view.shapes), "a view names its buffers after its parameters"
    return manifest
