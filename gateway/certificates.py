"""The gateway's own TLS identities: short-lived leaves, made in memory, never on disk.

The key of the identity that dials may lie in a token; then only its leaves are short-lived.
"""

from __future__ import annotations

import threading
from collections.abc import Container
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from embrasure import limits
from embrasure.clock import Clock
from embrasure.errors import Denied
from embrasure.net.certificates import load_certificates
from embrasure.net.credentials import Pair
from embrasure.net.denials import key_digest
from embrasure.net.identity import Role
from pki.ca import Issuer, issue_leaf
from pki.leaf import chain_of, fresh_leaf

_LIFE: dict[Role, timedelta] = {
    "gateway": timedelta(seconds=limits.GATEWAY_LEAF_SECONDS),
    "gateway-admin": timedelta(seconds=limits.SERVICE_LEAF_SECONDS),
}


class Certificates:
    """One key pair a role, made again when half of its life has passed."""

    def __init__(
        self,
        name: str,
        *,
        gateway: Issuer,
        admin: Issuer,
        clock: Clock,
        client_key: ec.EllipticCurvePrivateKey | None = None,
    ) -> None:
        self._name, self._clock = name, clock
        self._issuers: dict[Role, Issuer] = {"gateway": gateway, "gateway-admin": admin}
        self._held: dict[Role, tuple[datetime, Pair]] = {}
        self._client_key = client_key
        self._chain: tuple[datetime, bytes] | None = None
        self._denied = False
        self._lock = threading.Lock()

    def client(self) -> tuple[bytes | ec.EllipticCurvePrivateKey, bytes]:
        """Return key and chain by which nodes, mirrors and letterboxes know this gateway.

        With a client key of its own (in a token) only the certificate is renewed; raises Denied
        once that key is denied.
        """
        if self._client_key is not None:
            return self._client_key, self._client_chain(self._client_key)
        pair = self._current("gateway")
        return pair.key_pem, pair.chain_pem

    def admin(self) -> Pair:
        """Return key and chain by which operators know this gateway."""
        return self._current("gateway-admin")

    def leaves(self) -> list[x509.Certificate]:
        """Return the leaves that are held now; none is made for this."""
        with self._lock:
            chains = [pair.chain_pem for _, pair in self._held.values()]
            chains += [self._chain[1]] if self._chain is not None else []
        return [x509.load_pem_x509_certificates(chain)[0] for chain in chains]

    def _client_chain(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        with self._lock:
            if self._denied:
                raise Denied(
                    "the gateway's TLS key",
                    expected="one that no denial names",
                    got="the key of `tls_key`, which is denied",
                    hint="name another key in gateway.toml, then start the gateway again",
                )
            at, issuer = self._clock(), self._issuers["gateway"]
            if self._chain is None or at - self._chain[0] >= _LIFE["gateway"] / 2:
                made = issue_leaf(f"gateway/{self._name}", key.public_key(), issuer, self._clock)
                self._chain = (at, chain_of(made, issuer))
            return self._chain[1]

    def drop(self, denied: Container[str]) -> None:
        """A leaf whose key is denied (`key_digest`) is not shown again: the next one has a new key.

        Whoever stole the key alone is locked out by the denial, and this gateway goes on. A key in
        a token is not replaced by itself.
        """
        with self._lock:
            for role, (_, pair) in list(self._held.items()):
                leaf = load_certificates(pair.chain_pem, what="own certificate")[0]
                if key_digest(leaf) in denied:
                    del self._held[role]
            if self._chain is not None:
                leaf = load_certificates(self._chain[1], what="own certificate")[0]
                self._denied = self._denied or key_digest(leaf) in denied

    def _current(self, role: Role) -> Pair:
        with self._lock:
            at = self._clock()
            held = self._held.get(role)
            if held is None or at - held[0] >= _LIFE[role] / 2:
                key, chain = fresh_leaf(self._issuers[role], f"{role}/{self._name}", self._clock)
                held = (at, Pair(key, chain))
                self._held[role] = held
            return held[1]
