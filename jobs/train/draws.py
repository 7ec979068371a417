"""Seeding of every default generator a task may draw from, so that draws are a function of the step and not of history.

Nothing has to be saved for them: the generator of a rank means nothing once there are other ranks.
"""

from __future__ import annotations

import random

import numpy as np
import torch

_NUMPY_SEEDS = 2**32


def seed_draws(seed: int) -> None:
    """Seed the default generators of torch (all devices), numpy and Python; `seed` has up to 63 bits."""
    torch.manual_seed(seed)
    np.random.seed(seed % _NUMPY_SEEDS)
    random.seed(seed)
