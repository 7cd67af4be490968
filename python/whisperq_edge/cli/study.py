"""``whisperq-edge study MODEL``: what each choice of a quantisation costs, one axis at a time."""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any, Optional

import click

from .._errors import OptionError
from .._eval.data import load_dataset
from .._eval.journal import Journal, journal_path
from .._eval.normalise import choose_normaliser, load_extra, normaliser
from .._eval.report import what_can_be_seen
from .._eval.run import run_settings
from .._options import TranscribeOptions
from .._study.noise import Noises
from .._study.plot import draw_study
from .._study.report import (
    AXES_HEADER,
    axes_rows,
    make_report,
    markdown,
    noise_header,
    noise_rows,
    sentences,
    table_header,
    table_rows,
)
from .._study.run import Study, open_model
from .._study.schemes import default_rows, named_rows, rows_of_lists
from .._system.matplotlib import load_matplotlib
from .reports import keeps_journal, print_json, save_report, split_list
from .tables import print_table, stage_progress

__all__ = ["study_command"]


@click.command("study")
@click.argument("model")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="MANIFEST_OR_FOLDER",
    help="Speech with texts, as `eval` takes it. Without: no words, and the built-in clip for the encoder.",
)
@click.option("--split", help="Only rows of the manifest with this value in the column `split`.")
@click.option("--limit", type=int, metavar="N", help="So many utterances, spread evenly over the set.")
@click.option(
    "--noise",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Recordings of noise to mix with --data; or a manifest of them.",
)
@click.option(
    "--snr",
    default="20,10,0",
    show_default=True,
    help="With --noise: speech over noise in dB. Speech is taken at the level of its active frames.",
)
@click.option("--weights", default="", metavar="SCHEMES", help="Comma-separated; see below.")
@click.option("--activations", default="", metavar="SCHEMES", help="Comma-separated; see below.")
@click.option(
    "--rows", default="", metavar="ROWS", help="Instead of both: WEIGHTS or WEIGHTS/ACTIVATIONS, comma-separated."
)
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path),
    metavar="MANIFEST_OR_FOLDER",
    help="Speech that `static` activations get their ranges from; not that of --data.",
)
@click.option("--calibrate-split", help="Only rows of that manifest with this value in the column `split`.")
@click.option("--calibrate-limit", type=int, default=64, show_default=True, metavar="N", help="Utterances of it.")
@click.option(
    "--scope",
    default="blocks",
    show_default=True,
    help="Matrices to round: blocks (those of all layers), or encoder, decoder; conv, embedding; comma-separated.",
)
@click.option("--clips", type=int, default=8, show_default=True, metavar="N", help="Clips for the encoder's SQNR.")
@click.option("--no-wer", is_flag=True, help="Sizes and SQNR only, for models whose decoder knows nothing.")
@click.option("--language", "-l", help="Code or English name; without it the language is detected.")
@click.option("--beam-size", type=int, help="Beams at temperature 0; 1 is greedy.  [default: 5]")
@click.option(
    "--temperature", type=float, help="Only this one, no fallback.  [default: 0, then up to 1.0 in steps of 0.2]"
)
@click.option(
    "--normaliser", type=click.Choice(["auto", "english", "basic", "none"]), default="auto", show_default=True
)
@click.option("--threads", type=int, default=0, help="CPU threads; 0: all that this process may use.")
@click.option("--seed", type=int, default=0, show_default=True, help="The seed of noise and bootstrap.")
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.json", help="All results."
)
@click.option("--resume", is_flag=True, help="Go on where a run with the same --output ended, and keep its results.")
@click.option("--overwrite", is_flag=True, help="Replace --output and its journal if they exist.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print tables to paste into a page.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.png", help="A picture (extra `plot`)."
)
def study_command(model: str, **options: Any) -> None:
    """Measure what rounding MODEL's weights and activations costs: the axes of arXiv 2511.08093, one at a time.

    Weights are rounded and stored as float, activations are rounded while the edge engine computes in float, so that
    rows differ in the rounding alone. Every row has bits per weight with scales and zero points, size, SQNR of weights
    and of the encoder's output. With --data it has the word error rate with its interval, and the differences that can
    be claimed (extra `eval`).

    \b
    Weights:      float, LEVELS-GRANULARITY
      LEVELS        int8-sym int8-asym ... int2-sym int2-asym, nf4, fp8 (e4m3)
      GRANULARITY   tensor, channel (a row), group32, group64, group128, ... (of a row)
    Activations:  float, dynamic-tensor, dynamic-token, dynamic-block32, ... (-asym behind it), static

    Both lists given: every combination. One of them: the other is float. Neither, nor --rows: eighteen rows that answer
    one question each, sixteen of them without --calibrate. The float model is always the first row.

    With --output, each result is kept in FILE.json.journal at once, and --resume goes on from there.
    """
    sys.exit(1 if _study(model, options) else 0)


def _study(model: str, options: dict[str, Any]) -> bool:
    """True when an utterance failed."""
    _check(options)
    if options["plot"] is not None:
        load_matplotlib()  # told before, not after, hours of work
    hears = options["data"] is not None and not options["no_wer"]
    if hears:
        load_extra("jiwer", "jiwer")
    rows, snrs_db = _rows(options), _ratios(options)
    given = {name: options[name] for name in ("language", "beam_size", "temperature") if options[name] is not None}
    language = TranscribeOptions.from_arguments(given).language
    dataset = None
    if options["data"] is not None:
        dataset = load_dataset(options["data"], split=options["split"], limit=options["limit"])
    calibration = None
    if options["calibrate"] is not None:
        calibration = load_dataset(
            options["calibrate"], split=options["calibrate_split"], limit=options["calibrate_limit"]
        )
    noises = None if options["noise"] is None else Noises(options["noise"], options["seed"])
    opened = open_model(model, split_list(options["scope"]), n_threads=options["threads"])
    kind, normalise = _normaliser(options, language, opened.is_multilingual)
    _announce(dataset, normalise, hears, len(rows))
    settings = run_settings(given, "cpu", options["threads"])
    output: Optional[Path] = options["output"]
    place = None if output is None else journal_path(output)
    with (
        tempfile.TemporaryDirectory(prefix="whisperq-study-") as folder,
        stage_progress() as advance,
        keeps_journal(place),
        Journal(place, settings, resume=options["resume"], overwrite=options["overwrite"]) as journal,
    ):
        study = Study(opened, rows, Path(folder), settings, journal, advance)
        conditions = study.conditions(dataset, options["clips"], noises, snrs_db if noises else ())
        ranges = None if calibration is None or not _needs_ranges(rows) else study.calibrate(calibration)
        results = study.run(conditions, hears=hears)
        about = {
            "command": shlex.join(["whisperq-edge", *sys.argv[1:]]),
            "normaliser": kind,
            "noise": _about_noise(noises, snrs_db),
            "calibration": _about_calibration(calibration, dataset, ranges),
        }
        report = _report(opened, results, conditions, dataset if hears else None, normalise, settings, about, options)
    _deliver(report, options)
    return bool(report["failures"])


def _report(
    model: Any,
    results: Any,
    conditions: Any,
    dataset: Any,
    normalise: Any,
    settings: dict[str, Any],
    about: dict[str, Any],
    options: dict[str, Any],
) -> dict[str, Any]:
    return make_report(
        *(model, results, conditions),
        dataset=dataset,
        normalise=normalise,
        settings=settings,
        about=about,
        seed=options["seed"],
    )


# ---- What was asked for ----------------------------------------------------------------------------------------------


def _check(options: dict[str, Any]) -> None:
    """What would be noticed after hours otherwise."""
    output = options["output"]
    if options["as_json"] and options["as_markdown"]:
        raise OptionError("json", True, "not together with --markdown: both print to stdout")
    if options["resume"] and output is None:
        raise OptionError("resume", True, "with --output only: the journal of a run lies beside its output")
    if options["resume"] and options["overwrite"]:
        raise OptionError("resume", True, "not together with --overwrite, which begins anew")
    if options["clips"] < 1:
        raise OptionError("clips", options["clips"], "1 or more")
    for name in ("noise", "split", "limit"):
        if options[name] is not None and options["data"] is None:
            raise OptionError(name, str(options[name]), "with --data only")
    for name in ("output", "plot"):
        place: Optional[Path] = options[name]
        if place is not None and not place.absolute().parent.is_dir():
            raise OptionError(name, str(place), "a file in a folder that exists")
    if output is not None and output.exists() and not (options["resume"] or options["overwrite"]):
        raise OptionError("output", str(output), "it exists: --resume adds to that run, --overwrite begins anew")


def _rows(options: dict[str, Any]) -> list[Any]:
    is_calibrated = options["calibrate"] is not None
    weights, activations = split_list(options["weights"]), split_list(options["activations"])
    names = split_list(options["rows"])
    if names and (weights or activations):
        raise OptionError("rows", options["rows"], "not together with --weights and --activations")
    if not names and not weights and not activations:
        return default_rows(is_calibrated)
    rows = named_rows(names) if names else rows_of_lists(weights, activations)
    if _needs_ranges(rows) and not is_calibrated:
        raise OptionError("activations", "static", "with --calibrate only: its ranges come from speech")
    return rows


def _needs_ranges(rows: list[Any]) -> bool:
    return any(row.activations.is_static for row in rows)


def _ratios(options: dict[str, Any]) -> list[float]:
    try:
        ratios = [float(part) for part in split_list(options["snr"])]
    except ValueError:
        ratios = []
    if not ratios or len(set(ratios)) < len(ratios) or not all(-60 <= ratio <= 100 for ratio in ratios):
        raise OptionError("snr", options["snr"], "numbers from -60 to 100, each once, such as 20,10,0")
    return ratios


def _normaliser(options: dict[str, Any], language: Optional[str], is_multilingual: bool) -> tuple[str, Any]:
    if options["data"] is None or options["no_wer"]:
        return "none", None
    kind = choose_normaliser(options["normaliser"], language, {"other" if is_multilingual else "en"})
    return kind, normaliser(kind, language)


def _announce(dataset: Any, normalise: Any, hears: bool, n_rows: int) -> None:
    if not hears:
        click.echo(f"{n_rows} rows, sizes and SQNR only.", err=True)
        return
    n = len(dataset.utterances)
    part = f"{n} of {dataset.n_all} utterances" if n < dataset.n_all else f"{n} utterances"
    seen = what_can_be_seen(dataset, normalise, n_rows)
    click.echo(f"{n_rows} rows; {dataset.path} ({dataset.layout}): {part}. {seen}", err=True)


def _about_noise(noises: Any, snrs_db: list[float]) -> Optional[dict[str, Any]]:
    if noises is None:
        return None
    n = len(noises.files)
    return {
        "files": n,
        "snr_db": snrs_db,
        "seed": noises.seed,
        "identity": noises.identity,
        "in_words": f"Noise: one piece of one of {n} recordings for each utterance, the same at every ratio; ratios are"
        " of the speech's active frames (20 ms, at most 30 dB below the loudest) to the noise that is mixed in.",
    }


def _about_calibration(calibration: Any, dataset: Any, ranges: Optional[dict[str, float]]) -> Optional[dict[str, Any]]:
    if calibration is None or ranges is None:
        return None
    used = {each.audio.resolve() for each in calibration.utterances}
    shared = 0 if dataset is None else sum(each.audio.resolve() in used for each in dataset.utterances)
    return {
        "utterances": len(calibration.utterances),
        "also_measured_on": shared,
        "method": "largest |x| of each matrix's inputs while the float model transcribes",
        "ranges": {name: round(value, 5) for name, value in ranges.items()},
    }


# ---- The answer ------------------------------------------------------------------------------------------------------


def _deliver(report: dict[str, Any], options: dict[str, Any]) -> None:
    if options["output"] is not None:
        save_report(report, options["output"])
    if options["plot"] is not None:
        draw_study(report, options["plot"])
    for each in report["failures"]:
        click.echo(f"whisperq-edge: {each['system']}: {each['utterance']}: {each['reason']}", err=True)
    if options["as_json"]:
        print_json(report)
    elif options["as_markdown"]:
        click.echo(markdown(report), nl=False)
    else:
        _print_report(report)


def _print_report(report: dict[str, Any]) -> None:
    print_table(table_rows(report), table_header(report), right=table_header(report)[4:-1])
    if len(report["conditions"]) > 1:
        click.echo()
        print_table(noise_rows(report), noise_header(report), right=noise_header(report)[1:])
    if report["axes"]:
        click.echo()
        print_table(axes_rows(report), AXES_HEADER, right=AXES_HEADER[3:])
    click.echo()
    for line in sentences(report):
        click.echo(line)
