"""Models by their hub id, fetched from a hub on loopback.

``huggingface_hub`` reads HF_ENDPOINT and HF_HUB_OFFLINE when it is imported: downloads run in processes of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

import pytest
from whisperq_edge import ModelNotFoundError
from whisperq_edge._convert.convert import convert_model
from whisperq_edge._convert.readers.huggingface import open_huggingface
from whisperq_edge._store.locate import find_source
from whisperq_edge._store.snapshots import is_repo_id

from tests.support.hub_server import Hub, Repository, serve
from tests.support.huggingface_folders import MICRO, weights, write_folder

PROGRAM = """
import json, sys
from whisperq_edge import WhisperqError
from whisperq_edge._store.snapshots import download_model
for repo_id, revision, cache in json.loads(sys.argv[1]):
    try:
        answer = {"folder": str(download_model(repo_id, revision=revision, cache_dir=cache))}
    except WhisperqError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer))
"""

# Each file has other bytes: the hub's cache keeps equal files once and fetches only the first of them.
SMALL = {"config.json": b"{}", "vocab.json": b"{ }", "README.md": b"hello", "merges.txt": b"a b"}


def values(number: int = 0) -> bytes:
    """What stands for weights that are not looked at here."""
    return b"weights %d" % number


class Answer(NamedTuple):
    folder: Optional[Path]
    error: str
    message: str

    @property
    def files(self) -> set[str]:
        assert self.folder is not None, self.message
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}


def download_all(
    hub: Hub, cache: Path, wanted: Sequence[tuple[str, Optional[str]]], *, program: str = PROGRAM, **variables: str
) -> list[Answer]:
    """``(repo_id, revision)`` one after the other in one new process with these environment variables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment.update(HF_ENDPOINT=hub.endpoint, HF_HOME=str(cache / "home"), NO_PROXY="127.0.0.1", **variables)
    arguments = json.dumps([(repo_id, revision, str(cache / "hub")) for repo_id, revision in wanted])
    done = subprocess.run(
        [sys.executable, "-c", program, arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [
        Answer(
            Path(answer["folder"]) if "folder" in answer else None, answer.get("error", ""), answer.get("message", "")
        )
        for answer in answers
    ]


def download(hub: Hub, cache: Path, repo_id: str, **options: str) -> Answer:
    return download_all(hub, cache, [(repo_id, None)], **options)[0]


def index(*shards: str) -> bytes:
    return json.dumps({"weight_map": {f"tensor{number}": shard for number, shard in enumerate(shards)}}).encode()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub")
    micro = write_folder(tmp_path_factory.mktemp("folders") / "m", MICRO, weights(MICRO, "f16"), n_shards=2)
    repositories = {
        "openai/whisper-micro": Repository(
            {
                **SMALL,
                "model.safetensors": values(1),
                "model.fp32-00001-of-00001.safetensors": values(2),
                "model.safetensors.index.fp32.json": index("model.fp32-00001-of-00001.safetensors"),
                "pytorch_model.bin": values(3),
                "tf_model.h5": values(4),
                "checkpoint-100/config.json": b"{   }",
                "checkpoint-100/model.safetensors": values(5),
            }
        ),
        "me/real": Repository({path.name: path.read_bytes() for path in micro.iterdir()}),
        "me/sharded": Repository(
            {
                **SMALL,
                "model.safetensors.index.json": index("model-1.safetensors", "model-2.safetensors"),
                "model-1.safetensors": values(6),
                "model-2.safetensors": values(7),
                "pytorch_model.bin": values(8),
            }
        ),
        "me/old": Repository(
            {**SMALL, "pytorch_model.bin": values(9), "training_args.bin": values(10), "model.pt": values(11)}
        ),
        "me/old-sharded": Repository(
            {
                **SMALL,
                "pytorch_model.bin.index.json": index("pytorch_model-1.bin", "pytorch_model-1.bin"),
                "pytorch_model-1.bin": values(12),
            }
        ),
        "me/half": Repository(
            {
                **SMALL,
                "model.safetensors.index.json": index("model-1.safetensors", "model-2.safetensors"),
                "model-1.safetensors": values(30),
                "model-2.safetensors": values(31),
            }
        ),
        "me/faster": Repository({**SMALL, "model.bin": values(13), "vocabulary.txt": b"a", "tokenizer.json": b"{  }"}),
        "me/lora": Repository({"adapter_config.json": b"{}", "adapter_model.safetensors": values(14)}),
        "me/ggml": Repository({"ggml-base.bin": values(15), "base.pt": values(16)}),
        "me/lacking": Repository({**SMALL, "model.safetensors.index.json": index("model-1.safetensors")}),
        "me/outside": Repository({**SMALL, "model.safetensors.index.json": index("../../model-1.safetensors")}),
        "me/gated": Repository({**SMALL, "model.safetensors": values(17)}, token="hf_right"),
        "me/private": Repository({**SMALL, "model.safetensors": values(18)}, token="hf_right", private=True),
    }
    with serve(repositories) as running:
        yield running


class Visit(NamedTuple):
    """A first download of every repository by a user without a token."""

    cache: Path
    answers: dict[str, Answer]
    fetched: dict[str, set[str]]


@pytest.fixture(scope="module")
def visit(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    cache = tmp_path_factory.mktemp("visit")
    names = [*hub.repositories, "openai/whisper-base.eng", "no--id/.."]
    answers = download_all(hub, cache, [(name, None) for name in names])
    return Visit(cache, dict(zip(names, answers)), {name: hub.fetched(name) for name in names})


# ---- Ids -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["openai/whisper-base.en", "distil-whisper/distil-large-v3", "a/b", "A_1/b.c-d"])
def test_ids(text: str) -> None:
    assert is_repo_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "base.en",
        "a/b/c",
        "/a/b",
        "./a",
        "../a",
        "a/",
        "a/..",
        "a/b..c",
        "a/b--c",
        "a/-b",
        "a\\b",
        "a/b ",
        "a b/c",
        "ä/b",
        "a/" + "b" * 97,
        "https://hub/a/b",
        "models/ggml-base.bin",
        "models/base.PT",
        "a/b\n",
    ],
)
def test_what_is_no_id(text: str) -> None:
    assert not is_repo_id(text)


def test_what_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_repo_id("openai/whisper-base")
    (tmp_path / "openai" / "whisper-base").mkdir(parents=True)
    assert not is_repo_id("openai/whisper-base")


# ---- What is fetched -------------------------------------------------------------------------------------------------

KEPT = {"config.json", "vocab.json"}


@pytest.mark.parametrize(
    ("repo_id", "files"),
    [
        ("openai/whisper-micro", {*KEPT, "model.safetensors"}),
        ("me/sharded", {*KEPT, "model.safetensors.index.json", "model-1.safetensors", "model-2.safetensors"}),
        ("me/old", {*KEPT, "pytorch_model.bin"}),
        ("me/old-sharded", {*KEPT, "pytorch_model.bin.index.json", "pytorch_model-1.bin"}),
        ("me/faster", {*KEPT, "model.bin", "vocabulary.txt", "tokenizer.json"}),
    ],
)
def test_only_what_is_read_is_fetched(hub: Hub, visit: Visit, repo_id: str, files: set[str]) -> None:
    answer = visit.answers[repo_id]
    assert answer.files == files and visit.fetched[repo_id] == files
    assert answer.folder is not None and answer.folder.name == hub.repositories[repo_id].commit
    assert visit.cache / "hub" in answer.folder.parents


def test_a_fetched_model_opens_and_a_second_time_costs_no_bytes(hub: Hub, visit: Visit) -> None:
    answer = visit.answers["me/real"]
    assert answer.folder is not None
    assert open_huggingface(answer.folder).dims == MICRO
    hub.requests.clear()
    assert download(hub, visit.cache, "me/real") == answer
    assert hub.fetched("me/real") == set()


def test_revisions(hub: Hub, tmp_path: Path) -> None:
    commit = hub.repositories["me/old"].commit
    found, missing = download_all(hub, tmp_path, [("me/old", commit), ("me/old", "v9")])
    assert found.files == {*KEPT, "pytorch_model.bin"}
    assert missing.error == "ModelNotFoundError"
    assert f"me/old at {hub.endpoint} has no revision 'v9'" in missing.message


def test_offline(hub: Hub, visit: Visit, tmp_path: Path) -> None:
    """What is in the cache is found without a single request; what is not there whole is an error that says so."""
    names = ("me/sharded", "me/old", "me/faster", "me/half", "me/never")
    half = visit.answers["me/half"].folder
    assert half is not None
    (half / "model-2.safetensors").unlink()
    hub.requests.clear()
    answers = download_all(hub, visit.cache, [(name, None) for name in names], HF_HUB_OFFLINE="1")
    assert hub.requests == []
    for name, answer in zip(names[:3], answers):
        assert answer == visit.answers[name]
    for name, answer in zip(names[3:], answers[3:]):
        assert answer.error == "ModelNotFoundError"
        assert f"{name} at {hub.endpoint}" in answer.message and "HF_HUB_OFFLINE is set" in answer.message


def test_local_files_only(hub: Hub, visit: Visit) -> None:
    hub.requests.clear()
    program = PROGRAM.replace("cache_dir=cache", "cache_dir=cache, local_files_only=True")
    found, lacking = download_all(hub, visit.cache, [("me/faster", None), ("me/never", None)], program=program)
    assert found == visit.answers["me/faster"] and hub.requests == []
    assert lacking.error == "ModelNotFoundError"
    assert "cache lacks a file of me/never, and local_files_only" in lacking.message


def test_the_cache_serves_while_the_hub_is_not_there(visit: Visit) -> None:
    with serve({}) as gone:
        pass
    cached, lacking = download_all(gone, visit.cache, [("me/old", None), ("me/never", None)])
    assert cached == visit.answers["me/old"]
    assert lacking.error == "ModelNotFoundError"
    assert f"me/never at {gone.endpoint} cannot be downloaded" in lacking.message
    assert "check the network and HF_ENDPOINT" in lacking.message


# ---- What is refused -------------------------------------------------------------------------------------------------


def test_gated_and_private_repositories_need_the_token(hub: Hub, visit: Visit, tmp_path: Path) -> None:
    names = ("me/gated", "me/private")
    wanted = [(name, None) for name in names]
    wrong = download_all(hub, tmp_path, wanted, HF_TOKEN="hf_wrong")
    for gated, private, hint in [
        (*(visit.answers[name] for name in names), "set HF_TOKEN to an access token"),
        (*wrong, "the one in use may not"),
    ]:
        assert gated.error == private.error == "ModelNotFoundError"
        assert f"me/gated at {hub.endpoint} is gated: accept its conditions at {hub.endpoint}/me/gated" in gated.message
        assert f"me/private at {hub.endpoint} does not exist or is private: check the spelling" in private.message
        for answer in (gated, private):
            assert hint in answer.message and "hf_wrong" not in answer.message
    assert hub.fetched("me/gated") == hub.fetched("me/private") == set()
    for answer in download_all(hub, tmp_path, wanted, HF_TOKEN="hf_right"):
        assert answer.files == {*KEPT, "model.safetensors"}


def test_a_hub_that_fails(hub: Hub, tmp_path: Path) -> None:
    hub.failing = 500
    try:
        answer = download(hub, tmp_path, "me/old")
    finally:
        hub.failing = None
    assert answer.error == "ModelNotFoundError"
    assert f"me/old at {hub.endpoint}: the hub answered 500: try again later" in answer.message


@pytest.mark.parametrize(
    ("repo_id", "error", "what"),
    [
        ("openai/whisper-base.eng", "ModelNotFoundError", "does not exist or is private: check the spelling"),
        ("me/lora", "UnsupportedModelError", "merge it into its base model first"),
        ("me/ggml", "ModelNotFoundError", "has no weights that can be read"),
        ("me/lacking", "ModelNotFoundError", "has no weights that can be read"),
        ("me/outside", "ModelFormatError", "weight_map 'tensor0'"),
        ("no--id/..", "ModelNotFoundError", "no name of a model on the hub"),
    ],
)
def test_what_holds_no_model(visit: Visit, repo_id: str, error: str, what: str) -> None:
    answer = visit.answers[repo_id]
    assert (answer.folder, answer.error) == (None, error)
    assert what in answer.message
    assert visit.fetched[repo_id] <= {*KEPT, "adapter_config.json", "model.safetensors.index.json"}


def test_without_the_package(tmp_path: Path) -> None:
    program = "import sys; sys.modules['huggingface_hub'] = None" + PROGRAM
    answer = download(Hub("http://127.0.0.1:9", {}), tmp_path, "me/old", program=program)
    assert answer.error == "ModelNotFoundError"
    assert "pip install 'whisperq-edge[hub]'" in answer.message


def test_the_converter_asks_the_caller_what_a_name_means(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no file or folder 'nano'"):
        convert_model("nano", tmp_path / "out.bin", type="q8_0", proof="tensors")
    with pytest.raises(ModelNotFoundError, match=r"there is no model 'nano\.fr'"):
        convert_model("nano.fr", tmp_path / "out.bin", find=find_source)
    report = convert_model("nano", tmp_path / "out.bin", type="q8_0", proof="tensors", find=find_source)
    assert Path(report.path) == tmp_path / "out.bin"
