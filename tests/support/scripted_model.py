"""The scripted model of tests/cpp/check_decoding.cpp, in numpy, and openai/whisper's decoding with it.

``random_case`` makes cases that walk through every rule; ``case_lines`` writes one for check_decoding;
``openai_answer`` (which needs openai-whisper) says what openai/whisper makes of it.
"""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

# The multilingual vocabulary of openai/whisper.
N_VOCAB, EOT, SOT, ENGLISH, TRANSCRIBE, SOT_PREV = 51865, 50257, 50258, 50259, 50359, 50361
NO_SPEECH, NO_TIMESTAMPS, FIRST_TIME, SPACE = 50362, 50363, 50364, 220

Case = dict[str, Any]

# What the rules of openai/whisper's multilingual models are, by the names of ``DecodeOptions``.
RULES: Case = {
    "eot": EOT,
    "no_speech": NO_SPEECH,
    "no_timestamps": NO_TIMESTAMPS,
    "timestamp_begin": FIRST_TIME,
    "blank": [SPACE, EOT],
    "suppress_tokens": list(range(SOT, NO_TIMESTAMPS)),
    "max_initial_timestamp_index": 50,
}

_MASK = (1 << 64) - 1


def _mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def _mix_all(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _favoured(bits: int, last_time: Optional[int]) -> int:
    if bits >> 61 == 0 and last_time is not None:
        return last_time
    return bits % (N_VOCAB - FIRST_TIME) + FIRST_TIME if bits >> 62 == 1 else bits % EOT


def scripted_logits(model: Case, tokens: list[int]) -> npt.NDArray[np.float32]:
    """The logits, float32 ``[N_VOCAB]``, of what follows these tokens."""
    state = _mix(model["seed"])
    for token in tokens:
        state = _mix(state ^ token)
    bits = _mix_all(np.uint64(state) + np.arange(N_VOCAB, dtype=np.uint64))
    noise = (bits >> np.uint64(41)).astype(np.int64) + (bits & np.uint64(0x7FFFFF)).astype(np.int64) - 0x7FFFFF
    logits: npt.NDArray[np.float32] = noise.astype(np.float32) * np.float32(2.0**-20)
    last_time = next((token for token in reversed(tokens) if token >= FIRST_TIME), None)
    for k in range(8):
        token = _favoured(_mix(((state ^ _MASK) + k) & _MASK), last_time)
        logits[token] += np.float32(model["peak"]) - np.float32(0.5) * np.float32(k)
    logits[EOT] += np.float32(model["eot_per_token"]) * np.float32(len(tokens) - model["n_prompt"])
    return logits


def random_case(seed: int) -> Case:
    """A model, options by openai/whisper's names, and a prompt."""
    rng = random.Random(seed)
    n_text_ctx = rng.choice([448, 448, 448, 40])
    options: Case = {
        "beam_size": rng.choice([None, None, 1, 2, 5, 5, 8]),
        "length_penalty": rng.choice([None, None, 0.0, 0.6, 1.0]),
        "suppress_blank": rng.random() < 0.8,
        "suppress_tokens": rng.choice(["-1", "-1", "", "11,13,50257" if rng.random() < 0.2 else "11,13"]),
        "without_timestamps": rng.random() < 0.2,
        "max_initial_timestamp": rng.choice([1.0, 1.0, None, 0.02, 30.0]),
        "sample_len": rng.choice([40 if n_text_ctx == 40 else 24, 24, 24, 12, 1]),
    }
    if options["beam_size"]:
        options["patience"] = rng.choice([None, None, 0.5 if options["beam_size"] > 1 else 1.5, 1.0, 2.0])
    if rng.random() < 0.4:
        options["prompt"] = [rng.randrange(EOT) for _ in range(rng.choice([1, 5, 30, 300]))]
    if rng.random() < 0.3:
        options["prefix"] = [rng.randrange(EOT) for _ in range(rng.choice([1, 4, 12]))]
    model = {
        "seed": rng.getrandbits(60),
        "n_text_ctx": n_text_ctx,
        "peak": rng.choice([4.0, 8.0, 10.0, 14.0]),
        "eot_per_token": rng.choice([-1.0, 0.0, 0.25, 0.5, 1.0]),
        "n_prompt": 0,
    }
    return {"model": model, "options": options}


class _Scripted:
    """Takes the place of openai/whisper's Inference. Every sequence is computed from its tokens: there is no cache."""

    def __init__(self, model: Case, n_initial: int, sot_index: int) -> None:
        self.model, self.n_initial, self.sot_index = model, n_initial, sot_index
        self.known: dict[tuple[int, ...], npt.NDArray[np.float32]] = {}

    def row(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        key = tuple(tokens)
        if key not in self.known:
            self.known[key] = scripted_logits(self.model, tokens)
        return self.known[key]

    def logits(self, tokens: Any, _audio_features: Any) -> Any:
        import torch

        rows = tokens.tolist()
        if len(rows[0]) > self.n_initial:
            return torch.from_numpy(np.stack([self.row(row) for row in rows]))[:, None]
        out = np.zeros((len(rows), len(rows[0]), N_VOCAB), dtype=np.float32)
        for i, row in enumerate(rows):
            out[i, self.sot_index] = self.row(row[: self.sot_index + 1])
            out[i, -1] = self.row(row)
        return torch.from_numpy(out)

    def rearrange_kv_cache(self, _source_indices: Any) -> None:
        pass

    def cleanup_caching(self) -> None:
        pass


def openai_task(case: Case) -> Any:
    """openai/whisper's DecodingTask for a case, with the scripted model."""
    from whisper.decoding import DecodingOptions, DecodingTask

    dims = SimpleNamespace(n_text_ctx=case["model"]["n_text_ctx"], n_audio_ctx=1500, n_audio_state=4)
    decoder = SimpleNamespace(blocks=[])
    model = SimpleNamespace(is_multilingual=True, num_languages=99, dims=dims, decoder=decoder)
    task = DecodingTask(model, DecodingOptions(language="en", fp16=False, **case["options"]))  # type: ignore[arg-type]
    script = {**case["model"], "n_prompt": task.sample_begin}
    scripted = _Scripted(script, task.sample_begin, task.sot_index)
    task.inference = scripted  # type: ignore[assignment]
    if hasattr(task.decoder, "inference"):
        task.decoder.inference = scripted
    return task


def openai_answer(case: Case) -> Case:
    """The case for check_decoding (``model``, ``native`` options, ``window``) and what has to come out."""
    import torch

    task = openai_task(case)
    result = task.run(torch.zeros(1, 1500, 4))[0]
    return {
        "model": task.inference.model,
        "tokens": result.tokens,
        "avg_logprob": result.avg_logprob,
        "no_speech_prob": result.no_speech_prob,
        "window": [task.sot_index, list(task.initial_tokens)],
        "native": native_options(task),
    }


def native_options(task: Any) -> Case:
    """The options of a task of openai/whisper by the names of ``DecodeOptions``."""
    options, tokenizer = task.options, task.tokenizer
    native = {
        "eot": tokenizer.eot,
        "no_speech": tokenizer.no_speech,
        "no_timestamps": tokenizer.no_timestamps,
        "timestamp_begin": tokenizer.timestamp_begin,
        "blank": [*tokenizer.encode(" "), tokenizer.eot],
        "suppress_tokens": list(task._get_suppress_tokens()) if options.suppress_tokens else [],
        "sample_len": task.sample_len,
        "suppress_blank": options.suppress_blank,
        "without_timestamps": options.without_timestamps,
        "beam_size": options.beam_size,
        "patience": options.patience,
        "length_penalty": options.length_penalty,
        "max_initial_timestamp_index": next(
            (
                rule.max_initial_timestamp_index
                for rule in task.logit_filters
                if hasattr(rule, "max_initial_timestamp_index")
            ),
            None,
        ),
    }
    return {name: value for name, value in native.items() if value is not None}


def case_lines(model: Case, options: Case, windows: list[tuple[int, int, list[int]]], isa: Optional[str] = None) -> str:
    """A case for check_decoding; each window is (sot_index, stream, tokens)."""

    def text(value: Any) -> str:
        if isinstance(value, (list, tuple)):
            return " ".join(map(text, value))
        return str(int(value)) if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)

    fields = {"n_vocab": N_VOCAB, "eot": EOT, "first_time": FIRST_TIME, **model, **({"isa": isa} if isa else {})}
    lines = ["model " + " ".join(f"{name} {text(value)}" for name, value in fields.items())]
    lines += [f"option {name} {text(value)}" for name, value in options.items()]
    lines += [f"window {text(window)}" for window in windows]
    return "\n".join([*lines, "run", ""])
