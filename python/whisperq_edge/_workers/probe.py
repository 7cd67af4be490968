"""A model looked at from inside: ``_convert.probe`` asks, and says for what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Union

import numpy as np

from .. import _core
from .._model import WhisperModel
from .._system.arrays import Doubles, Floats
from .._system.process import peak_rss_bytes
from .._system.worker import AwaitTurn, run
from .._whisper.dims import end_of_text, prompt_tokens

TIMED_TOKENS = 32


def probe(folder: Path, task: Mapping[str, Any], await_turn: AwaitTurn) -> Iterator[dict[str, Any]]:
    """Yield one answer. The arrays of the answer are in ``arrays.npz`` by then."""
    probe = _Probe(folder, task)
    yield probe.statistics() if task["operation"] == "statistics" else probe.run()


class _Probe:
    def __init__(self, folder: Path, request: Mapping[str, Any]) -> None:
        self._folder = folder
        self._request = request
        self._n_threads: int = request["n_threads"]
        self._start_rss_bytes = peak_rss_bytes()
        _core.read_model_file(request["model"])  # a file that is no ggml file would be converted into the cache
        self._model = WhisperModel(
            request["model"],
            device="cpu",
            cpu_threads=self._n_threads,
            engine="ggml",
            flash_attention=request["flash_attention"],
        )
        running: Any = self._model._running_engine()
        self._native: Any = running._engine
        self._n_vocab = self._model.dims["n_vocab"]
        self._n_text_ctx = self._model.dims["n_text_ctx"]

    def run(self) -> dict[str, Any]:
        pcm = self._pcm(0)
        sequences = [self._tokens(sequence) for sequence in self._request["sequences"]]
        timed = sequences[0][:TIMED_TOKENS]
        encode_ms, decode_ms, peak_bytes = [], [], None
        for _ in range(self._request["repeats"]):
            seen = self._probe(pcm, [timed], tokens_per_call=1)
            encode_ms.append(seen["encode_ms"])
            decode_ms.append(seen["decode_ms"] / len(timed))
            peak_bytes = peak_bytes or peak_rss_bytes()  # before the logits of many tokens add to it
        arrays = {}
        if self._request["keep_results"]:
            seen = self._probe(pcm, sequences)
            arrays = {f"logits_{i}": logits for i, logits in enumerate(seen["logits"])}
            arrays["audio_features"] = seen["audio_features"]
        np.savez(self._folder / "arrays.npz", **arrays)
        return {
            "sequences": sequences,
            "load_ms": self._model.timings["load"].ms,
            "encode_ms": encode_ms,
            "decode_ms_per_token": decode_ms,
            "peak_rss_bytes": peak_bytes,
            "start_rss_bytes": self._start_rss_bytes,
            "n_threads": self._n_threads,
        }

    def statistics(self) -> dict[str, Any]:
        sums: dict[str, Doubles] = {}
        n_vectors: dict[str, int] = {}
        for i in range(self._request["n_pcms"]):
            pcm = self._pcm(i)
            seen = self._probe(pcm, [self._transcribed(pcm)], statistics=True)
            for name, (count, squares) in seen["statistics"].items():
                sums[name] = sums.get(name, 0.0) + squares
                n_vectors[name] = n_vectors.get(name, 0) + count
        arrays: dict[str, Any] = {**sums}
        np.savez(self._folder / "arrays.npz", **arrays)
        return {"n_vectors": n_vectors}

    def _probe(self, pcm: Floats, sequences: list[list[int]], **options: Any) -> Any:
        # Ctrl-C is looked for when the native code asks whether to stop.
        return self._native.probe(pcm, sequences, n_threads=self._n_threads, should_stop=lambda: False, **options)

    def _pcm(self, i: int) -> Floats:
        samples: Floats = np.load(self._folder / f"pcm_{i}.npy")
        return samples

    def _tokens(self, sequence: Union[str, list[int]]) -> list[int]:
        if not isinstance(sequence, str):
            return sequence
        return [*prompt_tokens(self._n_vocab), *self._native.tokenize(f" {sequence}")][: self._n_text_ctx]

    def _transcribed(self, pcm: Floats) -> list[int]:
        """What the model itself makes of the audio, whatever it thinks of it, as a sequence for the decoder."""
        transcript = self._model.transcribe(
            pcm,
            beam_size=1,
            temperature=0.0,
            log_prob_threshold=None,
            no_speech_threshold=None,
            compression_ratio_threshold=None,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        end = end_of_text(self._n_vocab)
        text = [token for segment in transcript for token in segment.tokens if token < end]
        return [*prompt_tokens(self._n_vocab, transcript.language), *text, end][: self._n_text_ctx]


if __name__ == "__main__":
    run(probe)
