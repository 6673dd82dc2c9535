"""An app that is given secrets, for the simulated repository: its release and its sealed files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from embrasure.bundle.manifest import Hook, Manifest, SecretName
from embrasure.secret.keys import OpeningKey
from embrasure.secret.sealed import RECOVERY
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from pki.recipients import Recipients
from pki.sealing import seal
from tests.simulate.installer import SimInstaller
from tests.simulate.nodes import SimNode
from tests.simulate.releases import SimRelease
from tests.simulate.repository import SimRepository

# Answers with what it finds in its credentials folder, and how it got there.
READER = b"""\
import json, os, socket, sys
mode = open("config/mode").read().strip()
folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
names = sorted(os.listdir(folder)) if folder else []
found = {name: open(os.path.join(folder, name)).read() for name in names}
modes = {name: oct(os.stat(os.path.join(folder, name)).st_mode & 0o777) for name in names}
server = socket.create_server(("127.0.0.1", int(os.environ["EMBRASURE_PORT_WEB"])))
while True:
    peer, _ = server.accept()
    peer.recv(4096)
    status = b"500 Bad" if mode == "bad" else b"200 OK"
    body = json.dumps({"secrets": found, "modes": modes, "folder": folder}).encode()
    peer.sendall(b"HTTP/1.1 %s\\r\\nContent-Length: %d\\r\\n\\r\\n" % (status, len(body)) + body)
    peer.close()
"""
HOOK = b"""\
import os, sys
value = open(os.path.join(os.environ["CREDENTIALS_DIRECTORY"], "db")).read()
sys.exit(0 if value.startswith("hunter") else 9)
"""


@dataclass
class Vault:
    """Seals to nodes of a simulated repository. recovery: the offline recipient's key."""

    repo: SimRepository
    app: str = "shop"
    recovery: OpeningKey = field(default_factory=lambda: OpeningKey.generate())

    def to(self, *nodes: SimNode) -> Recipients:
        """Return these nodes and the recovery recipient."""
        keys = [(node.id, node.seal.public(epoch=node.epoch)) for node in nodes]
        keys.append((RECOVERY, self.recovery.public(epoch=1)))
        return Recipients(self.repo.root_id, self.repo.env, self.app, tuple(sorted(keys)))

    def seal(self, plain: bytes, *nodes: SimNode, name: str = "db", version: int = 1) -> bytes:
        """Return a sealed file."""
        return seal(plain, name=name, version=version, to=self.to(*nodes))

    def show(self, *files: bytes) -> None:
        """The approval role lists these sealed files and no others from the next publish."""
        role = layout.app_role(self.repo.env, self.app)
        listed = self.repo.roles[role].targets
        for path in [path for path in listed if layout.is_secret(path)]:
            self.repo.drop_target(role, path)
        for raw in files:
            path = layout.secret_path(self.repo.env, self.app, sha256_hex(raw))
            self.repo.list_target(role, path, raw)


def release_with(
    bench: SimInstaller,
    version: str,
    names: Mapping[str, int],
    mode: str = "good",
    *,
    hooks: Sequence[Hook] = (),
) -> SimRelease:
    """Return a release of the reader that names these secrets (name -> lowest version)."""

    def change(manifest: Manifest) -> Manifest:
        named = tuple(
            SecretName(name=name, min_version=lowest, mode="0400")
            for name, lowest in sorted(names.items())
        )
        return msgspec.structs.replace(manifest, secrets=named, hooks=tuple(hooks))

    files = {"code/main.py": READER, "code/hook.py": HOOK}
    return bench.make(version, mode, files=files, change=change)


def answered(bench: SimInstaller) -> dict[str, object]:
    """Return what the running reader says."""
    found: dict[str, object] = json.loads(bench.ask())
    return found
