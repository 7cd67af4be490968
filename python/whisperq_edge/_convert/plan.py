"""Which type each tensor gets, and why.

Whisper's matrices (the linear layers and the token embedding) carry nearly all of the bytes and take any type. Vectors
and positions stay f32 and convolutions f16, because whisper.cpp has it so and because they are small.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

from .._errors import OptionError
from .._whisper.types import TYPES, common_type, fitting_type, resolve_type
from .readers.source import Source, SourceTensor

__all__ = ["Choice", "Recipe", "file_type", "plan_types", "read_recipe", "write_recipe"]


@dataclass(frozen=True)
class Choice:
    """The type of one tensor. ``reason`` is a phrase for the report."""

    type: str
    reason: str


@dataclass(frozen=True)
class Recipe:
    """A type for all matrices, and patterns for those that get another one: the last pattern that matches counts.

    Attributes:
        type: of every matrix that no pattern matches.
        patterns: ``(regular expression, type)``; an expression matches a name when it is found anywhere in it.
    """

    type: str
    patterns: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return " ".join([self.type, *(f"{pattern}={type}" for pattern, type in self.patterns)])


def parse_patterns(texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """``REGEX=TYPE`` as the command line has it.

    Raises:
        OptionError: no ``=``, no regular expression, or no type.
    """
    patterns = []
    for text in texts:
        pattern, equals, type_name = text.rpartition("=")
        if not equals or not pattern:
            raise OptionError("tensor_type", text, "REGEX=TYPE, such as 'decoder.token_embedding=q8_0'")
        patterns.append((_checked_pattern(pattern), resolve_type(type_name)))
    return tuple(patterns)


def _checked_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise OptionError("tensor_type", pattern, f"a regular expression ({error})") from None
    return pattern


# ---- Recipes in files ------------------------------------------------------------------------------------------------


def read_recipe(path: Union[str, Path]) -> Recipe:
    """A recipe from a TOML file::

        type = "q5_0"

        [[tensor]]
        match = "decoder.token_embedding"
        type = "q8_0"

    Raises:
        OptionError: the file is no recipe.
    """
    try:
        document = _load_toml(Path(path))
    except OSError as error:
        raise OptionError("recipe", str(path), f"a file that can be read ({error.strerror})") from error
    except ValueError as error:
        raise OptionError("recipe", str(path), f"a TOML file ({error})") from error
    unknown = set(document) - {"type", "tensor"}
    tables = document.get("tensor", [])
    if unknown or not isinstance(tables, list):
        raise OptionError("recipe", str(path), f"'type' and [[tensor]] tables, not {', '.join(sorted(unknown))}")
    patterns = []
    for table in tables:
        if not isinstance(table, dict) or set(table) != {"match", "type"}:
            raise OptionError("recipe", str(path), "[[tensor]] tables with 'match' and 'type'")
        patterns.append((_checked_pattern(str(table["match"])), resolve_type(str(table["type"]))))
    return Recipe(resolve_type(str(document.get("type", "q5_0"))), tuple(patterns))


def write_recipe(recipe: Recipe) -> str:
    """The text of a file that :func:`read_recipe` reads."""
    lines = [f"type = {_toml_string(recipe.type)}"]
    for pattern, type_name in recipe.patterns:
        lines += ["", "[[tensor]]", f"match = {_toml_string(pattern)}", f"type = {_toml_string(type_name)}"]
    return "\n".join(lines) + "\n"


def _toml_string(text: str) -> str:
    return "'" + text + "'" if "'" not in text else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _load_toml(path: Path) -> dict[str, Any]:
    try:
        tomllib = importlib.import_module("tomllib")
    except ImportError:  # Python 3.9 and 3.10
        tomllib = importlib.import_module("tomli")
    return dict(tomllib.loads(path.read_bytes().decode("utf-8")))


# ---- The plan --------------------------------------------------------------------------------------------------------


def plan_types(source: Source, recipe: Recipe) -> dict[str, Choice]:
    """The type of every tensor by name.

    Without patterns all matrices get one type, because whisper.cpp reads no other file: where the rows of one of them
    are no whole number of blocks, all of them fall back to the next larger type that fits. With patterns each falls
    back on its own; the file is then one that whisperq-edge reads and whisper.cpp does not.

    Raises:
        OptionError: a pattern that matches no matrix.
    """
    matrices = [tensor for tensor in source.tensors if tensor.is_matrix]
    wanted = _wanted(matrices, recipe)
    if len(set(wanted.values())) == 1:
        chosen = _uniform(matrices, next(iter(wanted.values())))
    else:
        chosen = {tensor.name: _fitting(tensor, wanted[tensor.name]) for tensor in matrices}
    all_f32 = {choice.type for choice in chosen.values()} == {"f32"}
    return {tensor.name: chosen.get(tensor.name) or _kept(tensor, all_f32) for tensor in source.tensors}


def file_type(plan: Mapping[str, Choice], source: Source) -> str:
    """The one type that all matrices get, or ``mixed``."""
    return common_type(plan[tensor.name].type for tensor in source.tensors if tensor.is_matrix)


def _wanted(matrices: Sequence[SourceTensor], recipe: Recipe) -> dict[str, str]:
    wanted = {tensor.name: recipe.type for tensor in matrices}
    for pattern, type_name in recipe.patterns:
        matched = [name for name in wanted if re.search(pattern, name)]
        if not matched:
            raise OptionError(
                "tensor_type", pattern, "an expression that matches a matrix, such as decoder.blocks.0.mlp.2.weight"
            )
        wanted.update(dict.fromkeys(matched, type_name))
    return wanted


def _uniform(matrices: Sequence[SourceTensor], wanted: str) -> dict[str, Choice]:
    misfits = [tensor for tensor in matrices if not TYPES[wanted].fits(tensor.row_size)]
    if not misfits:
        return dict.fromkeys([tensor.name for tensor in matrices], Choice(wanted, "as asked"))
    type_name = fitting_type(wanted, math.gcd(*(tensor.row_size for tensor in matrices)))
    example = misfits[0]
    others = f" and {len(misfits) - 1} more" if len(misfits) > 1 else ""
    reason = (
        f"{wanted} has blocks of {TYPES[wanted].block_size}, which rows of {example.row_size} ({example.name}{others})"
        f" do not fill; whisper.cpp wants one type for all: {type_name}"
    )
    return dict.fromkeys([tensor.name for tensor in matrices], Choice(type_name, reason))


def _fitting(tensor: SourceTensor, wanted: str) -> Choice:
    type_name = fitting_type(wanted, tensor.row_size)
    if type_name == wanted:
        return Choice(wanted, "as asked")
    block = TYPES[wanted].block_size
    return Choice(type_name, f"rows of {tensor.row_size} are no whole blocks of {block}: the next larger type")


def _kept(tensor: SourceTensor, all_f32: bool) -> Choice:
    if len(tensor.shape) == 3:
        return Choice("f32", "as asked") if all_f32 else Choice("f16", "convolution: whisper.cpp takes f16")
    if len(tensor.shape) == 1:
        return Choice("f32", "vector")
    return Choice("f32", "positions")
