"""Which device the ranks of a node use, decided without touching it.

A process that has once initialised CUDA cannot fork children that use CUDA, so the stem must find out from the file
system; `torch.cuda.is_available()` would open the device.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

Accelerator = Literal["cpu", "cuda"]


def choose_accelerator(env: Mapping[str, str], *, torch_has_cuda: bool, dev: Path = Path("/dev")) -> Accelerator:
    """`DS_ACCELERATOR` if it names one, else CUDA where torch was built for it and a visible device exists.

    Raises: ValueError for another accelerator than these two.
    """
    named = env.get("DS_ACCELERATOR", "")
    if named == "cpu":
        return "cpu"
    if named == "cuda":
        return "cuda"
    if named:
        raise ValueError(f"DS_ACCELERATOR is {named!r}; must be 'cpu' or 'cuda', or unset to choose by what is there")
    hidden = env.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1")
    present = dev.is_dir() and any(re.fullmatch(r"nvidia\d+", entry.name) for entry in dev.iterdir())
    return "cuda" if torch_has_cuda and present and not hidden else "cpu"
