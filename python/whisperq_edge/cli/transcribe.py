"""``whisperq-edge transcribe``: speech in, text out. Option names are openai/whisper's, with underscores or dashes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional

import click

from .._errors import CancelledError, InterruptedByUser, OptionError, WhisperqError
from .._model import DEVICES, ENGINES, WhisperModel
from .._options import DEFAULT_TEMPERATURES
from .._result import Timings, Transcript
from .._writers import FORMATS, render, write_all

__all__ = ["transcribe_command"]

_BOOLEANS = {"true", "false", "1", "0", "yes", "no", "on", "off", "t", "f", "y", "n"}


class _Command(click.Command):
    """Lets a switch stand alone (``--vad_filter``) or with a value as openai/whisper has it (``--vad_filter True``)."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(self._with_values(args)))

    def _with_values(self, args: Sequence[str]) -> Iterator[str]:
        switches = {
            name
            for option in self.params
            if option.type is click.BOOL and not getattr(option, "is_flag", True)
            for name in option.opts
        }
        for i, argument in enumerate(args):
            yield argument
            followed = i + 1 < len(args) and args[i + 1].lower() in _BOOLEANS
            if argument.replace("_", "-") in switches and not followed:
                yield "true"


def _switch(name: str, help_text: str) -> Callable[[Any], Any]:
    return click.option(name, type=click.BOOL, default=None, metavar="[BOOL]", help=help_text)


@dataclass
class _Run:
    """What came of the inputs, in their order."""

    done: list[tuple[str, Transcript]] = field(default_factory=list)
    failed: list[tuple[str, BaseException]] = field(default_factory=list)


@click.command("transcribe", cls=_Command)
@click.argument("files", metavar="FILE... | -", nargs=-1, required=True)
@click.option(
    "--model",
    "-m",
    required=True,
    help="A name (nano is bundled, `whisperq-edge models` lists all), a ggml file, an OpenAI .pt, a folder of"
    " transformers or CTranslate2, or a hub id. What is no ggml file is converted once into the cache.",
)
@click.option("--engine", type=click.Choice(ENGINES), default="auto", show_default=True)
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@click.option(
    "--compute-type",
    default="default",
    show_default=True,
    help="Type of the weights: int8, int5, int4, q5_0, ... A file of another type is quantised once into the cache."
    " default: $WHISPERQ_COMPUTE_TYPE, else as the file has it. auto: what `whisperq-edge tune` chose, if it did.",
)
@click.option("--threads", type=int, default=0, help="CPU threads; 0: what `tune` found, else all that may be used.")
@click.option(
    "--timeout", type=float, metavar="SECONDS", help="End a file after this long; what was transcribed is kept."
)
@click.option("--output-dir", "-o", type=click.Path(file_okay=False, path_type=Path), help="Write files here.")
@click.option(
    "--output-format",
    "-f",
    type=click.Choice([*FORMATS, "all"]),
    default="txt",
    show_default=True,
    help="Format of what is printed, or of the files with --output-dir (all: every format).",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON document, timings included.")
@click.option("--timings", "show_timings", is_flag=True, help="Show the stage table on stderr.")
@click.option(
    "--verbose", type=click.BOOL, default=None, metavar="[BOOL]", help="Print segments with times as they come."
)
@click.option("--task", type=click.Choice(["transcribe", "translate"]), default="transcribe", show_default=True)
@click.option("--language", "-l", help="Code or English name; without it the language is detected.")
@click.option("--temperature", type=float, help="Sampling temperature.  [default: 0]")
@click.option("--temperature-increment-on-fallback", type=float, help="Step to the next temperature.  [default: 0.2]")
@click.option("--best-of", type=int, help="Samples at temperatures above 0.  [default: 5]")
@click.option("--beam-size", type=int, help="Beams at temperature 0; 1 is greedy.  [default: 5]")
@click.option("--patience", type=float, help="Patience of the beam search.")
@click.option("--length-penalty", type=float, help="Length penalty of the beam search.")
@click.option("--suppress-tokens", help="Comma-separated token ids never to sample; -1: non-speech symbols.")
@click.option("--initial-prompt", help="Text to put before the first window.")
@_switch("--carry-initial-prompt", "Put the initial prompt before every window.")
@_switch("--condition-on-previous-text", "The text of a window is the prompt of the next.  [default: true]")
@click.option("--compression-ratio-threshold", type=float, help="Above it the text is repetitive.  [default: 2.4]")
@click.option("--logprob-threshold", type=float, help="Below it the decoding failed.  [default: -1]")
@click.option("--no-speech-threshold", type=float, help="Above it a window is silent.  [default: 0.6]")
@_switch("--without-timestamps", "Sample text only.")
@_switch("--word-timestamps", "Times of words.")
@click.option("--prepend-punctuations", help="Punctuation merged with the word after it.")
@click.option("--append-punctuations", help="Punctuation merged with the word before it.")
@_switch("--highlight-words", "Underline each word as it is spoken (srt, vtt; needs --word-timestamps).")
@click.option("--max-line-width", type=int, help="Characters in a line (needs --word-timestamps).")
@click.option("--max-line-count", type=int, help="Lines in a cue (needs --max-line-width).")
@click.option("--max-words-per-line", type=int, help="Words in a cue (needs --word-timestamps).")
@click.option("--clip-timestamps", help="start,end,start,end,... in seconds: the parts to transcribe.")
@click.option("--hallucination-silence-threshold", type=float, help="Silence around suspected hallucinations.")
@_switch("--vad-filter", "Leave out what holds no speech.")
@click.option("--vad-threshold", type=float, help="Probability above which a window is speech.  [default: 0.5]")
def transcribe_command(**arguments: Any) -> None:
    """Transcribe audio files; - reads one from stdin.

    Text goes to stdout unless --output-dir is given. One file that fails does not stop the others.
    """
    run = _Run()
    with WhisperModel(
        arguments["model"],
        device=arguments["device"],
        compute_type=arguments["compute_type"],
        cpu_threads=arguments["threads"],
        engine=arguments["engine"],
    ) as model:
        interrupted = _transcribe_all(model, arguments, run)
        timings = model.timings
    _finish(run, timings, arguments)
    if interrupted:
        sys.exit(130)
    sys.exit(1 if run.failed else 0)


def _transcribe_all(model: WhisperModel, arguments: dict[str, Any], run: _Run) -> bool:
    """True when Ctrl-C ended it; what was transcribed until then is kept and shown."""
    options = _options(arguments)
    for name in arguments["files"]:
        try:
            transcript = _transcribe_one(model, name, options, arguments)
        except InterruptedByUser as interrupt:
            if interrupt.partial is not None:
                _deliver(name, interrupt.partial, arguments, run)
            click.echo(f"whisperq-edge: {name}: interrupted, what was transcribed is kept", err=True)
            return True
        except CancelledError as late:
            if late.partial is not None:
                _deliver(name, late.partial, arguments, run)
            run.failed.append((name, late))
            click.echo(f"whisperq-edge: {name}: {late}", err=True)
        except OptionError:
            raise
        except (WhisperqError, OSError) as error:
            run.failed.append((name, error))
            click.echo(f"whisperq-edge: {name}: {error}", err=True)
        else:
            _deliver(name, transcript, arguments, run)
    return False


def _transcribe_one(model: WhisperModel, name: str, options: dict[str, Any], arguments: dict[str, Any]) -> Transcript:
    audio = sys.stdin.buffer if name == "-" else name
    with _progress(name) as on_progress:
        return model.transcribe(
            audio,
            on_progress=on_progress,
            on_segment=_print_segment if arguments["verbose"] else None,
            timeout_s=arguments["timeout"],
            **options,
        )


def _options(arguments: dict[str, Any]) -> dict[str, Any]:
    """What was given, by ``transcribe``'s names; the rest keeps its default there."""
    renamed = {"logprob_threshold": "log_prob_threshold"}
    taken_as_is = (
        "task", "language", "best_of", "beam_size", "patience", "length_penalty", "initial_prompt",
        "carry_initial_prompt", "condition_on_previous_text", "compression_ratio_threshold", "logprob_threshold",
        "no_speech_threshold", "without_timestamps", "word_timestamps", "prepend_punctuations", "append_punctuations",
        "clip_timestamps", "hallucination_silence_threshold", "vad_filter",
    )  # fmt: skip
    options = {renamed.get(name, name): arguments[name] for name in taken_as_is if arguments[name] is not None}
    temperatures = _temperatures(arguments["temperature"], arguments["temperature_increment_on_fallback"])
    if temperatures is not None:
        options["temperature"] = temperatures
    if arguments["suppress_tokens"] is not None:
        options["suppress_tokens"] = _token_ids(arguments["suppress_tokens"])
    if arguments["vad_threshold"] is not None:
        options["vad_parameters"] = {"threshold": arguments["vad_threshold"]}
    return options


def _temperatures(first: Optional[float], step: Optional[float]) -> Optional[tuple[float, ...]]:
    """openai/whisper's ladder: from the temperature in steps up to 1.0."""
    if first is None and step is None:
        return None
    first = DEFAULT_TEMPERATURES[0] if first is None else first
    step = 0.2 if step is None else step
    if step <= 0:
        return (first,)
    count = max(int((1.0 + 1e-6 - first) / step), 0) + 1
    return tuple(round(first + i * step, 6) for i in range(count))


def _token_ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise OptionError("suppress_tokens", text, "comma-separated token ids, such as -1 or 50257,11") from None


def _print_segment(segment: Any) -> None:
    click.echo(f"[{_clock(segment.start)} --> {_clock(segment.end)}] {segment.text}", err=True)


def _clock(time_s: float) -> str:
    minutes, seconds = divmod(time_s, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:06.3f}" if hours else f"{minutes:02d}:{seconds:06.3f}"


@contextmanager
def _progress(name: str) -> Iterator[Optional[Callable[[float, float], None]]]:
    """A bar on stderr when that is a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(Path(name).name if name != "-" else "stdin", total=1.0)
        yield lambda fraction, eta_s: bar.update(task, completed=fraction)


def _deliver(name: str, transcript: Transcript, arguments: dict[str, Any], run: _Run) -> None:
    run.done.append((name, transcript))
    if arguments["output_dir"] is not None:
        stem = "stdin" if name == "-" else Path(name).stem
        arguments["output_dir"].mkdir(parents=True, exist_ok=True)
        write_all(transcript, arguments["output_format"], arguments["output_dir"], stem, **_layout(arguments))
    elif not arguments["as_json"]:
        _print(name, transcript, arguments)


def _print(name: str, transcript: Transcript, arguments: dict[str, Any]) -> None:
    if len(arguments["files"]) > 1:
        click.echo(f"{name}:", err=True)
    formats = FORMATS if arguments["output_format"] == "all" else (arguments["output_format"],)
    for form in formats:
        text = render(transcript, form, **_layout(arguments))
        click.echo(text, nl=not text.endswith("\n"))
    sys.stdout.flush()


def _layout(arguments: dict[str, Any]) -> dict[str, Any]:
    names = ("highlight_words", "max_line_width", "max_line_count", "max_words_per_line")
    return {name: arguments[name] for name in names if arguments[name] is not None}


def _finish(run: _Run, timings: Timings, arguments: dict[str, Any]) -> None:
    if arguments["as_json"]:
        click.echo(json.dumps(_report(run, timings), indent=2, ensure_ascii=False))
    if arguments["show_timings"]:
        audio_s = sum(transcript.duration_s for _, transcript in run.done)
        click.echo(timings.table(f"{audio_s:.1f} s of audio, model {arguments['model']}"), err=True)


def _report(run: _Run, timings: Timings) -> dict[str, Any]:
    return {
        "transcripts": [{"file": name, **transcript.to_dict()} for name, transcript in run.done],
        "failures": [
            {"file": name, "error": type(error).__name__, "message": str(error)} for name, error in run.failed
        ],
        "timings": timings.to_dict(),
    }
