"""Seeding of every default generator a task may draw from, so that draws are a function of the step and not of history.

Nothing has to be saved for them: the generator of a rank means nothing once there are other ranks.
"""

from __future__ import annotations

import random

import numpy as np
import torch

_NUMPY_SEEDS = 2**32


def seed_draws(seed: int) -> None:
    """Seed the default generators of torch (processor and CUDA), numpy and Python; `seed` has up to 63 bits.

    `torch.manual_seed` does the same and, for devices that are not there, formats the stack three times: a sixth of
    what a small model's step costs a rank.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # a rank that has a device has opened it
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % _NUMPY_SEEDS)
    random.seed(seed)
