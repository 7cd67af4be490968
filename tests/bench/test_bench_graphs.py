"""Whisper as graphs for OpenVINO and ONNX Runtime: the same numbers as our engine's, and the loop around them."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import _core
from whisperq_edge._bench.graph_loop import GraphTranscriber
from whisperq_edge._bench.graph_weights import int8_rows, read_weights
from whisperq_edge._bench.peers import prepare_peer
from whisperq_edge._whisper.dims import Dims
from whisperq_edge.cli import main

from tests.support.arithmetic import relative_error
from tests.support.cli_runner import cli_runner
from tests.support.make_model import write_random_model
from tests.support.sanitizers import not_with_sanitizers

Floats = npt.NDArray[np.float32]
RUNTIMES = {"openvino": ("openvino",), "onnxruntime": ("onnxruntime", "onnx")}
TOKENS = [50258, 50259, 50359, 50363, 100, 2000, 30000, 7]
N_PROMPT = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("graphs") / "micro.bin", "micro", "f32")


OPENVINO = pytest.param("openvino", marks=not_with_sanitizers("it loads libraries in a way that they do not allow"))
EACH_RUNTIME = [OPENVINO, "onnxruntime"]


@pytest.fixture(scope="module", params=EACH_RUNTIME)
def runtime(request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Name, and a function from a type to encoder and decoder."""
    for package in RUNTIMES[request.param]:
        pytest.importorskip(package)
    module: Any = importlib.import_module(f"whisperq_edge._bench.{request.param}_graph")
    name = str(request.param).capitalize()
    folder, weights = tmp_path_factory.mktemp(str(request.param)), read_weights(model)

    def opened(type: str) -> tuple[Any, Any]:
        path = folder / type
        if not path.exists():
            getattr(module, f"write_{request.param}")(weights, path, type)
        return getattr(module, f"{name}Encoder")(path, type, 1), getattr(module, f"{name}Decoder")(path, type, 1)

    return request.param, opened


@pytest.fixture(scope="module")
def expected(model: Path) -> tuple[Floats, Floats, Floats]:
    """A spectrogram, and our engine's features and logits."""
    engine = _core.EdgeModel(str(model), "auto", 1)
    mel: Floats = np.random.default_rng(0).standard_normal((80, 3000)).astype(np.float32) / 2
    features = engine.encode(mel, 1500)
    return mel, features, engine.logits(engine.listen(features), TOKENS, N_PROMPT - 1)


@pytest.mark.parametrize(("type", "tolerance"), [("f32", 1e-4), ("int8", 0.05)])
def test_graphs_give_the_numbers_of_our_engine(
    runtime: Any, expected: tuple[Floats, Floats, Floats], type: str, tolerance: float
) -> None:
    encoder, decoder = runtime[1](type)
    mel, features, logits = expected
    assert not relative_error(encoder(mel), features) > tolerance
    for _ in range(2):  # the second time nothing is left of the first
        decoder.listen(encoder.run(mel))
        rows = [decoder.logits(TOKENS[:N_PROMPT]).copy()]
        rows += [decoder.logits([token]).copy() for token in TOKENS[N_PROMPT:]]
        assert not relative_error(np.array(rows), logits) > tolerance
    decoder.listen(features[None])  # our own, which are no value of the runtime
    several = decoder.logits(TOKENS)  # the mask: no token may hear of those behind it
    assert not relative_error(several, logits[-1]) > tolerance


def test_a_row_of_zeros_has_codes() -> None:
    codes, scales = int8_rows(np.array([[0, 0], [1, -2]], np.float32))
    assert codes.tolist() == [[0, 0], [64, -127]] and (scales > 0).all()


class Scripted:
    """Encoder and decoder that say the tokens of a list, and then that the text ends."""

    def __init__(self, says: list[int], n_vocab: int) -> None:
        self._says, self._n_vocab, self._at = says, n_vocab, 0
        self.heard: list[list[int]] = []

    def run(self, mel: Floats) -> Floats:
        assert mel.shape == (80, 3000)
        return mel

    def listen(self, features: Any) -> None:
        self._at = 0

    def logits(self, tokens: Any) -> Floats:
        self.heard.append(list(tokens))
        row = np.zeros(self._n_vocab, np.float32)
        row[-1] = 9.0  # a timestamp, which is not asked for
        if self._at < len(self._says):
            row[self._says[self._at]] = 5.0
        else:
            row[50257] = 5.0
        self._at += 1
        return row


def dims(n_vocab: int = 51865) -> Dims:
    return Dims(80, 1500, 64, 1, 1, 448, 64, 1, 1, n_vocab)


def test_the_loop_ends_where_the_model_says_so() -> None:
    script = Scripted([11, 12, 13], 51865)
    answer = GraphTranscriber(dims(), "en", script, script, None).turn(np.zeros(40 * 16_000, np.float32))
    assert script.heard == [TOKENS[:N_PROMPT], [11], [12], [13]] * 2  # two windows
    assert answer["n_tokens"] == 6
    assert {name: runs for name, (_, runs) in answer["stages"].items()} == {
        "mel": 2, "encode": 2, "prompt": 2, "sample": 8, "decode": 6
    }  # fmt: skip
    assert sum(ms for ms, _ in answer["stages"].values()) <= answer["total_ms"]


def test_tokens_are_forced() -> None:
    script = Scripted([11], 51865)
    answer = GraphTranscriber(dims(), "en", script, script, 5).turn(np.zeros(16_000, np.float32))
    assert answer["n_tokens"] == 5 and answer["stages"]["decode"][1] == 4
    with_no_end = GraphTranscriber(dims(), "en", Scripted([1] * 999, 51865), Scripted([1] * 999, 51865), None)
    assert with_no_end.turn(np.zeros(16_000, np.float32))["n_tokens"] == 224  # half of the context, as openai/whisper


def test_beams_are_refused_with_a_reason(model: Path, tmp_path: Path) -> None:
    for name, packages in RUNTIMES.items():
        for package in packages:
            pytest.importorskip(package)
        models, reason = prepare_peer(name, model, tmp_path, beam_size=5)
        assert models == [] and "--beam-size 1 instead of 5" in reason


@pytest.mark.parametrize("name", EACH_RUNTIME)
def test_rows_of_a_run(name: str) -> None:
    for package in RUNTIMES[name]:
        pytest.importorskip(package)
    arguments = ["--random", "nano", "--tokens", "6", "--threads", "1", "--types", "q8_0", "--engines", "edge"]
    result = cli_runner().invoke(main, ["bench", *arguments, "--vs", name, "--rounds", "1", "--warm-up", "0", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [each["name"] for each in report["systems"]] == ["q8_0", f"{name} f32", f"{name} int8"]
    for each in report["systems"][1:]:
        assert each["n_tokens"] == 6 and each["version"] and each["bytes"] > 0 and each["tokens_per_s"]["value"] > 0
        rows = {label: row["runs"] for label, row in each["stages"].items()}
        assert rows == {"Load": 1, "Mel": 1, "Sample": 6, "Encode": 1, "Decode": 5, "Prompt": 1, "Total": 1}
        assert all(math.isfinite(row["value"]) and row["value"] > 0 for row in each["stages"].values())
    exact, int8 = report["systems"][1:]
    assert (
        int8["bytes"] < 0.6 * exact["bytes"]
    )  # onnxruntime's quantiser leaves the rows that are looked up as they are
