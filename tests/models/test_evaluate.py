"""Evaluation: the weighted mean over all samples, however they are batched."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from jobs.models.evaluate import evaluate
from jobs.models.gpt import GPT, GPTTask, task
from jobs.models.task import SampleSource
from orchestrator.spec.errors import UserError


class Weighted(GPTTask):
    """Samples weigh their id plus one."""

    def sample_weights(self, source: SampleSource, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        return ids.astype(np.float64) + 1

    def loss(self, model: torch.nn.Module, batch: object) -> torch.Tensor:
        raise NotImplementedError


def test_batch_size_does_not_matter(model: GPT, tiny: GPTTask, packed: Path) -> None:
    source = tiny.open_data(packed, "validation")
    whole = evaluate(model, tiny, source, batch_size=10_000)
    parts = evaluate(model, tiny, source, batch_size=7)
    assert whole.loss == pytest.approx(parts.loss, rel=1e-5)
    assert whole.num_samples == parts.num_samples == source.num_samples
    assert whole.metrics["bits_per_byte"] == pytest.approx(whole.loss / math.log(2))
    rows = source.batch(np.arange(source.num_samples))["bytes_BT"]
    assert whole.loss == pytest.approx(tiny.loss(model, {"bytes_BT": rows}).item(), rel=1e-5)


def test_weights_weigh_batches(tiny: GPTTask, model: GPT, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weighted, source = Weighted(tiny.config), tiny.open_data(packed, "train")
    losses = iter([1.0, 5.0])
    monkeypatch.setattr(weighted, "loss", lambda model, batch: torch.tensor(next(losses)))
    # Samples 0 and 1 weigh 1 + 2, samples 2 and 3 weigh 3 + 4.
    chosen = _First(source, 4)
    assert evaluate(model, weighted, chosen, batch_size=2).loss == pytest.approx((3 * 1 + 7 * 5) / 10)


class _First:
    def __init__(self, source: SampleSource, num_samples: int) -> None:
        self.num_samples, self.batch = num_samples, source.batch


def test_fewer_samples_are_spread_over_the_source(tiny: GPTTask, model: GPT, packed: Path) -> None:
    source, asked = tiny.open_data(packed, "train"), []
    read = source.batch
    source.batch = lambda ids: asked.extend(ids.tolist()) or read(ids)  # type: ignore[method-assign,func-returns-value]
    evaluate(model, tiny, source, max_samples=5)
    assert asked == [i * source.num_samples // 5 for i in range(5)]


def test_dropout_is_off_and_comes_back(packed: Path) -> None:
    dropping = task(layers=1, d_model=32, heads=2, seq_len=16, dropout=0.5)
    model, source = dropping.build_model().train(), dropping.open_data(packed, "validation")
    assert evaluate(model, dropping, source) == evaluate(model, dropping, source)
    assert model.training


def test_an_empty_source_is_said(packed: Path, model: GPT) -> None:
    long = task(layers=1, d_model=32, heads=2, seq_len=100_000)
    with pytest.raises(UserError, match="no sample to evaluate on"):
        evaluate(model, long, long.open_data(packed, "validation"))
