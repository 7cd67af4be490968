"""A ggml model as a folder of CTranslate2, which faster-whisper opens: by CTranslate2's own specification of a Whisper,
without its converters (those need torch and transformers)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import numpy as np

from .._convert.readers.ggml import open_ggml
from .._convert.readers.rows import floats
from .._convert.readers.source import Source
from .._system.arrays import Floats
from .._whisper.dims import Dims, end_of_text
from .._whisper.tokenizer import special_names
from .._whisper.vocabulary import known_vocabulary, token_spelling

__all__ = ["write_ctranslate2"]

Weights = Callable[[str], Floats]

_SPACE = 220  # what GPT-2's vocabulary calls a single blank


def write_ctranslate2(model: Path, folder: Path) -> None:
    """Writes the weights of a ggml file as float32; CTranslate2 makes them int8 when it is asked to as it loads.

    The tokenizer spells and reads tokens but merges none: enough to decode, not for prompts.

    Args:
        model: a ggml file of any type.
        folder: to be made.

    Raises:
        ModelError: the file cannot be read.
        ImportError: ctranslate2 or tokenizers is missing.
        OSError: the folder cannot be written.
    """
    from ctranslate2.specs import WhisperSpec

    source = open_ggml(model)
    dims, tokens = source.dims, _spelled_tokens(source)
    weights = _reader(source)
    spec = WhisperSpec(dims.n_audio_layer, dims.n_audio_head, dims.n_text_layer, dims.n_text_head)
    for name, convolution in (("conv1", spec.encoder.conv1), ("conv2", spec.encoder.conv2)):
        convolution.weight = weights(f"encoder.{name}.weight")
        convolution.bias = weights(f"encoder.{name}.bias").reshape(-1)
    _set_stack(spec.encoder, weights, "encoder", "ln_post")
    _set_stack(spec.decoder, weights, "decoder", "ln")
    spec.decoder.embeddings.weight = weights("decoder.token_embedding.weight")
    spec.decoder.projection.weight = spec.decoder.embeddings.weight
    eot = _n_text_tokens(dims)
    spec.config.suppress_ids, spec.config.suppress_ids_begin = [], [_SPACE, eot]
    spec.config.lang_ids = list(range(eot + 2, eot + 2 + _n_languages(dims)))
    spec.config.alignment_heads = [[dims.n_text_layer - 1, 0]]
    spec.register_vocabulary(tokens)
    spec.validate()
    spec.optimize(quantization="float32")
    folder.mkdir()
    spec.save(str(folder))
    _write_tokenizer(folder / "tokenizer.json", tokens, eot)
    _write_features(folder / "preprocessor_config.json", dims)


def _reader(source: Source) -> Weights:
    tensors = {tensor.name: tensor for tensor in source.tensors}
    return lambda name: floats(tensors[name]).reshape(tensors[name].shape)


def _n_text_tokens(dims: Dims) -> int:
    return end_of_text(dims.n_vocab)


def _n_languages(dims: Dims) -> int:
    """That have a token; in English models they are unused."""
    return dims.n_vocab - _n_text_tokens(dims) - len(special_names(0))


def _spelled_tokens(source: Source) -> list[str]:
    """All ``n_vocab``, special ones included; those of the same bytes apart from each other."""
    vocabulary = source.vocabulary or known_vocabulary(source.dims.n_vocab)
    tokens = [token_spelling(token) for token in vocabulary[: _n_text_tokens(source.dims)]]
    tokens += special_names(_n_languages(source.dims))
    seen: set[str] = set()
    for i, token in enumerate(tokens):
        tokens[i] = token if token not in seen else f"<|same {i}|>"
        seen.add(tokens[i])
    return tokens


def _write_tokenizer(path: Path, tokens: list[str], eot: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(tokens[eot:])
    tokenizer.save(str(path))


def _write_features(path: Path, dims: Dims) -> None:
    path.write_text(f'{{"feature_size": {dims.n_mels}}}\n', encoding="utf-8")


def _set_stack(stack: Any, weights: Weights, name: str, last_norm: str) -> None:
    stack.position_encodings.encodings = weights(f"{name}.positional_embedding")
    _set_norm(stack.layer_norm, weights, f"{name}.{last_norm}")
    for i, layer in enumerate(stack.layer):
        block = f"{name}.blocks.{i}"
        _set_attention(layer.self_attention, weights, f"{block}.attn", (("query", "key", "value"), ("out",)))
        if name == "decoder":
            _set_attention(layer.attention, weights, f"{block}.cross_attn", (("query",), ("key", "value"), ("out",)))
        _set_linear(layer.ffn.linear_0, weights, [f"{block}.mlp.0"])
        _set_linear(layer.ffn.linear_1, weights, [f"{block}.mlp.2"])
        _set_norm(layer.ffn.layer_norm, weights, f"{block}.mlp_ln")


def _set_attention(attention: Any, weights: Weights, name: str, groups: tuple[tuple[str, ...], ...]) -> None:
    """The projections of a group lie in one matrix, one below the other."""
    for linear, group in zip(attention.linear, groups):
        _set_linear(linear, weights, [f"{name}.{projection}" for projection in group])
    _set_norm(attention.layer_norm, weights, f"{name}_ln")


def _set_linear(linear: Any, weights: Weights, names: list[str]) -> None:
    matrices = [weights(f"{name}.weight") for name in names]
    biases = [
        np.zeros(len(matrix), np.float32) if name.endswith(".key") else weights(f"{name}.bias").reshape(-1)
        for name, matrix in zip(names, matrices)
    ]
    linear.weight, linear.bias = np.concatenate(matrices), np.concatenate(biases)


def _set_norm(norm: Any, weights: Weights, name: str) -> None:
    norm.gamma, norm.beta = weights(f"{name}.weight").reshape(-1), weights(f"{name}.bias").reshape(-1)
