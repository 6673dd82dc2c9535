"""What an operator signs to be let in: one nonce, one request, at one gateway, in one fleet."""

from __future__ import annotations

from typing import Literal

from embrasure import limits
from embrasure.trust.documents import Digest, Document, PersonId, Time, read


class LoginStatement(Document, frozen=True, kw_only=True):
    """The payload of a `login` envelope.

    nonce: the gateway's, 64 hex digits; csr: SHA-256 of the request's bytes; admin: SHA-256 of the
    DER of the certificate that the gateway showed, so that no other gateway can pass it on
    """

    v: Literal[1]
    type: Literal["login"]
    root: Digest
    person: PersonId
    nonce: Digest
    csr: Digest
    admin: Digest
    at: Time


def parse_login(raw: bytes) -> LoginStatement:
    """Return the statement in `raw`, a verified payload; raises Refused."""
    return read(raw, LoginStatement, limit=limits.LOGIN_BYTES, document="login statement")
