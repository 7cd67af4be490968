"""Folders of Hugging Face's transformers: ``config.json``, weights in one file or in shards, tokenizer files.

Fine-tunes, distil-whisper (2 decoder layers), large-v3 and turbo (128 mels) are the same folder with other numbers.
What transformers can save and Whisper's ggml format cannot hold (adapters, quantised weights, an output layer of its
own) is an error that says so.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Callable, Optional, Protocol, Union

import numpy as np
import numpy.typing as npt

from ..._errors import ModelFormatError, ModelNotFoundError, OptionError, UnsupportedModelError
from ..._system.files import sync_directory
from ..._system.json_files import write_json
from ..._whisper.dims import Dims, end_of_text
from ..._whisper.shapes import expected_shapes
from ..._whisper.units import FRAMES_PER_WINDOW, HOP_SAMPLES, N_FFT_BINS, SAMPLE_RATE, WINDOW_SAMPLES
from ..._whisper.vocabulary import token_spelling
from .rows import chunks, encode_rows
from .safetensors import read_safetensors, shown, write_safetensors
from .source import FLOAT_TYPES, Source, SourceTensor, check_dims, check_tensors, matrix_type, rows_of, sinusoids
from .token_ids import choose_kind, fit_tokens, keep_rows
from .tokenizer_files import read_json, read_tokenizer_files
from .torch_file import TorchTensor, read_torch_file

__all__ = ["WEIGHTS", "is_huggingface", "open_huggingface", "refuse_adapter", "shard_names", "write_huggingface"]

_LOG = logging.getLogger("whisperq_edge")

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Files that hold or list the weights; the first that is there is read."""

_TORCH_TYPES = {"f16": "float16", "f32": "float32"}  # what is written, and torch's name of it

_PREFIX, _SUFFIX = ".whisperq-", ".part"  # those of atomic_write
_SHARD = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.(safetensors|bin)")

# Field of config.json -> dimension. d_model is both n_audio_state and n_text_state.
_CONFIG_DIMS = {
    "num_mel_bins": ("n_mels",),
    "max_source_positions": ("n_audio_ctx",),
    "d_model": ("n_audio_state", "n_text_state"),
    "encoder_attention_heads": ("n_audio_head",),
    "encoder_layers": ("n_audio_layer",),
    "max_target_positions": ("n_text_ctx",),
    "decoder_attention_heads": ("n_text_head",),
    "decoder_layers": ("n_text_layer",),
    "vocab_size": ("n_vocab",),
}

# transformers' names -> openai/whisper's. Outside the layers:
_OUTER = {
    "encoder.conv1": "encoder.conv1",
    "encoder.conv2": "encoder.conv2",
    "encoder.layer_norm": "encoder.ln_post",
    "decoder.layer_norm": "decoder.ln",
    "decoder.embed_tokens": "decoder.token_embedding",
}
_POSITIONS = {
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
}
# Inside a layer:
_PROJECTIONS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
_INNER = {
    **{f"self_attn.{theirs}": f"attn.{ours}" for theirs, ours in _PROJECTIONS.items()},
    **{f"encoder_attn.{theirs}": f"cross_attn.{ours}" for theirs, ours in _PROJECTIONS.items()},
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "final_layer_norm": "mlp_ln",
}
_LAYER = re.compile(r"(encoder|decoder)\.layers\.(0|[1-9][0-9]{0,2})\.(.+)\.(weight|bias)", re.DOTALL)
_INNER_BACK = {ours: theirs for theirs, ours in _INNER.items()}
_OUTER_BACK = {ours: theirs for theirs, ours in _OUTER.items()}
_POSITIONS_BACK = {ours: theirs for theirs, ours in _POSITIONS.items()}
_BLOCK = re.compile(r"(encoder|decoder)\.blocks\.([0-9]+)\.(.+)\.(weight|bias)")

# What peft, torch's parallel and compiled modules, and classes that hold a Whisper put before the names.
_WRAPPERS = ("base_model.model.", "_orig_mod.", "module.", "whisper.", "model.")
# Parts of names that only peft's adapters have; base_layer is the weight that an adapter still changes.
_ADAPTED = re.compile(r"\.(lora_\w+|base_layer|modules_to_save|original_module|ia3_l)(\.|$)")
_MERGE = "merge it into its base model first (peft: model.merge_and_unload().save_pretrained(NEW)) and convert that"

_OUTPUT_LAYER = "proj_out.weight"
_EMBEDDING = "decoder.token_embedding.weight"


class _Stored(Protocol):
    """What both weight files give: ``StoredTensor`` of safetensors and ``TorchTensor`` of PyTorch."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def type(self) -> str: ...
    @property
    def read_rows(self) -> Callable[[int, int], bytes]: ...
    @property
    def where(self) -> tuple[str, int]: ...


# ---- The folder ------------------------------------------------------------------------------------------------------


def is_huggingface(folder: Path) -> bool:
    """Whether a path is a folder that :func:`open_huggingface` shall judge (it may still refuse it)."""
    folder = Path(folder)
    if not folder.is_dir():
        return False
    if any((folder / name).is_file() for name in (*WEIGHTS, "adapter_config.json")):
        return True
    return (folder / "config.json").is_file() and not (folder / "model.bin").exists()  # CTranslate2 has both


def open_huggingface(folder: Path) -> Source:
    """A Whisper model that transformers saved.

    Args:
        folder: with ``config.json`` and ``model.safetensors`` or ``pytorch_model.bin``, whole or in shards with their
            index; optionally a tokenizer's files, ``generation_config.json`` and ``preprocessor_config.json``. Weights
            are f32, f16, bf16 or f64.

    Raises:
        ModelNotFoundError: a file is missing; the message names it.
        ModelFormatError: a file is damaged, a tensor is missing, unknown, there twice or of a wrong shape or dtype.
        UnsupportedModelError: no Whisper, or one that the ggml format has no place for; ids of tokens that are those
            of no Whisper, or that contradict each other.
        UnsafeModelError: ``pytorch_model.bin`` asks for code to be run.
    """
    folder = Path(folder)
    refuse_adapter(folder)
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise ModelNotFoundError(f"{folder} has no config.json: download the whole folder of the model again")
    config = read_json(config_path)
    _check_config(config, config_path)
    dims = _dims(config, config_path)
    n_rows = dims.n_vocab
    notes: list[str] = []
    tokenizer = read_tokenizer_files(folder, config)
    kind = choose_kind(folder, n_rows, dims.n_mels, tokenizer.listing, notes)
    dims = dims._replace(n_vocab=kind.n_vocab)
    vocabulary = tokenizer.text_tokens(kind)
    fit_tokens(folder, kind, n_rows, tokenizer.listing, notes)
    stored, weight_files = _weights(folder)
    tensors = keep_rows(_tensors(stored, dims, config, folder, notes), dims, n_rows)
    mel_filters, filter_files = _mel_filters(folder, dims, notes)
    if (folder / "adapter_config.json").is_file():
        notes.append("adapter_config.json lies beside whole weights; no adapter was applied")
    source = Source(
        path=folder,
        format="huggingface",
        files=[config_path, *weight_files, *tokenizer.files, *filter_files],
        dims=dims,
        tensors=tensors,
        vocabulary=vocabulary,
        mel_filters=mel_filters,
        ftype=matrix_type(tensors),
        notes=notes,
    )
    order = {name: index for index, name in enumerate(expected_shapes(dims))}
    check_tensors(source).tensors.sort(key=lambda tensor: order[tensor.name])
    return source


def refuse_adapter(folder: Path) -> None:
    """Raises UnsupportedModelError for a PEFT adapter: a few weights that mean nothing without their base model."""
    if (folder / "adapter_config.json").is_file() and not any((folder / name).is_file() for name in WEIGHTS):
        raise UnsupportedModelError(f"{folder} holds an adapter (adapter_config.json) and no whole weights: {_MERGE}")


def _check_config(config: Mapping[str, object], path: Path) -> None:
    """What a config can switch on that changes the arithmetic, and that no Whisper of ours has."""
    if config.get("model_type") != "whisper":
        raise UnsupportedModelError(
            f"{path}: model_type is {shown(config.get('model_type'))}; only 'whisper' can be converted"
        )
    if config.get("quantization_config") is not None:
        raise UnsupportedModelError(
            f"{path}: quantization_config is set, so the weights are codes of another library: convert the model that"
            " they were made from"
        )
    if config.get("activation_function", "gelu") != "gelu":
        raise UnsupportedModelError(
            f"{path}: activation_function is {shown(config['activation_function'])}; a Whisper model has 'gelu'"
        )
    if config.get("scale_embedding", False) is not False:
        raise UnsupportedModelError(
            f"{path}: scale_embedding is {shown(config['scale_embedding'])}; a Whisper model has false"
        )


def _dims(config: Mapping[str, object], path: Path) -> Dims:
    values: dict[str, object] = {}
    for field, names in _CONFIG_DIMS.items():
        value = config.get(field)
        if type(value) is not int:
            raise ModelFormatError(str(path), 0, field, "missing" if value is None else shown(value), "a whole number")
        values.update(dict.fromkeys(names, value))
    dims = check_dims(values, path)
    for field in ("encoder_ffn_dim", "decoder_ffn_dim"):
        width = config.get(field, 4 * dims.n_audio_state)
        if width != 4 * dims.n_audio_state:
            raise UnsupportedModelError(
                f"{path}: {field} is {shown(width)}; a Whisper model has 4 * d_model, {4 * dims.n_audio_state}"
            )
    return dims


# ---- Weight files ----------------------------------------------------------------------------------------------------


def _weights(folder: Path) -> tuple[dict[str, _Stored], list[Path]]:
    """transformers' name -> tensor, and the files that were read."""
    for name in WEIGHTS:
        path = folder / name
        if path.is_file():
            return _sharded(path) if name.endswith(".json") else (_read_weights(path), [path])
    raise ModelNotFoundError(f"{folder} has no weights: one of {', '.join(WEIGHTS)} must be there; download it again")


def _read_weights(path: Path) -> dict[str, _Stored]:
    if path.suffix == ".safetensors":
        return dict(read_safetensors(path))
    tree = read_torch_file(path)
    if not isinstance(tree, dict):
        raise ModelFormatError(str(path), 0, "content", f"a {type(tree).__name__}", "a dict of tensors")
    found: dict[str, _Stored] = {}
    for name, value in tree.items():
        if not isinstance(name, str) or not isinstance(value, TorchTensor):
            raise ModelFormatError(str(path), 0, f"entry {shown(name)}", f"a {type(value).__name__}", "a tensor")
        found[name] = value
    return found


def shard_names(index: Path) -> dict[str, str]:
    """Tensor -> file of a ``*.index.json``; every file is a plain name beside the index.

    Raises:
        ModelFormatError: no such index, or a file that lies elsewhere.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFormatError(str(index), 0, "weight_map", shown(weight_map), "an object: tensor -> file")
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or not _SHARD.fullmatch(file) or ".." in file:
            raise ModelFormatError(
                str(index),
                0,
                f"weight_map {shown(tensor)}",
                shown(file),
                "the name of a .safetensors or .bin file here",
            )
    return weight_map


def _sharded(index: Path) -> tuple[dict[str, _Stored], list[Path]]:
    weight_map = shard_names(index)
    shards = [index.parent / name for name in sorted(set(weight_map.values()))]
    absent = [shard.name for shard in shards if not shard.is_file()]
    if absent:
        raise ModelNotFoundError(
            f"{index.parent} lacks {', '.join(absent)}, {len(absent)} of the {len(shards)} files that {index.name}"
            " lists: download the folder again"
        )
    found: dict[str, _Stored] = {}
    for shard in shards:
        for name, tensor in _read_weights(shard).items():
            if weight_map.get(name) != shard.name:
                listed = weight_map.get(name, "nowhere")
                raise ModelFormatError(
                    *tensor.where, f"tensor {shown(name)}", f"in {shard.name}", f"what {index.name} says: {listed}"
                )
            found[name] = tensor
    for name, file in weight_map.items():
        if name not in found:
            raise ModelFormatError(
                str(index.parent / file), 0, f"tensor {shown(name)}", "missing", f"the tensors that {index.name} lists"
            )
    return found, [index, *shards]


# ---- Tensors ---------------------------------------------------------------------------------------------------------


def _bare_name(theirs: str) -> str:
    """The name without what classes around the model put before it, in any combination."""
    while True:
        prefix = next((prefix for prefix in _WRAPPERS if theirs.startswith(prefix)), "")
        if not prefix:
            return theirs
        theirs = theirs[len(prefix) :]


def _our_name(name: str) -> Optional[str]:
    """openai/whisper's name of a bare one; None: transformers' Whisper has no such tensor."""
    if name in _POSITIONS:
        return _POSITIONS[name]
    module, _, kind = name.rpartition(".")
    if module in _OUTER and kind in ("weight", "bias"):
        return f"{_OUTER[module]}.{kind}"
    match = _LAYER.fullmatch(name)
    if match is None or match[3] not in _INNER:
        return None
    return f"{match[1]}.blocks.{match[2]}.{_INNER[match[3]]}.{match[4]}"


def _their_name(ours: str) -> str:
    if ours in _POSITIONS_BACK:
        return f"model.{_POSITIONS_BACK[ours]}"
    match = _BLOCK.fullmatch(ours)
    if match is not None:
        return f"model.{match[1]}.layers.{match[2]}.{_INNER_BACK[match[3]]}.{match[4]}"
    module, _, kind = ours.rpartition(".")
    return f"model.{_OUTER_BACK[module]}.{kind}"


def _tensors(
    stored: Mapping[str, _Stored], dims: Dims, config: Mapping[str, object], folder: Path, notes: list[str]
) -> list[SourceTensor]:
    tensors, output = [], None
    for theirs, tensor in stored.items():
        if _ADAPTED.search(theirs):
            raise UnsupportedModelError(f"{folder}: {shown(theirs)} is a weight of an adapter: {_MERGE}")
        bare = _bare_name(theirs)
        if bare == _OUTPUT_LAYER:
            if output is not None:
                raise ModelFormatError(*tensor.where, _OUTPUT_LAYER, "there for the second time", "each tensor once")
            output = tensor
            continue
        ours = _our_name(bare)
        if ours is None:
            raise ModelFormatError(*tensor.where, "tensor name", shown(theirs), "a tensor of transformers' Whisper")
        tensors.append(_source_tensor(ours, theirs, tensor))
    names = {tensor.name for tensor in tensors}
    tensors += _output_layer(output, tensors, config, folder, notes)
    if "encoder.positional_embedding" not in names:
        notes.append("encoder.embed_positions.weight is missing: Whisper's sinusoids were computed")
        positions = sinusoids(dims.n_audio_ctx, dims.n_audio_state)
        where = (str(folder), 0)
        tensors.append(
            SourceTensor("encoder.positional_embedding", positions.shape, "f32", rows_of(positions), where=where)
        )
    return tensors


def _source_tensor(ours: str, theirs: str, tensor: _Stored) -> SourceTensor:
    if tensor.type not in FLOAT_TYPES:
        raise ModelFormatError(*tensor.where, f"{shown(theirs)} dtype", tensor.type, " ".join(FLOAT_TYPES))
    return SourceTensor(ours, tensor.shape, tensor.type, tensor.read_rows, where=tensor.where)


def _output_layer(
    stored: Optional[_Stored],
    tensors: list[SourceTensor],
    config: Mapping[str, object],
    folder: Path,
    notes: list[str],
) -> list[SourceTensor]:
    """Whisper's output layer is its token embedding. A copy of it is checked and left out; where only the copy was
    stored, it is the embedding."""
    embedding = next((tensor for tensor in tensors if tensor.name == _EMBEDDING), None)
    tied = config.get("tie_word_embeddings", True) is not False
    if stored is None:
        if not tied:
            raise UnsupportedModelError(
                f"{folder}: tie_word_embeddings is false and {_OUTPUT_LAYER} is missing: the output layer was not saved"
            )
        return []
    output = _source_tensor(_EMBEDDING, _OUTPUT_LAYER, stored)
    if embedding is None:
        if tied:
            notes.append(f"embed_tokens.weight is missing: {_OUTPUT_LAYER}, which is tied to it, was taken")
        return [output] if tied else []
    if not _equal(embedding, output):
        raise UnsupportedModelError(
            f"{folder}: {_OUTPUT_LAYER} differs from embed_tokens.weight: a Whisper model has one matrix for both, and"
            " the ggml format has no place for two. Train with tie_word_embeddings"
        )
    return []


def _equal(one: SourceTensor, other: SourceTensor) -> bool:
    """Bit for bit, a chunk of rows at a time."""
    if one.shape != other.shape or one.type != other.type:
        return False
    if one.where == other.where or 0 in one.shape or not one.shape:  # no matrix: check_tensors refuses it by its shape
        return True
    return all(one.read_rows(first, count) == other.read_rows(first, count) for first, count in chunks(one))


# ---- Tokenizer and mel filters ---------------------------------------------------------------------------------------


def _n_text_tokens(dims: Dims) -> int:
    """Tokens that stand for text; <|endoftext|> is the next one. The multilingual ones end with an empty one."""
    return end_of_text(dims.n_vocab)


def _mel_filters(folder: Path, dims: Dims, notes: list[str]) -> tuple[Optional[npt.NDArray[np.float32]], list[Path]]:
    """The filterbank ``[n_mels, 201]`` of the feature extractor where it was saved, and the file."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return None, []
    values = read_json(path).get("mel_filters")
    if values is None:
        return None, [path]
    filters = _filterbank(values, dims.n_mels)
    if filters is None:
        notes.append(
            f"mel_filters in {path.name} are no [{dims.n_mels}][{N_FFT_BINS}] numbers: Whisper's own were taken"
        )
    return filters, [path]


def _filterbank(values: object, n_mels: int) -> Optional[npt.NDArray[np.float32]]:
    if not isinstance(values, list) or not all(isinstance(row, list) for row in values):
        return None
    shape = (len(values), *{len(row) for row in values})
    numbers = all(isinstance(value, (int, float)) for row in values for value in row)
    if shape not in ((n_mels, N_FFT_BINS), (N_FFT_BINS, n_mels)) or not numbers:
        return None
    with np.errstate(over="ignore"):
        filters = np.array(values, np.float64).astype(np.float32)
    if not np.isfinite(filters).all():
        return None
    return np.ascontiguousarray(filters if shape[0] == n_mels else filters.T)


# ---- Writing ---------------------------------------------------------------------------------------------------------


def write_huggingface(
    source: Source,
    folder: Union[str, Path],
    type: str = "f16",
    on_progress: Optional[Callable[[float], None]] = None,
) -> None:
    """Writes a folder that transformers' ``from_pretrained`` opens; it appears whole or not at all.

    ``config.json``, ``preprocessor_config.json``, ``model.safetensors`` and, where the source has one, ``vocab.json``
    with the text tokens.

    Args:
        source: from any reader; its rows are read, converted and written a chunk at a time.
        folder: where to. Its parent must exist; it must not, or be empty.
        type: of every tensor: ``f16`` or ``f32``.
        on_progress: called with the part of the weights that is written, 0 to 1.

    Raises:
        OptionError: ``type`` or ``destination`` is not possible.
        ModelFormatError: a weight is NaN or infinite.
        UnsupportedModelError: a weight is too large for ``type``.
    """
    if type not in _TORCH_TYPES:
        raise OptionError("type", type, f"a safetensors folder is written as {', '.join(_TORCH_TYPES)}")
    folder = Path(os.path.abspath(folder))
    _check_destination(folder)
    with _folder_beside(folder) as beside:
        _write_json(beside / "config.json", _config(source.dims, type))
        _write_json(beside / "preprocessor_config.json", _preprocessor(source))
        if source.vocabulary is not None:
            _write_vocabulary(beside / "vocab.json", source.vocabulary[: _n_text_tokens(source.dims)])
        entries = ((_their_name(tensor.name), tensor.shape, type, _pieces(tensor, type)) for tensor in source.tensors)
        write_safetensors(beside / "model.safetensors", entries, on_progress)
        _publish(beside, folder)


def _check_destination(folder: Path) -> None:
    if not folder.parent.is_dir():
        raise OptionError("destination", str(folder), f"the folder {folder.parent} must exist")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OptionError("destination", str(folder), "something else than a folder is there; choose another name")
    if folder.is_dir() and any(folder.iterdir()):
        raise OptionError("destination", str(folder), "the folder is there and not empty; choose another or remove it")


def _publish(beside: Path, folder: Path) -> None:
    """Each file was flushed to the disk when it was written; the rename shows them all at once."""
    try:
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()  # an empty one: Windows does not rename onto it
        os.rename(beside, folder)
    except OSError as error:
        if folder.exists():
            raise OptionError(
                "destination", str(folder), "something was put there meanwhile; choose another"
            ) from error
        raise
    sync_directory(str(folder.parent))


@contextlib.contextmanager
def _folder_beside(folder: Path) -> Iterator[Path]:
    """A new folder in that of ``folder``, locked for as long as it is ours; gone at the end unless it was renamed.

    What a killed process left is removed by the next that writes there, as with :func:`.atomic_write`.
    """
    _remove_leftovers(folder.parent)
    while True:
        beside = folder.parent / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
        try:
            beside.mkdir()
        except OSError as error:
            error.filename = str(folder)  # what was asked for
            raise
        with _lock(beside) as locked:
            if locked is False:
                continue  # another process took it for a leftover before it was ours
            try:
                yield beside
            except OSError as error:
                if isinstance(error.filename, str):
                    error.filename = error.filename.replace(str(beside), str(folder))  # what was asked for
                raise
            finally:  # Ctrl-C too: no half folder stays behind
                shutil.rmtree(beside, ignore_errors=True)
            return


def _remove_leftovers(parent: Path) -> None:
    with contextlib.suppress(OSError):
        for path in parent.glob(f"{_PREFIX}*{_SUFFIX}"):
            if path.is_dir() and not path.is_symlink():
                with _lock(path) as locked:
                    if locked:
                        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[Optional[bool]]:
    """Whether the folder is ours until the ``with`` block ends; None where the system cannot lock folders."""
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except ImportError:
        yield None
        return
    except FileNotFoundError:
        yield False
        return
    try:
        locked: Optional[bool] = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            locked = False
        except OSError:
            locked = None
        yield locked and folder.exists()  # it may have been removed before the lock was ours
    finally:
        os.close(descriptor)


def _pieces(tensor: SourceTensor, type: str) -> Iterator[bytes]:
    for first, count in chunks(tensor):
        yield encode_rows(tensor, first, count, type)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    write_json(path, content, indent=2)


def _write_vocabulary(path: Path, tokens: list[bytes]) -> None:
    """A JSON object cannot hold two tokens of the same bytes (some ggml files replace what is no UTF-8)."""
    ids = {token_spelling(token): number for number, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        _LOG.warning("vocab.json is left out: %d tokens have the bytes of another", len(tokens) - len(ids))
        return
    _write_json(path, ids)


def _config(dims: Dims, type: str) -> dict[str, object]:
    """The fields of transformers' WhisperConfig, and the ids of the special tokens, which follow from n_vocab."""
    end_of_text = _n_text_tokens(dims)
    space = 220
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "is_encoder_decoder": True,
        "num_mel_bins": dims.n_mels,
        "max_source_positions": dims.n_audio_ctx,
        "max_target_positions": dims.n_text_ctx,
        "d_model": dims.n_audio_state,
        "encoder_layers": dims.n_audio_layer,
        "encoder_attention_heads": dims.n_audio_head,
        "encoder_ffn_dim": 4 * dims.n_audio_state,
        "decoder_layers": dims.n_text_layer,
        "decoder_attention_heads": dims.n_text_head,
        "decoder_ffn_dim": 4 * dims.n_text_state,
        "vocab_size": dims.n_vocab,
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "pad_token_id": end_of_text,
        "decoder_start_token_id": end_of_text + 1,
        "begin_suppress_tokens": [space, end_of_text],
        "torch_dtype": _TORCH_TYPES[type],
    }


def _preprocessor(source: Source) -> dict[str, object]:
    content: dict[str, object] = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": source.dims.n_mels,
        "sampling_rate": SAMPLE_RATE,
        "hop_length": HOP_SAMPLES,
        "chunk_length": 30,
        "n_fft": 400,
        "n_samples": WINDOW_SAMPLES,
        "nb_max_frames": FRAMES_PER_WINDOW,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }
    if source.mel_filters is not None:
        content["mel_filters"] = source.mel_filters.tolist()  # float32 -> decimal -> float32 gives the same bits
    return content
