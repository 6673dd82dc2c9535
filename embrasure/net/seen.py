"""The certificate that a server shows, before anything is said to it."""

from __future__ import annotations

import socket
import ssl

from cryptography import x509

from embrasure import limits
from embrasure.clock import Clock, now
from embrasure.errors import Misuse, Refused, Unavailable
from embrasure.net.certificates import load_shown
from embrasure.net.dial import Server, tls_context
from embrasure.net.identity import Role, dns_name
from embrasure.net.profile import check_leaf
from embrasure.net.trustbundle import Trust


def seen_leaf(address: str, role: Role, trust: Trust, *, clock: Clock = now) -> x509.Certificate:
    """Return the leaf of the server at `address`, whoever of `role` it is, its profile checked.

    A caller that pins it speaks with the holder of its key and with nobody else.
    Raises Refused (`certificate`, `identity`), Unavailable.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise Misuse("address", expected="HOST:PORT", got=address)
    context = tls_context(Server(address, role, "any", trust))
    context.set_alpn_protocols(["h2"])
    name = dns_name(role, "any", trust.domain)
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), limits.DIAL_SECONDS) as raw,
            context.wrap_socket(raw, server_hostname=name) as tls,
        ):
            der = tls.getpeercert(binary_form=True)
    except ssl.SSLCertVerificationError as problem:
        raise Refused(
            f"{role} at {address}", expected=f"the identity {name}", got=problem,
            untouched="nothing was signed", reason="certificate",
        ) from None  # fmt: skip
    except (OSError, ValueError, OverflowError) as problem:
        raise Unavailable(f"{role} at {address}", expected="an answer", got=problem) from None
    cert = load_shown(der, who=f"{role} at {address}")
    check_leaf(cert, role=role, issuers=trust.issuers_of(role), domain=trust.domain, at=clock())
    return cert
