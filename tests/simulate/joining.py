"""A node that joins by a token, in memory: what it answers, and how it could be told otherwise."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from embrasure.clock import write_time
from embrasure.trust import dsse
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.documents import write
from embrasure.trust.joining import Challenge, Proof, challenge_info, join_key, mac_of
from tests.simulate.ceremony import NewNode


@dataclass
class JoiningNode:
    """A `NewNode` that was given a token."""

    node: NewNode
    token: str
    at: datetime

    def __post_init__(self) -> None:
        self.statement = self.node.envelope(self.at)

    @property
    def mac(self) -> str:
        """Its answer for the token."""
        key = join_key(self.token, env=self.node.env, node=self.node.id)
        return mac_of(key, self.statement)

    def proof(self, asked: Challenge, seen: x509.Certificate, **changed: object) -> bytes:
        """Return its proof, unless `changed` says otherwise."""
        info = challenge_info(
            root=asked.root, env=asked.env, node=asked.node, epoch=asked.epoch, nonce=asked.nonce
        )
        opened = self.node.seal.open(base64.b64decode(asked.sealed), info=info)
        honest: dict[str, object] = {
            "v": 1, "type": "joining", "root": asked.root, "env": asked.env, "node": asked.node,
            "epoch": asked.epoch, "nonce": asked.nonce, "opened": opened.hex(),
            "gateway": seen.fingerprint(hashes.SHA256()).hex(),
            "statement": sha256_hex(self.statement), "at": write_time(self.at),
        }  # fmt: skip
        said = Proof(**{**honest, **changed})  # type: ignore[arg-type]  # members by name
        return dsse.seal("joining", write(said), self.node.signer)
