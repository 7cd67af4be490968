"""A hub of models on loopback: the part of the Hugging Face hub's protocol that fetching a model needs."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Optional
from urllib.parse import unquote, urlsplit

__all__ = ["Hub", "Repository", "serve"]


@dataclass
class Repository:
    """Attributes:
    files: path -> bytes, of the one commit that there is.
    token: the bearer token that may read the files of a gated repository, or None: everybody may.
    private: without the token not even the repository's existence is told.
    """

    files: Mapping[str, bytes]
    token: Optional[str] = None
    private: bool = False

    @property
    def commit(self) -> str:
        digest = hashlib.sha1()
        for path in sorted(self.files):
            digest.update(path.encode() + b"\0" + self.files[path])
        return digest.hexdigest()


@dataclass
class Hub:
    """A server that runs.

    Attributes:
        endpoint: what ``HF_ENDPOINT`` must be.
        requests: "METHOD path" of each request so far.
        headers: of the same requests.
        failing: answer everything with this status.
        cuts: close the connection after so many bytes of a file; one entry for each answer, the rest is whole.
        has_ranges: answer a ``Range`` with that part of the file.
        redirects_to: host and port to which requests for files are sent on, as the hub does with large ones.
    """

    endpoint: str
    repositories: dict[str, Repository]
    requests: list[str] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    failing: Optional[int] = None
    cuts: list[int] = field(default_factory=list)
    has_ranges: bool = True
    redirects_to: Optional[str] = None

    @property
    def port(self) -> int:
        return int(self.endpoint.rsplit(":", 1)[1])

    def fetched(self, repo_id: str) -> set[str]:
        """Files of a repository whose bytes were asked for."""
        start = f"GET /{repo_id}/resolve/"
        return {request[len(start) :].split("/", 1)[1] for request in self.requests if request.startswith(start)}


@contextmanager
def serve(repositories: Mapping[str, Repository]) -> Iterator[Hub]:
    hub = Hub("", dict(repositories))
    server = _Server(("127.0.0.1", 0), _handler(hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up amid an answer is part of some tests."""


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        pass

    Handler.hub = hub
    return Handler


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        self.hub.headers.append(dict(self.headers.items()))
        if self.hub.failing is not None:
            self._send(self.hub.failing)
        elif path.startswith("/api/models/"):
            self._answer_api(path.split("/")[3:])
        elif "/resolve/" in path and self.hub.redirects_to and self.headers["Host"] != self.hub.redirects_to:
            self._send(302, {"Location": f"http://{self.hub.redirects_to}{self.path}"})
        elif "/resolve/" in path:
            repo_id, _, rest = path[1:].partition("/resolve/")
            self._answer_file(repo_id, *rest.split("/", 1))
        else:
            self._send(404)

    def _answer_api(self, parts: list[str]) -> None:
        """/api/models/OWNER/NAME, .../revision/REVISION and .../tree/REVISION."""
        repo_id, what, revision = "/".join(parts[:2]), *[*parts[2:4], "revision", "main"][:2]
        repository = self._repository(repo_id, revision)
        if repository is None:
            return
        if what == "tree":
            self._send_json([self._tree_entry(path, data) for path, data in repository.files.items()])
        else:
            self._send_json(self._model_info(repo_id, repository))

    def _answer_file(self, repo_id: str, revision: str, path: str) -> None:
        repository = self._repository(repo_id, revision)
        if repository is None:
            return
        if repository.token is not None and not self._may_read(repository):
            self._send(401 if self.headers["Authorization"] is None else 403, {"X-Error-Code": "GatedRepo"})
            return
        headers = {"X-Repo-Commit": repository.commit}
        data = repository.files.get(path)
        if data is None:
            self._send(404, {**headers, "X-Error-Code": "EntryNotFound"})
        else:
            self._send_file({**headers, "ETag": f'"{_blob_id(data)}"'}, data)

    def _send_file(self, headers: Mapping[str, str], data: bytes) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "") if self.hub.has_ranges else None
        start = int(wanted[1]) if wanted else 0
        if wanted and start >= len(data):
            self._send(416, {**headers, "Content-Range": f"bytes */{len(data)}"})
        elif wanted:
            place = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._send(206, {**headers, "Content-Range": place}, data[start:])
        else:
            self._send(200, headers, data)

    def _repository(self, repo_id: str, revision: str) -> Optional[Repository]:
        """None: the answer has been sent."""
        repository = self.hub.repositories.get(repo_id)
        if repository is None or (repository.private and not self._may_read(repository)):
            self._send(401 if self.headers["Authorization"] is None else 404, {"X-Error-Code": "RepoNotFound"})
            return None
        if revision not in ("main", repository.commit):
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
            return None
        return repository

    def _may_read(self, repository: Repository) -> bool:
        return self.headers["Authorization"] == f"Bearer {repository.token}"

    @staticmethod
    def _model_info(repo_id: str, repository: Repository) -> dict[str, Any]:
        """Old versions of the package want more fields than they use."""
        return {
            "_id": "0",
            "id": repo_id,
            "modelId": repo_id,
            "author": repo_id.split("/")[0],
            "sha": repository.commit,
            "lastModified": "2024-01-01T00:00:00.000Z",
            "private": repository.private,
            "disabled": False,
            "gated": "auto" if repository.token is not None else False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": path} for path in repository.files],
        }

    @staticmethod
    def _tree_entry(path: str, data: bytes) -> dict[str, Any]:
        return {"type": "file", "path": path, "size": len(data), "oid": _blob_id(data)}

    def _send_json(self, content: Any) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def _send(self, status: int, headers: Mapping[str, str] = {}, data: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if status in (200, 206) and "ETag" in headers and self.hub.cuts:
            self.wfile.write(data[: self.hub.cuts.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(data)


def _blob_id(data: bytes) -> str:
    """git's."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
