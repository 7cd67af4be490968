"""``whisperq-edge study`` from end to end: noise, calibration, tables, a run that goes on."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from whisperq_edge import DatasetError, OptionError
from whisperq_edge._audio.pcm import to_pcm
from whisperq_edge._eval.data import Utterance
from whisperq_edge._study.noise import Noises, active_power, mix, mixed_utterances
from whisperq_edge._study.report import pairs_along_axes
from whisperq_edge._study.schemes import default_rows
from whisperq_edge.cli import main

from tests.support.cli_runner import cli_runner
from tests.support.paths import ROOT

Floats = npt.NDArray[np.float32]


QUICK = ["--beam-size", "1", "--temperature", "0", "--threads", "1", "--normaliser", "basic", "--clips", "2"]


def run_study(*arguments: object) -> Any:
    return cli_runner().invoke(main, ["study", *map(str, arguments)])


# ---- Noise -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def noise_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(1)
    for i in range(3):
        samples = rng.standard_normal(9_000 + 4_000 * i).astype(np.float32) * 0.05
        soundfile.write(folder / f"{i}.wav", samples, 16_000)
    return folder


def test_recordings_are_known_by_their_content_and_only_the_last_ones_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        soundfile.write(tmp_path / f"{name}.wav", np.full(1000, 0.1), 16000)
    before = Noises(tmp_path).identity
    soundfile.write(tmp_path / "b.wav", np.full(1000, 0.2), 16000)
    assert Noises(tmp_path).identity != before
    monkeypatch.setattr("whisperq_edge._study.noise._KEPT_SAMPLES", 2500)
    noises = Noises(tmp_path)
    for name in "abcab":
        assert noises._samples(tmp_path / f"{name}.wav").size == 1000
    assert [file.stem for file in noises._loaded] == ["a", "b"]


def test_the_ratio_is_of_active_speech(sample_pcm: Floats) -> None:
    speech = np.concatenate([np.zeros(32_000, np.float32), sample_pcm * 0.2])
    noise = np.random.default_rng(2).standard_normal(speech.size).astype(np.float32)
    assert active_power(speech) == pytest.approx(active_power(sample_pcm * 0.2), rel=1e-6)  # silence does not count
    for snr_db in (20.0, 0.0, -5.0):
        mixed = mix(speech, noise, snr_db)
        assert mixed.shape == speech.shape and np.abs(mixed).max() <= 0.9901
        gain = float(mixed.astype(np.float64)[:32_000].std() / noise[:32_000].std())  # where nobody speaks
        level = float((mixed.astype(np.float64) - gain * noise) @ speech / (speech @ speech))
        found = 10 * np.log10(level**2 * active_power(speech) / (gain**2 * np.mean(noise**2)))
        assert found == pytest.approx(snr_db, abs=0.05)


def test_the_same_noise_for_the_same_seed(noise_folder: Path, sample_path: Path, tmp_path: Path) -> None:
    utterances = [Utterance(f"{i}", sample_path, "one") for i in range(6)]

    def mixed(seed: int, which: list[Utterance], name: str) -> dict[str, bytes]:
        folder = tmp_path / name
        folder.mkdir()
        found = mixed_utterances(which, Noises(noise_folder, seed), [10.0, 0.0], folder)
        return {each.id: each.audio.read_bytes() for each in [*found[10.0], *found[0.0]]}

    all_of_them, some = mixed(0, utterances, "a"), mixed(0, utterances[3:], "b")
    assert len(all_of_them) == 12 and any(id.startswith("4 at 10 dB") for id in all_of_them)
    assert all(all_of_them[id] == some[id] for id in some)  # whatever else is in the set
    other = mixed(1, utterances, "c")
    assert not other.keys() & all_of_them.keys() and len(other) == 12  # nothing is taken for what was heard before
    assert set(other.values()) != set(all_of_them.values()) and len(set(all_of_them.values())) > 2
    loud, quiet = Noises(noise_folder, 0).piece("4", 1000), Noises(noise_folder, 0).piece("4", 1000)
    assert loud[0] == quiet[0] and np.array_equal(loud[1], quiet[1])


def test_no_noise(tmp_path: Path, noise_folder: Path) -> None:
    for place in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DatasetError):
            Noises(place)
    soundfile.write(tmp_path / "silent.wav", np.zeros(1000, np.float32), 16_000)
    with pytest.raises(DatasetError, match="silent"):
        Noises(tmp_path).piece("a", 100)
    assert to_pcm(noise_folder / "0.wav").samples.size == 9_000


# ---- One axis at a time ----------------------------------------------------------------------------------------------


def test_pairs_differ_in_one_choice() -> None:
    pairs = pairs_along_axes(default_rows(is_calibrated=True))
    named = {(axis, first.name, second.name) for axis, first, second in pairs}
    assert len(named) == len(pairs)
    assert {
        ("granularity", "int8-sym-channel", "int8-sym-group32"),
        ("granularity", "int4-sym-group64", "int4-sym-group32"),
        ("bits", "int8-sym-channel", "int4-sym-channel"),
        ("bits", "int4-sym-group32", "int3-sym-group32"),
        ("symmetry", "int4-sym-group32", "int4-asym-group32"),
        ("levels", "int4-sym-group64", "nf4-group64"),
        ("levels", "int8-sym-channel", "fp8-channel"),
        ("activations", "float", "float / dynamic-block32"),
        ("activations", "float / dynamic-tensor", "float / static"),
        ("activations", "int8-sym-channel / dynamic-token", "int8-sym-channel / static"),
    } <= named
    for axis, first, second in pairs:
        assert (first.weights == second.weights) == (axis == "activations")
        assert axis == "activations" or first.activations == second.activations


# ---- The command -----------------------------------------------------------------------------------------------------


def test_without_data(micro_en_path: Path, tmp_path: Path) -> None:
    where = tmp_path / "out.json"
    result = run_study(
        micro_en_path, "--weights", "int8-sym-channel,int4-sym-channel,int3-sym-channel", "--output", where
    )
    assert result.exit_code == 0, result.output
    report = json.loads(where.read_text(encoding="utf-8"))
    assert [row["name"] for row in report["rows"]] == [
        *("float", "int8-sym-channel", "int4-sym-channel", "int3-sym-channel"),
    ]
    assert report["rows"][0]["encoder"]["clean"] == {"recording": None, "window": None}
    sqnr = [row["encoder"]["clean"]["recording"]["mean"] for row in report["rows"][1:]]
    assert sqnr == sorted(sqnr, reverse=True) and sqnr[0] > 30 > sqnr[2] > 0
    assert [row["bits_per_weight"] for row in report["rows"]] == sorted(
        (row["bits_per_weight"] for row in report["rows"]), reverse=True
    )
    assert report["data"] is None and report["rows"][1]["heard"] == {}
    assert "int4-sym-channel" in result.stdout and "WER" not in result.stdout
    assert report["scope"]["matrices"] == 16


def test_activations(micro_en_path: Path, tmp_path: Path) -> None:
    """What is rounded are inputs of the scope: nothing of the decoder reaches the encoder's output."""
    schemes = "dynamic-tensor,dynamic-token,dynamic-block32"
    sqnr = {}
    for scope in ("encoder", "decoder"):
        result = run_study(micro_en_path, "--activations", schemes, "--scope", scope, "--json")
        assert result.exit_code == 0, result.output
        rows = json.loads(result.stdout)["rows"]
        assert [row["weight_sqnr_db"] for row in rows] == [None] * 4
        sqnr[scope] = [row["encoder"]["clean"]["recording"] for row in rows]
    assert sqnr["decoder"] == [None] * 4
    means = [each["mean"] for each in sqnr["encoder"][1:]]
    assert means == sorted(means) and means[0] > 20  # finer is closer


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, sample_pcm: Floats) -> Path:
    """Pieces of the sample with texts that nobody said; two speakers; a part for calibration."""
    folder = tmp_path_factory.mktemp("digits")
    rows = ["file\tspeaker\tsplit\ttext"]
    for i in range(6):
        soundfile.write(folder / f"{i}.wav", sample_pcm[i * 8_000 : i * 8_000 + 40_000], 16_000)
        rows.append(f"{i}.wav\tspeaker {i % 2}\t{'train' if i > 3 else 'test'}\tone two three four")
    path = folder / "manifest.tsv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, digits: Path, noise_folder: Path
) -> tuple[Path, list[object], Any]:
    """A run of nano on four clips, clean and in noise: folder, arguments, result."""
    pytest.importorskip("jiwer")
    pytest.importorskip("whisper_normalizer")
    folder = tmp_path_factory.mktemp("study")
    arguments = [
        *("nano", "--data", digits, "--split", "test", "--noise", noise_folder, "--snr", "10"),
        *("--calibrate", digits, "--calibrate-split", "train", *QUICK),
        *("--weights", "float,int3-sym-tensor", "--activations", "float,dynamic-tensor,static"),
        *("--output", folder / "out.json"),
    ]
    return folder, arguments, run_study(*arguments)


def test_a_run(finished: tuple[Path, list[object], Any]) -> None:
    folder, _, result = finished
    assert result.exit_code == 0, result.output
    report = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    names = [row["name"] for row in report["rows"]]
    assert names == [
        *("float", "float / dynamic-tensor", "float / static"),
        *("int3-sym-tensor", "int3-sym-tensor / dynamic-tensor", "int3-sym-tensor / static"),
    ]
    assert report["conditions"] == ["clean", "10 dB"] and report["clips"] == 2
    assert report["data"]["utterances"] == 4 and report["data"]["words"] == 16
    for row in report["rows"]:
        for condition in report["conditions"]:
            heard = row["heard"][condition]
            assert sum(report["utterances"][condition]["errors"][row["name"]]) == heard["errors"]
            assert heard["wer"]["interval"][0] <= heard["wer"]["rate"] <= heard["wer"]["interval"][1]
            assert (row["encoder"][condition]["recording"] is None) == (row["name"] == "float")
    assert report["rows"][0]["heard"]["clean"]["against_float"] is None
    assert len(report["calibration"]["ranges"]) == report["scope"]["matrices"] == 54
    assert all(value > 0 for value in report["calibration"]["ranges"].values())
    assert report["calibration"]["utterances"] == 2 and report["calibration"]["also_measured_on"] == 0
    assert len(report["in_noise"]) == 5 and {each["condition"] for each in report["in_noise"]} == {"10 dB"}
    assert report["utterances"]["clean"]["id"] == report["utterances"]["10 dB"]["id"] == [f"{i}.wav" for i in range(4)]
    axes = [each for each in report["axes"] if each["condition"] == "clean"]
    assert {each["axis"] for each in axes} == {"activations"} and len(axes) == 4
    assert "can show" in result.stderr and "16 words" in result.stdout and "WER %" in result.stdout


def test_what_was_measured_is_not_measured_again(finished: tuple[Path, list[object], Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder, arguments, _ = finished
    before = (folder / "out.json.journal").read_bytes()
    first = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    again = run_study(*arguments, "--resume", "--plot", tmp_path / "study.png", "--markdown")
    assert again.exit_code == 0, again.output
    assert (folder / "out.json.journal").read_bytes() == before
    second = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    assert {key: value for key, value in second.items() if key not in ("date", "command")} == {
        key: value for key, value in first.items() if key not in ("date", "command")
    }
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG") and again.stdout.startswith("| weights |")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--weights", "int5"], "int4-asym-group32"),
        (["--activations", "static"], "--calibrate"),
        (["--rows", "float/static"], "--calibrate"),
        (["--rows", "nf4-channel", "--weights", "nf4-channel"], "--weights"),
        (["--scope", "everything"], "blocks"),
        (["--noise", "."], "--data"),
        (["--data", ".", "--snr", "loud"], "20,10,0"),
        (["--resume"], "--output"),
        (["--json", "--markdown"], "--markdown"),
        (["--clips", "0"], "1 or more"),
    ],
)
def test_what_cannot_be(micro_en_path: Path, arguments: list[str], said: str) -> None:
    result = run_study(micro_en_path, *arguments)
    assert result.exit_code == 2 and said in result.stderr, result.output


def test_the_page_is_made_of_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    script, docs = ROOT / "scripts" / "measure_study.py", ROOT / "docs"
    if not (script.is_file() and (docs / "study.json").is_file()):
        pytest.skip("scripts and docs are not here")
    monkeypatch.syspath_prepend(str(script.parent))
    measure_study = importlib.import_module("measure_study")
    page, figures = docs / "quantisation.md", json.loads((docs / "study.json").read_text(encoding="utf-8"))
    text = page.read_text(encoding="utf-8")
    assert measure_study.with_tables(text, measure_study.tables(figures)) == text
    for name in ("study.png", "study-noise.png"):
        picture = (docs / name).read_bytes()
        assert picture.startswith(b"\x89PNG") and len(picture) < 150_000
    rows = {row["name"]: row for row in figures["nano"]["rows"]}
    sqnr = [rows[f"int{bits}-sym-group32"]["encoder"]["clean"]["recording"]["mean"] for bits in (8, 4, 3)]
    assert sqnr == sorted(sqnr, reverse=True) and len(rows) == 18
    assert all(row["heard"]["clean"]["words"] == 773 for row in rows.values())


def test_help() -> None:
    shown = run_study("--help")
    assert shown.exit_code == 0
    for word in ("nf4", "dynamic-token", "static", "--calibrate", "--noise", "2511.08093"):
        assert word in shown.output


def test_the_float_model_comes_first(micro_en_path: Path, tmp_path: Path) -> None:
    from whisperq_edge._eval.journal import Journal
    from whisperq_edge._study.run import Study, open_model

    with pytest.raises(OptionError, match="float model first"):
        Study(open_model(str(micro_en_path), ["blocks"]), default_rows(False)[1:], tmp_path, {}, Journal(None, {}))


def test_a_name_is_studied_in_float(micro_en_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain name means a file in 8 bits, whose error would be counted as that of every row."""
    from whisperq_edge._study import run

    asked: list[tuple[str, str]] = []

    def locate(name: str, compute_type: str, **options: Any) -> Path:
        asked.append((name, compute_type))
        return micro_en_path

    monkeypatch.setattr(run, "locate_model", locate)
    for name in ("base", str(micro_en_path)):
        run.open_model(name, ["blocks"])
    assert asked == [("base", "f16"), (str(micro_en_path), "default")]
