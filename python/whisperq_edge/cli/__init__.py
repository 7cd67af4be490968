"""The command line: ``whisperq-edge COMMAND``. Transcripts and reports go to stdout, all else to stderr."""

from __future__ import annotations

from typing import Any

import click

from .._errors import CancelledError, DatasetError, ModelError, OptionError, WhisperqError
from .._version import __version__
from .bench import bench_command
from .cache import cache_command
from .convert import convert_command
from .eval import eval_command
from .info import info_command
from .inspect import inspect_command
from .models import models_command
from .plan import plan_command
from .study import study_command
from .transcribe import transcribe_command
from .tune import tune_command

__all__ = ["main"]

EXIT_SOME_FAILED, EXIT_USAGE, EXIT_MODEL, EXIT_INTERRUPTED = 1, 2, 3, 130


def exit_code(error: BaseException) -> int:
    if isinstance(error, (KeyboardInterrupt, CancelledError)):
        return EXIT_INTERRUPTED
    if isinstance(error, ModelError):
        return EXIT_MODEL
    return EXIT_USAGE if isinstance(error, (OptionError, DatasetError)) else EXIT_SOME_FAILED


class _Group(click.Group):
    """Turns our errors into a line on stderr and the documented exit code; anything else is a bug and shows itself."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of our output went away: click ends quietly
            raise
        except KeyboardInterrupt as interrupt:
            click.echo(f"whisperq-edge: {interrupt or 'interrupted'}", err=True)
            ctx.exit(exit_code(interrupt))
        except (WhisperqError, OSError, MemoryError) as error:
            click.echo(f"whisperq-edge: {error or 'memory ran out'}", err=True)
            ctx.exit(exit_code(error))


def _dashes(token: str) -> str:
    """openai/whisper spells options with underscores; both work."""
    return token.replace("_", "-")


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": _dashes, "max_content_width": 100},
)
@click.version_option(__version__, "--version", prog_name="whisperq-edge")
def main() -> None:
    """OpenAI's Whisper models on ARM boards and laptops: small, fast and measured.

    Exit status: 0 all done, 1 some inputs failed, 2 wrong usage, 3 something about the model, 130 Ctrl-C.
    """


main.add_command(transcribe_command)
main.add_command(convert_command)
main.add_command(eval_command)
main.add_command(bench_command)
main.add_command(tune_command)
main.add_command(plan_command)
main.add_command(study_command)
main.add_command(inspect_command)
main.add_command(info_command)
main.add_command(models_command)
main.add_command(cache_command)
