"""The public surface: commands with their help, and names with their arguments, are those of ``data/surface``.

A change of these files is a change that users see: it belongs in CHANGELOG.md. They are made again by::

    python -m tests.house.test_surface
"""

from __future__ import annotations

import inspect
import json
from typing import Any

import click
import pytest
import whisperq_edge
from whisperq_edge.cli import COMMANDS, main
from whisperq_edge.compat import faster_whisper

from tests.support.paths import DATA

SURFACE = DATA / "surface"


def commands() -> dict[str, Any]:
    """Return each command by its path, with its help and its options, as ``--help`` tells them."""
    found: dict[str, Any] = {}

    def visit(path: str, command: click.Command) -> None:
        found[path] = {"help": command.help, "parameters": [parameter(each) for each in command.params]}
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in sorted(command.list_commands(context)):
                child = command.get_command(context, name)
                assert child is not None
                visit(f"{path} {name}", child)

    visit("whisperq-edge", main)
    return found


def parameter(param: click.Parameter) -> dict[str, Any]:
    choices = getattr(param.type, "choices", None)
    default = param.default if isinstance(param.default, (int, float, str, list, tuple)) else None
    default = None if default is False else default  # versions of click differ in how they say it of a switch
    return {
        "names": [*param.opts, *param.secondary_opts],
        "metavar": param.metavar,
        "type": param.type.name,
        "choices": None if choices is None else list(choices),
        "default": default,
        "nargs": param.nargs,
        "required": param.required,
        "repeats": bool(getattr(param, "multiple", False)),
        "help": getattr(param, "help", None),
    }


def names() -> dict[str, Any]:
    """Return the names of the public modules, with the arguments of what can be called."""
    found: dict[str, Any] = {}
    for module in (whisperq_edge, faster_whisper):
        for name in module.__all__:
            thing = getattr(module, name)
            key = f"{module.__name__}.{name}"
            if not inspect.isclass(thing):
                found[key] = arguments(thing) if callable(thing) else type(thing).__name__
                continue
            found[key] = {
                "bases": [base.__name__ for base in thing.__mro__[1:-1]],
                "members": {
                    member: arguments(value) if callable(value) else "attribute"
                    for member, value in sorted(inspect.getmembers(thing))
                    if not member.startswith("_") and belongs_to_us(thing, member)
                },
                "arguments": None if issubclass(thing, BaseException) else arguments(thing),
            }
    return found


def belongs_to_us(thing: type, member: str) -> bool:
    owner = next(base for base in thing.__mro__ if member in vars(base))
    return owner.__module__.startswith("whisperq_edge")


def arguments(thing: Any) -> list[str]:
    return [
        f"{item.kind.name.lower()} {item.name}" + ("" if item.default is item.empty else f" = {item.default!r}")
        for item in inspect.signature(thing).parameters.values()
    ]


def test_the_list_of_commands_has_the_beginnings_of_their_help() -> None:
    beginnings = {
        path.split()[1]: (command["help"] or "").split("\n\n")[0].replace("\n", " ")
        for path, command in commands().items()
        if path.count(" ") == 1
    }
    assert beginnings == COMMANDS


@pytest.mark.parametrize(("file", "made"), [("commands.json", commands), ("names.json", names)])
def test_the_surface_is_the_one_that_is_written_down(file: str, made: Any) -> None:
    stored = json.loads((SURFACE / file).read_text(encoding="utf-8"))
    now = json.loads(json.dumps(made()))
    assert sorted(now) == sorted(stored)
    for key in stored:
        assert now[key] == stored[key], key


if __name__ == "__main__":
    for file, made in (("commands.json", commands), ("names.json", names)):
        text = json.dumps(made(), indent=1, ensure_ascii=False, sort_keys=True)
        (SURFACE / file).write_text(text + "\n", encoding="utf-8")
