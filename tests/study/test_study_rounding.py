"""Weights to codes and back: against brute force, tables and bits counted by hand; and through a file."""

from __future__ import annotations

from math import ceil
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import OptionError
from whisperq_edge._convert.readers.open_source import open_source
from whisperq_edge._convert.readers.rows import floats
from whisperq_edge._study.rounding import NF4_LEVELS, limits, round_e4m3, round_weights
from whisperq_edge._study.schemes import (
    WeightScheme,
    default_rows,
    named_rows,
    parse_activations,
    parse_weights,
    rows_of_lists,
)
from whisperq_edge._study.scope import SCOPES, Scope, choose_scope, weight_noise, write_rounded

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

EVERY = [
    f"{levels}-{granularity}"
    for levels in (*(f"int{bits}-{s}" for bits in range(2, 9) for s in ("sym", "asym")), "nf4", "fp8")
    for granularity in ("tensor", "channel", "group32", "group128")
]


def weights(n_rows: int = 5, n_in: int = 80, seed: int = 0) -> Floats:
    """Rows of different sizes, one of zeros, one that is positive throughout."""
    values = np.random.default_rng(seed).standard_normal((n_rows, n_in), np.float32)
    values *= np.logspace(-2, 1, n_rows, dtype=np.float32)[:, None]
    values[1] = 0
    values[2] = np.abs(values[2])
    return values


# ---- Brute force -----------------------------------------------------------------------------------------------------


def e4m3_table() -> Doubles:
    """All 256 codes of fp8 e4m3 by their definition; NaN for its two."""
    values = []
    for code in range(256):
        sign, exponent, mantissa = -1.0 if code & 128 else 1.0, code >> 3 & 15, code & 7
        if exponent == 15 and mantissa == 7:
            values.append(np.nan)
        elif exponent == 0:
            values.append(sign * mantissa * 2.0**-9)
        else:
            values.append(sign * (8 + mantissa) * 2.0 ** (exponent - 10))
    return np.array(values)


def levels_of(scheme: WeightScheme, group: Doubles) -> Doubles:
    """Every value that a weight of this group may become."""
    low, high = min(group.min(), 0.0), max(group.max(), 0.0)
    largest = max(-low, high)
    if scheme.levels == "nf4":
        return NF4_LEVELS * float(np.float16(largest))
    if scheme.levels == "fp8":
        table = e4m3_table()
        return table[~np.isnan(table)] * float(np.float16(largest / 448))
    if scheme.is_symmetric:
        greatest = 2 ** (scheme.bits - 1) - 1
        return np.arange(-greatest, greatest + 1) * float(np.float16(largest / greatest))
    scale = float(np.float16((high - low) / (2**scheme.bits - 1)))
    zero = round(-low / scale) if scale else 0
    return (np.arange(2**scheme.bits) - zero) * scale


def groups_of(scheme: WeightScheme, values: Floats) -> list[tuple[slice, slice]]:
    n_rows, n_in = values.shape
    if scheme.granularity == "tensor":
        return [(slice(0, n_rows), slice(0, n_in))]
    size = scheme.group if scheme.granularity == "group" else n_in
    return [(slice(r, r + 1), slice(c, min(c + size, n_in))) for r in range(n_rows) for c in range(0, n_in, size)]


@pytest.mark.parametrize("name", EVERY)
def test_every_weight_becomes_the_nearest_level(name: str) -> None:
    scheme, values = parse_weights(name), weights()
    rounded = round_weights(values, scheme, limits(values))
    assert rounded.dtype == np.float32 and rounded.shape == values.shape
    for rows, columns in groups_of(scheme, values):
        group = values[rows, columns].astype(np.float64)
        levels = levels_of(scheme, group)
        best = np.abs(group[..., None] - levels).min(axis=-1)
        taken = rounded[rows, columns].astype(np.float64)
        assert np.allclose(np.abs(group - taken), best, rtol=0, atol=1e-6 * max(1e-9, np.abs(group).max()))
        on_a_level = np.abs(taken[..., None] - levels).min(axis=-1)
        assert on_a_level.max() <= 1e-7 * max(1e-9, np.abs(group).max())  # nf4's product is rounded to float32


def test_rows_by_themselves_and_together_are_the_same() -> None:
    values = weights(9, 96)
    for name in ("int4-sym-tensor", "int4-asym-channel", "nf4-group64", "fp8-group32"):
        scheme, whole = parse_weights(name), limits(values)
        apart = [round_weights(values[i : i + 2], scheme, whole) for i in range(0, 9, 2)]
        assert np.array_equal(np.concatenate(apart), round_weights(values, scheme, whole))


def test_more_bits_and_smaller_groups_are_closer() -> None:
    values = weights(64, 256, 3)

    def error(name: str) -> float:
        return float(np.sum((round_weights(values, parse_weights(name), limits(values)) - values) ** 2))

    by_bits = [error(f"int{bits}-sym-group32") for bits in range(8, 1, -1)]
    assert by_bits == sorted(by_bits)
    by_size = [error(f"int4-asym-{each}") for each in ("group32", "group64", "group128", "channel", "tensor")]
    assert by_size == sorted(by_size)


def test_values_that_f16_scales_cannot_hold() -> None:
    large = np.array([[1e6, -1e6, 1.0]], np.float32)
    assert np.isfinite(round_weights(large, parse_weights("int8-sym-channel"))).all()
    tiny = np.full((1, 4), 1e-12, np.float32)
    assert not round_weights(tiny, parse_weights("int4-asym-channel")).any()


# ---- Levels ----------------------------------------------------------------------------------------------------------


def test_e4m3_by_its_table() -> None:
    table = e4m3_table()
    known = table[~np.isnan(table)]
    assert len(known) == 254 and known.max() == 448
    assert np.array_equal(round_e4m3(known), known)
    levels = np.unique(known)
    middles = (levels[1:] + levels[:-1]) / 2
    even = {float(value): code % 2 == 0 for code, value in enumerate(table.tolist()) if value == value}
    for low, middle, high in zip(levels, middles, levels[1:]):
        assert round_e4m3(middle) == (low if even[float(low)] else high)
        assert round_e4m3(np.nextafter(middle, -1e9)) == low and round_e4m3(np.nextafter(middle, 1e9)) == high
    assert np.array_equal(round_e4m3([449.0, 1e30, -1e30, 0.0]), [448.0, 448.0, -448.0, 0.0])


def test_e4m3_against_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(8)
    values = (rng.standard_normal(20_000) * np.exp2(rng.uniform(-12, 8, 20_000))).astype(np.float32)
    values = np.clip(values, -448, 448)
    expected = values.astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
    assert np.array_equal(round_e4m3(values), expected)


def test_nf4_is_made_of_quantiles() -> None:
    assert len(NF4_LEVELS) == 16 and np.all(np.diff(NF4_LEVELS) > 0)
    assert NF4_LEVELS[0] == -1.0 and NF4_LEVELS[7] == 0.0 and NF4_LEVELS[15] == 1.0
    largest = NormalDist().inv_cdf(1 - (1 / 32 + 1 / 30) / 2)
    shares = [NormalDist().cdf(level * largest) for level in NF4_LEVELS.tolist()]
    assert np.allclose(np.diff(shares[7:]), (shares[15] - 0.5) / 8)  # equal shares on either side of zero
    assert np.allclose(np.diff(shares[:8]), (0.5 - shares[0]) / 7)
    assert shares[15] == pytest.approx(1 - shares[0])


# ---- Bits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("int8-sym-tensor", 8 + 16 / (6 * 192)),
        ("int8-asym-tensor", 8 + (16 + 8) / (6 * 192)),
        ("int8-sym-channel", 8 + 16 / 192),
        ("int4-sym-group32", 4 + 16 / 32),
        ("int4-asym-group32", 4 + (16 + 4) / 32),
        ("int3-asym-group64", 3 + (16 + 3) / 64),
        ("int4-sym-group128", 4 + 16 * 2 / 192),  # 128 and the 64 that are left
        ("nf4-group64", 4 + 16 / 64),
        ("fp8-tensor", 8 + 16 / (6 * 192)),
        ("fp8-channel", 8 + 16 / 192),
    ],
)
def test_bits_by_hand(name: str, bits: float) -> None:
    assert parse_weights(name).stored_bits((6, 192)) == pytest.approx(bits * 6 * 192, abs=1e-6)


def test_bits_of_a_convolution() -> None:
    """192 outputs, 80 x 3 inputs."""
    assert parse_weights("int8-sym-channel").stored_bits((192, 80, 3)) == 192 * (240 * 8 + 16)
    assert parse_weights("int4-asym-group64").stored_bits((192, 80, 3)) == 192 * (240 * 4 + 4 * 20)


# ---- Names -----------------------------------------------------------------------------------------------------------


def test_names_come_back() -> None:
    for name in ["float", *EVERY]:
        assert parse_weights(name).name == name
    for name in ("float", "static", "dynamic-tensor", "dynamic-token", "dynamic-block32", "dynamic-token-asym"):
        assert parse_activations(name).name == name


@pytest.mark.parametrize(
    "name", ["int9-sym-tensor", "int4", "int4-sym", "int4-sym-group4", "nf4-sym-group64", "fp8-row", "", "INT8"]
)
def test_no_weights(name: str) -> None:
    with pytest.raises(OptionError, match="int4-asym-group32"):
        parse_weights(name)


@pytest.mark.parametrize("name", ["dynamic", "dynamic-block", "dynamic-block0", "static-token", "int8"])
def test_no_activations(name: str) -> None:
    with pytest.raises(OptionError, match="dynamic-token"):
        parse_activations(name)


def test_which_rows() -> None:
    rows = default_rows(is_calibrated=True)
    assert 12 <= len(rows) <= 18 and len(set(rows)) == len(rows) and rows[0].name == "float"
    without = default_rows(is_calibrated=False)
    assert [row for row in rows if not row.activations.is_static] == without
    assert [row.name for row in named_rows(["fp8-tensor / static", "float", "nf4-channel"])] == [
        *("float", "fp8-tensor / static", "nf4-channel"),
    ]
    product = rows_of_lists(["int8-sym-channel", "float"], ["float", "dynamic-token"])
    assert [row.name for row in product] == [
        *("float", "int8-sym-channel", "int8-sym-channel / dynamic-token", "float / dynamic-token"),
    ]


# ---- The model -------------------------------------------------------------------------------------------------------


def scope_of(path: Path, *parts: str) -> Scope:
    return choose_scope(open_source(path), parts, path.stat().st_size)


@pytest.mark.parametrize("name", ["int4-sym-group32", "int3-asym-tensor", "nf4-channel", "fp8-group64"])
def test_the_file_holds_what_numpy_computes(micro_en_path: Path, name: str, tmp_path: Path) -> None:
    scheme, source = parse_weights(name), open_source(micro_en_path)
    scope = scope_of(micro_en_path, "blocks", "conv", "embedding")
    write_rounded(tmp_path / "rounded.bin", source, scope.names, scheme)
    written = {tensor.name: tensor for tensor in open_source(tmp_path / "rounded.bin").tensors}
    changed = 0
    for tensor in source.tensors:
        before, after = floats(tensor), floats(written[tensor.name])
        if tensor.name in scope.names:
            matrix = before.reshape(tensor.shape[0], -1)
            expected = round_weights(matrix, scheme, limits(matrix)).reshape(before.shape)
            assert np.array_equal(after, expected), tensor.name
            changed += 1
        else:
            assert np.array_equal(after, before), tensor.name
    assert changed == len(scope.tensors) == 2 * 4 + 4 + 2 * 2 + 2 + 1


def test_scopes(micro_en_path: Path) -> None:
    names = {part: scope_of(micro_en_path, part).names for part in SCOPES}
    assert names["blocks"] == names["encoder"] | names["decoder"] and not names["encoder"] & names["decoder"]
    assert "decoder.blocks.0.cross_attn.key.weight" in names["decoder"]
    assert names["conv"] == {"encoder.conv1.weight", "encoder.conv2.weight"}
    assert names["embedding"] == {"decoder.token_embedding.weight"}
    assert not any(
        name.endswith(("bias", "ln.weight", "positional_embedding")) for each in names.values() for name in each
    )
    for wrong in ([], ["heads"], ["blocks", "encoder"], ["conv", "conv"]):
        with pytest.raises(OptionError):
            scope_of(micro_en_path, *wrong)


def test_sizes(micro_en_path: Path) -> None:
    scope, n_bytes = scope_of(micro_en_path, "blocks"), micro_en_path.stat().st_size
    as_it_is = parse_weights("float")
    assert scope.model_bytes(as_it_is) == n_bytes and scope.bits_per_weight(as_it_is) == 16
    scheme = parse_weights("int4-sym-group32")
    assert scope.bits_per_weight(scheme) == 4.5
    assert scope.model_bytes(scheme) == n_bytes - scope.n_weights * 2 + ceil(scope.n_weights * 4.5 / 8)


def test_noise_in_the_weights(micro_en_path: Path) -> None:
    scope = scope_of(micro_en_path, "blocks")
    found = weight_noise(scope, parse_weights("int4-sym-channel"))
    before = np.concatenate([floats(tensor).ravel() for tensor in scope.tensors]).astype(np.float64)
    rounded = [round_weights(floats(tensor), parse_weights("int4-sym-channel")).ravel() for tensor in scope.tensors]
    error = before - np.concatenate(rounded)
    assert found.sqnr_db == pytest.approx(10 * np.log10(np.sum(before**2) / np.sum(error**2)), abs=1e-2)
    assert list(found.layers) == ["encoder 0", "decoder 0"]
    assert weight_noise(scope, parse_weights("float")).sqnr_db is None
