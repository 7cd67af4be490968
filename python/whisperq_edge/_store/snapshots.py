"""Models of the Hugging Face hub by their id, through the optional package ``huggingface_hub``.

A repository that is in the hub's cache is taken as it is there, without the package and without network. Whoever wants
a newer commit fetches it with the package's own command.

The package's own environment variables hold: ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``, ``HF_HOME``,
``HF_HUB_CACHE``, ``HF_HUB_DISABLE_PROGRESS_BARS``. It reads most of them when it is first imported.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, Optional, Union

from .._errors import ModelError, ModelNotFoundError
from . import converter
from .hub import cached_snapshot, hub_cache, is_offline

__all__ = ["download_model", "find_model_folder", "is_repo_id"]

# What the readers of transformers' and CTranslate2's folders open, the weights aside.
_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "vocab.json",
    "added_tokens.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocabulary.json",
    "vocabulary.txt",
    "adapter_config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
_VOCABULARIES = ("vocab.json", "tokenizer.json", "vocabulary.json", "vocabulary.txt")
_MODEL_FILE = (".bin", ".pt", ".pth", ".safetensors", ".gguf", ".ggml")
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO_ID = re.compile(f"{_PART}/{_PART}")
_LOCAL_TROUBLE = {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EDQUOT, errno.EFBIG}


def is_repo_id(text: str) -> bool:
    """Whether a text is the id of a hub repository ("owner/name") rather than a path.

    What exists here is a path, and so is the name of a model file that may have been misspelt.
    """
    if not _REPO_ID.fullmatch(text) or "--" in text or ".." in text:
        return False
    return not text.lower().endswith(_MODEL_FILE) and not os.path.exists(text)


def download_model(
    repo_id: str,
    *,
    revision: Optional[str] = None,
    cache_dir: Union[str, os.PathLike[str], None] = None,
    local_files_only: bool = False,
) -> Path:
    """The folder of a model on the hub, fetched into the hub's cache unless it is there.

    Only what the readers open is fetched, and one set of weights: ``model.safetensors``, else its shards, else
    ``pytorch_model.bin``, else its shards, else CTranslate2's ``model.bin``.

    Args:
        repo_id: "owner/name".
        revision: branch, tag or commit; None for the main branch.
        cache_dir: None for the hub's own cache.
        local_files_only: fetch nothing.

    Raises:
        ModelNotFoundError: ``huggingface_hub`` is not installed; there is no such repository or revision; access is
            refused; the hub cannot be reached (or must not: ``HF_HUB_OFFLINE``) and the cache lacks a file; the
            repository holds no weights that can be read.
        ModelFormatError: the list of the shards is damaged.
        UnsupportedModelError: the repository holds an adapter.
    """
    cached = find_model_folder(repo_id, revision=revision, cache_dir=cache_dir)
    if cached is not None:
        return cached
    fetch = _fetcher(repo_id, None if cache_dir is None else Path(cache_dir), local_files_only)
    folder = fetch([*_SMALL_FILES, "model.safetensors"], revision)
    commit = folder.name  # what follows is of the same commit, whatever is pushed meanwhile
    for names in _weight_files(folder):
        if not _has(folder, names):
            fetch([*_SMALL_FILES, *names], commit)
        if _has(folder, names):
            return folder
    converter.refuse_adapter(folder)
    raise ModelNotFoundError(
        f"{repo_id} at {_endpoint()} has no weights that can be read (model.safetensors, pytorch_model.bin or"
        f" CTranslate2's model.bin){_offline_note()}: for a .pt or ggml file, download that file and give its path"
    )


def find_model_folder(
    repo_id: str, *, revision: Optional[str] = None, cache_dir: Union[str, os.PathLike[str], None] = None
) -> Optional[Path]:
    """Return the folder of a model that is whole in the hub's cache, or None.

    Another program may have fetched a part of the repository: dimensions, a vocabulary and one set of weights must be
    there.

    Args:
        repo_id: "owner/name".
        revision: branch, tag or commit; None for the main branch.
        cache_dir: None for the hub's own cache.

    Raises:
        ModelFormatError: the list of the shards is damaged.
    """
    folder = cached_snapshot(repo_id, revision, cache_dir)
    if folder is None or not _has(folder, ["config.json"]) or not any(_has(folder, [name]) for name in _VOCABULARIES):
        return None
    return folder if any(_has(folder, names) for names in _weight_files(folder)) else None


def _weight_files(folder: Path) -> Iterator[Sequence[str]]:
    """Names of the files of each set of weights that may be there, the best first."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        yield [name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            yield sorted(set(converter.shard_names(index).values()))
    yield ["model.bin"]


def _has(folder: Path, names: Sequence[str]) -> bool:
    return all((folder / name).is_file() for name in names)


def _fetcher(
    repo_id: str, cache_dir: Optional[Path], local_files_only: bool
) -> Callable[[list[str], Optional[str]], Path]:
    """``(names, revision)`` -> the folder with those of the named files that the repository has."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        if local_files_only or is_offline():
            raise ModelNotFoundError(
                f"{cache_dir or hub_cache()} lacks {repo_id}, and nothing may be downloaded"
            ) from error
        raise ModelNotFoundError(
            f"{repo_id} is no path here, and to download it from the hub needs a package that is not installed:"
            " pip install 'whisperq-edge[hub]', or give the path of a model"
        ) from error

    def fetch(names: list[str], revision: Optional[str]) -> Path:
        where: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only}
        try:
            return Path(snapshot_download(repo_id, allow_patterns=names, **where))
        except (MemoryError, ModelError):
            raise
        except Exception as error:  # the package lets through what its HTTP library raises, and changed that library
            if isinstance(error, OSError) and error.errno in _LOCAL_TROUBLE:
                raise
            if local_files_only:
                raise ModelNotFoundError(
                    f"the hub's cache lacks a file of {repo_id}, and local_files_only lets none be downloaded"
                ) from error
            raise ModelNotFoundError(_explanation(error, repo_id, revision)) from error

    return fetch


def _constants() -> Any:
    from huggingface_hub import constants

    return constants


def _endpoint() -> str:
    return str(_constants().ENDPOINT)


def _offline_note() -> str:
    return " and HF_HUB_OFFLINE is set" if _constants().HF_HUB_OFFLINE else ""


def _explanation(error: Exception, repo_id: str, revision: Optional[str]) -> str:
    """What went wrong, where, and the next step."""
    from huggingface_hub import utils

    errors: Any = utils  # in every version the place of all of them, though it does not declare that
    where = f"{repo_id} at {_endpoint()}"
    chain = _causes(error)
    responses = [response for response in (getattr(cause, "response", None) for cause in chain) if response is not None]
    status = responses[0].status_code if responses else None
    if isinstance(error, errors.HFValidationError):
        return f"{repo_id!r} is no name of a model on the hub: give it as owner/name, or give a path that exists"
    if _constants().HF_HUB_OFFLINE:
        return (
            f"{where}: HF_HUB_OFFLINE is set and the cache lacks a file of it: run once without HF_HUB_OFFLINE, or give"
            " the path of a model"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{where} has no revision {revision!r}: give a branch, tag or commit that it has"
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return f"{where} is gated: accept its conditions at {_endpoint()}/{repo_id}, and {_token_step()}"
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        return f"{where} does not exist or is private: check the spelling; if it is private, {_token_step()}"
    if status is not None:
        return f"{where}: the hub answered {status}: try again later"
    reason = str(chain[-1]).strip().splitlines() or [type(chain[-1]).__name__]
    return f"{where} cannot be downloaded ({reason[0]}): check the network and HF_ENDPOINT, or give the path of a model"


def _causes(error: BaseException) -> list[BaseException]:
    """An error and what it was raised from: the package hides what the network said behind "not in the cache"."""
    chain = [error]
    while chain[-1].__cause__ is not None and chain[-1].__cause__ not in chain:
        chain.append(chain[-1].__cause__)
    return chain


def _token_step() -> str:
    from huggingface_hub import get_token

    if get_token() is None:
        return "set HF_TOKEN to an access token of your account"
    return "set HF_TOKEN to an access token of an account that may read it (the one in use may not)"
