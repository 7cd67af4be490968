"""Ways to encode short audio without its 30 s window, beside the whole window: docs/short-audio.md.

    pip install 'whisperq-edge[eval]' openai-whisper
    whisperq-edge convert ggml-base-f16.bin -o base.pt --to openai
    python scripts/measure_short_audio.py base.pt --data ../shared/data --per-corpus 100

openai/whisper in float32 decodes greedily, without fallback and with timestamps. Utterances of at most 15 s come from
an4, speechocean762 and LibriSpeech (train-clean-100, whose words are not known: its texts are only compared). Columns:

    WER, ins    against the words, and inserted words
    same        texts equal to the whole window's, after normalisation
    loops       texts that compress by more than 2.4
    KL          of the first text token's probabilities, the whole window's against this (mean, nats)
    work        multiplications of the encoder's layers against the whole window's (mean)

`cut` computes the tokens of the audio and a margin, and no others. `guarded` replaces texts that compress by more than
2.4, or have times beyond the audio, by the whole window's. `padded` lets these tokens attend to keys and values of a
silent window too, pooled N:1, with a bias of log N. `cross` says what the decoder gets of that silence:
its features, pooled without a bias, or none. `learned` has rows behind the tokens that were trained on half of the
speakers, so that first tokens and features are those of the whole window.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional

import jiwer
import torch
import whisper
from torch.nn import functional
from whisperq_edge._audio.pcm import to_pcm
from whisperq_edge._eval.normalise import normaliser

CORPORA = ("an4", "speechocean762", "librispeech-train-clean-100")
LONGEST_S, SHORTEST_S = 15.0, 1.0
TOKENS_PER_S = 50
FLOOR = -0.6  # log-mel of silence behind speech of usual loudness
LOOP = 2.4


@dataclass(frozen=True)
class Variant:
    """One way to encode short audio.

    Attributes:
        margin_s: of silence that is encoded behind the audio.
        pool: silent keys are pooled so many to one. None: there are none.
        own_floor: the silent window has the floor of the audio's own log-mel, and not ``FLOOR``.
        cross: the decoder gets silent features, pooled so many to one. None: it gets none.
        guarded: suspicious texts are replaced by the whole window's.
        learned: rows that were trained stand behind the tokens.
    """

    margin_s: float
    pool: Optional[int] = None
    own_floor: bool = False
    cross: Optional[int] = None
    guarded: bool = False
    learned: int = 0


VARIANTS: dict[str, Optional[Variant]] = {
    "whole": None,
    "cut, 0.5 s": Variant(0.5),
    "cut, 2.56 s": Variant(2.56),
    "cut, 2.56 s, guarded": Variant(2.56, guarded=True),
    "padded 1:1, 0.5 s, cross 1:1": Variant(0.5, 1, cross=1),
    "padded 1:1, 0.5 s, own floor": Variant(0.5, 1, own_floor=True, cross=1),
    "padded 8:1, 0.5 s, cross 8:1": Variant(0.5, 8, cross=8),
    "padded 32:1, 0.5 s, cross 1:1": Variant(0.5, 32, cross=1),
    "padded 32:1, 0.5 s, cross 32:1": Variant(0.5, 32, cross=32),
    "padded 32:1, 0.5 s, no cross": Variant(0.5, 32),
    "padded 32:1, 0 s, cross 32:1": Variant(0.0, 32, cross=32),
    "padded 32:1, 0.2 s, cross 32:1": Variant(0.2, 32, cross=32),
    "padded 32:1, 1 s, cross 32:1": Variant(1.0, 32, cross=32),
    "padded 32:1, 2.56 s, cross 32:1": Variant(2.56, 32, cross=32),
    "learned 16, 0.5 s": Variant(0.5, learned=16),
}

Rows = torch.Tensor  # [1, tokens, n_state]


@dataclass
class Silence:
    """Keys, values and features of a silent window."""

    keys: list[Rows] = field(default_factory=list)
    values: list[Rows] = field(default_factory=list)
    features: Optional[Rows] = None


class Encoder:
    """openai/whisper's encoder, with what may stand behind the tokens of short audio."""

    def __init__(self, model: Any) -> None:
        self._encoder, self._n_mels = model.encoder, model.dims.n_mels
        self._n_head, self.n_ctx, self.n_state = (
            model.dims.n_audio_head,
            model.dims.n_audio_ctx,
            model.dims.n_audio_state,
        )
        self._fixed = self.silence(FLOOR)

    def stem(self, mel: torch.Tensor) -> Rows:
        x = functional.gelu(self._encoder.conv1(mel))
        x = functional.gelu(self._encoder.conv2(x)).permute(0, 2, 1)
        return x + self._encoder.positional_embedding[: x.shape[1]]

    def silence(self, floor: float) -> Silence:
        seen = Silence()
        mel = torch.full((1, self._n_mels, 2 * self.n_ctx), floor)
        seen.features = self.layers(self.stem(mel), seen=seen)
        return seen

    def layers(
        self, x: Rows, behind: Optional[list[tuple[Rows, Rows]]] = None, pool: int = 1, seen: Optional[Silence] = None
    ) -> Rows:
        for i, block in enumerate(self._encoder.blocks):
            y = block.attn_ln(x)
            q, k, v = block.attn.query(y), block.attn.key(y), block.attn.value(y)
            mask = None
            if seen is not None:
                seen.keys.append(k)
                seen.values.append(v)
            if behind is not None:
                own = k.shape[1]
                k, v = torch.cat([k, behind[i][0]], 1), torch.cat([v, behind[i][1]], 1)
                mask = torch.zeros(1, 1, 1, k.shape[1])
                mask[..., own:] = math.log(pool)
            x = x + block.attn.out(self._attend(q, k, v, mask))
            x = x + block.mlp(block.mlp_ln(x))
        rows: Rows = self._encoder.ln_post(x)
        return rows

    def _attend(self, q: Rows, k: Rows, v: Rows, mask: Optional[torch.Tensor]) -> Rows:
        def heads(rows: Rows) -> torch.Tensor:
            return rows.view(1, rows.shape[1], self._n_head, -1).transpose(1, 2)

        out = functional.scaled_dot_product_attention(heads(q), heads(k), heads(v), attn_mask=mask)
        return out.transpose(1, 2).reshape(q.shape)

    def n_tokens(self, duration_s: float, margin_s: float) -> int:
        return min(self.n_ctx, math.ceil((duration_s + margin_s) * TOKENS_PER_S))

    def encode(self, mel: torch.Tensor, duration_s: float, variant: Variant, learned: Optional[Rows]) -> Rows:
        """What the decoder gets of one utterance."""
        n = self.n_tokens(duration_s, variant.margin_s)
        x = self.stem(mel[..., : 2 * n + 2])[:, :n]
        if variant.learned:
            return self.layers(torch.cat([x, learned], 1)) if learned is not None else self.layers(x)
        if variant.pool is None:
            return self.layers(x)
        silence = self.silence(float(mel[0, 0, -1])) if variant.own_floor else self._fixed
        behind = [
            (pooled(k[:, n:], variant.pool), pooled(v[:, n:], variant.pool))
            for k, v in zip(silence.keys, silence.values)
        ]
        features = self.layers(x, behind, variant.pool)
        if variant.cross is None or silence.features is None:
            return features
        return torch.cat([features, pooled(silence.features[:, n:], variant.cross)], 1)

    def work(self, duration_s: float, variant: Optional[Variant]) -> float:
        """Multiplications of a layer against those of the whole window."""

        def of(n: int, n_more: int) -> int:
            return 12 * n * self.n_state**2 + 2 * n * (n + n_more) * self.n_state

        if variant is None:
            return 1.0
        n = self.n_tokens(duration_s, variant.margin_s)
        n_more = 0 if variant.pool is None else (self.n_ctx - n) // variant.pool
        return of(n + variant.learned, n_more) / of(self.n_ctx, 0)


def pooled(rows: Rows, n: int) -> Rows:
    whole = rows.shape[1] // n * n
    return rows[:, :whole].view(1, -1, n, rows.shape[-1]).mean(2)


@dataclass(frozen=True)
class Utterance:
    corpus: str
    speaker: str
    duration_s: float
    text: str
    mel: torch.Tensor


def utterances(data: Path, per_corpus: int, n_mels: int) -> Iterator[Utterance]:
    """The same ones every time, of lengths that are spread evenly over those of the corpus."""
    for corpus in CORPORA:
        with (data / corpus / "manifest.tsv").open(encoding="utf-8") as manifest:
            rows = [r for r in csv.DictReader(manifest, delimiter="\t") if _is_wanted(r)]
        random.Random(17).shuffle(rows)
        for row in rows[:per_corpus]:
            samples = to_pcm(data / corpus / row["file"]).samples
            mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(torch.from_numpy(samples)), n_mels)[None]
            yield Utterance(corpus, row["speaker"], len(samples) / 16000, row["text"], mel)


def _is_wanted(row: dict[str, str]) -> bool:
    return SHORTEST_S <= float(row["duration_s"]) <= LONGEST_S


class Decoder:
    def __init__(self, model: Any) -> None:
        self._model = model
        self._options = whisper.DecodingOptions(language="en", fp16=False)

    def decode(self, features: Rows) -> Any:
        self._model.dims.n_audio_ctx = features.shape[1]  # decode() takes features of this shape only
        try:
            return self._model.decode(features, self._options)[0]
        finally:
            self._model.dims.n_audio_ctx = 1500

    def is_suspect(self, heard: Any, duration_s: float) -> bool:
        """Whether the text repeats itself, or has a time more than one token beyond the audio."""
        first = self._tokenizer().timestamp_begin
        latest = max((token - first for token in heard.tokens), default=0)
        return bool(heard.compression_ratio > LOOP or latest > duration_s * TOKENS_PER_S + 1)

    def _tokenizer(self) -> Any:
        return whisper.tokenizer.get_tokenizer(
            self._model.is_multilingual, num_languages=self._model.num_languages, language="en", task="transcribe"
        )

    def first_logprobs(self, features: Rows) -> torch.Tensor:
        tokenizer = self._tokenizer()
        tokens = torch.tensor([[*tokenizer.sot_sequence, tokenizer.timestamp_begin]])
        return functional.log_softmax(self._model.decoder(tokens, features)[0, -1], -1)


def learned_rows(
    encoder: Encoder, decoder: Decoder, given: Sequence[Utterance], variant: Variant, n_steps: int
) -> Rows:
    """Rows that make the features, and the first token, of short audio those of its whole window."""
    rows = torch.zeros(1, variant.learned, encoder.n_state, requires_grad=True)
    optimiser = torch.optim.Adam([rows], lr=0.02)
    draw = random.Random(3)
    for _ in range(n_steps):
        one = draw.choice(given)
        with torch.no_grad():
            whole = encoder.layers(encoder.stem(one.mel))
            wanted = decoder.first_logprobs(whole)
        n = encoder.n_tokens(one.duration_s, variant.margin_s)
        with torch.enable_grad():
            short = encoder.encode(one.mel, one.duration_s, variant, rows)
            apart = (short[:, :n] - whole[:, :n]).pow(2).mean()
            divergence = functional.kl_div(decoder.first_logprobs(short), wanted, log_target=True, reduction="sum")
            optimiser.zero_grad()
            (apart + 0.1 * divergence).backward()
            optimiser.step()
    return rows.detach()


@dataclass
class Row:
    variant: str
    corpus: str
    speaker: str
    duration_s: float
    said: str
    heard: str
    whole: str
    is_loop: bool
    divergence: float
    work: float


def measured(model: Any, given: Sequence[Utterance], variants: Sequence[str], n_steps: int) -> Iterator[Row]:
    encoder, decoder, words = Encoder(model), Decoder(model), normaliser("english")
    speakers = sorted({one.speaker for one in given})
    trained = {speaker for i, speaker in enumerate(speakers) if i % 2}
    learned: dict[str, Rows] = {}
    for name in variants:
        variant = VARIANTS[name]
        if variant is not None and variant.learned:
            half = [one for one in given if one.speaker in trained]
            learned[name] = learned_rows(encoder, decoder, half, variant, n_steps)
    for one in given:
        whole_features = encoder.layers(encoder.stem(one.mel))
        whole, wanted = decoder.decode(whole_features), decoder.first_logprobs(whole_features)
        for name in variants:
            variant = VARIANTS[name]
            if variant is not None and variant.learned and one.speaker in trained:
                continue
            heard, divergence = whole, 0.0
            if variant is not None:
                features = encoder.encode(one.mel, one.duration_s, variant, learned.get(name))
                heard = decoder.decode(features)
                first = decoder.first_logprobs(features)
                divergence = float(functional.kl_div(first, wanted, log_target=True, reduction="sum"))
                if variant.guarded and decoder.is_suspect(heard, one.duration_s):
                    heard = whole
            yield Row(
                name,
                one.corpus,
                one.speaker,
                one.duration_s,
                words(one.text),
                words(heard.text),
                words(whole.text),
                heard.compression_ratio > LOOP,
                divergence,
                encoder.work(one.duration_s, variant),
            )


def print_table(rows: Sequence[Row], variants: Sequence[str]) -> None:
    print(f"{'':36}{'n':>5}{'WER %':>8}{'ins':>5}{'same %':>8}{'loops':>7}{'KL':>8}{'work':>7}")
    for name in variants:
        mine = [row for row in rows if row.variant == name]
        known = [row for row in mine if row.said]
        words = jiwer.process_words([row.said for row in known], [row.heard for row in known])
        n = len(mine)
        print(
            f"{name:36}{n:5}{100 * words.wer:8.2f}{words.insertions:5}"
            f"{100 * sum(row.heard == row.whole for row in mine) / n:8.1f}{sum(row.is_loop for row in mine):7}"
            f"{sum(row.divergence for row in mine) / n:8.4f}{sum(row.work for row in mine) / n:7.3f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="an OpenAI checkpoint (.pt)")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--per-corpus", type=int, default=100)
    parser.add_argument("--variants", default=";".join(VARIANTS), help="names, separated by semicolons")
    parser.add_argument("--steps", type=int, default=400, help="of training, for the learned rows")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    model = whisper.load_model(arguments.model, device="cpu").float().eval()
    model.requires_grad_(False)
    variants = arguments.variants.split(";")
    given = list(utterances(arguments.data, arguments.per_corpus, model.dims.n_mels))
    rows = list(measured(model, given, variants, arguments.steps))
    print_table(rows, variants)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
