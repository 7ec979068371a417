"""The ladder's rungs, against answers known without it."""

from __future__ import annotations

import itertools
import lzma
import math
import zlib
from pathlib import Path

import numpy as np
import pytest

from jobs.data import open_dataset
from jobs.models.ladder import _cross_entropy, _pair_counts, ladder, place


def test_compressors_are_those_of_the_standard_library(packed: Path) -> None:
    dataset = open_dataset(packed)
    train, text = (np.asarray(dataset.split(name)).tobytes() for name in ("train", "validation"))
    rungs = {rung.name: rung.bits_per_byte for rung in ladder(dataset, with_training_text=True)}
    strong = 9 | lzma.PRESET_EXTREME
    assert rungs["zlib"] == pytest.approx(8 * len(zlib.compress(text, 9)) / len(text))
    assert rungs["xz"] == pytest.approx(8 * len(lzma.compress(text, preset=strong)) / len(text))
    given = len(lzma.compress(train + text, preset=strong)) - len(lzma.compress(train, preset=strong))
    assert rungs["xz+train"] == pytest.approx(8 * given / len(text))


def test_counts_are_learned_on_train_and_priced_on_validation(packed: Path) -> None:
    dataset = open_dataset(packed)
    train, text = (np.asarray(dataset.split(name)).tobytes() for name in ("train", "validation"))
    total = math.fsum(-math.log2((train.count(byte) + 0.1) / (len(train) + 25.6)) for byte in text)
    assert ladder(dataset)[0].name == "unigram"
    assert ladder(dataset)[0].bits_per_byte == pytest.approx(total / len(text))


def test_pairs_are_counted_across_blocks() -> None:
    text = np.frombuffer(b"abracadabra", dtype=np.uint8)
    whole, parts = _pair_counts([text]), _pair_counts([text[:4], text[4:5], text[5:]])
    np.testing.assert_array_equal(whole, parts)
    assert whole.sum() == len(text) - 1
    expected = sum(pair == (ord("a"), ord("b")) for pair in itertools.pairwise(text.tolist()))
    assert whole[ord("a"), ord("b")] == expected == 2


def test_a_fair_coin_costs_one_bit() -> None:
    counts = np.array([[1e9, 1e9]])
    assert _cross_entropy(counts, np.array([[3.0, 5.0]])) == pytest.approx(1.0)


def test_a_model_is_placed_above_the_rungs_it_beats(packed: Path) -> None:
    rungs = ladder(open_dataset(packed))
    assert [rung.bits_per_byte for rung in rungs] == sorted((rung.bits_per_byte for rung in rungs), reverse=True)
    assert place(9.0, rungs) == 0
    assert place(0.0, rungs) == len(rungs)
    assert place((rungs[0].bits_per_byte + rungs[1].bits_per_byte) / 2, rungs) == 1
