"""The gateway's own TLS identities: short-lived leaves, made in memory, never on disk."""

from __future__ import annotations

import threading
from collections.abc import Container
from datetime import datetime, timedelta

from cryptography import x509

from embrasure import limits
from embrasure.clock import Clock
from embrasure.net.certificates import load_certificates
from embrasure.net.credentials import Pair
from embrasure.net.denials import key_digest
from embrasure.net.identity import Role
from pki.ca import Issuer
from pki.leaf import fresh_leaf

_LIFE: dict[Role, timedelta] = {
    "gateway": timedelta(seconds=limits.GATEWAY_LEAF_SECONDS),
    "gateway-admin": timedelta(seconds=limits.SERVICE_LEAF_SECONDS),
}


class Certificates:
    """One key pair a role, made again when half of its life has passed."""

    def __init__(self, name: str, *, gateway: Issuer, admin: Issuer, clock: Clock) -> None:
        self._name, self._clock = name, clock
        self._issuers: dict[Role, Issuer] = {"gateway": gateway, "gateway-admin": admin}
        self._held: dict[Role, tuple[datetime, Pair]] = {}
        self._lock = threading.Lock()

    def client(self) -> tuple[bytes, bytes]:
        """Return key and chain by which nodes, mirrors and letterboxes know this gateway."""
        pair = self._current("gateway")
        return pair.key_pem, pair.chain_pem

    def admin(self) -> Pair:
        """Return key and chain by which operators know this gateway."""
        return self._current("gateway-admin")

    def leaves(self) -> list[x509.Certificate]:
        """Return the leaves that are held now; none is made for this."""
        with self._lock:
            pairs = [pair for _, pair in self._held.values()]
        return [x509.load_pem_x509_certificates(pair.chain_pem)[0] for pair in pairs]

    def drop(self, denied: Container[str]) -> None:
        """A leaf whose key is denied (`key_digest`) is not shown again: the next one has a new key.

        Whoever stole the key alone is locked out by the denial, and this gateway goes on.
        """
        with self._lock:
            for role, (_, pair) in list(self._held.items()):
                leaf = load_certificates(pair.chain_pem, what="own certificate")[0]
                if key_digest(leaf) in denied:
                    del self._held[role]

    def _current(self, role: Role) -> Pair:
        with self._lock:
            at = self._clock()
            held = self._held.get(role)
            if held is None or at - held[0] >= _LIFE[role] / 2:
                key, chain = fresh_leaf(self._issuers[role], f"{role}/{self._name}", self._clock)
                held = (at, Pair(key, chain))
                self._held[role] = held
            return held[1]
