"""An HTTPS server that does what it is told, byte by byte: the mirror that nobody should have."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.simulate.authority import Leaf

# Gets the connection after the head of one request was read, and the head.
Answer = Callable[[ssl.SSLSocket, bytes], None]


@contextlib.contextmanager
def bad_server(
    leaf: Leaf, folder: Path, answer: Answer, *, maximum: ssl.TLSVersion | None = None
) -> Iterator[int]:
    """The port of a server that shows `leaf` and hands every connection to `answer`."""
    file = folder / f"server-{leaf.certificate.serial_number}.pem"
    file.write_bytes(leaf.chain_pem + leaf.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if maximum is not None:
        context.maximum_version = maximum
    context.load_cert_chain(file)
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.02)
        thread = threading.Thread(target=_accept, args=(listener, context, answer, stop))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stop.set()
            thread.join()


def _accept(
    listener: socket.socket, context: ssl.SSLContext, answer: Answer, stop: threading.Event
) -> None:
    while not stop.is_set():
        try:
            plain, _ = listener.accept()
        except TimeoutError:
            continue
        plain.settimeout(5)
        with plain, contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as c:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = c.recv(65536)
                if not piece:
                    break
                head += piece
            # A body left unread would reset the connection, and the answer with it.
            stated = re.search(rb"Content-Length: ([0-9]+)", head)
            while stated and len(head.partition(b"\r\n\r\n")[2]) < int(stated[1]):
                head += c.recv(65536)
            answer(c, head)


def says(head: str, body: bytes = b"") -> Answer:
    """Return an answer of these lines and this body, whatever was asked."""
    raw = ("HTTP/1.1 " + head.replace("\n", "\r\n") + "\r\n\r\n").encode() + body

    def answer(connection: ssl.SSLSocket, asked: bytes) -> None:
        connection.sendall(raw)

    return answer
