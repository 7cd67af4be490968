"""Quantised ggml files that whisper.cpp's authors publish, with their hashes: what a plain name stands for.

A published name means one file, so that the same command gives the same weights wherever it runs and whichever extras
are installed. It is the file in 8 bits, else in 5 bits, because float weights are twice to six times as large and no
more accurate in words (docs/quantisation.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

__all__ = ["PUBLISHED", "REPOSITORY", "PublishedFile", "find_published", "published_type"]

REPOSITORY = "ggerganov/whisper.cpp"
"""On the Hugging Face hub."""


@dataclass(frozen=True)
class PublishedFile:
    """A file of the repository.

    Attributes:
        model: its name in ``MODELS``.
        type: of the matrices.
        n_bytes: its size.
        sha1: its hash, from whisper.cpp's own list of models.
    """

    model: str
    type: str
    n_bytes: int
    sha1: str

    @property
    def name(self) -> str:
        return f"ggml-{self.model}-{self.type}.bin"


PUBLISHED: tuple[PublishedFile, ...] = (
    PublishedFile("tiny", "q8_0", 43_537_433, "19e8118f6652a650569f5a949d962154e01571d9"),
    PublishedFile("tiny", "q5_1", 32_152_673, "2827a03e495b1ed3048ef28a6a4620537db4ee51"),
    PublishedFile("tiny.en", "q8_0", 43_550_795, "802d6668e7d411123e672abe4cb6c18f12306abb"),
    PublishedFile("tiny.en", "q5_1", 32_166_155, "3fb92ec865cbbc769f08137f22470d6b66e071b6"),
    PublishedFile("base", "q8_0", 81_768_585, "7bb89bb49ed6955013b166f1b6a6c04584a20fbe"),
    PublishedFile("base", "q5_1", 59_707_625, "a3733eda680ef76256db5fc5dd9de8629e62c5e7"),
    PublishedFile("base.en", "q8_0", 81_781_811, "bb1574182e9b924452bf0cd1510ac034d323e948"),
    PublishedFile("base.en", "q5_1", 59_721_011, "d26d7ce5a1b6e57bea5d0431b9c20ae49423c94a"),
    PublishedFile("small", "q8_0", 264_464_607, "bcad8a2083f4e53d648d586b7dbc0cd673d8afad"),
    PublishedFile("small", "q5_1", 190_085_487, "6fe57ddcfdd1c6b07cdcc73aaf620810ce5fc771"),
    PublishedFile("small.en", "q8_0", 264_477_561, "9d75ff4ccfa0a8217870d7405cf8cef0a5579852"),
    PublishedFile("small.en", "q5_1", 190_098_681, "20f54878d608f94e4a8ee3ae56016571d47cba34"),
    PublishedFile("medium", "q8_0", 823_369_779, "e66645948aff4bebbec71b3485c576f3d63af5d6"),
    PublishedFile("medium", "q5_0", 539_212_467, "7718d4c1ec62ca96998f058114db98236937490e"),
    PublishedFile("medium.en", "q8_0", 823_382_461, "b1cf48c12c807e14881f634fb7b6c6ca867f6b38"),
    PublishedFile("medium.en", "q5_0", 539_225_533, "bb3b5281bddd61605d6fc76bc5b92d8f20284c3b"),
    PublishedFile("large-v2", "q8_0", 1_656_129_691, "da97d6ca8f8ffbeeb5fd147f79010eeea194ba38"),
    PublishedFile("large-v2", "q5_0", 1_080_732_091, "00e39f2196344e901b3a2bd5814807a769bd1630"),
    PublishedFile("large-v3", "q5_0", 1_081_140_203, "e6e2ed78495d403bef4b7cff42ef4aaadcfea8de"),
    PublishedFile("large-v3-turbo", "q8_0", 874_188_075, "01bf15bedffe9f39d65c1b6ff9b687ea91f59e0e"),
    PublishedFile("large-v3-turbo", "q5_0", 574_041_195, "e050f7970618a659205450ad97eb95a18d69c9ee"),
)
"""The preferred file of each model first. large-v1 and the distilled models are published in float only."""


def find_published(model: str, type: str) -> Optional[PublishedFile]:
    """Return the published file of a model in a type, or None."""
    return next((file for file in PUBLISHED if (file.model, file.type) == (model, type)), None)


def published_type(model: str) -> Optional[str]:
    """Return the type that a model's plain name stands for; None: no quantised file of it is published."""
    return next((file.type for file in PUBLISHED if file.model == model), None)
