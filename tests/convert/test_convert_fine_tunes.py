"""Fine-tunes whose token embedding is not Whisper's: tokens were added, rows pad it, names have another prefix."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
from whisperq_edge import ModelError, ModelFormatError, UnsupportedModelError, WhisperModel
from whisperq_edge._convert.convert import convert_model
from whisperq_edge._convert.readers.huggingface import open_huggingface
from whisperq_edge._convert.readers.openai import open_openai
from whisperq_edge._convert.readers.safetensors import read_safetensors
from whisperq_edge._convert.readers.source import Source
from whisperq_edge._core import read_model_file
from whisperq_edge._store import snapshots
from whisperq_edge._system.native import data_file
from whisperq_edge._whisper.dims import Dims
from whisperq_edge._whisper.shapes import expected_shapes
from whisperq_edge._whisper.tokenizer import special_names
from whisperq_edge._whisper.vocabulary import known_vocabulary

from tests.support.huggingface_folders import MICRO, Stored, raw_safetensors, spelled, weights, write_folder
from tests.support.make_model import PRESETS, real_vocabulary, write_random_model
from tests.support.torch_files import write_checkpoint

EMBEDDING = "decoder.embed_tokens.weight"
ENGLISH, MULTILINGUAL, LARGE_V3 = 51864, 51865, 51866
KINDS = [ENGLISH, MULTILINGUAL, LARGE_V3]
ENGLISH_IDS = {"eos_token_id": 50256, "decoder_start_token_id": 50257}  # transformers' defaults as well
MULTILINGUAL_IDS = {"eos_token_id": 50257, "decoder_start_token_id": 50258}


def dims_of(n_vocab: int) -> Dims:
    return MICRO._replace(n_vocab=n_vocab, n_mels=128 if n_vocab == LARGE_V3 else 80)


def n_text_of(n_vocab: int) -> int:
    return 50256 if n_vocab == ENGLISH else 50257


@functools.cache
def _text_ids(n_vocab: int) -> dict[str, int]:
    return {spelled(token): number for number, token in enumerate(known_vocabulary(n_vocab)[: n_text_of(n_vocab)])}


def text_ids(n_vocab: int) -> dict[str, int]:
    """Without any special token. Callers may change what they get."""
    return dict(_text_ids(n_vocab))


def special_ids(n_vocab: int) -> dict[str, int]:
    names = special_names(100 if n_vocab == LARGE_V3 else 99)
    return {name: n_text_of(n_vocab) + i for i, name in enumerate(names)}


def tokenizer_json(text: Mapping[str, int], added: Mapping[str, int]) -> dict[str, Any]:
    entries = [{"id": number, "content": token, "special": True} for token, number in added.items()]
    return {"added_tokens": entries, "model": {"type": "BPE", "vocab": dict(text), "merges": []}}


def whole_tokenizer(n_vocab: int, added: Optional[Mapping[str, int]] = None) -> dict[str, Any]:
    return tokenizer_json(text_ids(n_vocab), {**special_ids(n_vocab), **(added or {})})


def folder_of(
    path: Path,
    n_rows: int,
    n_mels: int = 80,
    files: Optional[Mapping[str, Any]] = None,
    tensors: Optional[Mapping[str, Stored]] = None,
    **config: Any,
) -> Path:
    """A folder whose embedding has ``n_rows``. Without ``tensors`` it has no weights: enough for what is refused."""
    folder = write_folder(path, MICRO._replace(n_vocab=n_rows, n_mels=n_mels), tensors or {}, **config)
    for name, content in (files or {}).items():
        (folder / name).write_text(json.dumps(content))
    return folder


def opened(path: Path, n_rows: int, n_mels: int = 80, **more: Any) -> Source:
    """The model, its first rows compared with those that were stored."""
    stored = weights(MICRO._replace(n_vocab=n_rows, n_mels=n_mels), "f16")
    source = open_huggingface(folder_of(path, n_rows, n_mels, tensors=stored, **more))
    embedding = next(tensor for tensor in source.tensors if tensor.name == "decoder.token_embedding.weight")
    assert embedding.shape == (source.dims.n_vocab, 64)
    assert embedding.read_rows(0, embedding.n_rows) == stored[EMBEDDING].data[: embedding.n_rows * 128]
    return source


def refused(
    path: Path, n_rows: int, n_mels: int = 80, error: type[ModelError] = UnsupportedModelError, **more: Any
) -> str:
    with pytest.raises(error) as caught:
        open_huggingface(folder_of(path, n_rows, n_mels, **more))
    return str(caught.value)


# ---- Added tokens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_added", [1, 3])
@pytest.mark.parametrize("n_vocab", KINDS)
def test_tokens_that_were_added_are_left_out_and_named(
    tmp_path: Path, n_vocab: int, n_added: int, caplog: pytest.LogCaptureFixture
) -> None:
    added = {f"<|speaker{i}|>": n_vocab + i for i in range(n_added)}
    files = {"tokenizer.json": whole_tokenizer(n_vocab, added)}
    source = opened(tmp_path / "m", n_vocab + n_added, dims_of(n_vocab).n_mels, files=files)
    assert source.dims == dims_of(n_vocab)
    assert source.vocabulary == known_vocabulary(n_vocab)
    [note] = source.notes
    assert all(f"'{token}' ({number})" in note for token, number in added.items()) and str(n_vocab) in note
    assert note in caplog.text


@pytest.mark.parametrize("n_vocab", KINDS)
@pytest.mark.parametrize("where", ["added_tokens.json", "the vocab of tokenizer.json", "tokenizer_config.json"])
def test_added_tokens_are_found_in_every_file(tmp_path: Path, n_vocab: int, where: str) -> None:
    """An ordinary word too, which is spelled as it is."""
    special = special_ids(n_vocab)
    decoder = {str(number): {"content": token} for token, number in {**special, "žluť": n_vocab}.items()}
    files = {
        "added_tokens.json": {
            "vocab.json": text_ids(n_vocab),
            "added_tokens.json": {**special, "žluť": n_vocab},
        },
        "the vocab of tokenizer.json": {
            "tokenizer.json": tokenizer_json({**text_ids(n_vocab), "žluť": n_vocab}, special)
        },
        "tokenizer_config.json": {
            "vocab.json": text_ids(n_vocab),
            "tokenizer_config.json": {"added_tokens_decoder": decoder},
        },
    }[where]
    source = opened(tmp_path / "m", n_vocab + 1, dims_of(n_vocab).n_mels, files=files)
    assert source.dims.n_vocab == n_vocab and str(n_vocab) in source.notes[0]
    assert {file.name for file in source.files} == {"config.json", "model.safetensors", *files}


def test_an_added_language_is_named_as_well(tmp_path: Path) -> None:
    languages = {name: number for name, number in special_ids(MULTILINGUAL).items() if name in ("<|en|>", "<|de|>")}
    generation = {"lang_to_id": {**languages, "<|tlh|>": 51865}, "task_to_id": {"transcribe": 50359}}
    source = opened(tmp_path / "m", 51866, files={"generation_config.json": generation})
    assert source.dims.n_vocab == MULTILINGUAL and "'<|tlh|>' (51865)" in source.notes[0]


def test_cantonese_may_have_been_added(tmp_path: Path) -> None:
    files = {"tokenizer.json": whole_tokenizer(MULTILINGUAL, {"<|yue|>": 51865})}
    source = opened(tmp_path / "m", 51866, files=files)
    assert source.dims.n_vocab == MULTILINGUAL and "'<|yue|>' (51865)" in source.notes[0]


def test_a_long_list_of_added_tokens_is_cut(tmp_path: Path) -> None:
    added = {f"word{i}": 51865 + i for i in range(1000)}
    source = opened(tmp_path / "m", 52865, files={"tokenizer.json": whole_tokenizer(MULTILINGUAL, added)})
    assert source.dims.n_vocab == MULTILINGUAL
    assert "and 988 more" in source.notes[0] and len(source.notes[0]) < 600


# ---- Padding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("multiple", [8, 64, 128])
@pytest.mark.parametrize("n_vocab", KINDS)
def test_padded_vocabularies_convert(tmp_path: Path, n_vocab: int, multiple: int) -> None:
    n_rows = -(-(n_vocab + 1) // multiple) * multiple
    files = {"tokenizer.json": whole_tokenizer(n_vocab)}
    source = opened(tmp_path / "m", n_rows, dims_of(n_vocab).n_mels, files=files)
    assert source.dims == dims_of(n_vocab)
    assert f"{n_rows - n_vocab} of {n_rows} rows" in source.notes[0] and len(source.notes) == 1


@pytest.mark.parametrize(
    ("n_vocab", "config"), [(ENGLISH, ENGLISH_IDS), (MULTILINGUAL, MULTILINGUAL_IDS), (LARGE_V3, MULTILINGUAL_IDS)]
)
def test_without_a_tokenizer_the_configuration_decides(
    tmp_path: Path, n_vocab: int, config: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    source = opened(tmp_path / "m", 51904, dims_of(n_vocab).n_mels, **config)
    assert source.dims == dims_of(n_vocab)
    assert "No file lists tokens" in caplog.text


@pytest.mark.parametrize("n_vocab", KINDS)
def test_text_tokens_alone_decide(tmp_path: Path, n_vocab: int) -> None:
    """Our own folders have no more than these."""
    source = opened(tmp_path / "m", 51904, dims_of(n_vocab).n_mels, files={"vocab.json": text_ids(n_vocab)})
    assert source.dims == dims_of(n_vocab) and source.vocabulary == known_vocabulary(n_vocab)


@pytest.mark.parametrize("name", ["is_multilingual", "task_to_id", "no_timestamps_token_id"])
def test_the_generation_config_decides(tmp_path: Path, name: str) -> None:
    fields = {"is_multilingual": False, "task_to_id": {"translate": 50357}, "no_timestamps_token_id": 50362}
    files = {"generation_config.json": {name: fields[name], "eos_token_id": [50256, 50257], "lang_to_id": None}}
    assert opened(tmp_path / "m", 51865, files=files).dims.n_vocab == ENGLISH


def test_padding_without_any_ids_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path / "m", 51872)
    assert all(text in message for text in ("51872", "51864 (English)", "51865", "51866", "generation_config.json"))
    assert opened(tmp_path / "v3", 51872, 128).dims.n_vocab == LARGE_V3


def test_a_size_of_two_meanings_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """transformers' default ids, and an English fine-tune of one more token: both have this size."""
    message = refused(tmp_path / "m", 51865, **ENGLISH_IDS)
    assert "n_vocab is 51865" in message and "config.json eos_token_id is 50256" in message and "51864" in message
    files = {"vocab.json": text_ids(ENGLISH)}
    assert opened(tmp_path / "english", 51865, files=files, **ENGLISH_IDS).dims.n_vocab == ENGLISH
    source = opened(tmp_path / "other", 51865, files={"vocab.json": text_ids(MULTILINGUAL)}, **ENGLISH_IDS)
    assert source.dims.n_vocab == MULTILINGUAL
    assert "config.json eos_token_id is 50256" in source.notes[0] and len(source.notes) == 2
    assert all(note in caplog.text for note in source.notes)


def test_a_flag_does_not_move_ids(tmp_path: Path) -> None:
    files = {"tokenizer.json": whole_tokenizer(MULTILINGUAL), "generation_config.json": {"is_multilingual": False}}
    source = opened(tmp_path / "m", 51865, files=files)
    assert source.dims.n_vocab == MULTILINGUAL and "is_multilingual" in source.notes[0]


def test_hebrew_under_its_old_name(tmp_path: Path) -> None:
    special = special_ids(ENGLISH)
    special["<|iw|>"] = special.pop("<|he|>")
    special["<|nocaptions|>"] = special.pop("<|nospeech|>")
    files = {"tokenizer.json": tokenizer_json(text_ids(ENGLISH), special)}
    source = opened(tmp_path / "m", ENGLISH, files=files)
    assert source.dims.n_vocab == ENGLISH and source.notes == []


# ---- What fits no Whisper --------------------------------------------------------------------------------------------


def shifted(n_vocab: int, new: str, at: int) -> dict[str, Any]:
    """A token put in at an id; all from there on move."""
    special = {token: number + (number >= at) for token, number in special_ids(n_vocab).items()}
    if at == n_text_of(n_vocab):
        return tokenizer_json({**text_ids(n_vocab), new: at}, special)
    return tokenizer_json(text_ids(n_vocab), {**special, new: at})


INSERTED = {
    "before the special tokens": (shifted(MULTILINGUAL, "abcabc", 50257), 51866, ["50258", "50256 or 50257"]),
    "before the English ones": (shifted(ENGLISH, "abcabc", 50256), 51865, ["50257", "50256"]),
    "before those of large-v3": (shifted(LARGE_V3, "abcabc", 50257), 51867, ["50258", "50256 or 50257"]),
    "among the languages": (shifted(MULTILINGUAL, "<|tlh|>", 50300), 51866, ["50301", "50300"]),
    "after the languages": (shifted(MULTILINGUAL, "<|tlh|>", 50358), 51866, ["'<|tlh|>'", "50358", "<|yue|>"]),
    "before the times": (shifted(ENGLISH, "<|noise|>", 50363), 51865, ["'<|0.00|>'", "50364", "50363"]),
    "in place of a time": (
        tokenizer_json(text_ids(ENGLISH), {"<|notimestamps|>": 50362, "[PAD]": 50363}),
        51864,
        ["'[PAD]'", "50363", "<|0.00|>", "51864"],
    ),
}


@pytest.mark.parametrize("kind", INSERTED)
def test_ids_that_are_shifted_are_refused(tmp_path: Path, kind: str) -> None:
    tokenizer, n_rows, expected = INSERTED[kind]
    message = refused(tmp_path / "m", n_rows, files={"tokenizer.json": tokenizer})
    assert "tokenizer.json" in message
    assert all(text in message for text in expected), message


CONTRADICTIONS: dict[str, tuple[dict[str, Any], int, int, list[str]]] = {
    "generation_config.json of another model": (
        {
            "tokenizer.json": whole_tokenizer(LARGE_V3),
            "generation_config.json": {"task_to_id": {"translate": 50358, "transcribe": 50359}},
        },
        *(51866, 128, ["generation_config.json gives '<|translate|>' the id 50358", "tokenizer.json gives it 50359"]),
    ),
    "two tokenizers": (
        {"vocab.json": {**text_ids(ENGLISH), "<|endoftext|>": 50256}, "tokenizer.json": whole_tokenizer(MULTILINGUAL)},
        *(51865, 80, ["tokenizer.json gives '<|endoftext|>' the id 50257", "vocab.json gives it 50256"]),
    ),
    "the tokenizer of large-v2": (
        {"tokenizer.json": whole_tokenizer(MULTILINGUAL)},
        *(51866, 128, ["51865", "128 mel bins", "51866"]),
    ),
    "the tokenizer of large-v3": ({"tokenizer.json": whole_tokenizer(LARGE_V3)}, 51865, 80, ["51866", "51865"]),
    "no rows for the times": ({"vocab.json": text_ids(MULTILINGUAL)}, 51864, 80, ["51865", "51864"]),
    "no row for a token": (
        {"tokenizer.json": whole_tokenizer(MULTILINGUAL, {"abcabc": 51865})},
        *(51865, 80, ["'abcabc'", "51865", "0 to 51864"]),
    ),
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_contradictions_are_refused_with_both_numbers(tmp_path: Path, kind: str) -> None:
    files, n_rows, n_mels, expected = CONTRADICTIONS[kind]
    message = refused(tmp_path / "m", n_rows, n_mels, ModelError, files=files)
    assert all(text in message for text in expected), message


def test_an_embedding_of_another_size_than_the_configuration(tmp_path: Path) -> None:
    stored = weights(MICRO._replace(n_vocab=51880), "f16")
    files = {"tokenizer.json": whole_tokenizer(MULTILINGUAL)}
    message = refused(tmp_path / "m", 51872, error=ModelFormatError, files=files, tensors=stored)
    assert "51880" in message and "51872" in message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("generation_config.json", {"lang_to_id": [50259]}),
        ("generation_config.json", {"lang_to_id": {"<|en|>": "50259"}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"first": {"content": "<|en|>"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"50259": {"content": 7}}}),
        ("tokenizer.json", tokenizer_json({}, {"<|en|>": -1})),
        ("tokenizer.json", {"added_tokens": {}, "model": {"vocab": {}}}),
        ("tokenizer.json", {"added_tokens": [7], "model": {"vocab": {}}}),
    ],
)
def test_damaged_lists_of_tokens_are_named(tmp_path: Path, name: str, content: object) -> None:
    assert name in refused(tmp_path / "m", 51865, error=ModelFormatError, files={name: content})


# ---- Names of weights ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def micro() -> dict[str, Stored]:
    return weights(MICRO, "f16")


@pytest.mark.parametrize("inner", ["", "model."])
@pytest.mark.parametrize("outer", ["base_model.model.", "whisper.", "module.", "_orig_mod.module.whisper."])
def test_weights_under_other_prefixes_are_recognised(
    tmp_path: Path, micro: dict[str, Stored], outer: str, inner: str
) -> None:
    plain = open_huggingface(write_folder(tmp_path / "plain", MICRO, micro))
    folder = write_folder(tmp_path / "m", MICRO, {})
    named = {f"{outer}{inner}{name}": tensor for name, tensor in micro.items()}
    named[f"{outer}proj_out.weight"] = micro[EMBEDDING]
    (folder / "model.safetensors").write_bytes(raw_safetensors(named))
    source = open_huggingface(folder)
    assert source.dims == plain.dims and source.notes == []
    for one, other in zip(plain.tensors, source.tensors):
        assert one.name == other.name and one.read_rows(0, one.n_rows) == other.read_rows(0, one.n_rows)


def test_an_output_layer_is_there_once(tmp_path: Path, micro: dict[str, Stored]) -> None:
    folder = write_folder(tmp_path / "m", MICRO, {})
    twice = {"proj_out.weight": micro[EMBEDDING], "whisper.proj_out.weight": micro[EMBEDDING]}
    (folder / "model.safetensors").write_bytes(raw_safetensors({**micro, **twice}))
    with pytest.raises(ModelFormatError, match="second time"):
        open_huggingface(folder)


@pytest.mark.parametrize(
    "name",
    [
        "encoder.layers.0.self_attn.q_proj.lora_A.default.weight",
        "encoder.layers.0.self_attn.q_proj.base_layer.weight",
        "decoder.embed_tokens.lora_embedding_B.default",
        "proj_out.modules_to_save.default.weight",
    ],
)
def test_an_adapter_that_was_not_merged_is_refused(tmp_path: Path, micro: dict[str, Stored], name: str) -> None:
    folder = write_folder(
        tmp_path / "m", MICRO, {**micro, name: micro["encoder.conv1.bias"]}, prefix="base_model.model."
    )
    with pytest.raises(UnsupportedModelError, match="merge it into its base model first"):
        open_huggingface(folder)


# ---- Other formats ---------------------------------------------------------------------------------------------------


def checkpoint(path: Path, n_rows: int, **dims: int) -> Path:
    """``n_rows`` in the embedding, whatever the dimensions say."""
    own = MICRO._replace(n_mels=dims.get("n_mels", 80))
    state = {name: np.zeros(shape, np.float16) for name, shape in expected_shapes(own._replace(n_vocab=n_rows)).items()}
    return write_checkpoint(path, {**own._asdict(), **dims}, state)


def test_a_padded_checkpoint_is_what_its_dimensions_say(tmp_path: Path) -> None:
    for n_vocab in KINDS:
        source = open_openai(checkpoint(tmp_path / "a.pt", 51968, n_vocab=n_vocab))
        assert source.dims.n_vocab == n_vocab and f"{51968 - n_vocab} of 51968 rows" in source.notes[0]
    source = open_openai(checkpoint(tmp_path / "v3.pt", 51968, n_vocab=51968, n_mels=128))
    assert source.dims.n_vocab == LARGE_V3
    with pytest.raises(UnsupportedModelError, match=r"n_vocab is 51968.*51864 \(English\) or 51865"):
        open_openai(checkpoint(tmp_path / "b.pt", 51968, n_vocab=51968))
    with pytest.raises(ModelFormatError, match="token_embedding"):
        open_openai(checkpoint(tmp_path / "c.pt", 51864, n_vocab=51865))


def test_a_ggml_file_of_english_text_and_a_multilingual_size_is_refused(tmp_path: Path) -> None:
    """Converters that go by the size alone make such files of English fine-tunes."""
    path = write_random_model(tmp_path / "m.bin", "micro", vocabulary=real_vocabulary(ENGLISH))
    with pytest.raises(ModelFormatError, match=r"n_vocab is 51865.*n_vocab 51864") as caught:
        read_model_file(path)
    assert path.read_bytes()[caught.value.offset + 4 :].startswith(b"<|endoftext|>")


def test_the_hub_is_asked_for_every_file_that_decides() -> None:
    names = {"config.json", "generation_config.json", "vocab.json", "added_tokens.json", "tokenizer.json"}
    assert {*names, "tokenizer_config.json"} <= set(snapshots._SMALL_FILES)


# ---- From the folder to the text -------------------------------------------------------------------------------------


def grown(folder: Path, to: Path, n_rows: int, tokenizer: Mapping[str, Any], prefix: str = "") -> Path:
    """A copy of a folder that we wrote, with more rows in the embedding."""
    to.mkdir()
    shutil.copy(folder / "preprocessor_config.json", to)
    config = json.loads((folder / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, "vocab_size": n_rows}))
    (to / "tokenizer.json").write_text(json.dumps(tokenizer))
    tensors = {}
    for name, tensor in read_safetensors(folder / "model.safetensors").items():
        data, shape = tensor.read_rows(0, prod(tensor.shape[:-1])), tensor.shape
        if name == f"model.{EMBEDDING}":
            row = len(data) // shape[0]
            data, shape = data + data[:row] * (n_rows - shape[0]), (n_rows, shape[1])
        tensors[prefix + name] = Stored(tensor.type.upper(), shape, data)
    (to / "model.safetensors").write_bytes(raw_safetensors(tensors))
    return to


VARIANTS = {
    "one token": (1, {"<|speaker|>": 0}, ""),
    "padded": (40, {}, ""),
    "prefixed": (0, {}, "base_model.model."),
}


@pytest.mark.parametrize("kind", VARIANTS)
def test_an_english_fine_tune_says_what_the_plain_model_says(
    tmp_path: Path, sample_path: Path, sample_text: str, kind: str
) -> None:
    n_more, added, prefix = VARIANTS[kind]
    convert_model(data_file("assets/ggml-nano.en.bin"), tmp_path / "folder", to="safetensors", n_threads=1)
    tokenizer = whole_tokenizer(ENGLISH, {token: ENGLISH + i for token, i in added.items()})
    folder = grown(tmp_path / "folder", tmp_path / "tune", ENGLISH + n_more, tokenizer, prefix)
    plain = convert_model(tmp_path / "folder", tmp_path / "plain.bin", type="q8_0", proof="tensors")
    tuned = convert_model(folder, tmp_path / "tuned.bin", type="q8_0", proof="tensors")
    assert tuned.sha256 == plain.sha256
    assert any("Left out" in note for note in tuned.notes) == (n_more > 0)
    with WhisperModel(tuned.path, device="cpu") as model:
        assert not model.is_multilingual and model.dims["n_vocab"] == ENGLISH
        assert model.transcribe(sample_path, beam_size=1).text.strip() == sample_text


@pytest.mark.parametrize("n_vocab", [MULTILINGUAL, LARGE_V3])
def test_a_multilingual_fine_tune_keeps_its_languages(tmp_path: Path, n_vocab: int) -> None:
    dims = PRESETS["micro"]._replace(n_vocab=n_vocab, n_mels=dims_of(n_vocab).n_mels)
    write_random_model(tmp_path / "m.bin", dims)
    convert_model(tmp_path / "m.bin", tmp_path / "folder", to="safetensors", n_threads=1)
    tokenizer = whole_tokenizer(n_vocab, {"<|speaker|>": n_vocab})
    folder = grown(tmp_path / "folder", tmp_path / "tune", n_vocab + 1, tokenizer)
    plain = convert_model(tmp_path / "folder", tmp_path / "plain.bin", type="q8_0", proof="tensors")
    tuned = convert_model(folder, tmp_path / "tuned.bin", type="q8_0", proof="tensors")
    assert tuned.sha256 == plain.sha256
    file = read_model_file(tuned.path)
    assert file.is_multilingual and file.n_languages == (100 if n_vocab == LARGE_V3 else 99)
    assert file.hparams["n_vocab"] == n_vocab
