"""What is known of a private key without opening it, and the key once it is open.

The same facts for a key file and for a key in a token or a key service, so that whoever shows,
checks and signs need not know where the key lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta
from securesystemslib.signer import Signer, SSlibKey

from embrasure.errors import Denied
from embrasure.trust.documents import Document, KeyId, PersonId
from pki import schemes
from pki.schemes import PublicHex, Scheme

# security, operator, online: roles of metadata; ca: certificates; tls: a gateway's own handshakes
Purpose = Literal["security", "operator", "online", "ca", "tls"]
PURPOSES: tuple[Purpose, ...] = ("security", "operator", "online", "ca", "tls")


class KeyFacts(Document, frozen=True, kw_only=True):
    """Whose key it is, and the one family of roles in the one fleet that it signs for.

    pub: hex (`schemes.PublicHex`); label: the person, or the online role; root: id of the fleet
    it signs for, empty until its first signature
    """

    keyid: KeyId
    scheme: Scheme
    pub: PublicHex
    purpose: Purpose
    label: PersonId
    root: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")]


@dataclass(frozen=True, slots=True)
class Opened:
    """A key that can sign now. header: what was known of it before."""

    header: KeyFacts
    signer: Signer

    @property
    def public(self) -> SSlibKey:
        """The public half."""
        return public_key(self.header)


def public_key(facts: KeyFacts) -> SSlibKey:
    """Return the public key that the facts name; raises Refused when its id is another's."""
    return schemes.decode_public(facts.scheme, facts.pub, facts.keyid)


def check_use(facts: KeyFacts, *, purpose: str | None, root: str | None) -> None:
    """Return only when a key serves this purpose in this fleet; raises Denied.

    TUF metadata is not bound to a repository: a key that served two would let signatures of one
    count in the other (X41 audit of go-tuf, 2023).
    """
    if purpose is not None and facts.purpose != purpose:
        raise Denied(
            f"key of {facts.label}",
            expected=f"a key made for `{purpose}`",
            got=f"one made for `{facts.purpose}`",
            hint=f"embrasure keys generate NAME --purpose {purpose}",
            reason="key-purpose",
        )
    if root is not None and facts.root not in ("", root):
        raise Denied(
            f"key of {facts.label}",
            expected=f"a key of fleet {root[:16]}",
            got=f"a key of fleet {facts.root[:16]}",
            hint="a key serves one fleet; make a new one for this fleet",
            reason="key-root",
        )
