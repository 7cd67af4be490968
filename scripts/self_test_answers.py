"""Prints the known answers that csrc/kernels/self_test/ has in digits, computed here by numpy alone:

python scripts/self_test_answers.py
"""

from __future__ import annotations

import math

import numpy as np

BLOCK, HEAD = 32, 64
VALUES, COLUMN, ROW = 3 * BLOCK, 76, 4


def draw(seed: int, i: int, n: int) -> int:
    return (i * 7919 + seed * 104729 + i * i % 1009 * 31) % 15485863 % n


def number(seed: int, i: int) -> float:
    return (draw(seed, i, 2047) - 1023) / 1024


def quantised(seed: int, run: int, i: int) -> float:
    """The code of value ``i`` times its scale."""
    if i % run == (i // run * 5 + seed) % run:
        code = 127 if i // run % 2 == 0 else -127
    else:
        code = draw(seed, i, 251) - 125
    return code * 2.0 ** -(i // run % 4)


def block_product(bits: int, zero_point: int, has_minimum: bool) -> float:
    total = 0.0
    for i in range(VALUES):
        b = COLUMN * 3 + i // BLOCK
        scale = (1 + draw(22, b, 1024) / 1024) / (-256 if COLUMN % 3 == 0 else 128)
        code = draw(21 + bits, COLUMN * VALUES + i, 1 << bits) - zero_point
        minimum = number(23, b) if has_minimum else 0.0
        total += quantised(31, BLOCK, ROW * VALUES + i) * (scale * code + minimum)
    return total


def float_product() -> float:
    first = COLUMN // 16 * 37 * 16 + COLUMN % 16
    return sum(number(41, ROW * 23 + i) * number(42, first + 16 * i) for i in range(37))


def layer_norm() -> float:
    x = np.array([number(61, 2 * 71 + i) for i in range(71)])
    return float((x[70] - x.mean()) / math.sqrt(x.var() + 1e-5) * number(62, 70) + number(63, 70))


def attention() -> float:
    def row(seed: int, r: int) -> np.ndarray:
        return np.array([number(seed, r * (HEAD + 24) + i) for i in range(HEAD)])

    keys, values = np.array([row(72, j) for j in range(70)]), np.array([row(73, j) for j in range(70)])
    weights = np.exp(keys @ (2 * row(71, 18)) / 8)
    return float((weights / weights.sum() @ values)[63])


if __name__ == "__main__":
    for name, bits, zero_point, has_minimum in (
        ("q8_0", 8, 128, False),
        ("q5_1", 5, 0, True),
        ("q5_0", 5, 16, False),
        ("q4_1", 4, 0, True),
        ("q4_0", 4, 8, False),
    ):
        print(f"{name:12}{block_product(bits, zero_point, has_minimum):.17g}")
    print(f"{'f32':12}{float_product():.17g}")
    print(f"{'layer_norm':12}{layer_norm():.17g}")
    print(f"{'attention':12}{attention():.17g}")
