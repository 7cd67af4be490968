"""Files of transformers that list tokens: ``vocab.json``, ``tokenizer.json``, ``generation_config.json`` and others.

Each of them may be missing. Text tokens come from the first that has them; ids of special tokens come from all, so that
a contradiction is found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from ..._errors import ModelFormatError, UnsupportedModelError
from ..._whisper.dims import n_text_tokens
from ..._whisper.vocabulary import END_OF_TEXT, LEAST_TOKENS, token_bytes
from .safetensors import parse_json_object, shown
from .token_ids import Claim, Kind, Listing, text_claim

__all__ = ["TokenizerFiles", "read_json", "read_tokenizer_files"]

_MOST_JSON_BYTES = 64 * 2**20  # tokenizer.json of large-v3 has 4 MB
_SPECIAL = re.compile(r"<\|.*\|>", re.DOTALL)

# Fields that hold the id of one token, and what transformers writes where nobody set them: ids of the English Whisper.
_FIELDS = {"eos_token_id": END_OF_TEXT, "decoder_start_token_id": "<|startoftranscript|>"}
_DEFAULTS = {"eos_token_id": n_text_tokens(False), "decoder_start_token_id": n_text_tokens(False) + 1}
_GENERATION_FIELDS = {"no_timestamps_token_id": "<|notimestamps|>", "prev_sot_token_id": "<|startofprev|>"}


@dataclass
class TokenizerFiles:
    """What the files of one folder hold.

    Attributes:
        listing: what they say about ids.
        files: that were read, in a fixed order.
        text: id of each token that stands for text, or None where no file has them.
        text_path: the file that it is from.
    """

    listing: Listing = field(default_factory=Listing)
    files: list[Path] = field(default_factory=list)
    text: Optional[dict[str, object]] = None
    text_path: Path = Path()

    def text_tokens(self, kind: Kind) -> Optional[list[bytes]]:
        """Return the bytes of each text token by id, 50257 of them as :func:`.known_vocabulary` has them.

        Raises:
            ModelFormatError: a token is missing, or stands for no bytes.
            UnsupportedModelError: fewer tokens than Whisper has.
        """
        if self.text is None:
            return None
        by_id: dict[int, bytes] = {}
        for token, number in self.text.items():
            if type(number) is not int or number >= kind.n_text or _SPECIAL.fullmatch(token):
                continue
            text = token_bytes(token)
            if text is None:
                raise self._wrong(f"token {number}", shown(token), "one of GPT-2's characters for each byte")
            by_id[number] = text
        if kind.n_text == LEAST_TOKENS + 1:
            by_id.setdefault(LEAST_TOKENS, b"")  # the empty token, which not every tokenizer lists
        return self._whole_text(by_id, kind)

    def _whole_text(self, by_id: Mapping[int, bytes], kind: Kind) -> list[bytes]:
        missing = next((number for number in range(kind.n_text) if number not in by_id), None)
        if missing is None:
            text = [by_id[number] for number in range(kind.n_text)]
            return text if kind.n_text > LEAST_TOKENS else [*text, END_OF_TEXT.encode()]
        if max(by_id, default=-1) < missing:
            raise UnsupportedModelError(
                f"{self.text_path}: {len(by_id)} text tokens; a Whisper model with n_vocab {kind.n_vocab} has"
                f" {kind.n_text}"
            )
        raise self._wrong(f"token {missing}", "missing", f"text tokens with ids 0 to {kind.n_text - 1}")

    def _wrong(self, field_name: str, value: str, allowed: str) -> ModelFormatError:
        return ModelFormatError(str(self.text_path), 0, field_name, value, allowed)


def read_json(path: Path) -> dict[str, object]:
    """Return the JSON object in a file.

    Raises:
        ModelFormatError: too large, or no JSON object.
    """
    with open(path, "rb") as file:
        data = file.read(_MOST_JSON_BYTES + 1)
    if len(data) > _MOST_JSON_BYTES:
        raise ModelFormatError(str(path), 0, "file size", f"more than {_MOST_JSON_BYTES} bytes", "a file of JSON")
    return parse_json_object(data, path)


def read_tokenizer_files(folder: Path, config: Optional[Mapping[str, object]] = None) -> TokenizerFiles:
    """Read all files of a folder that list ids. The most trusted come first: text, tokenizer, generation, model.

    Args:
        folder: of the model.
        config: content of its ``config.json``; None where that has no ids of tokens.

    Raises:
        ModelFormatError: a file is damaged, or gives a token another id than a file before.
    """
    found = TokenizerFiles()
    _read_vocab(folder, found)
    _read_tokenizer(folder, found)
    _read_tokenizer_config(folder, found)
    _claim_text(found)
    path = folder / "generation_config.json"
    if path.is_file():
        found.files.append(path)
        _claim_generation(read_json(path), path, found.listing)
    if config is not None:
        _claim_fields(config, _FIELDS, folder / "config.json", found.listing)
    return found


def _read_vocab(folder: Path, found: TokenizerFiles) -> None:
    vocab, added = folder / "vocab.json", folder / "added_tokens.json"
    if not vocab.is_file():
        return
    found.files.append(vocab)
    found.text, found.text_path = _text_of(read_json(vocab), vocab, found.listing), vocab
    if added.is_file():
        found.files.append(added)
        for token, number in read_json(added).items():
            if found.text.setdefault(token, number) != number:
                raise ModelFormatError(
                    str(added),
                    0,
                    f"token {shown(token)}",
                    shown(number),
                    f"{shown(found.text[token])}, as in {vocab.name}",
                )
            found.listing.add(token, _id(token, number, added), added)


def _read_tokenizer(folder: Path, found: TokenizerFiles) -> None:
    path = folder / "tokenizer.json"
    if not path.is_file():
        return
    found.files.append(path)
    content = read_json(path)
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or not isinstance(model.get("vocab"), dict):
        raise ModelFormatError(str(path), 0, "model", shown(model), "a BPE model with a vocab")
    text = _text_of(model["vocab"], path, found.listing)
    if found.text is None:
        found.text, found.text_path = text, path
    for entry in _list(content.get("added_tokens"), path, "added_tokens"):
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise ModelFormatError(str(path), 0, "added_tokens", shown(entry), "objects with content and id")
        found.listing.add(entry["content"], _id(entry["content"], entry.get("id"), path), path)


def _read_tokenizer_config(folder: Path, found: TokenizerFiles) -> None:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    found.files.append(path)
    for number, entry in _object(read_json(path), "added_tokens_decoder", path).items():
        if not re.fullmatch("[0-9]{1,9}", number) or not isinstance(entry, dict):
            raise ModelFormatError(str(path), 0, "added_tokens_decoder", shown(number), "objects by their ids")
        token = entry.get("content")
        if not isinstance(token, str):
            raise ModelFormatError(str(path), 0, f"added_tokens_decoder {number}", shown(token), "a content")
        found.listing.add(token, int(number), path)


def _text_of(vocab: Mapping[str, object], path: Path, listing: Listing) -> dict[str, object]:
    """The tokens with sound ids, those behind the text put into the listing as well."""
    seen: set[int] = set()
    for token, value in vocab.items():
        number = _id(token, value, path)
        if number in seen:
            raise ModelFormatError(str(path), 0, f"id of token {shown(token)}", f"{number} again", "each id once")
        seen.add(number)
        if number >= LEAST_TOKENS or _SPECIAL.fullmatch(token):
            listing.add(token, number, path)
    return dict(vocab)


def _id(token: str, value: object, path: Path) -> int:
    if type(value) is not int or value < 0:
        raise ModelFormatError(str(path), 0, f"id of token {shown(token)}", shown(value), "a whole number from 0 on")
    return value


def _claim_text(found: TokenizerFiles) -> None:
    if found.text is None:
        return
    tokens = {
        number: token_bytes(token) or b""
        for token, number in found.text.items()
        if type(number) is int and number < LEAST_TOKENS
    }
    claim = text_claim(tokens, found.text_path.name)
    if claim is not None:
        found.listing.claims.insert(0, claim)


def _claim_generation(content: Mapping[str, object], path: Path, listing: Listing) -> None:
    for name, number in _object(content, "lang_to_id", path).items():
        listing.add(name, _id(name, number, path), path)
    for name, number in _object(content, "task_to_id", path).items():
        listing.add(f"<|{name}|>", _id(name, number, path), path)
    _claim_fields(content, {**_GENERATION_FIELDS, **_FIELDS}, path, listing)
    flag = content.get("is_multilingual")
    listing.is_multilingual = flag if isinstance(flag, bool) else None


def _claim_fields(content: Mapping[str, object], fields: Mapping[str, str], path: Path, listing: Listing) -> None:
    """Lists of ids (several tokens may end a text) and null say nothing."""
    for name, token in fields.items():
        number = content.get(name)
        if type(number) is int:
            listing.claims.append(Claim(token, number, f"{path.name} {name}", number == _DEFAULTS.get(name)))


def _object(content: Mapping[str, object], name: str, path: Path) -> Mapping[str, object]:
    value = content.get(name)
    if value is not None and not isinstance(value, dict):
        raise ModelFormatError(str(path), 0, name, shown(value), "an object")
    return value or {}


def _list(value: object, path: Path, name: str) -> list[object]:
    if value is not None and not isinstance(value, list):
        raise ModelFormatError(str(path), 0, name, shown(value), "a list")
    return value or []
