"""From what a user calls a model to the ggml file to open: bundled, on disk, in the cache, or fetched and converted."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Optional, Union

from .._core import ModelFile, read_model_file
from .._errors import ModelNotFoundError, OptionError
from .._system.folders import cache_folder
from .._whisper.types import NEAREST_TYPES, TYPES, fitting_type, resolve_type
from . import converter, snapshots
from .cache import OnProgress, cached_model, fetched_model, find_cached, find_fetched, has_sha1
from .catalog import ALIASES, BUNDLED_MODELS, MODELS, CatalogModel, find_model, hub_id, resolve_model
from .fetch import Remote
from .hub import cached_snapshot, hub_endpoint, hub_token, is_offline
from .profile import find_profile, load_profiles
from .published import REPOSITORY, PublishedFile, find_published, published_type

__all__ = ["find_source", "locate_model"]

_LOG = logging.getLogger("whisperq_edge")

_OWN_TYPE = ("default", "auto")
_VARIABLES = ("WHISPERQ_COMPUTE_TYPE", "WL_COMPUTE_TYPE")
_CHECKPOINTS = (".pt", ".pth")
_TYPE_OF_OTHER_FORMATS = "f16"
"""What a source becomes that is no ggml file, when nothing else is asked for: next to exact, and the engine runs it."""

PathLike = Union[str, "os.PathLike[str]"]
Step = Callable[[str], object]


def locate_model(
    model: PathLike,
    compute_type: str = "default",
    *,
    local_files_only: bool = False,
    download_root: Optional[PathLike] = None,
    n_threads: int = 0,
    on_progress: Optional[OnProgress] = None,
) -> Path:
    """The ggml file to open. What is not there in the wanted type is fetched or converted once into the cache.

    A published name means the file that ``published`` names, whatever else is in the cache. It is taken from there,
    from the hub's cache, or fetched. Weights that are here already in another form are converted to its type instead,
    which gives the same values: the quantiser is the one that made the published file.

    Args:
        model: a bundled or published name, a path (a ggml file, an OpenAI ``.pt``, a folder of transformers or
            CTranslate2), or a hub id.
        compute_type: a type; ``default`` or ``auto`` is that of ``$WHISPERQ_COMPUTE_TYPE`` or its alias
            ``$WL_COMPUTE_TYPE``, else the ggml file's own, that of the published file for a name, and f16 for
            everything else. ``auto`` is what ``whisperq-edge tune`` chose for this shape and machine, where it did and
            no variable is set; a file that is quantised already stays what it is.
        local_files_only: fetch nothing.
        download_root: folder to fetch models into: published files under their names, repositories as the Hugging Face
            hub's cache has them. None: our cache, and the hub's own.
        n_threads: of a conversion; 0 takes every CPU that the process may use.
        on_progress: told what is fetched and the fraction of it that is there.

    Raises:
        OptionError: no such type, or one that gains nothing over what the file holds; a model that is no text and no
            path, or an empty one.
        ModelNotFoundError: no such model, or it is not here and must not or cannot be fetched.
        ModelError: see each subclass.
        OSError: the cache cannot be written.
    """
    wanted = _Wanted.from_option(compute_type)
    hub = _Hub(local_files_only, download_root, on_progress)
    name = _checked_name(model)
    known = find_model(name)
    if name in BUNDLED_MODELS:
        return _from_ggml(resolve_model(name), wanted, n_threads, known.name if known else None)
    path = Path(os.path.expanduser(name))  # unlike Path's own, it leaves a user who does not exist as it is
    if path.exists() and not (known and _is_unrelated_folder(path)):
        return _from_path(path, wanted, n_threads)
    return _from_name(name, known, wanted, hub, n_threads)


def find_source(name: str, step: Step, revision: Optional[str] = None) -> Path:
    """Return the file or folder of a bundled model, a published name or a hub id. For ``convert_model``.

    Args:
        name: no path that exists.
        step: told "download" before anything is fetched.
        revision: of a hub id; None for the main branch.

    Raises:
        ModelNotFoundError: no such model, or it cannot be fetched.
    """
    if name in BUNDLED_MODELS:
        return resolve_model(name)
    repository = hub_id(name) or (name if snapshots.is_repo_id(name) else None)
    if repository is None:
        raise ModelNotFoundError(
            f"there is no model {name!r}: give a file or folder that exists, a published name (whisperq-edge models"
            " lists them) or a hub id such as openai/whisper-base.en"
        )
    step("download")
    return snapshots.download_model(repository, revision=revision)


def _checked_name(model: object) -> str:
    """An empty text is refused: as a path it would be the current folder."""
    name = os.fspath(model) if isinstance(model, (str, os.PathLike)) else None
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise OptionError(
            "model_size_or_path", model, "the name of a model such as nano or base.en, a hub id, or a path, as text"
        )
    return name


@dataclass(frozen=True)
class _Wanted:
    """A type (None: whatever there is), what the user called it, and where: an option, a variable or a profile."""

    type: Optional[str]
    given: str = "default"
    field: str = "compute_type"
    is_auto: bool = False

    @classmethod
    def from_option(cls, compute_type: str) -> _Wanted:
        if compute_type not in _OWN_TYPE:
            return cls(_type_of(compute_type, "compute_type"), compute_type)
        for variable in _VARIABLES:
            value = os.environ.get(variable, "")
            if value and value not in _OWN_TYPE:
                return cls(_type_of(value, variable), value, variable)
        return cls(None, is_auto=compute_type == "auto")

    def tuned(self, hparams: Callable[[], Mapping[str, int]]) -> _Wanted:
        """With the type that was chosen for a model of these dimensions, which are asked for only if any was."""
        if not self.is_auto or not load_profiles():
            return self
        profile = find_profile(hparams())
        return self if profile is None else _Wanted(profile.chosen.type, profile.chosen.type, "tuned")

    def or_f16(self) -> str:
        """For a source of another format. No f32 file is made: whisper.cpp's convolution asserts an f16 kernel."""
        type = self.type or _TYPE_OF_OTHER_FORMATS
        if type == "f32":
            raise OptionError(self.field, self.given, "f16 or a smaller type: whisper.cpp loads f32 but cannot run it")
        return type


def _type_of(given: str, field: str) -> str:
    """Return the type that a name means. Warn of a compute type of CTranslate2 that only has a nearest one."""
    nearest = NEAREST_TYPES.get(given.lower()) if isinstance(given, str) else None
    if nearest is None:
        return resolve_type(given, field)
    type, why = nearest
    _LOG.warning("%s=%s is taken as %s: %s", field, given, type, why)
    return type


@dataclass(frozen=True)
class _Hub:
    local_files_only: bool
    download_root: Optional[PathLike]
    on_progress: Optional[OnProgress] = None

    def fetch(self, repository: str) -> Path:
        return snapshots.download_model(
            repository, cache_dir=self.download_root, local_files_only=self.local_files_only
        )

    def find_repository(self, repository: str) -> Optional[Path]:
        """Return the folder of a repository that is in the hub's cache, or None."""
        return snapshots.find_model_folder(repository, cache_dir=self.download_root)

    def find_file(self, file: PublishedFile) -> Optional[Path]:
        """Return a published file that is there already, in our cache or the hub's, or None."""
        found = find_fetched(file, self.download_root)
        if found is not None:
            return found
        snapshot = cached_snapshot(REPOSITORY, cache_dir=self.download_root)
        path = None if snapshot is None else snapshot / file.name
        return path if path is not None and path.is_file() and has_sha1(path, file.sha1) else None

    def fetch_file(self, file: PublishedFile) -> Path:
        if self.local_files_only or is_offline():
            forbids = "local_files_only" if self.local_files_only else "HF_HUB_OFFLINE"
            raise ModelNotFoundError(
                f"{forbids} forbids to download {file.name} of {REPOSITORY}: run once without it, or give the path of"
                " a model"
            )
        url = f"{hub_endpoint()}/{REPOSITORY}/resolve/main/{file.name}"
        remote = Remote(url, file.n_bytes, file.sha1, hub_token())
        return fetched_model(file, remote, self.download_root, self.on_progress)


# ---- Files and folders -----------------------------------------------------------------------------------------------


def _is_unrelated_folder(path: Path) -> bool:
    """A folder that is called like a published model but holds none: ``tiny`` then means the model."""
    return path.is_dir() and not any((path / file).exists() for file in ("config.json", "model.bin"))


def _from_path(path: Path, wanted: _Wanted, n_threads: int) -> Path:
    if path.is_dir() or (path.suffix.lower() in _CHECKPOINTS and not converter.is_ggml(path)):
        wanted = wanted.tuned(lambda: _dims_of_source(path))
        return cached_model(path, wanted.or_f16(), n_threads=n_threads)
    return _from_ggml(path, wanted, n_threads, None)


def _dims_of_source(path: Path) -> Mapping[str, int]:
    return converter.open_source(path).dims._asdict()


def _from_ggml(path: Path, wanted: _Wanted, n_threads: int, model: Optional[str]) -> Path:
    is_auto, wanted = wanted.is_auto, wanted.tuned(lambda: read_model_file(path).hparams)
    if wanted.type is None:
        return path
    file = read_model_file(path)
    if is_auto and file.ftype not in ("f32", "f16"):
        return path
    type = fitting_type(wanted.type, file.hparams["n_text_state"])
    if type == file.ftype:
        return path
    if TYPES[type].bits_per_value >= _bits_per_value(file):
        return _keep(path, file, wanted)
    if file.ftype not in ("f32", "f16"):
        _LOG.warning(
            "%s is quantised already (%s): its error stays and that of %s is added to it; take the f16 model as the"
            " source if there is one",
            *(path, file.ftype, type),
        )
    return cached_model(path, type, model=model, n_threads=n_threads)


def _keep(path: Path, file: ModelFile, wanted: _Wanted) -> Path:
    """A variable says what is liked in general and gives way to a file that is no larger; an option is an order."""
    if wanted.field != "compute_type":
        _LOG.info(
            "%s holds %s: it is taken as it is, %s=%s gains nothing", path, file.ftype, wanted.field, wanted.given
        )
        return path
    raise OptionError(
        wanted.field,
        wanted.given,
        f"default, or fewer bits than {file.ftype}, which {path} holds: more of them bring nothing back",
    )


def _bits_per_value(file: ModelFile) -> float:
    """Of the file's type; of the matrices on average where they differ."""
    if file.ftype in TYPES:
        return TYPES[file.ftype].bits_per_value
    matrices = [t for t in file.tensors if t.name.endswith("weight") and len(t.dims) == 2]
    return 8 * sum(t.n_bytes for t in matrices) / sum(t.n_values for t in matrices)


# ---- Names -----------------------------------------------------------------------------------------------------------


def _from_name(name: str, known: Optional[CatalogModel], wanted: _Wanted, hub: _Hub, n_threads: int) -> Path:
    repository = known.hub_id if known else _repository(name)
    if repository is None:
        raise ModelNotFoundError(
            f"there is no model {name!r}: give a path (of a ggml file such as ggml-base.en.bin, of an OpenAI .pt, of a"
            " folder of transformers or CTranslate2), the id of a model on the Hugging Face hub (owner/name), or one of"
            f" the names {', '.join([*MODELS, *ALIASES])}"
        )
    if known:
        wanted = wanted.tuned(known.dims._asdict)
    is_plain_name = known is not None and name != known.hub_id
    if known and is_plain_name and wanted.type is None:
        wanted = replace(wanted, type=published_type(known.name))
    model, type = repository, wanted.or_f16()
    if known:
        model, type = known.name, fitting_type(type, known.dims.n_text_state)
    file = find_published(model, type) if is_plain_name else None
    return _find(hub, repository, model, type, file, n_threads) or _fetch(hub, repository, name, type, file, n_threads)


def _find(
    hub: _Hub, repository: str, model: str, type: str, file: Optional[PublishedFile], n_threads: int
) -> Optional[Path]:
    """Return the file that is here, or make it of weights that are here; None: something has to be fetched."""
    found = (hub.find_file(file) if file else None) or find_cached(model, type)
    if found is not None:
        return found
    source = find_cached(model, _TYPE_OF_OTHER_FORMATS) or hub.find_repository(repository)
    return None if source is None else cached_model(source, type, model=model, n_threads=n_threads)


def _fetch(hub: _Hub, repository: str, name: str, type: str, file: Optional[PublishedFile], n_threads: int) -> Path:
    try:
        if file is not None:
            return hub.fetch_file(file)
        source = hub.fetch(repository)
    except ModelNotFoundError as error:
        types = " or ".join(dict.fromkeys((type, _TYPE_OF_OTHER_FORMATS)))
        folder = hub.download_root or cache_folder()
        raise ModelNotFoundError(
            f"{folder} has no model {name!r} in {types}, and its source cannot be had: {error}"
        ) from error
    known = find_model(name)
    return cached_model(source, type, model=known.name if known else repository, n_threads=n_threads)


def _repository(name: str) -> Optional[str]:
    return name if snapshots.is_repo_id(name) else None
