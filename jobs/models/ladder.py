"""A ladder to place a byte-level model on: what counting and what general compressors reach on the same bytes.

Every rung is computed from the data set itself, in memory that does not grow with it.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jobs.data import PackedDataset, PackedSplit

_VALUES = 256
# Added to every count, so that what the training split never showed still has a price.
_SMOOTHING = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One competitor and its bits per byte on the validation split; lower is better."""

    name: str
    bits_per_byte: float
    meaning: str


def ladder(dataset: PackedDataset, *, with_training_text: bool = False) -> tuple[Rung, ...]:
    """Rungs from worst to best, all measured on the validation split.

    `with_training_text` adds xz having seen the training split; it compresses that twice, 13 s for 10 MB.
    """
    train, validation = dataset.split("train"), dataset.split("validation")
    rungs = [
        Rung(name="unigram", bits_per_byte=_unigram(train, validation), meaning="how often each byte occurs"),
        Rung(name="bigram", bits_per_byte=_bigram(train, validation), meaning="how often each byte follows another"),
        Rung(name="zlib", bits_per_byte=_compressed(validation, zlib.compressobj(9)), meaning="zlib -9"),
        Rung(name="xz", bits_per_byte=_compressed(validation, _xz()), meaning="xz -9e"),
    ]
    if with_training_text:
        rungs.append(
            Rung(name="xz+train", bits_per_byte=_given(train, validation), meaning="xz -9e after the training text")
        )
    return tuple(sorted(rungs, key=lambda rung: -rung.bits_per_byte))


def place(bits_per_byte: float, rungs: Sequence[Rung]) -> int:
    """How many rungs a model with this figure has climbed: those it is better than."""
    return sum(bits_per_byte < rung.bits_per_byte for rung in rungs)


def _unigram(train: PackedSplit, validation: PackedSplit) -> float:
    return _cross_entropy(_byte_counts(train.blocks()), _byte_counts(validation.blocks()))


def _bigram(train: PackedSplit, validation: PackedSplit) -> float:
    return _cross_entropy(_pair_counts(train.blocks()), _pair_counts(validation.blocks()))


def _byte_counts(blocks: Iterable[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """counts[0, b]: how often byte b occurs."""
    counts = np.zeros(_VALUES)
    for block in blocks:
        counts += np.bincount(block, minlength=_VALUES)
    return counts[None]


def _pair_counts(blocks: Iterable[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """counts[a, b]: how often byte b follows byte a, also across the borders of blocks."""
    counts, last = np.zeros(_VALUES * _VALUES), np.empty(0, dtype=np.uint8)
    for block in blocks:
        text = np.concatenate((last, block)).astype(np.int64)
        counts += np.bincount(text[:-1] * _VALUES + text[1:], minlength=_VALUES * _VALUES)
        last = block[-1:]
    return counts.reshape(_VALUES, _VALUES)


def _cross_entropy(counts: NDArray[np.float64], seen: NDArray[np.float64]) -> float:
    """Mean bits for the events in `seen`, priced by the smoothed row frequencies of `counts`."""
    smoothed = counts + _SMOOTHING
    bits = -np.log2(smoothed / smoothed.sum(axis=1, keepdims=True))
    return float((seen * bits).sum() / seen.sum())


class _Compressor(Protocol):
    def compress(self, data: memoryview, /) -> bytes: ...
    def flush(self) -> bytes: ...


def _xz() -> lzma.LZMACompressor:
    return lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME)


def _compressed(split: PackedSplit, compressor: _Compressor) -> float:
    return 8 * _size(split.blocks(), compressor) / len(split)


def _given(train: PackedSplit, validation: PackedSplit) -> float:
    both = (block for split in (train, validation) for block in split.blocks())
    return 8 * (_size(both, _xz()) - _size(train.blocks(), _xz())) / len(validation)


def _size(blocks: Iterable[NDArray[np.uint8]], compressor: _Compressor) -> int:
    return sum(len(compressor.compress(block.data)) for block in blocks) + len(compressor.flush())
