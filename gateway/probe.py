"""Which certificate a listener shows: read by a handshake alone, no word is ever exchanged.

gRPC does not tell a caller whom it reached. The handshake proves that the listener has the key of
what it shows; who that is, the caller decides.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from embrasure import limits
from embrasure.errors import Refused, Unavailable
from embrasure.net.certificates import UNREADABLE
from embrasure.net.dial import Server, tls_context
from gateway.address import split_address


def served(server: Server) -> x509.Certificate:
    """Return the leaf that `server` shows, when it is a whole and living one of that identity.

    Raises Unavailable, Refused (`certificate`).
    """
    context = tls_context(server)
    context.set_alpn_protocols(["h2"])
    who = f"{server.role}/{server.name} at {server.address}"
    try:
        with (
            socket.create_connection(split_address(server.address), limits.DIAL_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=server.host) as line,
        ):
            der = line.getpeercert(binary_form=True)
    except ssl.SSLCertVerificationError as problem:
        raise Refused(
            who, expected=f"the identity {server.host}", got=problem, reason="certificate"
        ) from None
    except OSError as problem:
        raise Unavailable(who, expected="TLS 1.3", got=problem) from None
    server.check(der)
    return x509.load_der_x509_certificate(der or b"")


def shown(address: str) -> x509.Certificate | None:
    """Return whatever certificate somebody shows at `address`; None when nobody shows one.

    Nobody is believed for it: it is compared with a digest out of verified metadata.
    """
    with suppress(OSError, *UNREADABLE):
        pem = ssl.get_server_certificate(split_address(address), timeout=limits.DIAL_SECONDS)
        return x509.load_pem_x509_certificate(pem.encode("ascii"))
    return None


def digest_of(cert: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate, as the directory names a boot certificate."""
    return cert.fingerprint(hashes.SHA256()).hex()
