"""``whisperq-edge transcribe``: speech in, text out. Option names are openai/whisper's, with underscores or dashes."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import click

from .._errors import AudioError, CancelledError, InterruptedByUser, OptionError, WhisperqError
from .._model import DEVICES, ENGINES, WhisperModel
from .._options import DEFAULT_TEMPERATURES, TranscribeOptions
from .._result import Transcript
from .._store.locate import locate_model
from .._system.progress import progress_bar
from .._vad_options import VadOptions
from .._writers import FORMATS
from .messages import tell
from .outputs import Outputs
from .reports import DEFAULT_MODEL, MODEL_VARIABLE, language_or_none, print_json, split_list
from .tables import stage_progress

__all__ = ["transcribe_command"]

_LEAST_STEP = 0.02  # from one temperature to the next: a window is decoded 51 times at most
_AT_LEAST_1 = click.IntRange(min=1)
_BOOLEANS = {"True", "False", "true", "false"}

# Each changes nothing without one of those after it.
_NEEDS = {
    "highlight_words": ("word_timestamps",),
    "max_line_width": ("word_timestamps",),
    "max_line_count": ("max_line_width",),
    "max_words_per_line": ("word_timestamps",),
    "prepend_punctuations": ("word_timestamps",),
    "append_punctuations": ("word_timestamps",),
    "hallucination_silence_threshold": ("word_timestamps",),
    "carry_initial_prompt": ("initial_prompt",),
    "vad_threshold": ("vad_filter", "batch_size"),
}


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
            if argument == "--":
                yield from args[i:]
                return
            yield argument
            followed = i + 1 < len(args) and _is_boolean(args[i + 1])
            if argument.replace("_", "-") in switches and not followed:
                yield "true"


def _is_boolean(argument: str) -> bool:
    """What may also be a file's name is one."""
    return argument in _BOOLEANS and not os.path.exists(argument)


def _switch(name: str, help_text: str) -> Callable[[Any], Any]:
    return click.option(name, type=click.BOOL, default=None, metavar="[BOOL]", help=help_text)


@click.command("transcribe", cls=_Command)
@click.argument("files", metavar="FILE... | -", nargs=-1, required=True)
@click.option(
    "--model",
    "-m",
    envvar=MODEL_VARIABLE,
    default=DEFAULT_MODEL,
    show_envvar=True,
    show_default=True,
    help="A name (nano is bundled, `whisperq-edge models` lists all), a ggml file, an OpenAI .pt, a folder of"
    " transformers or CTranslate2, or a hub id. A name is downloaded once, as a published file of 8 or"
    " 5 bits. Any model but a ggml file is converted once into the cache.",
)
@click.option(
    "--model-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to download models into.  [default: the cache]",
)
@click.option("--engine", type=click.Choice(ENGINES), default="auto", show_default=True)
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@click.option(
    "--compute-type",
    default="default",
    show_default=True,
    help="Type of the weights: int8, int5, int4, q5_0, ... A file of another type is quantised once into the cache."
    " int8_float16 and its kin are int8."
    " default: $WHISPERQ_COMPUTE_TYPE, else as the file has it. auto: what `whisperq-edge tune` chose, if it did.",
)
@_switch("--fp16", "Changes nothing: --compute-type chooses the weights' type.")
@click.option("--threads", type=int, default=0, help="CPU threads; 0: what `tune` found, else all that may be used.")
@click.option(
    "--timeout",
    type=float,
    metavar="SECONDS",
    help="End a file after this long; what was transcribed is kept, as NAME.partial.FORMAT with --output-dir.",
)
@click.option("--output-dir", "-o", type=click.Path(file_okay=False, path_type=Path), help="Write files here.")
@click.option(
    "--output-format",
    "-f",
    multiple=True,
    metavar="FORMAT[,FORMAT]...",
    help=f"The format of the output, or of the files with --output-dir: {', '.join(FORMATS)}, or all. Several are"
    " comma-separated or given one by one, and are printed one after the other.  [default: txt]",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON document, timings included.")
@click.option("--timings", "show_timings", is_flag=True, help="Show the stage table on stderr.")
@click.option(
    "--verbose",
    type=click.BOOL,
    default=None,
    metavar="[BOOL]",
    help="Print segments with times as they come, and what was dropped and why.",
)
@click.option(
    "--audio-track",
    type=click.IntRange(min=0),
    metavar="N",
    help="Audio track of a file with several, counted from 0 as in FFmpeg's 0:a:N (needs the extra av).  [default: 0]",
)
@click.option("--task", type=click.Choice(["transcribe", "translate"]), default="transcribe", show_default=True)
@click.option("--language", "-l", help="Code or English name; without it, or with auto, the language is detected.")
@_switch("--multilingual", "Detect the language of every window anew.")
@click.option("--temperature", type=float, help="Sampling temperature.  [default: 0]")
@click.option("--temperature-increment-on-fallback", type=float, help="Step to the next temperature.  [default: 0.2]")
@click.option("--best-of", type=int, help="Samples at temperatures above 0.  [default: 5]")
@click.option("--beam-size", type=int, help="Beams at temperature 0; 1 is greedy.  [default: 5]")
@click.option("--patience", type=float, help="Patience of the beam search.")
@click.option("--length-penalty", type=float, help="Length penalty of the beam search.")
@click.option("--suppress-tokens", help="Comma-separated token ids never to sample; -1: non-speech symbols.")
@click.option("--repetition-penalty", type=float, help="Above 1, tokens of a window come less often again.")
@click.option("--no-repeat-ngram-size", type=int, help="No n-gram of so many tokens comes twice in a window.")
@click.option("--max-new-tokens", type=int, help="Tokens of a window.  [default: as many as the context holds]")
@click.option("--seed", type=int, help="The seed of the sampling at temperatures above 0.  [default: 0]")
@click.option("--initial-prompt", help="Text to put before the first window.")
@_switch("--carry-initial-prompt", "Put the initial prompt before every window (needs --initial-prompt).")
@click.option("--prefix", help="Text that the first window begins with.")
@click.option("--hotwords", help="Hint phrases.")
@_switch("--condition-on-previous-text", "The text of a window is the prompt of the next.  [default: true]")
@click.option("--compression-ratio-threshold", type=float, help="Above it the text is repetitive.  [default: 2.4]")
@click.option("--logprob-threshold", type=float, help="Below it the decoding failed.  [default: -1]")
@click.option("--no-speech-threshold", type=float, help="Above it a window is silent.  [default: 0.6]")
@_switch("--without-timestamps", "Sample text only.")
@_switch("--word-timestamps", "Times of words.")
@click.option("--prepend-punctuations", help="Punctuation merged with the word after it (needs --word-timestamps).")
@click.option("--append-punctuations", help="Punctuation merged with the word before it (needs --word-timestamps).")
@_switch("--highlight-words", "Underline each word as it is spoken (srt, vtt; needs --word-timestamps).")
@click.option("--max-line-width", type=_AT_LEAST_1, help="Characters in a line (needs --word-timestamps).")
@click.option("--max-line-count", type=_AT_LEAST_1, help="Lines in a cue (needs --max-line-width).")
@click.option("--max-words-per-line", type=_AT_LEAST_1, help="Words in a cue (needs --word-timestamps).")
@click.option("--clip-timestamps", help="start,end,start,end,... in seconds: the parts to transcribe.")
@click.option(
    "--hallucination-silence-threshold",
    type=float,
    metavar="SECONDS",
    help="Silence around suspected hallucinations (needs --word-timestamps).",
)
@_switch("--vad-filter", "Leave out what holds no speech.")
@click.option(
    "--vad-threshold",
    type=float,
    help="Probability above which a window is speech (needs --vad-filter or --batch-size).  [default: 0.5]",
)
@_switch("--drop-silence", "False: decode silence, and believe text where no speech is found.  [default: true]")
@click.option("--batch-size", type=int, help="Windows to decode together.  [default: one after the other]")
@click.option("--chunk-length", type=int, metavar="SECONDS", help="The length of a window.  [default: 30]")
@click.option(
    "--audio-ctx",
    type=click.Choice(["auto", "1500"]),
    help="auto: encode short audio only as far as it goes; 1500: whole windows.  [default: auto for quantised models]",
)
def transcribe_command(**arguments: Any) -> None:
    """Transcribe audio files; - reads one from stdin.

    Text goes to stdout unless --output-dir is given. One file that fails does not stop the others. Audio that is cut
    off or damaged is transcribed as far as it goes; the exit status is 1. A transcript that --timeout or Ctrl-C cut
    short is written as NAME.partial.FORMAT, never over a finished NAME.FORMAT, and has "partial": true in --json.
    """
    options = _options(arguments)
    outputs = Outputs(
        files=arguments["files"],
        folder=arguments["output_dir"],
        formats=_formats(arguments["output_format"]),
        as_json=arguments["as_json"],
        layout=_layout(arguments),
    )
    outputs.prepare()
    if arguments["fp16"] is not None:
        tell(f"--fp16 {arguments['fp16']} changes nothing here: --compute-type chooses the type of the weights")
    with WhisperModel(
        _locate(arguments),
        device=arguments["device"],
        compute_type=arguments["compute_type"],
        cpu_threads=arguments["threads"],
        engine=arguments["engine"],
    ) as model:
        interrupted = _transcribe_all(model, options, outputs, arguments)
        timings = model.timings
    if arguments["as_json"]:
        print_json(outputs.report(timings))
    if arguments["show_timings"]:
        audio_s = sum(transcript.duration_s for _, transcript, _ in outputs.done)
        click.echo(timings.table(f"{audio_s:.1f} s of audio, model {arguments['model']}"), err=True)
    sys.exit(130 if interrupted else 1 if outputs.failed else 0)


def _locate(arguments: dict[str, Any]) -> Path:
    """Find the model's file, with a bar while it is downloaded."""
    with stage_progress() as on_progress:
        return locate_model(
            arguments["model"],
            arguments["compute_type"],
            download_root=arguments["model_dir"],
            n_threads=arguments["threads"],
            on_progress=on_progress,
        )


def _transcribe_all(model: WhisperModel, options: dict[str, Any], outputs: Outputs, arguments: dict[str, Any]) -> bool:
    """True when Ctrl-C ended it; what was transcribed until then is kept and shown."""
    for name in arguments["files"]:
        try:
            _transcribe_one(model, name, options, outputs, arguments)
        except KeyboardInterrupt as interrupt:
            outputs.cut_short(name, interrupt, "interrupted")
            return True
    return False


def _transcribe_one(
    model: WhisperModel, name: str, options: dict[str, Any], outputs: Outputs, arguments: dict[str, Any]
) -> None:
    try:
        transcript = _transcript(model, name, options, arguments)
    except (InterruptedByUser, OptionError):
        raise
    except CancelledError as late:
        outputs.cut_short(name, late, f"--timeout {arguments['timeout']:g} went by")
    except (WhisperqError, OSError, MemoryError) as error:
        outputs.fail(name, error)
    else:
        if arguments["verbose"]:
            _print_dropped(transcript)
        outputs.keep(name, transcript)


def _transcript(model: WhisperModel, name: str, options: dict[str, Any], arguments: dict[str, Any]) -> Transcript:
    if name == "-" and sys.stdin is None:
        raise AudioError("stdin is closed: give it audio, or the name of a file")
    label = "stdin" if name == "-" else Path(name).name
    with progress_bar(label, transient=True, redirect_stderr=True) as on_progress:
        return model.transcribe(
            sys.stdin.buffer if name == "-" else name,
            audio_track=arguments["audio_track"],
            on_progress=on_progress,
            on_segment=_print_segment if arguments["verbose"] else None,
            timeout_s=arguments["timeout"],
            **options,
        )


def _options(arguments: dict[str, Any]) -> dict[str, Any]:
    """What was given, by ``transcribe``'s names; the rest keeps its default there.

    Raises:
        OptionError: what no engine could use, or what would change nothing. No model needs to be loaded to tell.
    """
    _check_needs(arguments)
    renamed = {"logprob_threshold": "log_prob_threshold"}
    taken_as_is = (
        "task", "language", "best_of", "beam_size", "patience", "length_penalty", "initial_prompt",
        "carry_initial_prompt", "condition_on_previous_text", "compression_ratio_threshold", "logprob_threshold",
        "no_speech_threshold", "without_timestamps", "word_timestamps", "prepend_punctuations", "append_punctuations",
        "clip_timestamps", "hallucination_silence_threshold", "vad_filter", "repetition_penalty",
        "no_repeat_ngram_size", "max_new_tokens", "seed", "prefix", "hotwords", "multilingual", "drop_silence",
        "batch_size", "chunk_length", "audio_ctx",
    )  # fmt: skip
    arguments = {**arguments, "language": language_or_none(arguments["language"])}
    options = {renamed.get(name, name): arguments[name] for name in taken_as_is if arguments[name] is not None}
    temperatures = _temperatures(arguments["temperature"], arguments["temperature_increment_on_fallback"])
    if temperatures is not None:
        options["temperature"] = temperatures
    if arguments["suppress_tokens"] is not None:
        options["suppress_tokens"] = _token_ids(arguments["suppress_tokens"])
    if arguments["vad_threshold"] is not None:
        options["vad_parameters"] = {"threshold": arguments["vad_threshold"]}
    VadOptions.from_any(TranscribeOptions.from_arguments(options).vad_parameters)
    return options


def _formats(given: Sequence[str]) -> tuple[str, ...]:
    """Return the formats in the order in which they were given, each once."""
    names = [name.lower() for text in given for name in split_list(text)]
    wrong = [name for name in names if name not in (*FORMATS, "all")]
    if wrong or (given and not names):
        raise OptionError("output_format", ",".join(given), f"some of {', '.join(FORMATS)}, or all")
    return tuple(FORMATS) if "all" in names else tuple(dict.fromkeys(names)) or ("txt",)


def _check_needs(arguments: dict[str, Any]) -> None:
    def is_given(name: str) -> bool:
        return arguments[name] is not None and arguments[name] is not False

    for name, needed in _NEEDS.items():
        if is_given(name) and not any(map(is_given, needed)):
            raise OptionError(name, arguments[name], f"with {' or '.join(needed)} only, without which it does nothing")
    if all(map(is_given, ("max_words_per_line", "max_line_width", "max_line_count"))):
        raise OptionError(
            "max_words_per_line",
            arguments["max_words_per_line"],
            "not together with max_line_width and max_line_count, which make cues of their own",
        )


def _temperatures(first: Optional[float], step: Optional[float]) -> Optional[tuple[float, ...]]:
    """openai/whisper's ladder: from the temperature in steps up to 1.0."""
    if first is None and step is None:
        return None
    first = DEFAULT_TEMPERATURES[0] if first is None else first
    step = 0.2 if step is None else step
    if step != 0 and not _LEAST_STEP <= step < math.inf:
        raise OptionError(
            "temperature_increment_on_fallback", step, f"0 for no fallback, or a number from {_LEAST_STEP} on"
        )
    if step == 0 or not 0 <= first <= 1:  # transcribe() judges the temperature itself
        return (first,)
    count = int((1.0 + 1e-6 - first) / step) + 1
    return tuple(round(first + i * step, 6) for i in range(count))


def _token_ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise OptionError("suppress_tokens", text, "comma-separated token ids, such as -1 or 50257,11") from None


def _print_segment(segment: Any) -> None:
    click.echo(f"[{_clock(segment.start)} --> {_clock(segment.end)}] {segment.text}", err=True)


def _print_dropped(transcript: Transcript) -> None:
    for part in transcript.dropped:
        click.echo(f"[{_clock(part.start)} --> {_clock(part.end)}] (dropped, {part.reason})", err=True)


def _clock(time_s: float) -> str:
    minutes, seconds = divmod(time_s, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:06.3f}" if hours else f"{minutes:02d}:{seconds:06.3f}"


def _layout(arguments: dict[str, Any]) -> dict[str, Any]:
    names = ("highlight_words", "max_line_width", "max_line_count", "max_words_per_line")
    return {name: arguments[name] for name in names if arguments[name] is not None}
