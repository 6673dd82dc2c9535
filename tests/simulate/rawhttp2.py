"""A gRPC caller by hand, over Python's own TLS: it can do what gRPC's caller would never do.

It resumes sessions, shows no certificate, speaks old TLS and chooses its key exchange.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from tests.simulate.authority import Authority, Leaf

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, _GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
_END_STREAM, END_HEADERS, ACK = 1, 4, 1


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
        sock.sendall(PREFACE + frame(SETTINGS, 0, 0, b"") + _request(path, host))
        answered = _until_end(sock)
        return Reply(answered, bool(sock.session_reused), sock.session)


def _request(path: str, host: str) -> bytes:
    message = bytes(5)  # not compressed, no bytes
    block = request_block(path, host)
    return frame(HEADERS, END_HEADERS, 1, block) + frame(DATA, _END_STREAM, 1, message)


def request_block(path: str, host: str) -> bytes:
    """Return the header block of a gRPC call."""
    fields = {
        ":method": "POST",
        ":scheme": "https",
        ":path": path,
        ":authority": host,
        "te": "trailers",
        "content-type": "application/grpc",
    }
    return b"".join(literal(name.encode(), value.encode()) for name, value in fields.items())


def literal(name: bytes, value: bytes) -> bytes:
    """Return a literal field without indexing, with a new name (RFC 7541, 6.2.2)."""
    return b"\x00" + bytes([len(name)]) + name + _length(len(value)) + value


def _length(number: int) -> bytes:
    """Return an integer with a prefix of seven bits (RFC 7541, 5.1)."""
    if number < 127:
        return bytes([number])
    found, rest = bytearray([127]), number - 127
    while rest >= 128:
        found.append(rest % 128 + 128)
        rest //= 128
    return bytes([*found, rest])


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    """Return one frame (RFC 9113, 4.1)."""
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
                if kind == SETTINGS and not flags & ACK:
                    sock.sendall(frame(SETTINGS, ACK, 0, b""))
                if kind in (HEADERS, DATA) and stream == 1 and flags & _END_STREAM:
                    return True
                if kind == _GOAWAY:
                    return False
            piece = sock.recv(65536)
            if not piece:
                return False
            held += piece
    except OSError:
        return False
