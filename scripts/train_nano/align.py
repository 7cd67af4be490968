"""Finds the words inside AN4's training utterances, so that training can recombine them.

    python -m train_nano.align

948 utterances are few texts for a decoder, which learns them by heart. Forced alignment with the CTC head of a
half-trained checkpoint says where the words lie; from then on WindowMaker also joins spans of words of one speaker
into new texts.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from .corpora import add_data_options
from .export import load_checkpoint
from .mel_cache import MelCache, log_mel, open_cache
from .model import NanoTrainer
from .vocabulary import CTC_BLANK, ctc_encode

ALIGNED = ("an4",)
WORST_SCORE = -0.6  # mean log probability of the path per audio token; worse ones are likely wrong
SPACE = ctc_encode(" ")[0]


def viterbi(scores: np.ndarray, symbols: list[int]) -> tuple[np.ndarray, float]:
    """The best CTC path for `symbols`: per frame the index into blank, s0, blank, s1, ... and its mean score."""
    states = np.full(2 * len(symbols) + 1, CTC_BLANK)
    states[1::2] = symbols
    skip = np.zeros(len(states), dtype=bool)
    skip[3::2] = states[3::2] != states[1:-2:2]  # between equal symbols there must be a blank
    best = np.full(len(states), -np.inf)
    best[:2] = scores[0, states[:2]]
    came_from = np.zeros((len(scores), len(states)), dtype=np.int8)
    for t in range(1, len(scores)):
        one, two = np.full_like(best, -np.inf), np.full_like(best, -np.inf)
        one[1:] = best[:-1]
        two[2:] = np.where(skip[2:], best[:-2], -np.inf)
        choices = np.stack([best, one, two])
        came_from[t] = choices.argmax(axis=0)
        best = choices.max(axis=0) + scores[t, states]
    state = len(states) - 1 - int(best[-2] > best[-1])
    score = float(best[state]) / len(scores)
    path = np.empty(len(scores), dtype=np.int64)
    for t in range(len(scores) - 1, -1, -1):
        path[t] = state
        state -= came_from[t, state]
    return path, score


def word_bounds(path: np.ndarray, symbols: list[int], power: np.ndarray, bounds: tuple[int, int]) -> list[int]:
    """Frames at which words begin and end: n + 1 of them. A border is the quietest moment between two words."""
    level = np.convolve(np.log(power.sum(axis=1) + 1e-8), np.ones(3) / 3, mode="same")
    borders = [bounds[0]]
    for n in (i for i, s in enumerate(symbols) if s == SPACE):
        before = int(np.flatnonzero(path == 2 * n - 1)[-1]) * 2 + 1
        after = int(np.flatnonzero(path == 2 * n + 3)[0]) * 2
        borders.append(before + int(level[before : max(after, before + 1)].argmin()))
    return [*borders, bounds[1]]


@torch.inference_mode()
def align(model: NanoTrainer, mels: MelCache) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for i, u in enumerate(mels.utterances):
        if u.corpus not in ALIGNED or u.split != "train":
            continue
        power = mels.power(i)[: len(mels.power(i)) & ~1]
        features = model.encode(torch.from_numpy(log_mel(power).T[None].copy()))
        scores = model.ctc(features)[0].log_softmax(-1).numpy()
        symbols = ctc_encode(u.text)
        path, score = viterbi(scores, symbols)
        if score > WORST_SCORE:
            borders = word_bounds(path, symbols, power, mels.bounds(i))
            if min(np.diff(borders)) >= 8:
                found[i] = borders
    return found


def open_alignments(cache: Path) -> dict[int, list[int]]:
    path = cache / "alignments.json"
    return {int(k): v for k, v in json.loads(path.read_text()).items()} if path.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(2)
    mels = open_cache(options.data, options.cache)
    found = align(load_checkpoint(options.cache / "checkpoint.pt"), mels)
    wanted = sum(u.corpus in ALIGNED and u.split == "train" for u in mels.utterances)
    (options.cache / "alignments.json").write_text(json.dumps(found))
    print(f"aligned {len(found)} of {wanted} utterances")


if __name__ == "__main__":
    main()
