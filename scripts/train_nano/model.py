"""Whisper's own encoder and decoder with what only training needs: compact vocabulary, CTC and distillation heads."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from whisper.model import ModelDimensions, Whisper, sinusoids

from .teacher_cache import N_TEACHER
from .vocabulary import CTC_SYMBOLS, N_TIMESTAMPS, N_VOCAB, CompactVocabulary

N_TIME_BASIS = 128


@dataclass(frozen=True)
class NanoSize:
    n_state: int = 192
    n_audio_layer: int = 4
    n_text_layer: int = 3  # not 2: whisper.cpp takes that for a distilled model and forbids timestamps

    def dims(self, n_vocab: int = N_VOCAB) -> ModelDimensions:
        heads = self.n_state // 64
        audio = (80, 1500, self.n_state, heads, self.n_audio_layer)
        return ModelDimensions(*audio, n_vocab, 448, self.n_state, heads, self.n_text_layer)


class CompactEmbedding(nn.Module):
    """Token rows, tied to the output. Timestamp rows are a smooth function of time, so all 1501 learn together."""

    def __init__(self, vocabulary: CompactVocabulary, n_state: int):
        super().__init__()
        self.words = nn.Parameter(torch.randn(vocabulary.timestamp_row, n_state) * 0.04)
        basis = sinusoids(N_TIMESTAMPS, N_TIME_BASIS, max_timescale=500) * math.sqrt(2.0 / N_TIME_BASIS)
        self.register_buffer("time_basis", basis, persistent=False)
        self.time = nn.Parameter(torch.randn(N_TIME_BASIS, n_state) * 0.04)
        self.time_bias = nn.Parameter(torch.zeros(n_state))

    def rows(self) -> Tensor:
        return torch.cat([self.words, self.time_basis @ self.time + self.time_bias])


class NanoTrainer(nn.Module):
    """`whisper` keeps OpenAI's parameter names, so exporting is copying; its token embedding is replaced at export."""

    def __init__(self, size: NanoSize, vocabulary: CompactVocabulary, dropout: float):
        super().__init__()
        self.size = size
        self.vocabulary = vocabulary
        self.dropout = dropout
        self.whisper = Whisper(size.dims(n_vocab=1))
        self.embedding = CompactEmbedding(vocabulary, size.n_state)
        self.ctc = nn.Linear(size.n_state, 1 + len(CTC_SYMBOLS))
        self.distil = nn.Linear(size.n_state, N_TEACHER)
        with torch.no_grad():
            # By default the convolutions are fifteen times quieter than the positions added to them, and 400 steps go
            # by before they are heard.
            self.whisper.encoder.conv1.weight *= 2
            self.whisper.encoder.conv2.weight *= 6
        positions = self.whisper.decoder.positional_embedding
        nn.init.zeros_(positions)
        with torch.no_grad():
            positions += 0.05 * sinusoids(*positions.shape)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def encode(self, mel: Tensor, first_position: Tensor | None = None) -> Tensor:
        """Like AudioEncoder.forward, for windows of any length that begin anywhere in the 30 s of positions."""
        encoder = self.whisper.encoder
        x = F.gelu(encoder.conv1(mel))
        x = F.gelu(encoder.conv2(x)).permute(0, 2, 1)
        n = x.shape[1]
        if first_position is None:
            x = x + encoder.positional_embedding[:n]
        else:
            x = x + encoder.positional_embedding[first_position[:, None] + torch.arange(n)]
        x = self._drop(x)
        for block in encoder.blocks:
            x = x + self._drop(block.attn(block.attn_ln(x))[0])
            x = x + self._drop(block.mlp(block.mlp_ln(x)))
        return encoder.ln_post(x)

    def decode(self, tokens: Tensor, audio_features: Tensor) -> Tensor:
        """Logits over the compact rows; `tokens` are compact rows too."""
        decoder = self.whisper.decoder
        rows = self.embedding.rows()
        x = self._drop(F.embedding(tokens, rows) + decoder.positional_embedding[: tokens.shape[1]])
        for block in decoder.blocks:
            x = x + self._drop(block.attn(block.attn_ln(x), mask=decoder.mask)[0])
            x = x + self._drop(block.cross_attn(block.cross_attn_ln(x), audio_features)[0])
            x = x + self._drop(block.mlp(block.mlp_ln(x)))
        logits = decoder.ln(x) @ rows.T
        weight = torch.zeros(rows.shape[0])
        weight[self.vocabulary.unused_row] = math.log(self.vocabulary.n_unused)
        return logits + weight

    def openai_state_dict(self) -> dict[str, np.ndarray]:
        """The parameters under OpenAI's names with the full vocabulary, float32."""
        state = {k: v.detach().numpy() for k, v in self.whisper.state_dict().items()}
        state["decoder.token_embedding.weight"] = self.vocabulary.expand(self.embedding.rows().detach().numpy())
        return state
