"""What fetch shows and whom it believes: key, chain, trust bundle and denials, read again when
they change.

Until apply has verified a `tls.json`, the bundle of the enrolment answer counts, which the owner
put there: it opens the door for the gateway, whose every word is verified after that.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from logging import getLogger
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature

from embrasure import clock, limits
from embrasure.errors import Denied, EmbrasureError, NotFound, Refused
from embrasure.fs import read_file
from embrasure.net.certificates import load_certificates, load_der, pem_of
from embrasure.net.trustbundle import Trust, first_trust, trust_of
from embrasure.trust.directory import Enrolled, TlsBundle, parse_enrolled, parse_tls_bundle
from embrasure.trust.documents import digest, read
from embrasure.trust.dsse import Envelope
from embrasure.trust.floors import FloorStore
from node.believed import held_denials, told_time
from node.config import load_config
from node.identity import load_tls_key
from node.paths import Paths

if TYPE_CHECKING:
    from cryptography import x509

    from embrasure.net.credentials import Pair
    from embrasure.net.denials import TlsDenials

LOG = getLogger(__name__)


class Material:
    """The TLS files of one node. believed: SHA-256 of the `tls.json` that `trust` last gave."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self.believed = ""
        self._floor: tuple[int, datetime] | None = None  # change of the floors' folder, their time
        self._last: tuple[TlsBundle, TlsDenials, Trust] | None = None  # what trust was made of
        self._pair: Pair | None = None  # the one that was last made of these files

    def moment(self) -> datetime:
        """Return the time now: the clock's, or the newest that verified files told, if it is later.

        A clock that was set back makes no certificate young again.
        """
        return max(clock.now(), self._told())

    def _told(self) -> datetime:
        try:
            changed = self._paths.floors.stat().st_mtime_ns
            if self._floor is None or self._floor[0] != changed:
                found = FloorStore(self._paths.floors).load(repair=False)
                self._floor = (changed, datetime.fromtimestamp(found.time, tz=UTC))
        except (OSError, EmbrasureError):
            return told_time(self._paths)  # the floors are another user's
        return self._floor[1]

    def trust(self) -> Trust:
        """Return whom this node believes; raises Denied (`not-enrolled`), Refused.

        A node that joins by a token believes the gateway issuer that it was given with it, and its
        word counts for nothing but the way of its statement.
        """
        try:
            bundle = self.bundle()
        except Denied:
            if not self._paths.gateway_issuer.exists():
                raise
            return self._first_trust()
        denied = held_denials(self._paths)
        if self._last is None or self._last[:2] != (bundle, denied):
            # Looked at every two seconds: its signatures are checked again when it says else.
            self._last = (bundle, denied, trust_of(bundle, denied))
            self.believed = digest(bundle)
        return self._last[2]

    def _first_trust(self) -> Trust:
        return first_trust(load_config(self._paths).domain, "gateway", self._first_issuer())

    def _first_issuer(self) -> tuple[x509.Certificate, ...]:
        raw = read_file(self._paths.gateway_issuer, limit=limits.TLS_BUNDLE_BYTES, unshared=True)
        return load_certificates(raw, what="gateway issuer")

    def bundle(self) -> TlsBundle:
        """Return the newest bundle: apply's verified one, else the enrolment's."""
        try:
            raw = read_file(self._paths.tls_bundle, limit=limits.TLS_BUNDLE_BYTES, unshared=True)
        except NotFound:
            return self.enrolled().tls
        return _bundle(raw)

    def ca_roots(self) -> list[x509.Certificate]:
        """Return the CA roots that the metadata door lets in by: of the newest bundle, and of the
        enrolment answer, which the owner put there. Of a node that still joins: the one gateway
        issuer that it was given; nothing else of the fleet is known to it.
        """
        try:
            texts = self.bundle().ca_root
        except Denied:
            if not self._paths.gateway_issuer.exists():
                raise
            return list(self._first_issuer())
        with suppress(Denied):
            texts = (*texts, *self.enrolled().tls.ca_root)
        return [_root(text) for text in dict.fromkeys(texts)]

    def pair(self, *, at: datetime, trust: Trust) -> Pair:
        """Return key and chain of the push listener: those a gateway takes now, else the boot ones.

        A gateway refuses a certificate that has expired, even one that it expects, and one whose
        issuer is no longer believed. The boot certificate, which the directory names, is what it
        may be told to accept for a renewal.
        """
        if trust.gateways is None:
            return self.boot()  # not enrolled yet
        found = self._renewed()
        if found is None or not lives(found.chain_pem, at=at, trust=trust):
            found = max((self._made(chain) for chain in self._chains()), key=ends)
        return found if lives(found.chain_pem, at=at, trust=trust) else self.boot()

    def _renewed(self) -> Pair | None:
        """Return what the last renewal left. Half a file must not keep a node out of reach: the
        first certificate, or the boot one, is there, and a gateway renews it.
        """
        from embrasure.net.pairfile import read_pair  # gRPC, which a pull node does without

        try:
            return read_pair(self._paths.renewed)
        except Refused as problem:
            LOG.warning("%s [%s]", problem, problem.word)
            return None

    def chain(self) -> bytes:
        """Return the chain that ends last, of those that are here: expired ones, too."""
        from embrasure.net.pairfile import read_chain

        renewed = read_chain(self._paths.renewed)
        found = [*self._chains(), *([renewed] if renewed else [])]
        return max(found, key=ends_of)

    def boot(self) -> Pair:
        """Return the first key and the self-signed certificate that carried it to enrolment."""
        raw = read_file(self._paths.boot_cert, limit=limits.KEYFILE_BYTES, unshared=True)
        return self._made(raw)

    def _made(self, chain: bytes) -> Pair:
        from embrasure.net.credentials import Pair

        key = load_tls_key(self._paths)
        if self._pair is None or (self._pair.key_pem, self._pair.chain_pem) != (key, chain):
            self._pair = Pair(key, chain)
        return self._pair

    def _chains(self) -> Iterator[bytes]:
        """Yield the chains of the answer that was taken, and of one that lies there newly."""
        with suppress(NotFound):
            yield read_file(self._paths.tls_chain, limit=limits.TLS_BUNDLE_BYTES, unshared=True)
            if not self._paths.enrolled.exists():
                return
        chain = self.enrolled().chain
        yield b"".join(pem_of(load_der(text, what="node certificate")) for text in chain)

    def enrolled(self) -> Enrolled:
        """Return the enrolment answer as the owner put it there; apply checks who signed it."""
        try:
            raw = read_file(self._paths.enrolled, limit=limits.ENROLMENT_BYTES, unshared=True)
        except NotFound:
            raise Denied(
                "node",
                expected=f"the security team's answer at {self._paths.enrolled}",
                got="none: this node is not enrolled",
                hint="carry statement.json to `embrasure pki enrol`, then `embrasure node enrol`",
                reason="not-enrolled",
            ) from None
        return _enrolled(raw)


# Read at every look, parsed and checked once: nothing of it depends on the time.
_once = lru_cache(maxsize=limits.MATERIAL_KEPT)


@_once
def _bundle(raw: bytes) -> TlsBundle:
    return parse_tls_bundle(raw)


@_once
def _enrolled(raw: bytes) -> Enrolled:
    return read_enrolled(raw)


@_once
def _root(text: str) -> x509.Certificate:
    return load_der(text, what="CA root")


@_once
def _leaf(chain: bytes) -> x509.Certificate:
    return load_certificates(chain, what="node certificate")[0]


@_once
def _is_signed(leaf: x509.Certificate, issuer: x509.Certificate) -> bool:
    with suppress(ValueError, TypeError, InvalidSignature):
        leaf.verify_directly_issued_by(issuer)
        return True
    return False


def lives(chain: bytes, *, at: datetime, trust: Trust) -> bool:
    """Return whether the leaf of `chain` has not ended, and one of the node issuers signed it."""
    leaf = _leaf(chain)
    if leaf.not_valid_after_utc <= at:
        return False
    return any(_is_signed(leaf, issuer) for issuer in trust.issuers_of("node"))


def ends(pair: Pair) -> datetime:
    """Return when the leaf of `pair` expires."""
    return ends_of(pair.chain_pem)


def ends_of(chain: bytes) -> datetime:
    """Return when the leaf of `chain` expires."""
    return _leaf(chain).not_valid_after_utc


def read_enrolled(raw: bytes) -> Enrolled:
    """Return the answer in the envelope `raw`, whose signature is not checked here.

    Who may sign it stands in metadata that this node cannot have yet. Raises Refused.
    """
    envelope = read(raw, Envelope, limit=limits.ENROLMENT_BYTES, document="enrolment answer")
    try:
        payload = base64.b64decode(envelope.payload, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(
            "enrolment answer", expected="base64", got="other text", reason="bad-schema"
        ) from None
    return parse_enrolled(payload)
