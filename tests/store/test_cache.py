"""The cache of converted models: made once, opened ever after, shared by processes, rebuilt when damaged."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from whisperq_edge import ModelError, ModelFormatError, OptionError
from whisperq_edge._convert import convert as converter
from whisperq_edge._core import read_model_file
from whisperq_edge._store import cache
from whisperq_edge._store.cache import cached_model, clear_cache, find_cached, list_cache, prune_cache
from whisperq_edge._system import locks
from whisperq_edge._system.folders import cache_folder
from whisperq_edge.cli import main

from tests.support.cli_runner import cli_runner
from tests.support.make_model import write_random_model

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture(scope="module")
def original(micro_en_path: Path) -> Path:
    return micro_en_path


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, original: Path) -> Path:
    """A cache with one entry, for copying."""
    folder = tmp_path_factory.mktemp("filled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHISPERQ_CACHE", str(folder))
        cached_model(original, "q8_0", model="micro.en")
    return folder


@pytest.fixture
def entry(folder: Path, filled: Path) -> Path:
    """An entry in the cache, made from ``original``."""
    shutil.copytree(filled, folder)  # copies times too
    [path] = folder.glob("*.bin")
    return path


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The destinations that the converter was called for."""
    destinations: list[Path] = []
    convert = converter.convert_model

    def counted(source: Any, destination: Any, **options: Any) -> Any:
        destinations.append(destination)
        return convert(source, destination, **options)

    monkeypatch.setattr(converter, "convert_model", counted)
    yield destinations


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """All that changes when something is written."""
    files = [folder, *folder.iterdir()]
    return {path.name: (path.stat().st_ino, path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- Made once -------------------------------------------------------------------------------------------------------


def test_an_entry_is_made_once_and_later_loads_write_nothing(original: Path, folder: Path, runs: list[Path]) -> None:
    path = cached_model(original, "q8_0")
    assert read_model_file(path).ftype == "q8_0" and runs == [path]
    assert path.parent == folder and path.name.startswith("ggml-micro.en-q8_0-")
    assert names(folder) == [path.name, f"{path.name}.json", "sources.json"]
    before = snapshot(folder)
    assert cached_model(original, "q8_0") == path
    assert len(runs) == 1 and snapshot(folder) == before


def test_the_source_is_hashed_once(original: Path, entry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(paths: Any) -> str:
        raise AssertionError(f"{paths} hashed again")

    monkeypatch.setattr(cache, "sha256_of_files", refuse)
    assert cached_model(original, "q8_0") == entry


def test_the_key_has_source_type_recipe_and_quantiser(
    original: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: list[Path]
) -> None:
    source, recipe = tmp_path / "m.bin", tmp_path / "recipe.toml"
    shutil.copy(original, source)
    recipe.write_text("type = 'q4_0'\n", encoding="utf-8")
    paths = [cached_model(source, "q8_0"), cached_model(source, "q4_0"), cached_model(source, recipe=recipe)]
    recipe.write_text("type = 'q5_0'\n", encoding="utf-8")
    paths.append(cached_model(source, recipe=recipe))
    write_random_model(source, "micro.en", "f16", seed=1)
    paths.append(cached_model(source, "q8_0"))
    monkeypatch.setattr(cache, "_quantizer", lambda: "another")
    paths.append(cached_model(source, "q8_0"))
    assert runs == paths and len(set(paths)) == 6
    types = [read_model_file(path).ftype for path in paths]
    assert types == ["q8_0", "q4_0", "q4_0", "q5_0", "q8_0", "q8_0"]
    assert [path.name.rsplit("-", 2)[1] for path in paths] == ["q8_0", "q4_0", "recipe", "recipe", "q8_0", "q8_0"]
    assert paths[0].read_bytes() != paths[4].read_bytes() == paths[5].read_bytes()


def test_the_same_source_elsewhere_is_the_same_entry(
    original: Path, entry: Path, tmp_path: Path, runs: list[Path]
) -> None:
    shutil.copy(original, tmp_path / original.name)
    assert cached_model(tmp_path / original.name, "q8_0") == entry and runs == []


def test_a_folder_is_a_source_and_what_changes_in_it_counts(original: Path, tmp_path: Path, runs: list[Path]) -> None:
    source = tmp_path / "whisper-micro"
    converter.convert_model(original, source, to="safetensors", type="f16", proof="tensors")
    runs.clear()
    first = cached_model(source, "q5_0")
    assert cached_model(source, "q5_0") == first and runs == [first]
    assert first.name.startswith("ggml-micro-q5_0-")
    assert read_model_file(first).n_tokens == 50257
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2] + b"\x00\x3c")
    assert cached_model(source, "q5_0") != first and len(runs) == 2


def test_a_failed_conversion_leaves_nothing(folder: Path, original: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged.bin").write_bytes(original.read_bytes()[:-1])
    with pytest.raises(ModelFormatError):
        cached_model(tmp_path / "damaged.bin", "q8_0")
    assert names(folder) == ["sources.json"]


def test_a_source_that_changes_while_it_is_read(
    original: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "m.bin"
    shutil.copy(original, source)
    convert = converter.convert_model

    def change_then_convert(*arguments: Any, **options: Any) -> Any:
        write_random_model(source, "micro.en", "f16", seed=2)
        return convert(*arguments, **options)

    monkeypatch.setattr(converter, "convert_model", change_then_convert)
    with pytest.raises(ModelError, match="changed while"):
        cached_model(source, "q8_0")
    assert names(folder) == ["sources.json"] and json.loads((folder / "sources.json").read_bytes()) == {}
    monkeypatch.undo()
    monkeypatch.setenv("WHISPERQ_CACHE", str(folder))
    assert read_model_file(cached_model(source, "q8_0")).ftype == "q8_0"


def test_the_hash_of_a_source_that_is_being_written_is_not_kept(
    original: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "m.bin"
    shutil.copy(original, source)
    sha256_of = cache.sha256_of_files

    def hash_then_write(paths: Any) -> str:
        digest = sha256_of(paths)
        source.write_bytes(original.read_bytes()[:-1])
        return digest

    monkeypatch.setattr(cache, "sha256_of_files", hash_then_write)
    assert cache._source_sha256(source) == sha256_of([original])
    assert not folder.exists()


def test_a_cache_that_cannot_be_made(original: Path, folder: Path) -> None:
    folder.write_bytes(b"")
    with pytest.raises(OSError, match="WHISPERQ_CACHE") as caught:
        cached_model(original, "q8_0")
    assert caught.value.errno == errno.EEXIST and caught.value.filename == str(folder)


# ---- Damage ----------------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))


def rename_tensor(path: Path) -> None:
    """Of the same size and time."""
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"decoder.ln.bias", b"decoder.ln.bius"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def empty_report(path: Path) -> None:
    path.with_name(path.name + ".json").write_text("{}", encoding="utf-8")


def garbled_report(path: Path) -> None:
    path.with_name(path.name + ".json").write_bytes(b'{"sha256": "\xff')


def listed_report(path: Path) -> None:
    path.with_name(path.name + ".json").write_text("[1, 2]", encoding="utf-8")


def no_report(path: Path) -> None:
    path.with_name(path.name + ".json").unlink()


def no_file(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    "damage", [cut, flip, rename_tensor, empty_report, garbled_report, listed_report, no_report, no_file]
)
def test_a_damaged_entry_is_rebuilt(original: Path, entry: Path, runs: list[Path], damage: Any) -> None:
    whole = entry.read_bytes()
    damage(entry)
    assert cached_model(original, "q8_0") == entry
    assert runs == [entry] and entry.read_bytes() == whole
    assert cached_model(original, "q8_0") == entry and len(runs) == 1


def test_a_damaged_entry_is_not_found_by_name(entry: Path) -> None:
    assert find_cached("micro.en", "q8_0") == entry
    flip(entry)
    assert find_cached("micro.en", "q8_0") is None


def test_an_entry_that_was_touched_is_read_again_once(
    original: Path, entry: Path, runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(entry)
    hashed: list[Any] = []
    sha256_of = cache.sha256_of_files

    def counted(paths: Any) -> str:
        hashed.append(paths)
        return sha256_of(paths)

    monkeypatch.setattr(cache, "sha256_of_files", counted)
    for _ in range(2):
        assert cached_model(original, "q8_0") == entry
    assert hashed == [[entry]] and runs == []


def test_an_entry_whose_maker_died_before_the_last_note_is_taken(original: Path, entry: Path, runs: list[Path]) -> None:
    sidecar = entry.with_name(entry.name + ".json")
    report = json.loads(sidecar.read_bytes())
    del report["cache"]
    sidecar.write_text(json.dumps(report), encoding="utf-8")
    assert find_cached("micro.en", "q8_0") is None
    assert cached_model(original, "q8_0", model="micro.en") == entry
    assert find_cached("micro.en", "q8_0") == entry and runs == []


def test_an_entry_in_a_cache_that_cannot_be_written_is_used(
    original: Path, entry: Path, runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an image of a container: other times, and read-only."""
    os.utime(entry)
    (entry.parent / "sources.json").unlink()
    before = snapshot(entry.parent)

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(cache, "write_json", refuse)
    assert cached_model(original, "q8_0") == entry
    assert runs == [] and snapshot(entry.parent) == before


def test_an_unreadable_index_costs_nothing_but_time(original: Path, entry: Path, runs: list[Path]) -> None:
    for content in (b"\xff", b"[]", b'{"x": 1}'):
        (entry.parent / "sources.json").write_bytes(content)
        assert cached_model(original, "q8_0") == entry
    assert runs == []


def test_a_name_finds_the_entry_in_its_type_and_of_today(entry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_cached("micro.en", "q8_0") == entry
    assert find_cached("micro.en", "q4_0") is None and find_cached("micro", "q8_0") is None
    assert find_cached("en", "q8_0") is None
    monkeypatch.setattr(cache, "_quantizer", lambda: "another")
    assert find_cached("micro.en", "q8_0") is None


def test_a_name_is_added_to_an_entry_and_never_lost(original: Path, entry: Path) -> None:
    assert cached_model(original, "q8_0") == entry
    assert find_cached("micro.en", "q8_0") == entry
    unnamed = cached_model(original, "q4_0")
    assert find_cached("micro.en", "q4_0") is None
    assert cached_model(original, "q4_0", model="micro.en") == unnamed == find_cached("micro.en", "q4_0")


# ---- Processes -------------------------------------------------------------------------------------------------------

# Converts as cached_model does, slowly, and notes that it did.
_LOAD = """
import sys, time
from whisperq_edge._store import cache
from whisperq_edge._convert import convert as converter
source, notes = sys.argv[1:]
convert = converter.convert_model
def slow(*arguments, **options):
    with open(notes, "a") as file:
        file.write("run\\n")
    time.sleep(0.4)
    return convert(*arguments, **options)
converter.convert_model = slow
print("ready", flush=True)
sys.stdin.readline()
print(cache.cached_model(source, "q8_0"))
"""

_HOLD = """
import sys, time
from pathlib import Path
from whisperq_edge._store import cache
with cache._locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().strip() in ("ready", "held")
    return process


def test_two_processes_make_one_file(original: Path, folder: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    processes = [start(_LOAD, original, notes) for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert notes.read_text() == "run\n"
    [path] = folder.glob("*.bin")
    assert answers == {str(path)} and read_model_file(path).ftype == "q8_0"
    assert names(folder) == [path.name, f"{path.name}.json", "sources.json"]  # no lock is left


def test_two_threads_make_one_file(original: Path, runs: list[Path]) -> None:
    threads = [threading.Thread(target=cached_model, args=(original, "q8_0")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 1


def test_a_lock_file_that_was_removed_meanwhile_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who had it removes it; who opened it before would lock a file that nobody else sees."""
    try_lock = locks.try_lock

    def remove_then_lock(descriptor: int) -> bool:
        (tmp_path / "lock").unlink()
        return try_lock(descriptor)

    monkeypatch.setattr(locks, "try_lock", remove_then_lock)
    assert locks.take_lock(tmp_path / "lock") is None


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_the_lock_of_a_dead_process_is_free(original: Path, entry: Path, runs: list[Path]) -> None:
    entry.unlink()
    lock = entry.with_suffix(".lock")
    process = start(_HOLD, lock)
    process.kill()
    process.communicate()
    assert lock.exists()
    began = time.monotonic()
    assert cached_model(original, "q8_0") == entry and len(runs) == 1
    assert time.monotonic() - began < 20 and not lock.exists()


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_an_entry_that_is_being_made_is_left_alone(entry: Path) -> None:
    process = start(_HOLD, entry.with_suffix(".lock"))
    try:
        assert prune_cache(max_bytes=0) == []
        assert [removed.path.name for removed in clear_cache()] == ["sources.json"]
        assert entry.exists()
    finally:
        process.kill()
        process.communicate()
    assert [removed.path for removed in clear_cache()] == [entry]
    assert list(entry.parent.iterdir()) == []


# ---- Looking at it, and making room ----------------------------------------------------------------------------------


def test_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("WHISPERQ_CACHE", "")  # as if it were not set
    monkeypatch.setenv("HOME", str(tmp_path))
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_folder() == tmp_path / "xdg" / "whisperq-edge"
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder() == tmp_path / ".cache" / "whisperq-edge"
        monkeypatch.setattr(sys, "platform", "darwin")
        assert cache_folder() == tmp_path / "Library" / "Caches" / "whisperq-edge"
    monkeypatch.setenv("WHISPERQ_CACHE", "~/here")
    assert cache_folder() == tmp_path / "here"


def test_there_need_not_be_a_cache(folder: Path) -> None:
    assert list_cache() == prune_cache(0, 0) == clear_cache() == [] and find_cached("base.en", "f16") is None
    assert not folder.exists()


def aged(folder: Path, original: Path) -> list[Path]:
    """Three entries, used 10, 20 and 30 days ago."""
    paths = [cached_model(original, type) for type in ("q8_0", "q5_0", "q4_0")]
    for days, path in zip((10, 20, 30), paths):
        then = time.time() - 86400 * days
        os.utime(path, (then, then))
    return paths


def test_list(original: Path, folder: Path) -> None:
    paths = aged(folder, original)
    entries = list_cache()
    assert [entry.path for entry in entries] == paths
    assert [entry.kind for entry in entries] == ["q8_0", "q5_0", "q4_0"]
    for entry in entries:
        sidecar = entry.path.with_name(entry.path.name + ".json")
        assert entry.n_bytes == entry.path.stat().st_size + sidecar.stat().st_size
        assert entry.source == str(original) and entry.model is None


def test_prune_by_age(original: Path, folder: Path) -> None:
    paths = aged(folder, original)
    sizes = {entry.path: entry.n_bytes for entry in list_cache()}
    removed = prune_cache(older_than_days=15)
    assert dict(removed) == {path: sizes[path] for path in paths[1:]}
    assert names(folder) == [paths[0].name, f"{paths[0].name}.json", "sources.json"]


def test_prune_by_size_begins_with_what_was_used_longest_ago(original: Path, folder: Path) -> None:
    paths = aged(folder, original)
    total = sum(entry.n_bytes for entry in list_cache())
    assert prune_cache(max_bytes=total) == []
    assert [each.path for each in prune_cache(max_bytes=total - 1)] == [paths[2]]
    assert [each.path for each in prune_cache(max_bytes=0)] == [paths[1], paths[0]]


def test_silence_is_pruned_before_models(original: Path, folder: Path) -> None:
    paths = aged(folder, original)
    total = sum(entry.n_bytes for entry in list_cache())
    silence = folder / "silence-avx2-0123456789ab.bin"
    silence.write_bytes(b"x" * 100)
    assert prune_cache(max_bytes=total + 100, older_than_days=1000) == []
    assert prune_cache(max_bytes=total + 99) == [(silence, 100)]
    silence.write_bytes(b"x" * 100)
    os.utime(silence, (1, 1))
    assert (silence, 100) in prune_cache(older_than_days=1000)
    silence.write_bytes(b"x" * 100)
    assert silence in [each.path for each in clear_cache()] and paths[0].parent == folder


@pytest.mark.parametrize("arguments", [{"max_bytes": -1}, {"older_than_days": -0.5}, {"older_than_days": float("nan")}])
def test_prune_refuses_negative_numbers(arguments: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as caught:
        prune_cache(**arguments)
    assert caught.value.field in arguments


def test_only_what_is_ours_is_touched(entry: Path, tmp_path: Path) -> None:
    folder = entry.parent
    others = ["ggml-base.en-q8_0.bin", "notes.json", "x.lock", ".whisperq-1", "ggml-a-q8_0-0123456789AB.bin"]
    for name in others:
        (folder / name).write_bytes(b"mine")
    (folder / "sub").mkdir()
    outside = tmp_path / "outside.bin"
    outside.write_bytes(b"mine")
    link = folder / "ggml-a-q8_0-0123456789ab.bin"
    link.symlink_to(outside)
    prune_cache(0, 0)
    clear_cache()
    assert names(folder) == sorted([*others, "sub", link.name])
    assert outside.read_bytes() == b"mine"


def test_what_killed_processes_left_is_removed(entry: Path) -> None:
    folder = entry.parent
    for name in (".whisperq-old.part", ".whisperq-new.part"):
        (folder / name).write_bytes(bytes(10))
    then = time.time() - 2 * 86400
    os.utime(folder / ".whisperq-old.part", (then, then))
    (folder / "ggml-a-q8_0-0123456789ab.lock").touch()
    (folder / "ggml-a-q8_0-0123456789ab.bin.json").write_bytes(b"{}")
    removed = prune_cache()
    assert {each.path.name: each.n_bytes for each in removed} == {
        ".whisperq-old.part": 10,
        "ggml-a-q8_0-0123456789ab.bin.json": 2,
    }
    assert names(folder) == [".whisperq-new.part", entry.name, f"{entry.name}.json", "sources.json"]


# ---- whisperq-edge cache ---------------------------------------------------------------------------------------------


def run(*arguments: str, stdin: str = "") -> Any:
    return cli_runner().invoke(main, ["cache", *arguments], input=stdin)


def test_cli_path(folder: Path) -> None:
    assert run("path").stdout == f"{folder}\n"
    assert json.loads(run("path", "--json").stdout) == {"path": str(folder)}


def test_cli_list(entry: Path) -> None:
    result = run("list")
    assert result.exit_code == 0
    [header, row] = [line.split() for line in result.stdout.splitlines()]
    assert header[:3] == ["model", "type", "MB"] and row[:2] == ["micro.en", "q8_0"] and row[-1] == entry.name
    assert "1 model, " in result.stderr
    report = json.loads(run("list", "--json").stdout)
    [listed] = report["entries"]
    assert listed["path"] == str(entry) and listed["bytes"] == report["bytes"] > entry.stat().st_size


def test_cli_list_of_nothing() -> None:
    result = run("list")
    assert result.exit_code == 0 and result.stdout == "" and "0 models" in result.stderr


def test_cli_prune(entry: Path) -> None:
    assert run("prune", "--max-size", "1GB", "--older-than", "30d").stdout == ""
    assert entry.exists()
    report = json.loads(run("prune", "--max-size", "0MB", "--json").stdout)
    assert [each["path"] for each in report["removed"]] == [str(entry)] and not entry.exists()


@pytest.mark.parametrize(
    ("option", "value"), [("--max-size", "2 potatoes"), ("--older-than", "30"), ("--older-than", "-1d")]
)
def test_cli_prune_names_a_wrong_value(option: str, value: str) -> None:
    result = run("prune", f"{option}={value}")
    assert result.exit_code == 2 and option in result.stderr and value in result.stderr


def test_cli_clear_asks(entry: Path) -> None:
    assert run("clear", stdin="n\n").exit_code == 1 and entry.exists()
    result = run("clear", stdin="y\n")
    assert result.exit_code == 0 and not entry.exists() and str(entry) in result.stdout


def test_cli_clear_without_asking(entry: Path) -> None:
    result = run("clear", "--yes", "--json")
    assert json.loads(result.stdout)["bytes"] > 0 and list(entry.parent.iterdir()) == []
