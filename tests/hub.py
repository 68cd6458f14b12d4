"""A hub on this machine: the few addresses of huggingface.co that loading a model or a data set needs, for one repository."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import transformers.utils.hub
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """`org/tiny` has the files of `folder` at the revisions `named` and `commit`; `org/gated` has none without access."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.commit = COMMIT
        self.named = ["main", "v1"]
        self.asked: list[str] = []

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for the path of an address."""
        repository, revision, file = self._parse(path)
        if repository == "org/gated":
            return (200, {}, self._about()) if file is None else (401, {"X-Error-Code": "GatedRepo"}, b"")
        if repository != "org/tiny":
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if revision not in (*self.named, self.commit):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if path.startswith("/api/datasets/") and "/tree/" in path:
            return 200, {"Content-Type": "application/json"}, self._listing()
        if "/tree/" in path:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        if file is None:
            return 200, {"Content-Type": "application/json"}, self._about()
        if not (self.folder / file).is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.commit}, b""
        body = (self.folder / file).read_bytes()
        return 200, {"X-Repo-Commit": self.commit, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}, body

    def _parse(self, path: str) -> tuple[str, str, str | None]:
        """Repository, revision and file (none for the repository itself) of an address."""
        parts = path.partition("?")[0].strip("/").removeprefix("datasets/").split("/")
        if parts[0] == "api":
            return "/".join(parts[2:4]), "/".join(parts[5:6]) or "main", None
        return "/".join(parts[:2]), parts[3], "/".join(parts[4:])

    def _listing(self) -> bytes:
        files = [(file.name, file.stat().st_size) for file in self.folder.iterdir()]
        return json.dumps([{"type": "file", "path": name, "size": size, "oid": name} for name, size in files]).encode()

    def _about(self) -> bytes:
        files = [{"rfilename": file.name} for file in self.folder.iterdir()]
        return json.dumps({"id": "org/tiny", "sha": self.commit, "siblings": files, "private": False}).encode()


@contextmanager
def served(hub: Hub) -> Iterator[str]:
    """The address of `hub` while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            status, headers, body = hub.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def point_to(address: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the libraries take `address` for the hub, with an empty cache."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
