"""HTTPS to one identity and to nobody else, every wait and every answer bounded.

No proxy, no redirect, no cookie, no content encoding: nothing unverified is ever decompressed.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import urllib3
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.exceptions import SSLError as TlsError
from urllib3.response import HTTPResponse

from embrasure import limits
from embrasure.clock import Clock, now
from embrasure.errors import EmbrasureError, Misuse, Refused, Unavailable
from embrasure.net.certificates import load_shown
from embrasure.net.cutoff import CUTOFFS
from embrasure.net.denials import key_digest
from embrasure.net.identity import Identity, Role, dns_name
from embrasure.net.pace import Deadline, Seconds
from embrasure.net.profile import check_leaf
from embrasure.net.standing import Standing
from embrasure.net.trustbundle import Trust

_ADDRESS = re.compile(r"(\[[0-9a-f:]+\]|[a-z0-9.-]+):([1-9][0-9]{0,4})")
Timeout = urllib3.Timeout


@dataclass(frozen=True, slots=True)
class Server:
    """A server to dial: the address is only a way, `role`/`name` is whom we demand there."""

    address: str
    role: Role
    name: str
    trust: Trust
    clock: Clock = now
    steady: Seconds = time.monotonic

    @property
    def host(self) -> str:
        """The one DNS name that its certificate must carry."""
        return dns_name(self.role, self.name, self.trust.domain)

    def context(self) -> ssl.SSLContext:
        """Return the TLS context that trusts this server's issuers, and nobody else."""
        return tls_context(self)

    def check(self, der: bytes | None) -> None:
        """Return only when the certificate `der` is a whole, honest leaf of this server.

        OpenSSL has checked issuer, name and dates; the profile says much more.
        """
        cert = load_shown(der, who=str(Identity(self.role, self.name)))
        found = check_leaf(
            cert,
            role=self.role,
            issuers=self.trust.issuers_of(self.role),
            domain=self.trust.domain,
            at=self.clock(),
        )
        if found.name != self.name:
            raise Refused(self.host, expected=self.name, got=found.name, reason="identity")
        self.trust.check_admitted(found, key_digest(cert))


def tls_context(server: Server) -> ssl.SSLContext:
    """Return a client context that trusts the role's issuers alone, at TLS 1.3, without tickets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.hostname_checks_common_name = False
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    # The intermediate itself is the anchor; no path to a root is looked for.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=server.trust.pem([server.role]).decode("ascii"))
    return context


class HttpsClient:
    """At most two connections to one server, each to the demanded identity."""

    def __init__(
        self,
        server: Server,
        newest: Callable[[], Trust] | None = None,
        *,
        recheck_s: float = limits.RECHECK_SECONDS,
    ) -> None:
        """newest: whom to believe now; open connections are then checked each `recheck_s`."""
        found = _ADDRESS.fullmatch(server.address)
        if found is None or int(found[2]) > 65535:
            raise Misuse("address", expected="HOST:PORT", got=server.address)
        self.server = server
        self._pool = urllib3.HTTPSConnectionPool(
            found[1].strip("[]"),
            int(found[2]),
            maxsize=2,
            ssl_context=server.context(),
            server_hostname=server.host,
            retries=False,
        )
        self._standing = Standing(server, newest or (lambda: server.trust), every=recheck_s)
        self._pool.ConnectionCls = _connection_to(server, self._standing if newest else None)

    def close(self) -> None:
        """Drop the connections."""
        self._standing.close()
        self._pool.close()

    @contextmanager
    def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        seconds: float = limits.BLOB_GRACE_SECONDS,
    ) -> Iterator[HTTPResponse]:
        """The answer to one request, its body unread; what stays unread closes the connection.

        seconds: longest wait for the head of the answer, and for each piece after it.
        Raises Unavailable, Refused (`certificate`, `redirect`, `encoding`), and what the server was
        refused with while it was open.
        """
        sent = {"Accept-Encoding": "identity", "User-Agent": "embrasure", **(headers or {})}
        with _translated(self.server), self._standing.held():
            answer = self._pool.urlopen(
                method,
                f"/{path}",
                headers=sent,
                body=body,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=Timeout(connect=limits.DIAL_SECONDS, read=seconds),
            )
            if not isinstance(answer, HTTPResponse):
                raise Unavailable(self.server.host, expected="a plain answer", got="another")
            try:
                check_plain(answer)
                yield answer
            finally:
                # Half-read answers would be taken for the next one's beginning.
                if answer.length_remaining != 0:
                    answer.close()
                answer.release_conn()

    def read_small(self, answer: HTTPResponse, *, limit: int) -> bytes:
        """Return the whole body of `answer`, at most `limit` bytes; raises Refused (`limit`)."""
        found = bytearray()
        pace = Deadline(self.server.steady)
        while piece := answer.read1(limit + 1 - len(found), decode_content=False):
            pace.add(len(piece))
            found += piece
            if len(found) > limit:
                raise Refused("answer", expected=f"{limit} bytes", got="more", reason="limit")
        return bytes(found)


def check_plain(answer: HTTPResponse) -> None:
    """Return only when `answer` comes from the asked place, in plain bytes of a known length."""
    if 300 <= answer.status < 400:
        raise Refused("answer", expected="no redirect", got=answer.status, reason="redirect")
    coding = answer.headers.get("Content-Encoding", "identity")
    if coding != "identity":
        raise Refused("answer", expected="plain bytes", got=coding, reason="encoding")
    if "Transfer-Encoding" in answer.headers:
        raise Refused("answer", expected="a stated length", got="pieces", reason="encoding")


def _connection_to(server: Server, standing: Standing | None) -> type[HTTPSConnection]:
    """Return a connection class that checks whom it reached and never waits for ever."""

    class Checked(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            # 1. Before a byte is asked for.
            shown = self.sock.getpeercert(binary_form=True)  # type: ignore[union-attr]  # TLS by now
            server.check(shown)
            if standing is not None:
                standing.opened(self.sock, shown)

        def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # urllib3's own wart
            # 2. Each line of a head may come just before its time-out: the whole has one too.
            seconds = self.timeout if isinstance(self.timeout, int | float) else 30.0
            held = self.sock

            def cut() -> None:
                # The base class's: TLS's own would take the socket from under the reader's feet.
                with suppress(OSError):
                    socket.socket.shutdown(held, socket.SHUT_RDWR)

            with CUTOFFS.after(seconds, cut) as is_late:
                answer = super().getresponse()
            # A head that was cut reads like one that ended.
            if is_late():
                answer.close()
                raise TimeoutError(f"no whole answer within {seconds:g} s")
            return answer

    return Checked


@contextmanager
def _translated(server: Server) -> Iterator[None]:
    """Errors of the transport become ours."""
    who = f"{server.role}/{server.name} at {server.address}"
    try:
        yield
    except EmbrasureError:
        raise
    except TlsError as problem:
        if isinstance(problem.args[0] if problem.args else None, ssl.SSLCertVerificationError):
            raise Refused(
                who, expected=f"the identity {server.host}", got=problem, reason="certificate"
            ) from None
        raise Unavailable(who, expected="TLS 1.3", got=problem) from None
    except (HTTPError, OSError, ValueError) as problem:
        raise Unavailable(who, expected="an answer", got=problem) from None
