"""What fetch shows and whom it believes: key, chain, trust bundle and denials, read again when
they change.

Until apply has verified a `tls.json`, the bundle of the enrolment answer counts, which the owner
put there: it opens the door for the gateway, whose every word is verified after that.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from cryptography import x509

from embrasure import limits
from embrasure.errors import Denied, NotFound, Refused
from embrasure.fs import read_file
from embrasure.net.certificates import load_der, pem_of
from embrasure.net.trustbundle import Trust, trust_of
from embrasure.trust.directory import Enrolled, TlsBundle, parse_enrolled, parse_tls_bundle
from embrasure.trust.documents import read
from embrasure.trust.dsse import Envelope
from node.believed import held_denials
from node.paths import Paths

if TYPE_CHECKING:
    from embrasure.net.credentials import Pair


class Material:
    """The TLS files of one node."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def trust(self) -> Trust:
        """Return whom this node believes; raises Denied (`not-enrolled`), Refused."""
        return trust_of(self.bundle(), held_denials(self._paths))

    def bundle(self) -> TlsBundle:
        """Return the newest bundle: apply's verified one, else the enrolment's."""
        try:
            raw = read_file(self._paths.tls_bundle, limit=limits.TLS_BUNDLE_BYTES, unshared=True)
        except NotFound:
            return self.enrolled().tls
        return parse_tls_bundle(raw)

    def pair(self) -> Pair:
        """Return key and chain of the push listener."""
        from embrasure.net.credentials import Pair  # gRPC, which a pull node does without

        key = read_file(self._paths.tls_key, limit=limits.KEYFILE_BYTES, private=True)
        return Pair(key, self.chain())

    def chain(self) -> bytes:
        """Return the certificate chain as PEM."""
        try:
            return read_file(self._paths.tls_chain, limit=limits.TLS_BUNDLE_BYTES, unshared=True)
        except NotFound:
            chain = self.enrolled().chain
        return b"".join(pem_of(load_der(text, what="node certificate")) for text in chain)

    def serial(self) -> str:
        """Return the serial number of the listener's certificate, in hex."""
        return f"{x509.load_pem_x509_certificate(self.chain()).serial_number:x}"

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
        return read_enrolled(raw)


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
