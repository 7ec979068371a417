"""What a saved range of elements is: these kinds have a fixed meaning, all others are optimizer moments by name."""

from __future__ import annotations

FP32 = "fp32"  # the master copy of a trainable parameter
FROZEN = "frozen"  # a parameter without gradient, in the model's precision
BUFFER = "buffer"  # a persistent buffer of the model
KINDS_WITHOUT_MOMENTS = (FP32, FROZEN, BUFFER)
