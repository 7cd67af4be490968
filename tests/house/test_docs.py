"""README and docs name commands, options and files that exist, and their example runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from whisperq_edge.cli import main

from tests.support.paths import ROOT

README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs").glob("adr/*.md")),
]
SAMPLE = ROOT / "python" / "whisperq_edge" / "assets" / "sample.flac"

pytestmark = pytest.mark.skipif(not README.is_file(), reason="README and docs are not here")


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words behind each ``whisperq-edge`` in the page's shell blocks, up to a comment or another command."""
    text = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    for found in re.finditer(r"whisperq-edge\s+([^#|\n]*)", text):
        yield found.group(1).split()


def options(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def anchors(page: Path) -> set[str]:
    """Return the names that a page's headings get: lower case, dashes for spaces, without other signs."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def unknown_words(words: list[str]) -> list[str]:
    """Return the subcommand or the options of a command line that the command line does not have."""
    command = main.get_command(click.Context(main), words[0])
    if command is None:
        return words[:1]
    known = options(command)
    given = [word.split("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)]
    return [option for option in given if option.replace("_", "-") not in known]


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_commands_and_options_exist(page: Path) -> None:
    assert [unknown for words in commands(page) for unknown in unknown_words(words)] == []


def test_the_check_sees_an_option_that_is_none() -> None:
    assert unknown_words(["transcribe", "a.wav", "--bean-size", "1"]) == ["--bean-size"]
    assert unknown_words(["transkribe", "a.wav"]) == ["transkribe"]


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("https:", "http:")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_pages_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"(?<![\w/])docs/[\w/.-]*\w\.(?:md|json|png|csv)", page.read_text(encoding="utf-8"))
    assert [each for each in named if each != "docs/stages.png" and not (ROOT / each).is_file()] == []


def test_the_readme_is_short_and_names_the_two_commands() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert [line.split("#")[0].strip() for line in lines if line.startswith("make ")] == ["make run", "make test"]


def test_the_readmes_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks(README, "python")
    assert example.count('WhisperModel("base")') == example.count('"talk.mp3"') == 1
    exec(example.replace('"base"', '"nano"').replace('"talk.mp3"', repr(str(SAMPLE))), {})
    said = capsys.readouterr().out
    assert "seven three one nine" in said and "Encode" in said


def test_every_page_is_linked_from_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    assert [page.name for page in sorted((ROOT / "docs").glob("*.md")) if f"docs/{page.name}" not in text] == []
