"""The whole-model proof: two models compared, and what is said about it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import AudioError, ModelNotFoundError, OptionError
from whisperq_edge._convert.probe import run_probe
from whisperq_edge._convert.proof import (
    SENTENCES,
    Proof,
    activation_statistics,
    proof_rows,
    prove,
    verdict,
    wilson_interval,
)
from whisperq_edge._system.native import data_file

from tests.support.make_model import write_random_model

Floats = npt.NDArray[np.float32]

NANO = data_file("assets/ggml-nano.en.bin")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {ftype: write_random_model(folder / f"{ftype}.bin", "micro.en", ftype) for ftype in ("f16", "q8_0", "q4_0")}


@pytest.fixture(scope="module")
def proofs(models: dict[str, Path]) -> dict[str, Proof]:
    return {ftype: prove(models["f16"], path, n_threads=1, repeats=1) for ftype, path in models.items()}


def test_a_model_is_equal_to_itself(proofs: dict[str, Proof]) -> None:
    proof = proofs["f16"]
    assert proof.encoder_cosine == proof.worst_cosine == 1
    assert proof.encoder_sqnr_db == proof.worst_sqnr_db == math.inf
    assert proof.top1_agreement == 1 and proof.mean_kl_nats == proof.max_kl_nats == 0
    assert proof.ratio == 1
    assert verdict(proof).startswith("No difference was seen")


def test_more_bits_are_nearer(proofs: dict[str, Proof]) -> None:
    q8_0, q4_0 = proofs["q8_0"], proofs["q4_0"]
    assert 1 > q8_0.encoder_cosine > q4_0.encoder_cosine > 0.9
    assert q8_0.encoder_sqnr_db > q4_0.encoder_sqnr_db + 12  # four bits are 24 dB in the weights
    assert q8_0.worst_sqnr_db > q4_0.worst_sqnr_db
    assert 1 >= q8_0.top1_agreement > q4_0.top1_agreement
    assert 0 < q8_0.mean_kl_nats < q4_0.mean_kl_nats < q4_0.max_kl_nats
    assert q4_0.ratio > q8_0.ratio > 1


def test_the_worst_is_no_better_than_all(proofs: dict[str, Proof]) -> None:
    for proof in proofs.values():
        assert proof.worst_cosine <= proof.encoder_cosine and proof.worst_sqnr_db <= proof.encoder_sqnr_db
        low, high = proof.agreement_interval
        assert low <= proof.top1_agreement <= high


def test_enough_is_looked_at(proofs: dict[str, Proof]) -> None:
    proof = proofs["q8_0"]
    assert proof.n_positions >= 200 and proof.n_audio_tokens == 1500 and proof.n_clips == 1


def test_what_running_them_cost(proofs: dict[str, Proof], models: dict[str, Path]) -> None:
    for side, ftype in ((proofs["q4_0"].reference, "f16"), (proofs["q4_0"].result, "q4_0")):
        assert side.type == ftype and side.file_bytes == models[ftype].stat().st_size
        for measured in (side.load_ms, side.encode_ms, side.decode_ms_per_token):
            assert measured.runs == 1 and 0 < measured.least == measured.median == measured.most


def test_figures_are_those_of_plain_numpy(
    proofs: dict[str, Proof], models: dict[str, Path], sample_pcm: Floats, sample_text: str
) -> None:
    texts = [sample_text, *SENTENCES]
    before = run_probe(models["f16"], sample_pcm, texts, 1)
    after = run_probe(models["q4_0"], sample_pcm, before.sequences, 1)
    f, g = before.audio_features.astype(np.float64), after.audio_features.astype(np.float64)
    proof = proofs["q4_0"]
    assert proof.encoder_cosine == pytest.approx(np.vdot(f, g) / np.linalg.norm(f) / np.linalg.norm(g), rel=1e-9)
    assert proof.encoder_sqnr_db == pytest.approx(20 * np.log10(np.linalg.norm(f) / np.linalg.norm(f - g)), rel=1e-9)
    errors = np.linalg.norm(f - g, axis=1) / np.linalg.norm(f, axis=1)
    assert proof.worst_sqnr_db == pytest.approx(-20 * np.log10(errors.max()), rel=1e-9)

    logits = [np.concatenate([one[1:] for one in seen.logits]).astype(np.float64) for seen in (before, after)]
    assert proof.n_positions == len(logits[0]) == sum(len(sequence) - 1 for sequence in before.sequences)
    assert proof.n_agreed == int((logits[0].argmax(axis=1) == logits[1].argmax(axis=1)).sum())
    p, q = (np.exp(one) / np.exp(one).sum(axis=1, keepdims=True) for one in logits)
    kl = (p * np.log(p / q)).sum(axis=1)
    assert proof.mean_kl_nats == pytest.approx(kl.mean(), rel=1e-6)
    assert proof.max_kl_nats == pytest.approx(kl.max(), rel=1e-6)


def test_own_clips_and_turns(models: dict[str, Path], sample_pcm: Floats) -> None:
    fractions: list[float] = []
    clips = [sample_pcm[:16000], sample_pcm]
    proof = prove(models["f16"], models["q8_0"], pcm=clips, n_threads=1, repeats=1, on_progress=fractions.append)
    assert proof.n_clips == 2 and proof.n_audio_tokens == 3000
    assert proof.reference.encode_ms.runs == proof.result.encode_ms.runs == 2  # a turn for each clip
    assert fractions == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("more", "field"), [({"repeats": 0}, "repeats"), ({"pcm": []}, "pcm"), ({"result": NANO}, "result")]
)
def test_what_cannot_be_compared(models: dict[str, Path], more: dict[str, Any], field: str) -> None:
    arguments: dict[str, Any] = {"reference": models["f16"], "result": models["q8_0"], "n_threads": 1, **more}
    with pytest.raises(OptionError) as caught:
        prove(**arguments)
    assert caught.value.field == field


def test_a_model_that_is_not_there(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        prove(models["f16"], tmp_path / "absent.bin")


@pytest.mark.parametrize(
    ("n_agreed", "n", "low", "high"),
    [
        (8, 10, 0.4901625, 0.9433178),
        (10, 10, 0.7224672, 1.0),
        (0, 10, 0.0, 0.2775328),
        (500, 1000, 0.4690696, 0.5309304),
    ],
)
def test_wilson_intervals(n_agreed: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(n_agreed, n) == pytest.approx((low, high), abs=1e-6)


def test_json(proofs: dict[str, Proof]) -> None:
    for proof in proofs.values():
        report = json.loads(json.dumps(proof.to_dict(), allow_nan=False))
        assert report["decoder"]["top1_agreement"] == proof.top1_agreement
        assert report["result"]["mb"] == round(proof.result.file_bytes / 1e6, 2)
        assert report["engine"]["n_threads"] == 1 and report["engine"]["isa"] and report["versions"]["whisper_cpp"]
    assert proofs["f16"].to_dict()["encoder"]["sqnr_db"] is None


def test_table(proofs: dict[str, Proof], models: dict[str, Path]) -> None:
    rows = {row[0]: row for row in proof_rows(proofs["q4_0"].to_dict())}
    assert rows["size, MB"][1:3] == tuple(f"{models[ftype].stat().st_size / 1e6:.2f}" for ftype in ("f16", "q4_0"))
    assert rows["encoder SQNR, dB"][2] == f"{proofs['q4_0'].encoder_sqnr_db:.1f}"
    assert f"of {proofs['q4_0'].n_positions} tokens" in rows["decoder top-1 agreement"][3]
    assert "median of 1" in rows["encode 30 s, ms"][3]
    assert {row[0]: row for row in proof_rows(proofs["f16"].to_dict())}["encoder SQNR, dB"][2] == "equal"


def test_verdicts_say_no_more_than_was_seen(proofs: dict[str, Proof]) -> None:
    seen = dataclasses.replace(
        proofs["q8_0"], n_positions=222, n_agreed=222, encoder_sqnr_db=38.04, mean_kl_nats=1.2e-4, n_clips=1
    )
    assert verdict(seen) == (
        "No difference was seen in 222 tokens: the decoder's first choice is the same everywhere (95 % interval 98.2"
        " to 100.0 %; mean KL 0.00012 nats, encoder SQNR 38.0 dB, on 1 clip)."
    )
    assert verdict(dataclasses.replace(seen, n_agreed=218, n_clips=2)) == (
        "The decoder's first choice differs in 4 of 222 tokens: agreement 98.2 % (95 % interval 95.4 to 99.3 %; mean KL"
        " 0.00012 nats, encoder SQNR 38.0 dB, on 2 clips)."
    )


# --- activation statistics --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def once(sample_pcm: Floats) -> dict[str, npt.NDArray[np.float64]]:
    return activation_statistics(NANO, [sample_pcm], 1)


def test_statistics_of_every_matrix(once: dict[str, npt.NDArray[np.float64]]) -> None:
    assert len(once) == 4 * 6 + 3 * 10 + 1  # encoder layers, decoder layers, the embedding
    assert once["encoder.blocks.0.mlp.2.weight"].shape == (768,)
    for values in once.values():
        assert values.dtype == np.float64 and np.isfinite(values).all() and (values >= 0).all()
    query, key = (once[f"encoder.blocks.3.attn.{name}.weight"] for name in ("query", "key"))
    assert np.array_equal(query, key)


def test_statistics_are_means_over_windows(once: dict[str, npt.NDArray[np.float64]], sample_pcm: Floats) -> None:
    silence = np.zeros(30 * 16000 - sample_pcm.size, np.float32)
    long = np.concatenate([sample_pcm, silence, sample_pcm])  # two windows that hold the same
    thrice = activation_statistics(NANO, [long, sample_pcm], 1)
    for name, values in once.items():
        np.testing.assert_allclose(thrice[name], values, rtol=1e-6)


def test_statistics_need_audio() -> None:
    with pytest.raises(AudioError):
        activation_statistics(NANO, [])
