"""Who may call what: checked before every call, again while it runs, for all four kinds of call.

Deny by default. A refusal says `denied` and nothing else, whether the method exists or not.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from logging import getLogger
from typing import TYPE_CHECKING, Any, Literal, Protocol

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from embrasure import limits
from embrasure.clock import Clock, now
from embrasure.errors import EmbrasureError, Refused
from embrasure.net.certificates import UNREADABLE, load_certificates
from embrasure.net.denials import key_digest
from embrasure.net.identity import Identity, Role, parse_uri
from embrasure.net.profile import check_leaf, check_life
from embrasure.net.status import status_of
from embrasure.net.trustbundle import Trust, TrustHolder

LOG = getLogger(__name__)

Table = Mapping[str, frozenset[Role]]
Groups = Literal["hybrid", "any"]
Auth = Mapping[str, Iterable[bytes]]
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
HYBRID = "X25519MLKEM768"
_VERDICTS = 1024  # certificates whose profile is remembered

if TYPE_CHECKING:
    # Generic in the stubs alone; over messages that this module never looks at.
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = Callable[[Any, Context], Any]
    MethodHandler = grpc.RpcMethodHandler[Any, Any]


class Peers:
    """Says who is at the other end of a connection, or refuses.

    groups: `hybrid` admits only the post-quantum key exchange; `any` admits and logs others.
    """

    def __init__(
        self, holder: TrustHolder, *, clock: Clock = now, groups: Groups = "hybrid"
    ) -> None:
        self._holder = holder
        self._clock = clock
        self._groups = groups
        self._verdicts: dict[tuple[bytes, int], tuple[Identity, str]] = {}

    def identify(self, auth: Auth) -> Identity:
        """Return the peer's identity; raises Refused.

        Steps: 1 transport, 2 no resumed session, 3 exactly one URI and no other name, 4 profile of
        the certificate, 5 its dates now, 6 listed and not denied now. All of
        them at each call and each re-check.
        """
        # 1.
        check_transport(auth, groups=self._groups)
        # 2.
        check_not_resumed(auth)
        # 3.
        trust, epoch = self._holder.state
        identity = peer_identity(auth, domain=trust.domain)
        # 4. 170 us, so remembered for this very certificate under this very trust.
        cert = _parse(_one(auth, "x509_pem_cert"))
        key = self._check_profile(cert, identity=identity, trust=trust, epoch=epoch)
        # 5. Connections outlive their certificates.
        check_life(cert, role=identity.role, at=self._clock())
        # 6.
        trust.check_admitted(identity, key)
        return identity

    def _check_profile(
        self, cert: x509.Certificate, *, identity: Identity, trust: Trust, epoch: int
    ) -> str:
        """Return the digest of the key of `cert`, whose whole profile holds; raises Refused."""
        key = (cert.fingerprint(hashes.SHA256()), epoch)
        if key not in self._verdicts:
            found = check_leaf(
                cert,
                role=identity.role,
                issuers=trust.issuers_of(identity.role),
                domain=trust.domain,
                at=self._clock(),
            )
            if len(self._verdicts) >= _VERDICTS:
                self._verdicts.clear()
            self._verdicts[key] = (found, key_digest(cert))
        named, digest = self._verdicts[key]
        if named != identity:
            raise _refused("the name in the certificate", str(identity), "identity")
        return digest


class Identifies(Protocol):
    """What says who a peer is: `Peers` everywhere but at the metadata door."""

    def identify(self, auth: Auth) -> Identity:
        """Return the peer's identity; raises Refused."""
        ...


def peer_chain(auth: Auth) -> list[x509.Certificate]:
    """Return the peer's certificates as it sent them, leaf first; raises Refused.

    The chain that gRPC tells of a client begins behind the leaf (measured, 1.85).
    """
    leaf = _parse(_one(auth, "x509_pem_cert"))
    above = load_certificates(_one(auth, "x509_pem_cert_chain").encode("ascii"), what="issuers")
    return [leaf, *(cert for cert in above if cert != leaf)]


def check_transport(auth: Auth, *, groups: Groups) -> None:
    """Return only when the connection is TLS 1.3 with the post-quantum key exchange."""
    if _one(auth, "transport_security_type") != "ssl" or _one(auth, "ssl_tls_version") != "TLSv1.3":
        raise _refused("TLS 1.3", _one(auth, "ssl_tls_version") or "no TLS", "transport")
    group = _one(auth, "ssl_negotiated_key_exchange_group")
    if group != HYBRID:
        if groups == "hybrid":
            raise _refused(HYBRID, group or "no group", "transport")
        LOG.warning("key exchange without post-quantum protection: %s", group)


def check_not_resumed(auth: Auth) -> None:
    """Return only when this handshake was a full one: resumption skips every certificate check."""
    if _one(auth, "ssl_session_reused") != "false":
        raise _refused("a full handshake", "a resumed session", "resumed")


def peer_identity(auth: Auth, *, domain: str) -> Identity:
    """Return the identity in the one URI of the peer's certificate; raises Refused.

    Never the common name, never `peer_identities()`: they fall back on each other.
    """
    if any(list(auth.get(key, ())) for key in ("peer_dns", "peer_ip", "peer_email")):
        raise _refused("a URI and no other name", "other names", "identity")
    return parse_uri(_one(auth, "peer_uri"), domain=domain)


def peer(context: Context) -> Identity:
    """Return who calls; for handlers behind `Authorize`, which has checked the certificate."""
    uri = _one(context.auth_context(), "peer_uri")
    return parse_uri(uri, domain=uri.removeprefix("spiffe://").partition("/")[0])


class Authorize(grpc.aio.ServerInterceptor):
    """Lets a call run while its peer has a role that the table names for its method.

    table: full method name -> roles. Checked at the start and every `recheck_s` seconds after.
    """

    def __init__(
        self,
        table: Table,
        peers: Identifies,
        *,
        recheck_s: float = limits.RECHECK_SECONDS,
        calls_per_peer: int = limits.OPEN_CALLS_PER_PEER,
    ) -> None:
        self._table = table
        self._peers = peers
        self._recheck_s = recheck_s
        self._calls_per_peer = calls_per_peer
        self._open: Counter[Identity] = Counter()

    def allowed(self, method: str, context: Context) -> Identity | None:
        """Return who may go on with `method`, or None; any surprise is a refusal."""
        try:
            identity = self._peers.identify(context.auth_context())
        except EmbrasureError as refusal:
            LOG.warning("denied %s to %s: %s", method, context.peer(), refusal)
            return None
        except Exception:
            LOG.exception("denied %s: its peer could not be checked", method)
            return None
        return identity if identity.role in self._table.get(method, frozenset()) else None

    async def guard(
        self, method: str, context: Context, handler: Handler | None, request: object
    ) -> object:
        """Run `handler` while the peer stays allowed; its answer, or the call is aborted."""
        identity = self.allowed(method, context)
        if handler is None or identity is None:
            # The await is the lock: without it the call would run on.
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "denied")
        if self._open[identity] >= self._calls_per_peer:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many open calls")
        self._open[identity] += 1
        try:
            return await self._watch(method, context, _run(handler, request, context))
        finally:
            self._open[identity] -= 1

    async def _watch(self, method: str, context: Context, running: Awaitable[object]) -> object:
        """Return what `running` returns; abort when the peer is refused before that."""
        job = asyncio.ensure_future(running)
        try:
            while not (await asyncio.wait({job}, timeout=self._recheck_s))[0]:
                if self.allowed(method, context) is None:
                    await context.abort(grpc.StatusCode.PERMISSION_DENIED, "denied")
            return job.result()
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except EmbrasureError as error:
            code, details = status_of(error)
            await context.abort(code, details)
        except Exception:
            # The exception's text would go out to the peer.
            LOG.exception("handler failed: %s", method)
            await context.abort(grpc.StatusCode.INTERNAL, "internal")
        finally:
            job.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[MethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> MethodHandler:
        """Return the handler behind the guard, whichever of the four kinds it is."""
        method = str(handler_call_details.method)
        found = await continuation(handler_call_details)
        if found is None:

            async def refuse(request: object, context: Context) -> object:
                return await self.guard(method, context, None, request)

            return grpc.unary_unary_rpc_method_handler(refuse)
        (kind,) = [kind for kind in KINDS if getattr(found, kind)]
        handler: Handler = getattr(found, kind)

        async def guarded(request: object, context: Context) -> object:
            return await self.guard(method, context, handler, request)

        return found._replace(**{kind: guarded})  # type: ignore[attr-defined, no-any-return]  # a named tuple, which the stubs do not say


async def _run(handler: Handler, request: object, context: Context) -> object:
    """Return what `handler` returns; what it yields is written: one path for four kinds."""
    if not inspect.isasyncgenfunction(handler):
        return await handler(request, context)
    items: AsyncIterator[Any] = handler(request, context)
    async for item in items:
        await context.write(item)
    return None


def check_table(table: Table, served: Sequence[tuple[str, Handler]]) -> None:
    """Return only when table and served methods are the same, and every handler is async.

    served: full method names and their functions. Raises Refused (`table`): a listener that differs
    from its table does not start.
    """
    names = {name for name, _ in served}
    if names != set(table):
        odd = ", ".join(sorted(names ^ set(table)))
        raise Refused("methods served", expected="exactly the table's", got=odd, reason="table")
    for name, function in served:
        if not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
            raise Refused(name, expected="an async handler", got="a blocking one", reason="table")
        if not table[name]:
            raise Refused(name, expected="a role that may call it", got="none", reason="table")


def _one(auth: Auth, key: str) -> str:
    """Return the one value of `key`, or nothing: two values never match anything."""
    values = list(auth.get(key, ()))
    if len(values) != 1:
        return ""
    try:
        return values[0].decode("ascii")
    except UnicodeDecodeError:
        return ""


def _parse(pem: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode("ascii"))
    except UNREADABLE as problem:
        raise _refused("a certificate that parses", problem, "certificate") from None


def _refused(expected: str, got: object, reason: str) -> Refused:
    return Refused(
        "peer", expected=expected, got=got, untouched="the peer was given nothing", reason=reason
    )
