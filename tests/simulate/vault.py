"""A stand-in for Vault's transit engine, over HTTP on loopback: two paths, real Ed25519 keys.

It is not Vault: it shows that our URIs, securesystemslib's signer and the hvac client fit together.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass
class Transit:
    """One key's versions, the newest last."""

    versions: list[Ed25519PrivateKey] = field(
        default_factory=lambda: [Ed25519PrivateKey.generate() for _ in range(2)]
    )

    def shown(self) -> dict[str, object]:
        """What `GET transit/keys/NAME` answers."""
        keys = {
            str(number): {"public_key": _text(key.public_key().public_bytes_raw())}
            for number, key in enumerate(self.versions, start=1)
        }
        return {"data": {"keys": keys, "type": "ed25519"}}

    def sign(self, asked: dict[str, object]) -> dict[str, object]:
        """What `POST transit/sign/NAME` answers."""
        number = int(str(asked["key_version"]))
        made = self.versions[number - 1].sign(base64.b64decode(str(asked["input"])))
        return {"data": {"signature": f"vault:v{number}:{_text(made)}"}}


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


@contextmanager
def vault(patch: pytest.MonkeyPatch) -> Iterator[Transit]:
    """Yield the key `root` of a server that hvac talks to until the block ends."""
    transit = Transit()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(transit.shown() if self.path == "/v1/transit/keys/root" else None)

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(transit.sign(asked) if self.path == "/v1/transit/sign/root" else None)

        def _answer(self, found: dict[str, object] | None) -> None:
            allowed = self.headers["X-Vault-Token"] == "test" and found is not None
            raw = json.dumps(found if allowed else {"errors": ["permission denied"]}).encode()
            self.send_response(200 if allowed else 403)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    worker = threading.Thread(target=server.serve_forever)
    worker.start()
    patch.setenv("VAULT_ADDR", f"http://127.0.0.1:{server.server_port}")
    patch.setenv("VAULT_TOKEN", "test")
    try:
        yield transit
    finally:
        server.shutdown()
        worker.join(10)
        server.server_close()
