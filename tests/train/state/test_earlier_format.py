"""A checkpoint that an earlier version wrote is read by this one, at another size, bit for bit.

`format-1` (`tideline-state/1`: two ranks, ZeRO 1, step 7) was written by the code of the ledger's version 0001. There
is no older format; one that follows must go on reading this.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from jobs.train.state import load_latest_good, open_storage, read_manifest, verify
from jobs.train.state.checkpoints import manifest_file
from tests.train.state.fakes import gathered, random_whole, same, views, zero3_cuts

FOLDER = Path(__file__).with_name("format-1")


def expected():
    whole = random_whole({"a": (40, 3), "b": (5,), "n": (2,)}, 1, buffers=("n",))
    for at, (_, value) in enumerate(sorted(whole.flat.items())):
        value.copy_((torch.arange(value.numel()) * (at + 1)).to(value.dtype))
    return whole


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_checkpoint_of_format_1_is_read_at_any_size(ranks):
    storage, whole = open_storage(FOLDER.as_uri()), expected()
    reading = views(whole, zero3_cuts(whole, ranks), filled=False)
    found = [load_latest_good(view, storage, "run") for view in reading]
    assert [one.manifest.step for one in found if one is not None] == [7] * ranks
    assert same(gathered(whole, reading), whole.flat)


def test_it_is_what_it_says():
    storage = open_storage(FOLDER.as_uri())
    assert json.loads((FOLDER / manifest_file("run", 7)).read_bytes())["format"] == "tideline-state/1"
    assert verify(read_manifest(storage, "run", 7), storage) == []
