"""Caches what OpenAI's Whisper base encoder makes of every utterance: the targets of feature distillation.

    python -m train_nano.teacher_cache

Utterances are packed with pauses into full 30 s windows, as the encoder was trained to see them. Each of the 512 output
dimensions is standardised over the whole cache, clipped, and stored as fp16 at 50 vectors a second.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from whisper.model import AudioEncoder

from .corpora import add_data_options
from .mel_cache import MelCache, log_mel, open_cache

WINDOW_FRAMES = 3000
PAUSE_FRAMES = 40
CLIP = 6.0
N_TEACHER = 512
# One in so many utterances goes through the teacher, the slowest step of the preparation. Distillation only has to
# start the encoder off, and these corpora repeat themselves.
ONE_IN = {"fsdd": 4, "speechocean762": 3, "speech-commands-9words": 6, "synthetic": 8}
SKIPPED = ("noise", "synthetic-noise")


def _openai_name(name: str) -> str:
    """Hugging Face's parameter names, with "_" for "." and a "_fp16" suffix, to OpenAI's."""
    name = name.removesuffix("_fp16")
    stem, _, leaf = name.rpartition("_")
    if name == "embed_positions_weight":
        return "positional_embedding"
    for old, new in (
        ("layers_", "blocks."),
        ("_self_attn_layer_norm", ".attn_ln"),
        ("_final_layer_norm", ".mlp_ln"),
        ("_self_attn_q_proj", ".attn.query"),
        ("_self_attn_k_proj", ".attn.key"),
        ("_self_attn_v_proj", ".attn.value"),
        ("_self_attn_out_proj", ".attn.out"),
        ("_fc1", ".mlp.0"),
        ("_fc2", ".mlp.2"),
    ):
        stem = stem.replace(old, new)
    return f"{'ln_post' if stem == 'layer_norm' else stem}.{leaf}"


def load_teacher(path: Path) -> AudioEncoder:
    encoder = AudioEncoder(n_mels=80, n_ctx=1500, n_state=N_TEACHER, n_head=8, n_layer=6)
    with np.load(path) as arrays:
        encoder.load_state_dict({_openai_name(k): torch.from_numpy(arrays[k].astype(np.float32)) for k in arrays})
    return encoder.eval()


def pack(mels: MelCache) -> list[list[tuple[int, int]]]:
    """Windows of (utterance, first frame in the window). First frames are even: two mel frames make one vector."""
    windows: list[list[tuple[int, int]]] = [[]]
    position = 0
    for i, utterance in enumerate(mels.utterances):
        if utterance.corpus in SKIPPED or utterance.split != "train" or i % ONE_IN.get(utterance.corpus, 1):
            continue
        frames = len(mels.power(i))
        if position + frames > WINDOW_FRAMES:
            windows.append([])
            position = 0
        windows[-1].append((i, position))
        position += frames + PAUSE_FRAMES + frames % 2
    return windows


def _window_mel(mels: MelCache, window: list[tuple[int, int]]) -> np.ndarray:
    power = np.zeros((WINDOW_FRAMES, 80), dtype=np.float32)
    for i, first in window:
        piece = mels.power(i)[: WINDOW_FRAMES - first]
        # Corpora differ in level by 30 dB; inside one window the 80 dB clamp would silence the quiet ones.
        power[first : first + len(piece)] = piece * (10.0 / max(1e-6, float(piece.max())))
    return log_mel(power).T


@dataclass
class TeacherCache:
    first: np.ndarray  # per utterance, row of its first vector; -1 where there is none
    vectors: np.ndarray  # (n, 512) fp16, standardised


def open_teacher(cache: Path) -> TeacherCache:
    meta = json.loads((cache / "teacher.json").read_text())
    vectors = np.memmap(cache / "teacher.f16", dtype=np.float16, mode="r", shape=(meta["vectors"], N_TEACHER))
    return TeacherCache(np.load(cache / "teacher_first.npy"), vectors)


def build(mels: MelCache, teacher: AudioEncoder, cache: Path) -> None:
    windows = pack(mels)
    first = np.full(len(mels.utterances), -1, dtype=np.int64)
    raw = np.empty((len(windows) * WINDOW_FRAMES // 2, N_TEACHER), dtype=np.float16)
    total = 0
    with torch.inference_mode():
        for w, window in enumerate(windows):
            out = teacher(torch.from_numpy(_window_mel(mels, window))[None])[0].numpy()
            for i, start in window:
                count = min((len(mels.power(i)) + 1) // 2, (WINDOW_FRAMES - start) // 2)
                first[i] = total
                raw[total : total + count] = out[start // 2 : start // 2 + count]
                total += count
            if w % 20 == 0:
                print(f"window {w} of {len(windows)}", flush=True)
    sample = raw[:total:7].astype(np.float32)
    mean, deviation = sample.mean(axis=0), sample.std(axis=0)
    out = np.memmap(cache / "teacher.f16", dtype=np.float16, mode="w+", shape=(total, N_TEACHER))
    for begin in range(0, total, 65536):
        block = raw[begin : min(total, begin + 65536)].astype(np.float32)
        out[begin : begin + len(block)] = np.clip((block - mean) / deviation, -CLIP, CLIP)
    out.flush()
    np.save(cache / "teacher_first.npy", first)
    (cache / "teacher.json").write_text(json.dumps({"vectors": total}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(2)
    teacher = load_teacher(options.data / "whisper-base-encoder" / "encoder_f16.npz")
    build(open_cache(options.data, options.cache), teacher, options.cache)


if __name__ == "__main__":
    main()
