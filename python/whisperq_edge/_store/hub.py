"""The Hugging Face hub's environment variables and the layout of its cache, without its package and without network.

::

    <cache>/models--openai--whisper-base/refs/main              the commit that the branch was at when it was fetched
    <cache>/models--openai--whisper-base/snapshots/<commit>/    links to the files of that commit
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional, Union

__all__ = ["cached_snapshot", "hub_cache", "hub_endpoint", "hub_token", "is_offline"]

PathLike = Union[str, "os.PathLike[str]"]

_TRUE = {"1", "ON", "YES", "TRUE"}


def hub_endpoint() -> str:
    """Return ``$HF_ENDPOINT``, else the hub's own address, without a slash at its end."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def hub_token() -> Optional[str]:
    """Return the access token of ``$HF_TOKEN``, or None."""
    return (os.environ.get("HF_TOKEN") or "").strip() or None


def is_offline() -> bool:
    """Tell whether ``$HF_HUB_OFFLINE``, or ``$TRANSFORMERS_OFFLINE`` in its place, forbids the network."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in _TRUE


def hub_cache() -> Path:
    """Return the folder in which the hub's package keeps what it fetched. It may not exist."""
    chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    home = os.environ.get("HF_HOME")
    if home:
        return Path(home).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"


def cached_snapshot(
    repo_id: str, revision: Optional[str] = None, cache_dir: Optional[PathLike] = None
) -> Optional[Path]:
    """Return the folder of a repository's files as far as they were fetched; None: nothing of it is there.

    Args:
        repo_id: "owner/name".
        revision: branch, tag or commit; None for the main branch.
        cache_dir: None for :func:`hub_cache`.
    """
    revision = revision or "main"
    if ".." in revision or ".." in repo_id:  # would lead out of the cache
        return None
    folder = (Path(cache_dir) if cache_dir else hub_cache()) / f"models--{repo_id.replace('/', '--')}"
    try:
        commit = (folder / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        commit = revision
    snapshot = folder / "snapshots" / commit
    return snapshot if commit and snapshot.is_dir() else None
