"""``whisperq-edge bench``: where the time goes, stage by stage, and whether it is more than it was."""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any, Optional

import click

from .._audio.pcm import to_pcm
from .._bench.card import machine_card
from .._bench.plot import draw_stages
from .._bench.report import (
    SUMMARY_HEADER,
    card_line,
    check_comparable,
    compare_reports,
    load_report,
    make_report,
    markdown,
    rounds_to_judge,
    settings_line,
    stage_tables,
    summary_rows,
)
from .._bench.run import LEAST_ROUNDS, measure
from .._bench.systems import RANDOM, choose_bench_systems
from .._errors import OptionError
from .._options import language_code
from .._system.matplotlib import load_matplotlib
from .._system.native import data_file
from .._whisper.units import SAMPLE_RATE
from .reports import DEFAULT_MODEL, MODEL_VARIABLE, print_json, save_report, split_list
from .tables import print_table, stage_progress

__all__ = ["bench_command"]

_FORCED_TOKENS = 50  # of random weights, which would not know when to stop


@click.command("bench")
@click.option(
    "--model",
    "-m",
    envvar=MODEL_VARIABLE,
    default=DEFAULT_MODEL,
    show_envvar=True,
    show_default=True,
    help="Name or path; random:SHAPE has random weights and the shape of a published model, such as random:base.en.",
)
@click.option("--random", "shape", metavar="SHAPE", help="The same as --model random:SHAPE.")
@click.option("--types", "-t", default="", help="Types of the weights, comma-separated; the first is the standard.")
@click.option("--engines", default="edge,ggml", show_default=True, help="Engines, comma-separated.")
@click.option("--threads", default="0", show_default=True, help="Numbers, comma-separated; 0: all that may be used.")
@click.option("--vs", default="", help="Peers that are installed: faster-whisper,openai,openvino,onnxruntime.")
@click.option("--audio", type=click.Path(path_type=Path), metavar="FILE", help="[default: a built-in clip]")
@click.option(
    "--tokens",
    type=click.IntRange(2, 224),
    metavar="N",
    help=f"So many tokens in every window, whatever the weights.  [default with random weights: {_FORCED_TOKENS}]",
)
@click.option("--beam-size", type=click.IntRange(1, 8), default=1, show_default=True)
@click.option("--language", "-l", default="en", show_default=True, help="Code or English name.")
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    help="Rounds that count.  [default: 10; with --save or --compare 10 to 200, for 25 s for each system]",
)
@click.option("--warm-up", type=click.IntRange(0, 100), default=1, show_default=True, help="Rounds before them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print tables to paste into a page.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.png", help="Stacked stages (extra `plot`)."
)
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="BASELINE.json",
    help="All results, to compare with.",
)
@click.option(
    "--compare", type=click.Path(path_type=Path), metavar="BASELINE.json", help="Judge this run against a saved one."
)
@click.option("--fail-over", default="5%", show_default=True, help="How much slower is allowed.")
def bench_command(**options: Any) -> None:
    """Time every stage of a transcription: types beside each other, engines, threads, other runtimes.

    Every system runs in a process of its own; all take their turn in every round. Figures are medians with intervals of
    95 %.

    With --compare the exit status is 1 when a system is slower than then: its interval says so, and the estimate is
    above --fail-over; 2 when the two runs are not of the same machine and task.
    """
    sys.exit(1 if _bench(options) else 0)


def _bench(options: dict[str, Any]) -> bool:
    """True when a system is slower than in the run that it was compared with."""
    fail_over = _share(options["fail_over"])
    _check_places(options)
    if options["plot"] is not None:
        load_matplotlib()  # told before, not after, minutes of work
    settings, samples = _settings(options)
    card = machine_card()
    then = None if options["compare"] is None else load_report(options["compare"])
    if then is not None:
        check_comparable(card, settings, then, str(options["compare"]))
    given = {
        "language": settings["language"],
        "beam_size": settings["beam_size"],
        "temperature": 0.0,
        "no_speech_threshold": None,
        "drop_silence": False,  # whisper.cpp does not, and what is not decoded is not measured
    }
    with tempfile.TemporaryDirectory(prefix="whisperq-bench-") as folder, stage_progress() as advance:
        systems, skipped = choose_bench_systems(
            settings["model"],
            split_list(options["types"]),
            split_list(options["engines"]),
            _numbers(options["threads"]),
            split_list(options["vs"]),
            Path(folder),
            advance,
            beam_size=settings["beam_size"],
        )
        _check_rounds(options, len(systems), then)
        measured = measure(
            systems,
            samples,
            given,
            n_tokens=settings["n_tokens"],
            rounds=_rounds(options),
            warm_up=options["warm_up"],
            on_progress=advance,
        )
    settings["rounds"] = len(measured.yardstick.rounds)
    command = shlex.join(["whisperq-edge", *sys.argv[1:]])
    report = make_report(measured, card=card, settings=settings, skipped=skipped, command=command)
    changes = [] if then is None else compare_reports(report, then, fail_over)
    report["changes"] = [{**_change_entry(each), "sentence": each.sentence(fail_over)} for each in changes]
    _deliver(report, options)
    return any(each.is_slower for each in changes)


def _share(text: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%?\s*", text)
    if match is None:
        raise OptionError("fail_over", text, "a percentage such as 5%")
    return float(match.group(1)) / 100


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in split_list(text)] or [0]
    except ValueError:
        raise OptionError("threads", text, "whole numbers, comma-separated") from None


def _check_places(options: dict[str, Any]) -> None:
    """What would be noticed after minutes otherwise."""
    if options["as_json"] and options["as_markdown"]:
        raise OptionError("json", True, "not together with --markdown: both print to stdout")
    for name in ("save", "plot"):
        place: Optional[Path] = options[name]
        if place is not None and not place.absolute().parent.is_dir():
            raise OptionError(name, str(place), "a file in a folder that exists")


def _rounds(options: dict[str, Any]) -> Optional[int]:
    """None: as many as judging needs."""
    is_judged = options["save"] is not None or options["compare"] is not None
    given: Optional[int] = options["rounds"]
    return given if given is not None or is_judged else LEAST_ROUNDS


def _check_rounds(options: dict[str, Any], n_systems: int, then: Optional[dict[str, Any]]) -> None:
    least = rounds_to_judge(n_systems)
    rounds = _rounds(options)
    if then is not None and rounds is not None and rounds < least:
        raise OptionError("rounds", rounds, f"{least} or more to compare {n_systems} systems")


def _settings(options: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """What decides what is done, and the samples."""
    model = options["model"] if options["shape"] is None else RANDOM + options["shape"]
    audio: Optional[Path] = options["audio"]
    samples = to_pcm(data_file("assets/sample.flac") if audio is None else audio).samples
    n_tokens = options["tokens"] or (_FORCED_TOKENS if model.startswith(RANDOM) else None)
    settings = {
        "model": model,
        "audio": "the built-in clip" if audio is None else audio.name,
        "audio_s": round(samples.size / SAMPLE_RATE, 4),
        "audio_sha256": hashlib.sha256(samples.tobytes()).hexdigest(),
        "n_tokens": n_tokens,
        "beam_size": options["beam_size"],
        "language": language_code(options["language"]),
        "warm_up": options["warm_up"],
    }
    return settings, samples


def _change_entry(change: Any) -> dict[str, Any]:
    return {
        "name": change.name,
        "ratio": change.ratio._asdict(),
        "relative": change.relative._asdict(),
        "is_slower": change.is_slower,
    }


def _deliver(report: dict[str, Any], options: dict[str, Any]) -> None:
    if options["save"] is not None:
        save_report(report, options["save"])
    if options["plot"] is not None:
        draw_stages(report, options["plot"])
    for each in report["skipped"]:
        click.echo(f"whisperq-edge: {each['name']} is left out: {each['reason']}", err=True)
    if options["as_json"]:
        print_json(report)
    elif options["as_markdown"]:
        click.echo(markdown(report), nl=False)
    else:
        _print_report(report)
    if report["changes"] and (options["as_json"] or options["as_markdown"]):
        for each in report["changes"]:
            click.echo(each["sentence"], err=True)


def _print_report(report: dict[str, Any]) -> None:
    click.echo(f"{settings_line(report)}\n{card_line(report)}\n")
    for header, rows in stage_tables(report):
        print_table(rows, header, right=header[1:])
        click.echo()
    print_table(summary_rows(report), SUMMARY_HEADER, right=SUMMARY_HEADER[1:])
    click.echo()
    for line in (*report["notes"], *(each["sentence"] for each in report["changes"])):
        click.echo(line)
