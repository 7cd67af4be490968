"""Every error that whisperq-edge raises on purpose. Memory that runs out during a call is Python's ``MemoryError``.

A message says what is wrong, where, the value found, what is allowed and the next step.

::

    WhisperqError(Exception)
      AudioError(ValueError)      AudioFormatError, EmptyAudioError
      DatasetError(ValueError)    .path .line .reason
      OptionError(ValueError)     .field .value .allowed
      ModelError                  ModelNotFoundError(FileNotFoundError)
                                  ModelFormatError     .path .offset .field .value .allowed
                                  UnsupportedModelError, UnsafeModelError
                                  ConversionError
      CpuError                    UnknownIsaError(ValueError), IsaNotBuiltError, IsaNotSupportedError
      InferenceError              CancelledError       .partial
                                    InterruptedByUser(KeyboardInterrupt)
      OutOfMemoryError(MemoryError) .what .n_bytes .available .limit
      InternalError               a broken invariant: please report it
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from ._result import Transcript

__all__ = [
    "AudioError",
    "AudioFormatError",
    "CancelledError",
    "ConversionError",
    "CpuError",
    "DatasetError",
    "EmptyAudioError",
    "InferenceError",
    "InternalError",
    "InterruptedByUser",
    "IsaNotBuiltError",
    "IsaNotSupportedError",
    "ModelError",
    "ModelFormatError",
    "ModelNotFoundError",
    "OptionError",
    "OutOfMemoryError",
    "UnknownIsaError",
    "UnsafeModelError",
    "UnsupportedModelError",
    "WhisperqError",
]


class WhisperqError(Exception):
    """The base of every error of this package."""


class AudioError(WhisperqError, ValueError):
    """The audio cannot be used: wrong dtype or shape, NaN, Inf, unreadable."""


class AudioFormatError(AudioError):
    """The installed decoders cannot read the bytes as audio."""


class EmptyAudioError(AudioError):
    """An audio file has no byte, or a header and no stream."""


class DatasetError(WhisperqError, ValueError):
    """A set of utterances, or a table of counts, breaks a rule of its format.

    Attributes:
        path: the manifest, folder or table.
        line: the line, counted from 1; None: no line in particular.
        reason: what is wrong.
    """

    def __init__(self, path: str, line: Optional[int], reason: str) -> None:
        super().__init__(f"{path}: {reason}" if line is None else f"{path}: line {line}: {reason}")
        self.path = path
        self.line = line
        self.reason = reason

    def __reduce__(self) -> Any:
        return type(self), (self.path, self.line, self.reason)


class OptionError(WhisperqError, ValueError):
    """An option has a value that is not allowed, or that the chosen engine cannot honour.

    Attributes:
        field: the option's name.
        value: the value that was given.
        allowed: the allowed values, in words.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field}={value!r} is not possible: {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed

    def __reduce__(self) -> Any:
        return type(self), (self.field, self.value, self.allowed)


class ModelError(WhisperqError):
    """The base of errors about a model or its file."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """There is no model of that name or at that path."""


class ModelFormatError(ModelError):
    """A model file is damaged or is no model file.

    Attributes:
        path: the file.
        offset: byte offset of the wrong field.
        field: name of the field.
        value: the value in the file.
        allowed: the allowed values, in words.
    """

    def __init__(self, path: str, offset: int, field: str, value: str, allowed: str) -> None:
        super().__init__(
            f"{path}: at byte {offset}: {field} is {value}; allowed: {allowed}."
            " The file is damaged or is no Whisper model: download or convert it again."
        )
        self.path = path
        self.offset = offset
        self.field = field
        self.value = value
        self.allowed = allowed

    def __reduce__(self) -> Any:
        return type(self), (self.path, self.offset, self.field, self.value, self.allowed)


class UnsupportedModelError(ModelError):
    """The model is whole and valid, but the chosen engine cannot run it."""


class UnsafeModelError(ModelError):
    """A pickle asks for more than tensors and plain containers. Opening it with Python could run any code."""


class ConversionError(ModelError):
    """A converted model is worse than was asked for. No file was written."""


class CpuError(WhisperqError):
    """The base of errors about instruction sets."""


class UnknownIsaError(CpuError, ValueError):
    """No instruction set of ours has this name."""


class IsaNotBuiltError(CpuError):
    """This build does not contain the instruction set."""


class IsaNotSupportedError(CpuError):
    """This CPU (or its OS) lacks instructions that the code was built for."""


class InferenceError(WhisperqError):
    """The engine gave up while it ran a model."""


class CancelledError(InferenceError):
    """The call was cancelled. The transcript so far is kept.

    Attributes:
        partial: the transcript so far, or None when nothing had begun.
    """

    def __init__(self, message: str, partial: Optional[Transcript] = None) -> None:
        super().__init__(message)
        self.partial = partial


class InterruptedByUser(CancelledError, KeyboardInterrupt):
    """Ctrl-C during a call: a ``KeyboardInterrupt`` that carries the transcript so far in ``.partial``."""


class OutOfMemoryError(WhisperqError, MemoryError):
    """More memory is needed than this process can get. Nothing was allocated.

    Attributes:
        what: the model, batch or step that needs memory.
        n_bytes: the bytes that it needs.
        available: the bytes that the process can still get.
        limit: the reason for that limit, in words.
    """

    def __init__(self, what: str, n_bytes: int, available: int, limit: str) -> None:
        super().__init__(
            f"{what} needs {n_bytes / 1e6:.1f} MB of memory, and this process can get {available / 1e6:.1f} MB more"
            f" ({limit}): take a smaller model, a type of fewer bits or a smaller batch (`whisperq-edge plan` tells"
            " what each takes)"
        )
        self.what = what
        self.n_bytes = n_bytes
        self.available = available
        self.limit = limit

    def __reduce__(self) -> Any:
        return type(self), (self.what, self.n_bytes, self.available, self.limit)


class InternalError(WhisperqError):
    """An invariant of ours is broken: a bug. Please report it with the message."""
