"""The command line: ``whisperq-edge COMMAND``. Transcripts and reports go to stdout, all else to stderr."""

from __future__ import annotations

import importlib
from typing import Any, Optional

import click

from .._errors import CancelledError, CpuError, DatasetError, ModelError, OptionError, WhisperqError
from .._version import __version__
from .messages import encodable_stdout, in_words_of, reason, shown_warnings, tell

__all__ = ["main"]

EXIT_SOME_FAILED, EXIT_USAGE, EXIT_MODEL, EXIT_INTERRUPTED = 1, 2, 3, 130


def exit_code(error: BaseException) -> int:
    if isinstance(error, (KeyboardInterrupt, CancelledError)):
        return EXIT_INTERRUPTED
    if isinstance(error, ModelError):
        return EXIT_MODEL
    # CpuError: kernels or an engine were asked for, by an option or a variable, that this CPU or this build has not.
    return EXIT_USAGE if isinstance(error, (OptionError, DatasetError, CpuError)) else EXIT_SOME_FAILED


COMMANDS = {
    "transcribe": "Transcribe audio files; - reads one from stdin.",
    "convert": "Convert SOURCE into a small model file, and report what that cost.",
    "eval": "Measure word error rates on DATA, and say which differences can be claimed.",
    "bench": "Time every stage of a transcription: types beside each other, engines, threads, other runtimes.",
    "tune": 'Measure types and threads on this machine and keep the best for compute_type="auto" and --threads 0.',
    "plan": "Tell what MODEL (a file, a folder or a name such as base) takes in memory on the engine `edge` before"
    " it loads.",
    "study": "Measure what rounding MODEL's weights and activations costs: the axes of arXiv 2511.08093, one at a"
    " time.",
    "inspect": "Show the dimensions, languages, types and tensors of MODEL, a name or the path of a ggml file.",
    "info": "Show CPU features (found, missing, built for), engines, devices, versions and threads.",
    "models": "List the models known by name: size on disk by type, memory, where they come from, and what is here.",
    "cache": "Models that were downloaded or converted once: list them, make room.",
}
"""Each command and how its help begins. ``cli/<name>.py`` has the command, and is imported when it is chosen."""


class _Group(click.Group):
    """Turns our errors into a line on stderr and the documented exit code; anything else is a bug and shows itself."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> Optional[click.Command]:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f".{cmd_name}", __name__), f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without an import of any."""
        click.Group(commands=_stand_ins()).format_commands(ctx, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with shown_warnings(), encodable_stdout():
                return super().invoke(ctx)
        except BrokenPipeError:  # the reader of our output went away: click ends quietly
            raise
        except (WhisperqError, OSError, MemoryError, KeyboardInterrupt) as error:
            tell(self._sentence(ctx, error))
            ctx.exit(exit_code(error))

    def _sentence(self, ctx: click.Context, error: BaseException) -> str:
        command = self.get_command(ctx, ctx.invoked_subcommand or "")
        if isinstance(error, OptionError) and command is not None:
            return in_words_of(command, error)
        return reason(error)


def _stand_ins() -> dict[str, click.Command]:
    """Return commands that only have a name and a help."""
    return {name: click.Command(name, help=text) for name, text in COMMANDS.items()}


def _dashes(token: str) -> str:
    """openai/whisper spells options with underscores; both work."""
    return token.replace("_", "-")


@click.group(
    cls=_Group,
    commands=_stand_ins(),  # click looks here for names that are near
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": _dashes, "max_content_width": 100},
)
@click.version_option(__version__, "--version", prog_name="whisperq-edge")
def main() -> None:
    """OpenAI's Whisper models on ARM boards and laptops: small, fast and measured.

    Exit status: 0 all done, 1 some inputs failed, 2 wrong usage (options, environment, output folder), 3 something
    about the model, 130 Ctrl-C.
    """
