"""The ggml engine of another build of ours, in a process of its own: two builds cannot be imported side by side.

The process sleeps until it is its turn, and its time is what whisper.cpp's encoder took, not the way there and back.
``python other_build.py FOLDER MODEL PCM THREADS FLASH_ATTENTION`` is that process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["OtherBuild"]


class OtherBuild:
    """An encoder in the process. Use it as a context manager: the process ends with it.

    Args:
        folder: what ``pip install --target`` filled.
        model: a ggml file.
        pcm: float32, 16 kHz mono.
        n_threads: of whisper.cpp.
        flash_attention: whisper.cpp's fused attention.
    """

    def __init__(
        self, folder: Path, model: Path, pcm: npt.NDArray[np.float32], n_threads: int, flash_attention: bool
    ) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="whisperq-other-build-")
        self._features = Path(self._scratch.name) / "features.npy"
        heard = Path(self._scratch.name) / "pcm.npy"
        np.save(heard, pcm)
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(folder), str(model), str(heard), str(n_threads), str(int(flash_attention))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.requires: list[str] = self._answer()["requires"]

    def __enter__(self) -> OtherBuild:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        self._scratch.cleanup()

    def encode_ms(self) -> float:
        """Encodes once; the time of it."""
        return float(self._ask("time")["encode_ms"])

    def encode(self) -> npt.NDArray[np.float32]:
        """Audio features ``[n_audio_ctx, n_audio_state]``."""
        self._ask(str(self._features))
        features: npt.NDArray[np.float32] = np.load(self._features)
        return features

    def _ask(self, question: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the other build's process ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def main(folder: str, model: str, pcm: str, n_threads: str, flash_attention: str) -> None:
    sys.path.insert(0, folder)
    from whisperq_edge._system.native import build_info, load_ggml

    engine = load_ggml().Engine(model, False, 0, bool(int(flash_attention)))
    samples = np.load(pcm)
    print(json.dumps({"requires": build_info().ggml_requires}), flush=True)
    for line in sys.stdin:
        seen = engine.probe(samples, [], n_threads=int(n_threads))
        if line.strip() != "time":
            np.save(line.strip(), seen["audio_features"])
        print(json.dumps({"encode_ms": seen["encode_ms"]}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
