"""Trains the model. Stops and resumes at any time: the last checkpoint in the cache directory is picked up by itself.

    python -m train_nano.train --until 5000 --decay-from 3800 --full-from 3800

The learning rate warms up, stays, and falls linearly to zero from `--decay-from` to `--until`; from `--full-from` on
the windows are Whisper's full 30 s. Because it is constant before that, all three can be changed while a run is under
way.
"""

import argparse
import copy
import dataclasses
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jiwer
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .align import open_alignments
from .corpora import add_data_options
from .mel_cache import MelCache, log_mel, open_cache
from .model import NanoSize, NanoTrainer
from .optimiser import Optimiser
from .teacher_cache import TeacherCache, open_teacher
from .vocabulary import CTC_BLANK, EOT, NO_TIMESTAMPS, SOT, CompactVocabulary, ctc_decode
from .windows import Batch, Recipe, WindowMaker

CLEAN_STEPS = 1000  # no distortion before the model has found the words
DISTIL_STEPS = 2500  # over these the teacher's weight falls from the first value to the final one
DISTIL_FIRST, DISTIL_FINAL = 4.0, 0.2
CTC_WEIGHT = 0.4
AVERAGE_DECAY = 0.998
DEV_FRAMES = 700

SHORT = Recipe()
# Short batches cost half the time per second of speech and keep the words sharp; long ones teach to follow the window.
FULL = Recipe(
    frames=(3000, 3000, 2000, 1500, 600),
    corpora=(
        ("an4", 0.46),
        ("fsdd", 0.10),
        ("synthetic", 0.26),
        ("speech-commands", 0.08),
        ("speechocean762", 0.10),
    ),
    no_speech=0.12,
    with_timestamps=0.75,
    cut_off=0.2,
)


def recipe_at(step: int, full_from: int) -> Recipe:
    if step >= full_from:
        return FULL
    return dataclasses.replace(SHORT, augment=0.0) if step < CLEAN_STEPS else SHORT


def learning_rate(step: int, peak: float, decay_from: int, until: int) -> float:
    falling = 1.0 if step < decay_from else max(0.0, (until - step) / (until - decay_from))
    return peak * min(1.0, (step + 1) / 150) * falling


def attention_loss(model: NanoTrainer, features: Tensor, batch: Batch) -> Tensor:
    logits = model.decode(torch.from_numpy(batch.tokens), features)
    wanted = torch.from_numpy(batch.target_weights)
    log_probability = logits.log_softmax(-1).gather(-1, torch.from_numpy(batch.target_rows))
    return -(log_probability * wanted).sum() / wanted.sum().clamp(min=1.0)


def ctc_loss(model: NanoTrainer, features: Tensor, batch: Batch) -> Tensor:
    """Windows without speech are part of it: their target is nothing but blanks."""
    texts = batch.ctc
    scores = model.ctc(features).log_softmax(-1).transpose(0, 1)
    lengths = torch.tensor([len(t) for t in texts])
    symbols = torch.tensor([c for t in texts for c in t], dtype=torch.long)
    frames = torch.full_like(lengths, scores.shape[0])
    total = F.ctc_loss(scores, symbols, frames, lengths, CTC_BLANK, reduction="sum", zero_infinity=True)
    return total / lengths.sum().clamp(min=1)


def distillation_loss(model: NanoTrainer, features: Tensor, batch: Batch, teacher: TeacherCache) -> Tensor:
    rows = batch.teacher.reshape(-1)
    chosen = np.flatnonzero(rows >= 0)
    wanted = torch.from_numpy(teacher.vectors[rows[chosen]].astype(np.float32))
    return F.mse_loss(model.distil(features.flatten(0, 1)[torch.from_numpy(chosen)]), wanted)


def training_losses(model: NanoTrainer, batch: Batch, teacher: TeacherCache, distil: float) -> dict[str, Tensor]:
    features = model.encode(torch.from_numpy(batch.mel), torch.from_numpy(batch.first_position))
    losses = {"attention": attention_loss(model, features, batch), "ctc": CTC_WEIGHT * ctc_loss(model, features, batch)}
    if (batch.teacher >= 0).any():
        losses["distil"] = distil * distillation_loss(model, features, batch, teacher)
    return losses


@torch.inference_mode()
def greedy(model: NanoTrainer, features: Tensor, longest: int = 48) -> list[str]:
    """The decoder without timestamps; enough to choose between runs. The real measurement is evaluate.py."""
    from whisper.tokenizer import get_tokenizer

    vocabulary, tokenizer = model.vocabulary, get_tokenizer(multilingual=False)
    tokens = torch.tensor([vocabulary.rows([SOT, NO_TIMESTAMPS])] * len(features))
    for _ in range(longest):
        logits = model.decode(tokens, features)[:, -1]
        logits[:, vocabulary.unused_row :] = -torch.inf
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
    ids = np.array(vocabulary.tokens())[tokens[:, 2:].numpy()]
    texts = [list(row[: list(row).index(EOT)] if EOT in row else row) for row in ids]
    return [tokenizer.decode([t for t in text if t < EOT]).strip() for text in texts]


@torch.inference_mode()
def dev_error_rates(model: NanoTrainer, mels: MelCache, decode: bool) -> dict[str, float]:
    chosen = [i for i, u in enumerate(mels.utterances) if u.corpus == "an4" and u.split == "dev"]
    mel = np.zeros((len(chosen), 80, DEV_FRAMES), dtype=np.float32)
    for row, i in enumerate(chosen):
        power = np.zeros((DEV_FRAMES, 80), dtype=np.float32)
        power[: len(mels.power(i))] = mels.power(i)
        mel[row] = log_mel(power).T
    features = model.encode(torch.from_numpy(mel))
    words = [mels.utterances[i].text for i in chosen]
    by_ctc = [" ".join(ctc_decode(best).split()) for best in model.ctc(features).argmax(-1).numpy()]
    rates = {"ctc": jiwer.wer(words, by_ctc)}
    if decode:
        rates["decoder"] = jiwer.wer(words, greedy(model, features))
    return rates


class Run:
    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.path: Path = options.cache / "checkpoint.pt"
        self.mels = open_cache(options.data, options.cache)
        self.teacher = open_teacher(options.cache)
        vocabulary = CompactVocabulary.from_texts([u.text for u in self.mels.utterances if u.text])
        alignments = open_alignments(options.cache)
        self.maker = WindowMaker(self.mels, self.teacher, vocabulary, alignments, options.seed)
        torch.manual_seed(options.seed)
        self.model = NanoTrainer(NanoSize(), vocabulary, options.dropout)
        self.average = copy.deepcopy(self.model).eval()
        self.optimiser = Optimiser(self.model)
        self.step = 0
        self.stopping = False
        if self.path.exists():
            self._load()

    def _load(self) -> None:
        saved = torch.load(self.path, weights_only=False)
        self.model.load_state_dict(saved["model"])
        self.average.load_state_dict(saved["average"])
        self.optimiser.load_state_dict(saved["optimiser"])
        torch.set_rng_state(saved["rng"])
        self.step = saved["step"]
        print(f"resumed at step {self.step}", flush=True)

    def save(self) -> None:
        saved = {
            "step": self.step,
            "size": dataclasses.asdict(self.model.size),
            "text_ids": self.model.vocabulary.text_ids,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": torch.get_rng_state(),
        }
        beside = self.path.with_suffix(".part")
        torch.save(saved, beside)
        os.replace(beside, self.path)

    def _update_average(self) -> None:
        decay = min(AVERAGE_DECAY, (1 + self.step) / (20 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)

    def _one_step(self, batch: Batch) -> dict[str, float]:
        o = self.options
        share = min(1.0, self.step / DISTIL_STEPS)
        losses = training_losses(self.model, batch, self.teacher, DISTIL_FIRST + share * (DISTIL_FINAL - DISTIL_FIRST))
        sum(losses.values()).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
        if torch.isfinite(norm):  # a single bad batch must not end the run
            self.optimiser.step(learning_rate(self.step, o.rate, o.decay_from, o.until))
        self.optimiser.zero_grad()
        self.step += 1
        self._update_average()
        return {name: loss.item() for name, loss in losses.items()}

    def _report(self, sums: dict[str, list[float]], seconds: float) -> None:
        figures = " ".join(f"{name} {np.mean(values):.3f}" for name, values in sums.items())
        print(f"{time.strftime('%H:%M:%S')} step {self.step} {figures} {seconds:.2f} s/step", flush=True)

    def train(self) -> None:
        o = self.options
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopping", True))
        self.model.train()
        sums: dict[str, list[float]] = {}
        began = saved = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            make = lambda step: pool.submit(self.maker.batch, step, recipe_at(step, o.full_from))  # noqa: E731
            upcoming = make(self.step)
            while self.step < o.until and not self.stopping:
                batch, upcoming = upcoming.result(), make(self.step + 1)
                for name, loss in self._one_step(batch).items():
                    sums.setdefault(name, []).append(loss)
                if self.step % 25 == 0:
                    self._report(sums, (time.monotonic() - began) / 25)
                    sums, began = {}, time.monotonic()
                if self.step % 250 == 0:
                    rates = dev_error_rates(self.average, self.mels, decode=self.step % 1000 == 0)
                    print(f"step {self.step} dev WER {rates}", flush=True)
                    began = time.monotonic()
                if time.monotonic() - saved > 180:
                    self.save()
                    saved = time.monotonic()
        self.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--until", type=int, default=5000, help="last step")
    parser.add_argument("--decay-from", type=int, default=3800, help="step at which the learning rate begins to fall")
    parser.add_argument("--full-from", type=int, default=3800, help="step from which windows are 30 s long")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--dropout", type=float, default=0.0, help="drawing the masks takes a tenth of the time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    Run(options).train()


if __name__ == "__main__":
    main()
