"""Published files, fetched from a hub on loopback: broken connections, wrong bytes, tokens, proxies, no network."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from whisperq_edge import ModelError, ModelFormatError, ModelNotFoundError, WhisperModel
from whisperq_edge._convert import convert as converter
from whisperq_edge._core import read_model_file
from whisperq_edge._store import fetch
from whisperq_edge._store import published as _published
from whisperq_edge._store.cache import clear_cache, list_cache, prune_cache
from whisperq_edge._store.catalog import MODELS
from whisperq_edge._store.hub import hub_cache
from whisperq_edge._store.locate import locate_model
from whisperq_edge._store.published import PUBLISHED, REPOSITORY, PublishedFile, published_type
from whisperq_edge.cli import main
from whisperq_edge.compat import faster_whisper

from tests.support.cli_runner import cli_runner
from tests.support.hub_server import Hub, Repository, serve
from tests.support.make_model import write_random_model

pytestmark = pytest.mark.usefixtures("folder")

NAME = "ggml-base-q8_0.bin"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a stand-in for base in q8_0. It has other dimensions, which nobody minds."""
    return write_random_model(tmp_path_factory.mktemp("models") / NAME, "micro", "q8_0").read_bytes()


@pytest.fixture
def hub(data: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    sha1 = hashlib.sha1(data).hexdigest()
    published = (PublishedFile("base", "q8_0", len(data), sha1), *PUBLISHED)
    monkeypatch.setattr(_published, "PUBLISHED", published)
    monkeypatch.setattr(fetch, "_PAUSE_S", 0.0)
    monkeypatch.setattr(fetch, "_PIECE", 4096)
    with serve({REPOSITORY: Repository({NAME: data})}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        yield running


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide ``huggingface_hub``, as if it were not installed."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


def ranges(hub: Hub) -> list[str]:
    return [headers.get("Range", "") for headers in hub.headers]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def put_into_hub_cache(repository: str, files: dict[str, bytes], commit: str = "c0ffee") -> Path:
    """Lay a repository out as the hub's own package does."""
    root = hub_cache() / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    for name, content in files.items():
        blob = root / "blobs" / hashlib.sha256(content).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        snapshot.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        (snapshot / name).symlink_to(blob)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    return snapshot


# ---- The table -------------------------------------------------------------------------------------------------------


def test_the_table_names_models_that_we_know_in_their_sizes() -> None:
    assert len({(file.model, file.type) for file in PUBLISHED}) == len({file.sha1 for file in PUBLISHED}) == 21
    for file in PUBLISHED:
        assert file.n_bytes == MODELS[file.model].file_bytes(file.type) and len(file.sha1) == 40
        assert file.name == f"ggml-{file.model}-{file.type}.bin"


def test_a_name_stands_for_8_bits_where_they_are_published() -> None:
    in_8_bits = {model for model in MODELS if published_type(model) == "q8_0"}
    families = {name for size in ("tiny", "base", "small", "medium") for name in (size, f"{size}.en")}
    assert in_8_bits == {*families, "large-v2", "large-v3-turbo"}
    assert published_type("large-v3") == "q5_0" and published_type("distil-small.en") is None


# ---- Fetching --------------------------------------------------------------------------------------------------------


def test_a_name_is_fetched_once_without_the_extra(hub: Hub, data: bytes, folder: Path, without_extra: None) -> None:
    path = locate_model("base")
    assert path.read_bytes() == data and read_model_file(path).ftype == "q8_0"
    assert hub.requests == [f"GET /{REPOSITORY}/resolve/main/{NAME}"]
    assert names(folder) == [path.name, f"{path.name}.json"]
    before = [(file.name, file.stat().st_mtime_ns) for file in sorted(folder.iterdir())]
    assert locate_model("base") == locate_model("base", "int8") == locate_model("base", "auto") == path
    assert len(hub.requests) == 1
    assert [(file.name, file.stat().st_mtime_ns) for file in sorted(folder.iterdir())] == before
    [entry] = list_cache()
    assert (entry.model, entry.kind, entry.path) == ("base", "q8_0", path)
    assert clear_cache() and names(folder) == []


def test_python_and_the_command_line_open_the_same_file(
    hub: Hub, sample_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WhisperModel("base", device="cpu") as model:
        assert model.compute_type == "q8_0"
        path = model.model_path
    faster_whisper.WhisperModel("base", device="cpu")
    result = cli_runner().invoke(main, ["transcribe", str(sample_path), "--beam-size", "1", "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["transcripts"][0]["model"] == str(path)
    assert len(hub.requests) == 1


def test_an_explicit_type_wins(hub: Hub, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no published file of its own: the float weights are asked for."""
    asked = []

    def download(repo_id: str, **options: Any) -> Path:
        asked.append(repo_id)
        raise ModelNotFoundError("not here")

    monkeypatch.setattr("whisperq_edge._store.snapshots.download_model", download)
    locate_model("base")
    for compute_type in ("f16", "int4"):
        with pytest.raises(ModelNotFoundError, match="not here"):
            locate_model("base", compute_type)
    assert asked == ["openai/whisper-base"] * 2 and len(hub.requests) == 1


def test_a_hub_id_means_that_repository(hub: Hub, without_extra: None) -> None:
    with pytest.raises(ModelNotFoundError, match=r"whisperq-edge\[hub\]"):
        locate_model("openai/whisper-base")
    with pytest.raises(ModelNotFoundError, match="lacks openai/whisper-base, and nothing may be downloaded"):
        locate_model("openai/whisper-base", local_files_only=True)
    assert hub.requests == []


def test_the_folder_for_models_gets_the_published_name(hub: Hub, data: bytes, folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "models"
    path = locate_model("base", download_root=root)
    assert path == root / NAME and path.read_bytes() == data
    assert locate_model("base", download_root=root) == path and len(hub.requests) == 1
    assert [file.suffix for file in folder.glob("*.bin*")] == []


def test_a_file_that_is_there_is_taken_if_its_bytes_are_right(
    hub: Hub, data: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / NAME).write_bytes(data)
    assert locate_model("base", download_root=tmp_path) == tmp_path / NAME and hub.requests == []
    (tmp_path / NAME).write_bytes(data[:-1] + b"x")
    with caplog.at_level(logging.WARNING, logger="whisperq_edge"):
        assert locate_model("base", download_root=tmp_path).read_bytes() == data
    assert "has other bytes than the published file" in caplog.text and len(hub.requests) == 1


def test_two_threads_fetch_once(hub: Hub) -> None:
    threads = [threading.Thread(target=locate_model, args=("base",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hub.requests) == 1


def test_progress_is_told(hub: Hub) -> None:
    told: list[tuple[str, float]] = []
    locate_model("base", on_progress=lambda stage, fraction: told.append((stage, fraction)))
    fractions = [fraction for _, fraction in told]
    assert {stage for stage, _ in told} == {f"downloading {NAME}"}
    assert fractions == sorted(fractions) and fractions[-1] == 1.0 and len(fractions) > 3


# ---- Broken connections ----------------------------------------------------------------------------------------------


def test_a_broken_download_goes_on_where_it_broke(hub: Hub, data: bytes) -> None:
    hub.cuts = [8192, 4096]
    assert locate_model("base").read_bytes() == data
    assert ranges(hub) == ["", "bytes=8192-", "bytes=12288-"]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(hub: Hub, data: bytes, folder: Path) -> None:
    hub.cuts = [20_480] + [0] * 5
    with pytest.raises(ModelNotFoundError, match=r"0\.0 MB of 4\.8 MB are kept, and the next call goes on there"):
        locate_model("base")
    [partial] = [name for name in names(folder) if name.endswith(".partial")]
    assert (folder / partial).read_bytes() == data[:20_480] and not list(folder.glob("*.bin"))
    hub.headers.clear()
    assert locate_model("base").read_bytes() == data
    assert ranges(hub) == ["bytes=20480-"] and not list(folder.glob("*.partial"))


def test_a_server_without_ranges_sends_all_of_it_again(hub: Hub, data: bytes) -> None:
    hub.has_ranges, hub.cuts = False, [8192]
    assert locate_model("base").read_bytes() == data
    assert ranges(hub) == ["", "bytes=8192-"]


def test_what_a_broken_download_left_is_pruned_after_a_day(hub: Hub, folder: Path) -> None:
    hub.cuts = [20_480] + [0] * 5
    with pytest.raises(ModelNotFoundError):
        locate_model("base")
    [partial] = folder.glob("*.partial")
    assert prune_cache() == [] and partial.exists()
    os.utime(partial, (1, 1))
    assert [removed.path for removed in prune_cache()] == [partial]


def test_a_server_that_is_unwell_for_a_moment(hub: Hub, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.failing = 503
    monkeypatch.setattr(fetch.time, "sleep", lambda seconds: setattr(hub, "failing", None))
    assert locate_model("base").read_bytes() == data and len(hub.requests) == 2


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(fetch, "_PAUSE_S", 0.0)
    with pytest.raises(ModelNotFoundError, match="check the network, HF_ENDPOINT and proxies") as caught:
        locate_model("base")
    assert "127.0.0.1:9" in str(caught.value) and "refused" in str(caught.value)
    assert names(folder) == []


@pytest.mark.parametrize(("status", "said"), [(404, "there is no such file"), (418, "answered 418: try again later")])
def test_a_server_that_refuses(hub: Hub, status: int, said: str) -> None:
    hub.failing = status
    with pytest.raises(ModelNotFoundError, match=said):
        locate_model("base")
    assert len(hub.requests) == 1


def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    with pytest.raises(ModelNotFoundError, match="check HF_ENDPOINT"):
        locate_model("base")


# ---- Wrong bytes -----------------------------------------------------------------------------------------------------


def test_wrong_bytes_leave_nothing(hub: Hub, data: bytes, folder: Path) -> None:
    hub.repositories[REPOSITORY] = Repository({NAME: data[:-1] + b"x"})
    with pytest.raises(ModelFormatError) as caught:
        locate_model("base")
    assert caught.value.field == "SHA-1 of the whole file" and caught.value.allowed == hashlib.sha1(data).hexdigest()
    assert isinstance(caught.value, ModelError) and hub.endpoint in caught.value.path
    assert names(folder) == [] and len(hub.requests) == 1


@pytest.mark.parametrize("content", [b"<html>log in first</html>", b"longer" * 100_000])
def test_a_file_of_another_size_is_not_fetched(hub: Hub, folder: Path, content: bytes) -> None:
    """The page of a captive portal is one."""
    hub.repositories[REPOSITORY] = Repository({NAME: content})
    with pytest.raises(ModelFormatError, match=f"size of the whole file is {len(content)} bytes"):
        locate_model("base")
    assert names(folder) == []


def test_a_damaged_partial_file_is_fetched_anew(
    hub: Hub, data: bytes, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.cuts = [20_480] + [0] * 5
    with pytest.raises(ModelNotFoundError):
        locate_model("base")
    [partial] = folder.glob("*.partial")
    partial.write_bytes(bytes(20_480))
    assert locate_model("base").read_bytes() == data
    assert "was damaged: it is downloaded anew" in caplog.text


def test_a_damaged_entry_is_fetched_again(hub: Hub, data: bytes) -> None:
    path = locate_model("base")
    path.write_bytes(data[:-1] + b"x")
    assert locate_model("base") == path and path.read_bytes() == data


def test_a_full_disk_is_told_before(hub: Hub, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: usage(1, 1, 1000))
    with pytest.raises(OSError, match=r"MB are needed and 0\.0 MB are free") as caught:
        locate_model("base")
    assert caught.value.errno == errno.ENOSPC and hub.requests == [] and names(folder) == []


# ---- What the environment says ---------------------------------------------------------------------------------------


def test_a_token_is_sent_and_never_to_another_host(
    hub: Hub, data: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.repositories[REPOSITORY] = Repository({NAME: data}, token="hf_right")
    for token, said in [("", "HF_TOKEN is not set"), ("hf_wrong", "holds a token that may not read it")]:
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(ModelNotFoundError, match=said) as caught:
            locate_model("base")
        assert "hf_wrong" not in str(caught.value)
    netrc = tmp_path / "netrc"  # would replace a mere header
    netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    hub.headers.clear()
    locate_model("base")
    assert [headers["Authorization"] for headers in hub.headers] == ["Bearer hf_right"]

    clear_cache()
    hub.repositories[REPOSITORY] = Repository({NAME: data})
    hub.redirects_to = f"localhost:{hub.port}"
    hub.headers.clear()
    assert locate_model("base").read_bytes() == data
    assert [headers.get("Authorization") for headers in hub.headers] == ["Bearer hf_right", None]


def test_a_redirected_download_is_resumed(hub: Hub, data: bytes) -> None:
    hub.redirects_to, hub.cuts = f"localhost:{hub.port}", [8192]
    assert locate_model("base").read_bytes() == data
    assert ranges(hub) == ["", "", "bytes=8192-", "bytes=8192-"]


def test_a_proxy_is_asked(hub: Hub, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", hub.endpoint)
    monkeypatch.setenv("http_proxy", hub.endpoint)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    assert locate_model("base").read_bytes() == data
    assert [headers["Host"] for headers in hub.headers] == ["hub.example"]


@pytest.mark.parametrize("value", ["1", "true", "YES"])
def test_offline_asks_nobody(hub: Hub, value: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    with pytest.raises(
        ModelNotFoundError, match=r"'base' in q8_0 or f16.*HF_HUB_OFFLINE forbids to download ggml-base-q8_0"
    ):
        locate_model("base")
    assert hub.requests == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    path = locate_model("base")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert locate_model("base") == path


def test_local_files_only_asks_nobody(hub: Hub) -> None:
    with pytest.raises(ModelNotFoundError, match="local_files_only forbids to download ggml-base-q8_0"):
        WhisperModel("base", local_files_only=True)
    assert hub.requests == []


# ---- What the hub's own cache holds ----------------------------------------------------------------------------------


def test_a_published_file_in_the_cache_of_the_hub_is_used(
    hub: Hub, data: bytes, folder: Path, without_extra: None
) -> None:
    snapshot = put_into_hub_cache(REPOSITORY, {NAME: data})
    assert locate_model("base") == snapshot / NAME and hub.requests == []
    assert names(folder) == ["sources.json"]  # its hash, which is computed once


def test_a_wrong_file_in_the_cache_of_the_hub_is_not_used(hub: Hub, data: bytes) -> None:
    put_into_hub_cache(REPOSITORY, {NAME: data[:-1] + b"x"})
    assert locate_model("base").read_bytes() == data and len(hub.requests) == 1


@pytest.fixture(scope="module")
def float_weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of a repository of transformers."""
    folder = tmp_path_factory.mktemp("float")
    write_random_model(folder / "m.bin", "micro", "f16")
    converter.convert_model(folder / "m.bin", folder / "hf", to="safetensors", type="f16", proof="tensors")
    return {path.name: path.read_bytes() for path in (folder / "hf").iterdir()}


@pytest.mark.parametrize("name", ["openai/whisper-base", "somebody/whisper-fine"])
def test_a_repository_in_the_cache_of_the_hub_needs_neither_network_nor_extra(
    hub: Hub, float_weights: dict[str, bytes], name: str, without_extra: None
) -> None:
    put_into_hub_cache(name, float_weights)
    assert read_model_file(locate_model(name)).ftype == "f16"
    assert read_model_file(locate_model(name, "int5")).ftype == "q5_0"
    assert hub.requests == []


def test_float_weights_in_the_cache_of_the_hub_become_what_a_name_stands_for(
    hub: Hub, float_weights: dict[str, bytes], without_extra: None
) -> None:
    put_into_hub_cache("openai/whisper-base", float_weights)
    assert read_model_file(locate_model("base")).ftype == "q8_0"
    assert read_model_file(locate_model("base", "f16")).ftype == "f16"
    assert hub.requests == []


@pytest.mark.parametrize("lacking", ["config.json", "model.safetensors", "vocab.json"])
def test_a_part_of_a_repository_is_not_used(float_weights: dict[str, bytes], lacking: str, without_extra: None) -> None:
    """Another program may have fetched only what it reads."""
    assert lacking in float_weights
    put_into_hub_cache("somebody/whisper-fine", {k: v for k, v in float_weights.items() if k != lacking})
    with pytest.raises(ModelNotFoundError, match=r"whisperq-edge\[hub\]"):
        locate_model("somebody/whisper-fine")


def test_the_folder_of_the_cache_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert hub_cache() == tmp_path / "hub" / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "other"))
    assert hub_cache() == tmp_path / "other"
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert hub_cache() == tmp_path / "xdg" / "huggingface" / "hub"


# ---- The command line ------------------------------------------------------------------------------------------------

QUICK = ("--beam-size", "1", "--temperature-increment-on-fallback", "0", "--device", "cpu")


def test_transcribe_needs_no_model_and_says_what_it_fetches(hub: Hub, sample_path: Path, folder: Path) -> None:
    first = cli_runner().invoke(main, ["transcribe", str(sample_path), *QUICK])
    assert first.exit_code == 0, first.stderr
    [line] = first.stderr.splitlines()
    assert line.startswith("whisperq-edge: downloading the model base: 5 MB from") and str(folder) in line
    assert "--model" in line and "WHISPERQ_MODEL" in line and "whisperq-edge models" in line
    second = cli_runner().invoke(main, ["transcribe", str(sample_path), *QUICK])
    assert (second.exit_code, second.stderr, second.stdout) == (0, "", first.stdout)


def test_what_is_in_the_cache_never_chooses_the_model(hub: Hub, sample_path: Path, folder: Path) -> None:
    locate_model("nano", "int8")
    result = cli_runner().invoke(main, ["transcribe", str(sample_path), *QUICK, "--json"])
    assert "ggml-base-q8_0-" in json.loads(result.stdout)["transcripts"][0]["model"]


def test_a_variable_names_the_model(hub: Hub, sample_path: Path, sample_text: str) -> None:
    arguments = ["transcribe", str(sample_path), *QUICK]
    result = cli_runner().invoke(main, arguments, env={"WHISPERQ_MODEL": "nano"})
    assert result.stdout.split() == sample_text.split() and hub.requests == []
    cli_runner().invoke(main, arguments, env={"WHISPERQ_MODEL": ""})
    assert len(hub.requests) == 1


@pytest.mark.parametrize(
    ("command", "option"), [("transcribe", "--model"), ("bench", "--model"), ("eval", "--models"), ("tune", "model")]
)
def test_commands_without_a_model_take_the_same(command: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = main.get_command(click.Context(main), command)
    assert chosen is not None
    [parameter] = [each for each in chosen.params if option in each.opts]
    context = chosen.context_class(chosen)
    monkeypatch.delenv("WHISPERQ_MODEL", raising=False)
    assert parameter.consume_value(context, {})[0] == "base"
    monkeypatch.setenv("WHISPERQ_MODEL", "tiny.en")
    assert parameter.consume_value(context, {})[0] == "tiny.en"
    assert parameter.consume_value(context, {parameter.name: "small"})[0] == "small"


def test_model_dir_is_where_models_are_fetched_to(hub: Hub, sample_path: Path, tmp_path: Path) -> None:
    place = tmp_path / "models"
    result = cli_runner().invoke(main, ["transcribe", str(sample_path), *QUICK, "--model_dir", str(place)])
    assert result.exit_code == 0 and (place / NAME).is_file()


def test_a_model_that_cannot_be_had_is_exit_status_3(sample_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_PAUSE_S", 0.0)
    result = cli_runner().invoke(main, ["transcribe", str(sample_path)])
    assert result.exit_code == 3 and "cannot be downloaded" in result.stderr and result.stdout == ""


def test_a_download_that_was_interrupted_is_kept(
    hub: Hub, sample_path: Path, data: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def impatient() -> Iterator[Any]:
        def interrupt(stage: str, fraction: float) -> None:
            if fraction > 0.5:
                raise KeyboardInterrupt

        yield interrupt

    with monkeypatch.context() as patch:
        patch.setattr("whisperq_edge.cli.transcribe.stage_progress", impatient)
        result = cli_runner().invoke(main, ["transcribe", str(sample_path)])
    [partial] = folder.glob("*.partial")
    assert result.exit_code == 130 and len(data) / 2 < partial.stat().st_size < len(data)
    have = partial.stat().st_size
    assert locate_model("base").read_bytes() == data and ranges(hub) == ["", f"bytes={have}-"]
