"""Random generators travel through JSON and go on as if nothing had been."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from jobs.train.state import CorruptStateError
from jobs.train.state.generators import capture_generators, restore_generators


@pytest.fixture(autouse=True)
def _leave_as_found():
    before = capture_generators()
    yield
    restore_generators(before)


def _draw():
    return [random.random(), random.gauss(0, 1), *np.random.rand(3), np.random.randn(), *torch.rand(3).tolist()]


def test_draws_go_on_where_they_were():
    random.gauss(0, 1)
    np.random.randn()
    saved = json.loads(json.dumps(capture_generators()))
    expected = _draw()
    assert _draw() != expected
    restore_generators(saved)
    assert _draw() == expected


@pytest.mark.parametrize("damage", [{}, {"python": [3, [1, 2], None]}, {"torch": "????"}, {"numpy": ["", 0, 0, 0]}])
def test_damaged_states_are_refused(damage):
    saved = {**capture_generators(), **damage} if damage else {}
    with pytest.raises(CorruptStateError, match="cannot be restored"):
        restore_generators(saved)
