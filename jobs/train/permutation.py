"""A keyed bijection of 0..n-1 computed element by element: a shuffle of 10^11 samples that needs no list.

A Feistel network over the smallest near-square a x b >= n, additive so that the sides need not be powers of two
(Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002). The few values that fall outside 0..n-1 are
sent through again until they land inside, which keeps it a bijection. Knows nothing of epochs, steps or ranks.

Shapes: B elements, R rounds. The key may differ per element.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

U64Array = NDArray[np.uint64]

# Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014; Stafford's variant 13.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S32 = (np.uint64(s) for s in (27, 30, 31, 32))

_NUM_ROUNDS = 8
# On smaller sides eight rounds do not reach every order about equally often; a tiny n walks a little longer instead.
_MIN_SIDE = 8
MAX_SIZE = 2**62  # sides stay below 2^32, which `_round` needs


def mix(*words: Any) -> U64Array:
    """Hash one or more 64-bit words (scalars or arrays that broadcast) to 64 bits; order matters.

    This is the splittable generator: `mix(key, a)` and `mix(key, b)` are independent streams for a != b.
    """
    state: U64Array = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):  # wrapping is the arithmetic mod 2^64 that is wanted
        for word in words:
            z = (state ^ np.asarray(word).astype(np.uint64)) + _GOLDEN
            z = (z ^ (z >> _S30)) * _MIX_1
            z = (z ^ (z >> _S27)) * _MIX_2
            state = z ^ (z >> _S31)
    return state


def permute(index_B: NDArray[np.int64], size: int, key: Any) -> NDArray[np.int64]:
    """Where the shuffle named by `key` puts each index of 0..size-1; key is one 64-bit word or one per index.

    Raises: ValueError if size is outside 1..2^62. The caller keeps the indices below size.
    """
    if not 1 <= size <= MAX_SIZE:
        raise ValueError(f"size is {size}; must be 1..2^62")
    rows = max(_MIN_SIDE, math.isqrt(size - 1) + 1)
    columns = max(_MIN_SIDE, -(-size // rows))
    key_RB = _round_keys(np.atleast_1d(np.asarray(key, dtype=np.uint64)))
    value_B = _shuffle(index_B.astype(np.uint64), rows, columns, key_RB)
    outside_B = np.flatnonzero(value_B >= np.uint64(size))
    while outside_B.size:
        keys_left_RB = key_RB if key_RB.shape[1] == 1 else key_RB[:, outside_B]
        again_B = _shuffle(value_B[outside_B], rows, columns, keys_left_RB)
        value_B[outside_B] = again_B
        outside_B = outside_B[again_B >= np.uint64(size)]
    return value_B.astype(np.int64)


def _round_keys(key_B: U64Array) -> U64Array:
    return np.stack([mix(key_B, r) for r in range(_NUM_ROUNDS)])


def _shuffle(value_B: U64Array, rows: int, columns: int, key_RB: U64Array) -> U64Array:
    """Each round moves one side by a hash of the other, so every round can be undone."""
    row_B, column_B = np.divmod(value_B, np.uint64(columns))
    for r in range(0, _NUM_ROUNDS, 2):
        row_B = _move(row_B, column_B, key_RB[r], np.uint64(rows))
        column_B = _move(column_B, row_B, key_RB[r + 1], np.uint64(columns))
    return row_B * np.uint64(columns) + column_B


def _move(side_B: U64Array, other_B: U64Array, key_B: U64Array, modulus: np.uint64) -> U64Array:
    """(side + hash(key, other)) mod modulus, without division."""
    z_B = (other_B ^ key_B) * _MIX_1
    z_B ^= z_B >> _S32
    z_B *= _MIX_2
    z_B >>= _S32
    z_B *= modulus
    z_B >>= _S32  # 32 random bits scaled to 0..modulus-1
    z_B += side_B
    wrapped_B: U64Array = np.minimum(z_B, z_B - modulus)  # the difference wraps upwards unless it is the answer
    return wrapped_B
