"""The command line: ``whisperq-edge COMMAND``. Transcripts and reports go to stdout, all else to stderr."""

from __future__ import annotations

from typing import Any

import click

from .._errors import CancelledError, CpuError, DatasetError, ModelError, OptionError, WhisperqError
from .._version import __version__
from .bench import bench_command
from .cache import cache_command
from .convert import convert_command
from .eval import eval_command
from .info import info_command
from .inspect import inspect_command
from .messages import encodable_stdout, in_words_of, reason, shown_warnings, tell
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
    # CpuError: kernels or an engine were asked for, by an option or a variable, that this CPU or this build has not.
    return EXIT_USAGE if isinstance(error, (OptionError, DatasetError, CpuError)) else EXIT_SOME_FAILED


class _Group(click.Group):
    """Turns our errors into a line on stderr and the documented exit code; anything else is a bug and shows itself."""

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

    Exit status: 0 all done, 1 some inputs failed, 2 wrong usage (options, environment, output folder), 3 something
    about the model, 130 Ctrl-C.
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
