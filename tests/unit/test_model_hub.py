"""A hub id: downloaded from a (small, local) hub, found in its cache, refused for a reason."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tiny_model import make_tiny_model

SHA = "0123456789abcdef0123456789abcdef01234567"
REPO = "some-owner/tiny"
CODE = """
import sys
from baton.engine.model import hub
from baton.engine.model.source import resolve_model
from baton.protocol.errors import ConfigError
hub._TIMEOUT_S = 60.0  # who serves it may stand still for seconds
try:
    source = resolve_model(sys.argv[1])
    print(source.kind, source.name, len(source.weight_files), source.path)
except ConfigError as error:
    print(error)
"""


@contextmanager
def hub(directory: Path) -> Iterator[str]:
    """Serves `directory` as the repository REPO, the way huggingface_hub asks for it."""
    files = {path.name: path.read_bytes() for path in directory.iterdir()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            name = path.rsplit("/", 1)[-1]
            if path.startswith(f"/{REPO}/resolve/") and name in files:
                etag = hashlib.sha1(files[name]).hexdigest()
                self.answer(200, files[name], ETag=f'"{etag}"', X_Repo_Commit=SHA)
            elif path.startswith(f"/api/models/{REPO}/tree/"):
                tree = [
                    {
                        "type": "file",
                        "path": name,
                        "size": len(data),
                        "oid": hashlib.sha1(data).hexdigest(),
                    }
                    for name, data in files.items()
                ]
                self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
            elif path.startswith(f"/api/models/{REPO}"):
                info = {
                    "id": REPO,
                    "sha": SHA,
                    "siblings": [{"rfilename": name} for name in files],
                }
                self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
            else:
                self.answer(404, b"{}", X_Error_Code="RepoNotFound")

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            """Tests print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def resolve(spec: str) -> str:
    """In a process of its own, because the hub's library reads its settings at import."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", CODE, spec],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    for what in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setenv(what, "60")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)


def test_download_then_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = make_tiny_model(tmp_path / "published", shards=2)
    (directory / "README.md").write_text("not needed")
    with hub(directory) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        found = resolve(REPO)
    assert found.startswith(f"hub {REPO} 2 ")
    snapshot = Path(found.split(" ", 3)[3])
    assert (snapshot / "tokenizer.json").is_file()
    assert not (snapshot / "README.md").exists()
    assert resolve(REPO) == found  # the hub is gone, the cache is not
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve(REPO) == found


def test_unknown_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub(make_tiny_model(tmp_path / "published")) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        message = resolve("some-owner/other")
    assert message.startswith("some-owner/other: no such file or directory, and the hub knows no")
    assert "\n" not in message


def test_a_repository_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = make_tiny_model(tmp_path / "published")
    (directory / "model.safetensors").rename(directory / "tiny.gguf")
    with hub(directory) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        message = resolve(REPO)
    assert message.startswith(f"{REPO}: holds no model*.safetensors; it has tiny.gguf")
