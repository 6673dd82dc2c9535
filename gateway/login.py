"""Log-in: an operator's signing key, which verified metadata lists, buys a certificate of 10 h.

The certificate says who may talk. It approves nothing: that takes the key again, each time.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from logging import getLogger
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from securesystemslib.signer import Key
from tuf.api.metadata import Targets

from embrasure import limits
from embrasure.clock import Clock
from embrasure.errors import Denied, EmbrasureError, Refused
from embrasure.net.source import source_of
from embrasure.trust import dsse, layout
from embrasure.trust.login import LoginStatement, parse_login
from embrasure.wire import login_pb2 as wire
from gateway.audit import Journal
from gateway.login_guard import Nonces, Sources
from gateway.metadata import read_metadata
from gateway.people import People
from gateway.repository import Repository
from pki import ca
from pki.ca import Issuer
from pki.leaf import chain_of
from pki.people import owner_of

LOG = getLogger(__name__)


class LoginDesk:
    """Judges log-ins.

    admin: returns the leaf that this gateway shows now
    """

    def __init__(
        self,
        repository: Repository,
        people: People,
        *,
        issuer: Issuer,
        admin: Callable[[], x509.Certificate],
        journal: Journal,
        clock: Clock,
        nonces: Nonces | None = None,
        sources: Sources | None = None,
    ) -> None:
        self._repository, self._people, self._journal = repository, people, journal
        self._issuer, self._admin, self._clock = issuer, admin, clock
        self.nonces, self.sources = nonces or Nonces(), sources or Sources()

    def challenge(self, source: str) -> bytes:
        """Return a nonce; raises Unavailable (`paused`)."""
        self.sources.check(source)
        return self.nonces.fresh()

    def certificate(self, envelope: bytes, csr: bytes, source: str) -> bytes:
        """Return the chain for the operator who signed `envelope`; raises Refused, Denied.

        Steps: 1 the source is not paused, 2 signed by a key that metadata lists and a person has,
        3 the nonce is ours, young and new, 4 said of this fleet, this request and this gateway,
        5 the key is not denied, 6 the request proves its key.
        """
        # 1.
        with self.sources.attempt(source):
            # 2. The payload is parsed only after that.
            keys = self._keys()
            raw, keyid = dsse.unseal("login", envelope, keys, limit=limits.LOGIN_BYTES)
            said = parse_login(raw)
            check_person(said.person, self._owners(keyid))
            check_owner(said.person, keys[keyid])
            # 3.
            self.nonces.take(bytes.fromhex(said.nonce))
            # 4.
            check_fleet(said, self._repository.client.root_id)
            check_request(said, csr)
            check_gateway(said, self._admin())
            # 5.
            check_not_denied(keyid, self._people.denied_keys())
            # 6.
            public = ca.parse_request(csr)
            leaf = ca.issue_leaf(f"operator/{said.person}", public, self._issuer, self._clock)
            self._journal.note(
                "login", f"{leaf.serial_number:x}", result="ok",
                actor=f"operator/{said.person}", source=source, signed_by=keyid,
            )  # fmt: skip
            return chain_of(leaf, self._issuer)

    def _keys(self) -> dict[str, Key]:
        """Every key that verified metadata delegates to; the policy says whose each is."""
        raw = self._repository.client.role_bytes(self._repository.view(), layout.TARGETS)
        found = read_metadata(raw, Targets, layout.TARGETS).signed.delegations
        return {} if found is None else dict(found.keys)

    def _owners(self, keyid: str) -> set[str]:
        found = {policy.person_of(keyid) for policy in self._people.policies().values()}
        return {person for person in found if person is not None}


def check_person(person: str, owners: set[str]) -> None:
    """Return only when the key is this person's, and no other's anywhere."""
    if owners != {person}:
        raise Denied(
            f"log-in of {person}", expected="a key that the policy gives this person",
            got="a key of " + (", ".join(sorted(owners)) or "nobody"), reason="not-a-person",
        )  # fmt: skip


def check_owner(person: str, key: Key) -> None:
    """Return only when `targets`, too, name this person as the key's owner; raises Denied, Refused.

    A certificate holds in every environment, and a policy speaks for one: the keyholders of one
    environment must not make their man a person of another.
    """
    found = owner_of(key)
    if found != person:
        raise Denied(f"log-in of {person}", expected="a key that targets list as this person's",
                     got=f"a key of {found}", reason="not-a-person")  # fmt: skip


def check_fleet(said: LoginStatement, root: str) -> None:
    """Return only when it was said for this fleet."""
    if said.root != root:
        raise Refused("log-in", expected=f"fleet {root[:16]}", got=said.root[:16], reason="fleet")


def check_request(said: LoginStatement, csr: bytes) -> None:
    """Return only when this very request was signed: no other key gets the certificate."""
    found = hashlib.sha256(csr).hexdigest()
    if said.csr != found:
        raise Refused("log-in", expected=f"request {said.csr[:16]}", got=found[:16], reason="csr")


def check_gateway(said: LoginStatement, admin: x509.Certificate) -> None:
    """Return only when the operator saw our own certificate: nobody stood between."""
    found = admin.fingerprint(hashes.SHA256()).hex()
    if said.admin != found:
        raise Refused("log-in", expected=f"gateway {found[:16]}", got=said.admin[:16],
                      hint="another gateway passed this log-in on", reason="relay")  # fmt: skip


def check_not_denied(keyid: str, denied: frozenset[str]) -> None:
    """Return only when nobody denied the key."""
    if keyid in denied:
        raise Denied("log-in", expected="a key that is not denied", got=f"key {keyid[:16]}")


class Login:
    """The handlers, behind `embrasure.net.anonymous`; a refusal says nothing, the log says why."""

    def __init__(self, desk: LoginDesk) -> None:
        self._desk = desk

    async def Challenge(self, request: wire.ChallengeRequest, context: Any) -> wire.ChallengeReply:
        """Answer with a nonce."""
        return wire.ChallengeReply(nonce=self._desk.challenge(source_of(context.peer())))

    async def Certificate(
        self, request: wire.CertificateRequest, context: Any
    ) -> wire.CertificateReply:
        """Answer with a certificate for whoever proved to be an operator."""
        source = source_of(context.peer())
        check_sizes(request)
        try:
            chain = await asyncio.to_thread(
                self._desk.certificate, request.statement, request.csr, source
            )
        except EmbrasureError as problem:
            LOG.warning("log-in from %s: %s [%s]", source, problem, problem.word)
            raise
        return wire.CertificateReply(chain=chain)


def check_sizes(request: wire.CertificateRequest) -> None:
    """Return only when both parts are as short as they must."""
    if len(request.statement) > limits.LOGIN_BYTES or len(request.csr) > limits.LOGIN_BYTES:
        raise Refused("log-in", expected=f"{limits.LOGIN_BYTES} bytes", got="more", reason="limit")
