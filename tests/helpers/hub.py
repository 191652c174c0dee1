"""A small hub of Hugging Face on loopback: what huggingface_hub asks of the real one to fetch files."""

import functools
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import huggingface_hub.constants

_ASKED = re.compile(r"/(?:api/models/)?([^/]+/[^/]+)/(?:resolve|revision)/([^/]+)/?(.*)")


class Hub(ThreadingHTTPServer):
    """Attributes: ``repositories``: name -> (revision -> (file -> bytes)); ``gated``: those that want ``token``;
    ``cut``: the next answer of a file ends after so many bytes; ``down``: a status of all answers; ``asked``: the
    requests, ("GET", repository, revision, file)."""

    daemon_threads = True
    token = "hf_loopback"

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.commits: dict[tuple[str, str], str] = {}
        self.gated: set[str] = set()
        self.cut = self.down = 0
        self.asked: list[tuple[str, ...]] = []

    def handle_error(self, *_):
        pass  # One who asked has gone.

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def fetched(self) -> list[str]:
        """The files whose bytes were asked for, in order."""
        return [file for method, *_, file in self.asked if method == "GET" and file]

    def add(self, repository: str, revision: str = "main", **files: bytes) -> str:
        """Adds a revision; its commit."""
        self.repositories.setdefault(repository, {})[revision] = files
        tree = f"{repository} {[(name, _hash(data)) for name, data in files.items()]}"
        commit = hashlib.sha1(tree.encode()).hexdigest()
        self.commits[repository, revision] = self.commits[repository, commit] = commit
        self.repositories[repository][commit] = files
        return commit


@functools.cache
def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self):
        hub = self.server
        repository, revision, file = map(unquote, _ASKED.fullmatch(self.path.partition("?")[0]).groups())
        hub.asked.append((self.command, repository, revision, file))
        if hub.down:
            return self._refuse(hub.down, "")
        if repository not in hub.repositories:
            return self._refuse(401, "RepoNotFound")  # So it hides private ones.
        if file and repository in hub.gated and self.headers["Authorization"] != f"Bearer {hub.token}":
            return self._refuse(403 if self.headers["Authorization"] else 401, "GatedRepo")
        if revision not in hub.repositories[repository]:
            return self._refuse(404, "RevisionNotFound")
        files, commit = hub.repositories[repository][revision], hub.commits[repository, revision]
        if not file:
            siblings = [{"rfilename": name} for name in sorted(files)]
            return self._send(json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode(), commit)
        if file not in files:
            return self._refuse(404, "EntryNotFound")
        end, hub.cut = (hub.cut, 0) if self.command == "GET" and hub.cut else (len(files[file]), hub.cut)
        return self._send(files[file], commit, end)

    do_HEAD = do_GET

    def _refuse(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, data, commit, end=None):
        whole, first = len(data), 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        if asked:
            first = int(asked[1])
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{whole - 1}/{whole}")
        self.send_header("Content-Length", str(whole - first))
        self.send_header("ETag", f'"{_hash(data)}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[first:end])

    def log_message(self, *_):
        pass


@contextmanager
def running(monkeypatch, cache) -> Iterator[Hub]:
    """A hub that huggingface_hub asks in this process, with an empty cache in the folder. It reads its environment when
    it is imported, so its constants are set."""
    hub = Hub()
    threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    form = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", form)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
