"""Width transfer: the coordinate check, and that the base width is the plain model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.models import gpt, gpt_mup
from jobs.models.task import Task

WIDTHS = (32, 64, 128, 256)
STEPS, RATE = 4, 2e-2


def _bytes() -> Tensor:
    return torch.randint(0, 256, (4, 17), generator=torch.Generator().manual_seed(0))


def _logit_change(task: Task) -> float:
    """Mean size of how far a few steps of Adam moved the scores: the coordinate that a wrong scaling makes grow."""
    torch.manual_seed(1)
    model, bytes_BT = task.build_model(), _bytes()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    before = model(bytes_BT[:, :-1]).detach()
    for _ in range(STEPS):
        loss = F.cross_entropy(model(bytes_BT[:, :-1]).flatten(0, 1), bytes_BT[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float((model(bytes_BT[:, :-1]).detach() - before).abs().mean())


def test_scores_move_as_far_at_every_width_and_not_without_the_scaling() -> None:
    """Coordinate check (Tensor Programs V, appendix D.1). Measured over the widths: a factor of 1.6; without 5.4."""
    scaled = [_logit_change(gpt_mup.task(d_model=width, heads=4, seq_len=16, base_width=32)) for width in WIDTHS]
    plain = [_logit_change(gpt.task(d_model=width, heads=4, seq_len=16)) for width in WIDTHS]
    assert max(scaled) / min(scaled) < 2.0, scaled
    assert plain[-1] / plain[0] > 3.0, plain


def test_at_the_base_width_it_is_the_plain_model() -> None:
    models = []
    for task in (gpt.task(d_model=64, heads=4, seq_len=16), gpt_mup.task(d_model=64, heads=4, seq_len=16)):
        torch.manual_seed(3)
        models.append(task.build_model())
    first, second = (model(_bytes()[:, :-1]) for model in models)
    assert torch.allclose(first, second, atol=1e-6)
    assert list(models[0].state_dict()) == list(models[1].state_dict())


def test_serving_reads_a_scaled_model_as_training_does() -> None:
    torch.manual_seed(0)
    model = gpt_mup.task(d_model=64, heads=4, seq_len=16, base_width=16).build_model().eval()
    tokens = _bytes()[0, :16]
    cache = model.new_cache(num_slots=1, max_len=16)
    last = model.prefill(tokens, cache, 0, 0)
    assert torch.allclose(last, model(tokens[None])[0, -1], atol=1e-5)


def test_the_start_is_as_wide_as_asked_and_norms_are_left_alone() -> None:
    models = []
    for scale in (1.0, 4.0):
        torch.manual_seed(3)
        models.append(gpt_mup.task(d_model=64, heads=4, seq_len=16, base_width=32, init_scale=scale).build_model())
    for (name, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(other, one * (1.0 if "norm" in name else 4.0)), name


@pytest.mark.parametrize("wrong", [{"base_width": 0}, {"init_scale": 0.0}, {"init_scale": float("inf")}])
def test_a_scale_of_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        gpt_mup.task(**wrong)
