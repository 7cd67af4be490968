"""``whisperq-edge eval`` from end to end: a run, one that is killed and goes on, the journal, the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from whisperq_edge import DatasetError, OptionError
from whisperq_edge._eval.journal import Journal, journal_path
from whisperq_edge._eval.page import render_page
from whisperq_edge.cli import main

from tests.support.cli_runner import cli_runner
from tests.support.make_model import write_random_model
from tests.support.processes import children_of, is_running, wait_for

pytest.importorskip("jiwer")

QUICK = ["--beam-size", "1", "--temperature", "0", "--threads", "1", "--normaliser", "none", "--audio-ctx", "1500"]
VOID = {"meta"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights: quick, and wrong about everything."""
    return write_random_model(tmp_path_factory.mktemp("eval") / "micro.en.bin", "micro.en", "f16")


def write_set(folder: Path, n: int, sample_pcm: npt.NDArray[np.float32]) -> Path:
    """Pieces of the sample, of two speakers, with texts that nobody said."""
    rows = ["file\tspeaker\ttext"]
    for i in range(n):
        soundfile.write(folder / f"{i:03d}.wav", sample_pcm[i * 800 : i * 800 + 24_000], 16_000)
        rows.append(f"{i:03d}.wav\tspeaker {i % 2}\tone two <b>three</b> & four")
    path = folder / "manifest.tsv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def run_eval(*arguments: object) -> Any:
    return cli_runner().invoke(main, ["eval", *map(str, arguments)])


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, model: Path, sample_pcm: npt.NDArray[np.float32]
) -> tuple[Path, Any]:
    """A folder with a set and the results of a run over it."""
    folder = tmp_path_factory.mktemp("finished")
    data = write_set(folder, 4, sample_pcm)
    where = ["--output", folder / "out.json", "--html", folder / "out.html"]
    return folder, run_eval(data, "--models", model, "--types", "f16,q8_0", *QUICK, *where)


def test_a_run(finished: tuple[Path, Any]) -> None:
    folder, result = finished
    assert result.exit_code == 0, result.output
    report = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    assert report["data"]["utterances"] == 4 and report["data"]["words"] == 20 and report["data"]["speakers"] == 2
    assert report["data"]["audio_s"] == 6.0
    assert [system["name"] for system in report["systems"]] == ["f16", "q8_0"]
    for system in report["systems"]:
        assert system["errors"] == sum(system[name] for name in ("substitutions", "deletions", "insertions"))
        assert system["wer"]["rate"] == system["errors"] / 20
        assert system["rtf"] > 0 and 0 < system["latency_ms"]["p50"] <= system["latency_ms"]["p95"]
        assert system["bytes"] == Path(system["path"]).stat().st_size
        assert system["peak_rss_bytes"] is None or system["peak_rss_bytes"] > system["bytes"]
        assert system["stages"]["encode"]["runs"] == 4
        assert sum(each["errors"] for each in system["worst"]) == system["errors"]
    assert report["systems"][0]["layers"] is None and report["systems"][1]["layers"][0]["layer"] == "encoder 0"
    assert [each["name"] for each in report["comparisons"]] == ["q8_0"]
    assert "20 words in 4 utterances can show" in result.stderr
    assert report["verdict"] in result.stdout and "q8_0: " in result.stdout


def test_what_was_heard_is_not_heard_again(finished: tuple[Path, Any], model: Path, tmp_path: Path) -> None:
    folder, _ = finished
    for name in ("out.json", "out.json.journal"):
        shutil.copy(folder / name, tmp_path / name)
    before = (tmp_path / "out.json.journal").read_bytes()
    again = run_eval(
        *(folder / "manifest.tsv", "--models", model, "--types", "f16,q8_0,q4_0", *QUICK),
        *("--output", tmp_path / "out.json", "--resume", "--baseline", "q8_0"),
    )
    assert again.exit_code == 0, again.output
    after = (tmp_path / "out.json.journal").read_bytes()
    assert after.startswith(before)
    assert after[len(before) :].count(b'"utterance"') == 4  # by q4_0
    report = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert report["baseline"] == "q8_0" and [c["name"] for c in report["comparisons"]] == ["f16", "q4_0"]


def test_nothing_is_replaced_unasked(finished: tuple[Path, Any], model: Path) -> None:
    folder, _ = finished
    result = run_eval(folder / "manifest.tsv", "--models", model, *QUICK, "--output", folder / "out.json")
    assert result.exit_code == 2 and "--resume" in result.stderr and "--overwrite" in result.stderr


def test_other_settings_cannot_go_on(finished: tuple[Path, Any], model: Path) -> None:
    folder, _ = finished
    where = ["--output", folder / "out.json", "--resume"]
    result = run_eval(folder / "manifest.tsv", "--models", model, *QUICK, "--beam-size", "2", *where)
    assert result.exit_code == 2 and "'beam_size': 1" in result.stderr and "'beam_size': 2" in result.stderr


def test_a_file_that_fails_is_left_out_for_all(
    tmp_path: Path, model: Path, sample_pcm: npt.NDArray[np.float32]
) -> None:
    data = write_set(tmp_path, 3, sample_pcm)
    (tmp_path / "001.wav").write_bytes(b"RIFF no audio")
    result = run_eval(data, "--models", model, *QUICK, "--output", tmp_path / "out.json", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["data"]["utterances"] == 2
    assert [each["utterance"] for each in report["failures"]] == ["001.wav"] and "001.wav" in result.stderr
    soundfile.write(tmp_path / "001.wav", sample_pcm[:24_000], 16_000)
    again = run_eval(data, "--models", model, *QUICK, "--output", tmp_path / "out.json", "--resume", "--json")
    assert again.exit_code == 0 and json.loads(again.stdout)["data"]["utterances"] == 3


# --- killed -----------------------------------------------------------------------------------------------------------


def n_heard(journal: Path) -> int:
    return journal.read_bytes().count(b'"utterance"') if journal.exists() else 0


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_run_that_was_killed_goes_on(tmp_path: Path, model: Path, sample_pcm: npt.NDArray[np.float32]) -> None:
    n, output = 24, tmp_path / "out.json"
    data, journal = write_set(tmp_path, n, sample_pcm), journal_path(output)
    command = ["eval", str(data), "--models", str(model), *QUICK, "--output", str(output)]
    process = subprocess.Popen(
        [sys.executable, "-m", "whisperq_edge", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    wait_for(lambda: n_heard(journal) >= 3 or process.poll() is not None)
    workers = children_of(process.pid)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert not output.exists() and len(workers) == 1
    wait_for(lambda: not is_running(workers[0]))
    before = journal.read_bytes()
    n_before = n_heard(journal)
    assert 3 <= n_before < n
    journal.write_bytes(before + b'{"system": "half a li')  # as when the machine lost power

    result = run_eval(*command[1:], "--resume", "--json")
    assert result.exit_code == 0, result.output
    after = journal.read_bytes()
    assert after.startswith(before) and n_heard(journal) == n
    report = json.loads(output.read_text(encoding="utf-8"))
    assert report["data"]["utterances"] == n and report["failures"] == []
    assert json.loads(result.stdout)["systems"] == report["systems"]


@pytest.mark.skipif(os.name == "nt", reason="no SIGSTOP")
def test_a_second_run_does_not_write_into_the_journal_of_the_first(
    tmp_path: Path, model: Path, sample_pcm: npt.NDArray[np.float32]
) -> None:
    n, output = 12, tmp_path / "out.json"
    data, journal = write_set(tmp_path, n, sample_pcm), journal_path(output)
    command = [sys.executable, "-m", "whisperq_edge", "eval", str(data), "--models", str(model), *QUICK]
    command += ["--output", str(output)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = subprocess.Popen(command, env=environment, **quiet)
    try:
        wait_for(lambda: n_heard(journal) >= 2 or first.poll() is not None)
        first.send_signal(signal.SIGSTOP)  # so that it is there as long as the others need
        before = journal.read_bytes()
        for how in ("--resume", "--overwrite"):
            second = subprocess.run([*command, how], env=environment, capture_output=True, text=True, timeout=60)
            assert second.returncode == 2, second.stderr
            assert str(journal) in second.stderr and "another --output" in second.stderr
        assert journal.read_bytes() == before and not output.exists()
    finally:
        first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=60) == 0 and n_heard(journal) == n
    assert sorted(path.name for path in tmp_path.glob("out.json*")) == [
        "out.json",
        "out.json.journal",
    ]  # no lock is left
    third = run_eval(*command[4:], "--resume")
    assert third.exit_code == 0, third.output
    assert n_heard(journal) == n


# --- the journal ------------------------------------------------------------------------------------------------------


def test_the_journal_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path, {"a": 1}) as journal:
        journal.add_utterance("s", "u", {"text": "ü\n\udcff"})
        journal.add_system("s", {"load_ms": 2, "peak_rss_bytes": 5})
        journal.add_system("s", {"load_ms": 1, "peak_rss_bytes": 7})
    for _ in range(2):
        with Journal(path, {"a": 1}, resume=True) as journal:
            assert journal.utterance("s", "u") == {"text": "ü\n\udcff"}
            assert journal.utterance("s", "v") is None and journal.utterance("t", "u") is None
            assert journal.system("s") == {"load_ms": 2, "peak_rss_bytes": 7}


def test_a_journal_cut_anywhere_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path, {"a": 1}) as journal:
        for i in range(3):
            journal.add_utterance("s", str(i), {"text": "x"})
    whole = path.read_bytes()
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with Journal(path, {"a": 1}, resume=True) as journal:
            journal.add_utterance("s", "new", {"text": "y"})
        with Journal(path, {"a": 1}, resume=True) as journal:
            assert journal.utterance("s", "new") == {"text": "y"}
            known = [i for i in range(3) if journal.utterance("s", str(i))]
            assert len(known) == max(whole[:n].count(b"\n") - 1, 0)


@pytest.mark.parametrize(
    ("content", "error", "reason"),
    [
        (b"no json\n", DatasetError, "line 1"),
        (b'{"a": 1}\n', DatasetError, "line 1"),
        (b'{"whisperq_edge_eval_journal": 9, "settings": {}}\n', DatasetError, "version 9"),
        (b'{"whisperq_edge_eval_journal": 1, "settings": {"a": 2}}\n', OptionError, "a=2, this one has 1"),
        (b'{"whisperq_edge_eval_journal": 1, "settings": {"a": 1}}\nx\n', DatasetError, "line 2"),
        (b'{"whisperq_edge_eval_journal": 1, "settings": {"a": 1}}\n[]\n{}\n', DatasetError, "line 2"),
    ],
)
def test_journals_that_are_none(tmp_path: Path, content: bytes, error: type[Exception], reason: str) -> None:
    path = tmp_path / "j"
    path.write_bytes(content)
    with pytest.raises(error, match=reason):
        Journal(path, {"a": 1}, resume=True)  # and frees its lock, or the next would be told of another run
    assert path.read_bytes() == content
    with pytest.raises(OptionError, match="--overwrite"):
        Journal(path, {"a": 1})
    with Journal(path, {"a": 1}, overwrite=True) as journal:
        assert journal.utterance("s", "u") is None


def test_a_journal_is_free_when_it_was_closed(tmp_path: Path) -> None:
    refused = pytest.raises(OptionError, match=r"j' is not possible.*no other run.*another --output")
    with Journal(tmp_path / "j", {}), refused:
        Journal(tmp_path / "j", {}, resume=True)
    with Journal(tmp_path / "j", {}, resume=True) as journal:
        journal.close()
        journal.close()
    assert [path.name for path in tmp_path.iterdir()] == ["j"]


# --- the page ---------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Fails on a tag that is not closed in order; collects what could point out of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.names.add(tag)
        self.attributes += [(name, value or "") for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: Any) -> None:
        self.names.add(tag)
        self.attributes += [(name, value or "") for name, value in attributes]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone(finished: tuple[Path, Any]) -> None:
    text = (finished[0] / "out.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.names & {"script", "link", "img", "iframe", "object", "use", "image", "base", "form"}
    names = {name for name, _ in page.attributes}
    assert not names & {"src", "href", "xlink:href", "srcset", "action", "data"}
    assert not re.search(r"url\(|@import|https?:|//", re.sub(r"<code>.*?</code>", "", text))
    assert ("name", "viewport") in page.attributes and "svg" in page.names
    assert "default-src 'none'" in text
    assert text.count("<svg") == 4
    assert "&lt;b&gt;three&lt;/b&gt; &amp; four" in text and "<b>" not in text


def test_the_page_of_one_system_and_of_odd_names(finished: tuple[Path, Any]) -> None:
    report = json.loads((finished[0] / "out.json").read_text(encoding="utf-8"))
    report["systems"], report["comparisons"] = report["systems"][:1], []
    report["systems"][0]["name"] = "<script>alert(1)</script>" * 3
    report["systems"][0].update(rtf=None, load_ms=None, peak_rss_bytes=None)
    page = Page(render_page(report))
    assert "script" not in page.names


# --- usage ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def one(tmp_path: Path, sample_pcm: npt.NDArray[np.float32]) -> Iterator[Path]:
    yield write_set(tmp_path, 1, sample_pcm)


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ([], 2, "either DATA or --counts"),
        (["{data}", "--counts", "x.csv"], 2, "either DATA or --counts"),
        (["{data}", "--resume"], 2, "with --output only"),
        (["{data}", "--resume", "--overwrite", "--output", "x.json"], 2, "not together"),
        (["{data}", "--output", "{folder}/no/such/x.json"], 2, "a folder that exists"),
        (["{data}", "--types", "q9"], 2, "--types q9 is"),
        (["{data}", "--types", "q8_0,int8"], 2, "every system once"),
        (["{data}", "--models", ""], 2, "at least one"),
        (["{data}", "--models", "{folder}/missing.bin"], 3, "missing.bin"),
        (["{data}", "--baseline", "q2_k"], 2, "one of f16"),
        (["{data}", "--language", "klingon"], 2, "--language klingon is"),
        (["{data}", "--engines", "abacus"], 2, "engine='abacus'"),
        (["{data}", "--beam-size", "0"], 2, "--beam-size 0 is"),
        (["{folder}/nowhere"], 2, "no such file or folder"),
        (["--counts", "{folder}/nowhere.csv"], 2, "no such file"),
        (["--counts", "{folder}/nowhere.csv", "--html", "x.html"], 2, "not together with --counts"),
        (["--counts", "{folder}/nowhere.csv", "--models", "nano"], 2, "--models nano is not possible: not together"),
        (["--counts", "{folder}/nowhere.csv", "--beam-size", "5"], 2, "not together with --counts"),
        (["--counts", "{folder}/nowhere.csv", "--seed", "0"], 2, "not together with --counts"),
    ],
)
def test_wrong_usage(one: Path, model: Path, arguments: list[str], code: int, reason: str) -> None:
    filled = [each.format(data=one, folder=one.parent) for each in arguments]
    usual = [] if "--models" in filled else ["--models", str(model)]
    options = [] if "--counts" in filled else [*usual, "--normaliser", "none"]
    result = run_eval(*filled, *options)
    assert (result.exit_code, reason in result.stderr) == (code, True), result.stderr


def test_a_set_without_a_word_is_refused(tmp_path: Path, model: Path, one: Path) -> None:
    one.write_text("file\ttext\n000.wav\t \n", encoding="utf-8")
    result = run_eval(one, "--models", model, *QUICK)
    assert result.exit_code == 2 and "nothing to count" in result.stderr


def test_counts_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    path.write_text("name,errors,words\nbase,5,251\nint4,4,251\n", encoding="utf-8")
    result = run_eval("--counts", path)
    assert result.exit_code == 0
    assert "int4: -0.4 points, interval -3.2 to +2.3: no difference can be claimed from 251 words" in result.stdout
    report = json.loads(run_eval("--counts", path, "--json", "--output", tmp_path / "o.json").stdout)
    assert report == json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))
