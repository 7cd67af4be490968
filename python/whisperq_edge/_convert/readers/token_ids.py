"""Which Whisper the ids of a model's tokens are of, and the rows of its token embedding that have a meaning there.

The ggml format has no list of special tokens: languages, tasks and times follow from ``n_vocab``, one of three numbers.
A fine-tune with one token more than the English Whisper has the size of the multilingual one. So the ids that its files
list decide which of the three it is, and rows behind the last of Whisper's own tokens are left out.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Optional

from ..._errors import ModelFormatError, UnsupportedModelError
from ..._whisper.dims import (
    ENGLISH_VOCAB,
    MULTILINGUAL_VOCAB,
    WITH_CANTONESE_VOCAB,
    Dims,
    n_language_tokens,
    n_text_tokens,
)
from ..._whisper.tokenizer import special_names
from ..._whisper.vocabulary import END_OF_TEXT, known_vocabulary
from .source import SourceTensor, shown

__all__ = ["KINDS", "Claim", "Kind", "Listing", "choose_kind", "fit_tokens", "keep_rows", "text_claim"]

_LOG = logging.getLogger("whisperq_edge")


class Kind(NamedTuple):
    """One of the three layouts that Whisper's ids have."""

    name: str
    n_vocab: int
    n_text: int
    n_languages: int


ENGLISH = Kind("English", ENGLISH_VOCAB, n_text_tokens(False), n_language_tokens(ENGLISH_VOCAB))
MULTILINGUAL = Kind("multilingual", MULTILINGUAL_VOCAB, n_text_tokens(True), n_language_tokens(MULTILINGUAL_VOCAB))
LARGE_V3 = Kind(
    "multilingual of large-v3", WITH_CANTONESE_VOCAB, n_text_tokens(True), n_language_tokens(WITH_CANTONESE_VOCAB)
)
KINDS = (ENGLISH, MULTILINGUAL, LARGE_V3)

_LARGE_V3_MELS = 128  # every published model of 51866 tokens has 128 mel bins, and no other has
_EMBEDDING = "decoder.token_embedding.weight"
# Names that published tokenizers have for a token of openai/whisper: Hebrew was iw first, and is so in English ones.
_OTHER_NAMES = {"<|nocaptions|>": "<|nospeech|>", "<|iw|>": "<|he|>", "<|jv|>": "<|jw|>"}
_TIME = re.compile(r"<\|\d+\.\d\d\|>")
_MOST_NAMES = 12
_PUT_FILES = "put the tokenizer files, generation_config.json and config.json of this very model there"


@functools.cache
def _special_ids(kind: Kind) -> dict[str, int]:
    ids = {name: kind.n_text + i for i, name in enumerate(special_names(kind.n_languages))}
    return {**ids, **{other: ids[name] for other, name in _OTHER_NAMES.items()}}


@functools.cache
def _known_names() -> frozenset[str]:
    return frozenset(name for kind in KINDS for name in _special_ids(kind))


class Claim(NamedTuple):
    """An id that a file gives to a special token.

    Attributes:
        where: the file, and the field where the file has several.
        is_default: transformers writes this number where nobody set one, so it proves nothing alone.
    """

    token: str
    id: int
    where: str
    is_default: bool = False


@dataclass
class Listing:
    """What the files beside the weights say about ids.

    Attributes:
        claims: ids of special tokens, the most trusted file first.
        tokens: id and file of every token that is listed, text aside.
        is_multilingual: the flag of ``generation_config.json``, or None.
    """

    claims: list[Claim] = field(default_factory=list)
    tokens: dict[str, tuple[int, str]] = field(default_factory=dict)
    is_multilingual: Optional[bool] = None

    def add(self, token: str, number: int, path: Path) -> None:
        """Take a token from a file.

        Raises:
            UnsupportedModelError: another file gives the token another id.
        """
        known, file = self.tokens.setdefault(token, (number, path.name))
        if known != number:
            raise UnsupportedModelError(
                f"{path} gives {shown(token)} the id {number}, but {file} gives it {known}: {_PUT_FILES}"
            )
        if token in _known_names():
            self.claims.append(Claim(token, number, path.name))


# ---- The kind --------------------------------------------------------------------------------------------------------


def text_claim(tokens: Mapping[int, bytes], where: str) -> Optional[Claim]:
    """Return where the text ends in the Whisper whose text tokens these mostly are; None for other tokens."""
    for kind in (ENGLISH, MULTILINGUAL):
        known = known_vocabulary(kind.n_vocab)[: ENGLISH.n_text]
        if 2 * sum(tokens.get(number) == token for number, token in enumerate(known)) > len(known):
            return Claim(END_OF_TEXT, kind.n_text, f"the text of {where}")
    return None


def choose_kind(path: Path, n_rows: int, n_mels: int, listing: Listing, notes: list[str]) -> Kind:
    """Return the layout that the listed ids have; without ids the one that the size of the embedding says.

    Args:
        path: of the model, for messages.
        n_rows: of the token embedding.
        n_mels: mel bins.
        listing: what the files say.
        notes: gets a sentence for every claim that was not believed.

    Raises:
        UnsupportedModelError: the ids are those of no Whisper, contradict each other, or leave several open.
    """
    kinds = _believe(path, [claim for claim in listing.claims if not claim.is_default])
    kinds = _heed_flag(path, kinds, listing.is_multilingual, notes)
    kinds = _heed_defaults(path, n_rows, kinds, [claim for claim in listing.claims if claim.is_default], notes)
    large_enough = [kind for kind in kinds if kind.n_vocab <= n_rows]
    if not large_enough:
        least = kinds[0]
        raise UnsupportedModelError(
            f"{path}: its ids are those of Whisper's {least.n_vocab} tokens ({least.name}), but n_vocab is {n_rows}:"
            f" {_PUT_FILES}"
        )
    kind = _by_size(path, n_rows, n_mels, large_enough, is_guess=len(kinds) == len(KINDS))
    if kind is not LARGE_V3 and n_mels == _LARGE_V3_MELS and n_rows >= LARGE_V3.n_vocab:
        raise UnsupportedModelError(
            f"{path}: its ids are those of Whisper's {kind.n_vocab} tokens ({kind.name}), but its {n_mels} mel bins and"
            f" n_vocab of {n_rows} are those of large-v3, which has {LARGE_V3.n_vocab}: {_PUT_FILES}"
        )
    return kind


def _fits(kind: Kind, claim: Claim) -> bool:
    """Whether the kind has the token at this id. A token that it lacks may have been added behind its own."""
    expected = _special_ids(kind).get(claim.token)
    return claim.id >= kind.n_vocab if expected is None else claim.id == expected


def _believe(path: Path, claims: Sequence[Claim]) -> list[Kind]:
    """The kinds that agree with every claim."""
    kinds, deciding = list(KINDS), None
    for claim in claims:
        left = [kind for kind in kinds if _fits(kind, claim)]
        if not left:
            raise _contradiction(path, claim, deciding)
        if len(left) < len(kinds):
            deciding = claim
        kinds = left
    return kinds


def _contradiction(path: Path, claim: Claim, earlier: Optional[Claim]) -> UnsupportedModelError:
    begins = f"{path}: {claim.where} gives {shown(claim.token)} the id {claim.id}"
    agree = [] if earlier is None else [kind for kind in KINDS if _fits(kind, earlier)]
    if earlier is not None and any(_fits(kind, claim) for kind in KINDS):
        return UnsupportedModelError(
            f"{begins} ({_names(claim)}), but {earlier.where} gives {shown(earlier.token)} the id {earlier.id}"
            f" ({_names(earlier)}), where {shown(claim.token)} has {_places(claim.token, agree)}: {_PUT_FILES}, and add"
            " tokens behind Whisper's own only"
        )
    return UnsupportedModelError(
        f"{begins}; Whisper has it at {_places(claim.token, KINDS)}. Languages, tasks and times are found by their"
        " ids, so a model whose ids are shifted cannot be converted: add tokens behind Whisper's own only"
    )


def _places(token: str, kinds: Sequence[Kind]) -> str:
    found = sorted({_special_ids(kind)[token] for kind in kinds if token in _special_ids(kind)})
    return " or ".join(map(str, found)) or "no id"


def _names(claim: Claim) -> str:
    return " or ".join(kind.name for kind in KINDS if _fits(kind, claim))


def _heed_flag(path: Path, kinds: list[Kind], is_multilingual: Optional[bool], notes: list[str]) -> list[Kind]:
    """A flag says how the model is used; the ids say how it is laid out, so they win."""
    if is_multilingual is None:
        return kinds
    left = [kind for kind in kinds if (kind is not ENGLISH) == is_multilingual]
    if not left:
        flag = "true" if is_multilingual else "false"
        _warn(
            path,
            notes,
            f"generation_config.json has is_multilingual {flag}, but the ids are those of the {kinds[0].name} Whisper;"
            " the ids were believed.",
        )
    return left or kinds


def _heed_defaults(path: Path, n_rows: int, kinds: list[Kind], claims: Sequence[Claim], notes: list[str]) -> list[Kind]:
    """transformers' defaults are the ids of the English Whisper beside the size of the multilingual one. Old converters
    left them in the configuration of multilingual models."""
    if not claims or kinds == [ENGLISH]:
        return kinds
    if len(kinds) < len(KINDS):
        for claim in claims:
            ours = f"the other ids are those of the {kinds[0].name} Whisper and were believed"
            _warn(path, notes, f"{claim.where} is {claim.id}, transformers' default; {ours}.")
        return kinds
    if n_rows in (MULTILINGUAL.n_vocab, LARGE_V3.n_vocab):
        raise UnsupportedModelError(
            f"{path}: n_vocab is {n_rows}, as a multilingual Whisper has it, but {claims[0].where} is {claims[0].id},"
            f" as the English Whisper of {ENGLISH.n_vocab} tokens and transformers' defaults have it: {_PUT_FILES}"
        )
    return [ENGLISH]


def _by_size(path: Path, n_rows: int, n_mels: int, kinds: list[Kind], is_guess: bool) -> Kind:
    """The one of several kinds that the size of the embedding and the mel bins say."""
    if len(kinds) == 1:
        return kinds[0]
    if LARGE_V3 in kinds and n_mels == _LARGE_V3_MELS:
        return LARGE_V3
    if kinds == [MULTILINGUAL, LARGE_V3]:
        return MULTILINGUAL
    if is_guess and n_rows == MULTILINGUAL.n_vocab:
        return MULTILINGUAL
    sizes = " or ".join(f"{kind.n_vocab} ({kind.name})" for kind in kinds)
    raise UnsupportedModelError(
        f"{path}: n_vocab is {n_rows}, and nothing there says how many of them are Whisper's own: {sizes}. Other"
        f" tokens were added, or rows to pad with: {_PUT_FILES}"
    )


# ---- Tokens and rows -------------------------------------------------------------------------------------------------


def fit_tokens(path: Path, kind: Kind, n_rows: int, listing: Listing, notes: list[str]) -> None:
    """Check that every listed token lies where the kind has it, and say which rows are left out.

    Raises:
        ModelFormatError: an id for which the embedding has no row.
        UnsupportedModelError: a token of another meaning has the id of one of Whisper's special tokens.
    """
    names = special_names(kind.n_languages)
    for token, (number, file) in listing.tokens.items():
        if not 0 <= number < n_rows:
            raise ModelFormatError(
                str(path / file), 0, f"id of token {shown(token)}", str(number), f"0 to {n_rows - 1}"
            )
        if kind.n_text <= number < kind.n_vocab and _special_ids(kind).get(token) != number:
            raise UnsupportedModelError(
                f"{path / file}: the token {shown(token)} has the id {number}, where Whisper ({kind.name},"
                f" {kind.n_vocab} tokens) has {names[number - kind.n_text]}: add tokens behind Whisper's own, from"
                f" {kind.n_vocab} on, or remove the token from the tokenizer's files if the model never learnt it"
            )
    if n_rows > kind.n_vocab:
        _tell_left_out(path, kind, n_rows, listing, notes)


def _tell_left_out(path: Path, kind: Kind, n_rows: int, listing: Listing, notes: list[str]) -> None:
    """Nobody misses padding. A token that a fine-tune learnt is missed, so it is a warning as well."""
    added = sorted((number, token) for token, (number, _) in listing.tokens.items() if number >= kind.n_vocab)
    added = [(number, token) for number, token in added if not _TIME.fullmatch(token)]  # CTranslate2 names padding so
    n_padding = n_rows - kind.n_vocab - len({number for number, _ in added})
    if added:
        names = ", ".join(f"{shown(token)} ({number})" for number, token in added[:_MOST_NAMES])
        more = f" and {len(added) - _MOST_NAMES} more" if len(added) > _MOST_NAMES else ""
        lost = (
            f"Left out, as the format has no place for tokens behind Whisper's {kind.n_vocab} ({kind.name}): {names}"
            f"{more}. The converted model can neither say them nor be prompted with them."
        )
        _warn(path, notes, lost)
    if n_padding:
        padding = (
            f"Left out: {n_padding} of {n_rows} rows of the token embedding. No file lists tokens for them, so they"
            f" count as padding behind Whisper's {kind.n_vocab} ({kind.name})."
        )
        if listing.tokens:
            notes.append(padding)
        else:  # no tokenizer is there to say whether they are
            _warn(path, notes, padding)


def _warn(path: Path, notes: list[str], sentence: str) -> None:
    """Put a sentence into the report and into the log, because a model that is opened by its path has no report."""
    notes.append(sentence)
    _LOG.warning("%s: %s", path, sentence)


def keep_rows(tensors: Iterable[SourceTensor], dims: Dims, n_rows: int) -> list[SourceTensor]:
    """Return the tensors, the token embedding cut to the rows that ``dims`` has.

    Raises:
        ModelFormatError: the embedding has not the ``n_rows`` that the model's files say.
    """
    kept = []
    for tensor in tensors:
        if tensor.name == _EMBEDDING and len(tensor.shape) == 2:
            if tensor.shape[0] != n_rows:
                raise ModelFormatError(*tensor.where, f"{_EMBEDDING} rows", str(tensor.shape[0]), f"{n_rows}, n_vocab")
            scales = None if tensor.row_scales is None else tensor.row_scales[: dims.n_vocab]
            tensor = replace(tensor, shape=(dims.n_vocab, tensor.shape[1]), row_scales=scales)
        kept.append(tensor)
    return kept
