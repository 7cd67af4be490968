"""The tensors of a Whisper: their names and shapes, by its dimensions."""

from __future__ import annotations

from collections.abc import Iterator

from .dims import Dims

__all__ = ["expected_shapes"]


def expected_shapes(dims: Dims) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a model of these dimensions has, in the order of an OpenAI checkpoint."""

    def all_of_them() -> Iterator[tuple[str, tuple[int, ...]]]:
        yield "encoder.positional_embedding", (dims.n_audio_ctx, dims.n_audio_state)
        for name, n_in in (("conv1", dims.n_mels), ("conv2", dims.n_audio_state)):
            yield f"encoder.{name}.weight", (dims.n_audio_state, n_in, 3)
            yield f"encoder.{name}.bias", (dims.n_audio_state,)
        for layer in range(dims.n_audio_layer):
            yield from _block(f"encoder.blocks.{layer}", dims.n_audio_state, ("attn",))
        yield from _layer_norm("encoder.ln_post", dims.n_audio_state)
        yield "decoder.positional_embedding", (dims.n_text_ctx, dims.n_text_state)
        yield "decoder.token_embedding.weight", (dims.n_vocab, dims.n_text_state)
        for layer in range(dims.n_text_layer):
            yield from _block(f"decoder.blocks.{layer}", dims.n_text_state, ("attn", "cross_attn"))
        yield from _layer_norm("decoder.ln", dims.n_text_state)

    return dict(all_of_them())


def _block(prefix: str, n_state: int, attentions: tuple[str, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for attention in attentions:
        for projection in ("query", "key", "value", "out"):
            yield from _linear(f"{prefix}.{attention}.{projection}", n_state, n_state, bias=projection != "key")
        yield from _layer_norm(f"{prefix}.{attention}_ln", n_state)
    yield from _linear(f"{prefix}.mlp.0", n_state, 4 * n_state)
    yield from _linear(f"{prefix}.mlp.2", 4 * n_state, n_state)
    yield from _layer_norm(f"{prefix}.mlp_ln", n_state)


def _layer_norm(name: str, n_state: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (n_state,)
    yield f"{name}.bias", (n_state,)


def _linear(name: str, n_in: int, n_out: int, bias: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (n_out, n_in)
    if bias:
        yield f"{name}.bias", (n_out,)
