"""Certificates for listeners, by the issuers that this gateway holds; of a request only the key.

Names, uses and life come from the dialled identity and its profile, whatever the request says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
