"""A mirror dialled for its trust files alone: any issuer below a CA root, of any age, will do.

A node that slept through a change of issuers finds the new `tls.json` behind a certificate that it
cannot know. What it fetches here verifies itself, so the certificate only says which way to go.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509

from embrasure.errors import Refused
from embrasure.net.certificates import load_shown, pem_of
from embrasure.net.dial import Server
from embrasure.net.profile import check_key, check_names

# The constant of OpenSSL (x509_vfy.h), which Python does not name.
_NO_CHECK_TIME = 0x200000


@dataclass(frozen=True, slots=True)
class DoorServer(Server):
    """A server below one of `roots`, whatever its dates and whoever denied it.

    Only trust files may be asked of it: nothing here says that it may be believed.
    """

    roots: Sequence[x509.Certificate] = ()

    def context(self) -> ssl.SSLContext:
        """Return a context that trusts the CA roots; dates are not looked at."""
        if not self.roots:
            raise Refused("TLS trust", expected="a CA root", got="none", reason="no-issuer")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.hostname_checks_common_name = False
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
        context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
        pem = b"".join(pem_of(cert) for cert in self.roots)
        context.load_verify_locations(cadata=pem.decode("ascii"))
        return context

    def check(self, der: bytes | None) -> None:
        """Return only when the leaf has this server's names and key form; OpenSSL has checked that
        it chains to a CA root through an issuer of servers.
        """
        cert = load_shown(der, who=self.host)
        check_key(cert, self.role)
        found = check_names(cert, role=self.role, domain=self.trust.domain)
        if found.name != self.name:
            raise Refused(self.host, expected=self.name, got=found.name, reason="identity")
