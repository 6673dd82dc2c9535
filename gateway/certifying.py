"""Certificates for listeners, by the issuers that this gateway holds; of a request only the key.

Names, uses and life come from the dialled identity and its profile, whatever the request says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509

from embrasure import limits
from embrasure.clock import Clock
from embrasure.errors import Denied, Refused
from embrasure.net.identity import PROFILES, Identity, IssuerName
from pki import ca
from pki.ca import Issuer
from pki.leaf import chain_of

_REQUEST_BYTES = 4 * limits.KIB


@dataclass(frozen=True, slots=True)
class Certifier:
    """The issuers of listeners, none or some of `node` and `mirror`."""

    issuers: Mapping[IssuerName, Issuer]
    clock: Clock

    def holds(self, identity: Identity) -> bool:
        """Return whether leaves of this identity's role can be signed here."""
        return PROFILES[identity.role].issuer in self.issuers

    def made(self, identity: Identity, issuer: str) -> bool:
        """Return whether leaves of this identity's role are signed here by the issuer with this key
        identifier (hex), now.
        """
        found = self.issuers.get(PROFILES[identity.role].issuer)
        return found is not None and key_identifier(found.certificate) == issuer

    def certify(self, identity: Identity, request: bytes) -> bytes:
        """Return the chain (PEM) for the key of `request`, which proved that it has it.

        Raises Denied (`no-issuer`), Refused.
        """
        name = PROFILES[identity.role].issuer
        issuer = self.issuers.get(name)
        if issuer is None:
            raise Denied(
                str(identity),
                expected=f"the issuer {name} in gateway.toml",
                got="none",
                hint=f"embrasure gateway init with the trust folder that has ca/{name}.key",
                reason="no-issuer",
            )
        if len(request) > _REQUEST_BYTES:
            raise Refused("request", expected=f"{_REQUEST_BYTES} bytes", got=len(request))
        public = ca.parse_request(request)
        return chain_of(ca.issue_leaf(str(identity), public, issuer, self.clock), issuer)


def key_identifier(cert: x509.Certificate) -> str:
    """Return the identifier by which leaves name this issuer's key, in hex; "" for none."""
    try:
        found = cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except (x509.ExtensionNotFound, ValueError):
        return ""
    return found.digest.hex()
