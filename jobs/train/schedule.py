"""The learning rate as a pure function of the step, so that a resize or restart cannot shift it."""

from __future__ import annotations

import math

from jobs.train.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, step_index: int, steps: int) -> float:
    """The rate of the step that follows `step_index` completed ones, of `steps` in all.

    Rises linearly to `lr` within `warmup_steps`; after them it stays, or falls to `lr * min_lr_ratio` at the last step.
    """
    if step_index < config.warmup_steps:
        return config.lr * (step_index + 1) / config.warmup_steps
    falling_steps = steps - 1 - config.warmup_steps
    progress = min(1.0, (step_index - config.warmup_steps) / falling_steps) if falling_steps > 0 else 0.0
    match config.schedule:
        case "constant":
            share = 1.0
        case "linear":
            share = 1.0 - progress
        case "cosine":
            share = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr * (config.min_lr_ratio + (1.0 - config.min_lr_ratio) * share)
