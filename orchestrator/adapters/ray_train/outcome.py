"""What a finished run leaves: a model directory, and how good the model is on data it was not trained on."""

from __future__ import annotations

from pathlib import Path

import structlog

from jobs.models.evaluate import EVALUATION_SAMPLES, evaluate
from jobs.models.load import load_model
from jobs.models.task import SampleSource
from orchestrator.adapters.ray_train.prepare import Prepared, as_in_a_rank
from orchestrator.spec.errors import UserError

log = structlog.get_logger(__name__)


def validation_metrics(prepared: Prepared, model_dir: Path) -> dict[str, float]:
    """The task's metrics of the exported model on the validation split, the same samples every time; empty where the
    data set has no such split."""
    with as_in_a_rank(prepared):
        try:
            source = prepared.task.open_data(prepared.dataset_dir, "validation")
        except (UserError, ValueError, KeyError, FileNotFoundError) as error:
            log.warning("no evaluation: the data set has no validation split", reason=str(error))
            return {}
        if not isinstance(source, SampleSource):
            log.warning("no evaluation: the validation split is a stream, and its samples have no numbers")
            return {}
        model, _ = load_model(model_dir)
        return dict(evaluate(model, prepared.task, source, max_samples=EVALUATION_SAMPLES).metrics)
