"""How good a model folder is on a data set's validation split, whatever its weights are kept as."""

from __future__ import annotations

from pathlib import Path

from jobs.models.evaluate import evaluate
from jobs.models.load import load_model
from jobs.models.own_code import CODE_FOLDER, importing_from
from jobs.models.task import load_task


def measure(folder: Path, dataset: Path, *, max_samples: int | None) -> dict[str, float]:
    """The task's metrics (bits_per_byte of a byte model), the same samples every time. Raises: UserError."""
    model, config = load_model(folder)
    with importing_from(folder / CODE_FOLDER):
        task = load_task(config.task, config.args)
        source = task.open_data(dataset, "validation")
        return dict(evaluate(model, task, source, max_samples=max_samples).metrics)
