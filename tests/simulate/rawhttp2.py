"""A gRPC caller by hand, over Python's own TLS: it can do what gRPC's caller would never do.

It resumes sessions, shows no certificate, speaks old TLS and chooses its key exchange.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from tests.simulate.authority import Authority, Leaf

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _GOAWAY = 0, 1, 4, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1


def client_context(authority: Authority, leaf: Leaf | None, folder: Path) -> ssl.SSLContext:
    """Return a context that believes `authority`'s nodes and shows `leaf`, or nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=authority.issuer_pem("node").decode("ascii"))
    context.set_alpn_protocols(["h2"])
    if leaf is not None:
        file = folder / "client.pem"
        file.write_bytes(leaf.chain_pem + leaf.key_pem)
        context.load_cert_chain(file)
    return context


@dataclass
class Reply:
    """What one call by hand came to. answered: the server ended the call in an orderly way."""

    answered: bool
    reused: bool
    session: ssl.SSLSession | None


def call_by_hand(
    port: int,
    context: ssl.SSLContext,
    path: str,
    *,
    host: str,
    session: ssl.SSLSession | None = None,
) -> Reply:
    """Return what a unary call of `path` with an empty message came to; raises OSError."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=host, session=session) as sock,
    ):
        sock.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b"") + _request(path, host))
        answered = _until_end(sock)
        return Reply(answered, bool(sock.session_reused), sock.session)


def _request(path: str, host: str) -> bytes:
    fields = {
        ":method": "POST",
        ":scheme": "https",
        ":path": path,
        ":authority": host,
        "te": "trailers",
        "content-type": "application/grpc",
    }
    # HPACK, literal field without indexing, new name (RFC 7541, 6.2.2).
    block = b"".join(
        b"\x00" + bytes([len(n)]) + n.encode() + bytes([len(v)]) + v.encode()
        for n, v in fields.items()
    )
    message = bytes(5)  # not compressed, no bytes
    return _frame(_HEADERS, _END_HEADERS, 1, block) + _frame(_DATA, _END_STREAM, 1, message)


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def _until_end(sock: ssl.SSLSocket) -> bool:
    """Return whether stream 1 was ended by the server; answers its settings on the way."""
    held = b""
    try:
        while True:
            while len(held) >= 9:
                length, kind, flags = int.from_bytes(held[:3], "big"), held[3], held[4]
                if len(held) < 9 + length:
                    break
                stream, held = int.from_bytes(held[5:9], "big"), held[9 + length :]
                if kind == _SETTINGS and not flags & _ACK:
                    sock.sendall(_frame(_SETTINGS, _ACK, 0, b""))
                if kind in (_HEADERS, _DATA) and stream == 1 and flags & _END_STREAM:
                    return True
                if kind == _GOAWAY:
                    return False
            piece = sock.recv(65536)
            if not piece:
                return False
            held += piece
    except OSError:
        return False
