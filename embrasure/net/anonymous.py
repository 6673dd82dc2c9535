"""A listener for callers without a certificate: exactly its methods, and nothing else at all.

It shares no port with anything that knows its callers.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from logging import getLogger
from typing import TYPE_CHECKING, Any

import grpc

from embrasure import limits
from embrasure.errors import EmbrasureError, Refused, Unavailable
from embrasure.net.authorize import Groups, check_not_resumed, check_transport
from embrasure.net.server import Service, served, server_options
from embrasure.net.status import status_of

LOG = getLogger(__name__)
_Denied = grpc.StatusCode.PERMISSION_DENIED

if TYPE_CHECKING:
    # Generic in the stubs alone; over messages that this module never looks at.
    Context = grpc.aio.ServicerContext[Any, Any]
    MethodHandler = grpc.RpcMethodHandler[Any, Any]


class Anonymous(grpc.aio.ServerInterceptor):
    """Lets anybody call `methods` (unary calls, full names) over full TLS 1.3 handshakes.

    A refusal says `denied`; only that one must wait is said in words.
    """

    def __init__(
        self, methods: frozenset[str], *, groups: Groups = "hybrid", calls: int = limits.LOGIN_CALLS
    ) -> None:
        self._methods, self._groups, self._calls = methods, groups, calls
        self._open = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[MethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> MethodHandler:
        """Return the handler behind the guard; for any other method one that refuses."""
        method = str(handler_call_details.method)
        found = await continuation(handler_call_details)
        handler = found.unary_unary if found is not None and method in self._methods else None

        async def guarded(request: object, context: Context) -> object:
            return await self._guard(method, handler, request, context)

        if handler is None or found is None:
            return grpc.unary_unary_rpc_method_handler(guarded)
        return found._replace(unary_unary=guarded)  # type: ignore[attr-defined, no-any-return]  # a named tuple, which the stubs do not say

    async def _guard(self, method: str, handler: Any, request: object, context: Context) -> object:
        if handler is None or not self._is_whole(context):
            # The await is the lock: without it the call would run on.
            await context.abort(_Denied, "denied")
        if self._open >= self._calls:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many open calls")
        self._open += 1
        try:
            return await handler(request, context)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Unavailable as problem:
            code, details = status_of(problem)
            await context.abort(code, details)
        except EmbrasureError:
            await context.abort(_Denied, "denied")
        except Exception:
            LOG.exception("handler failed: %s", method)
            await context.abort(grpc.StatusCode.INTERNAL, "internal")
        finally:
            self._open -= 1

    def _is_whole(self, context: Context) -> bool:
        try:
            check_transport(context.auth_context(), groups=self._groups)
            check_not_resumed(context.auth_context())
        except EmbrasureError as refusal:
            LOG.warning("denied to %s: %s", context.peer(), refusal)
            return False
        return True


def check_methods(methods: frozenset[str], services: Sequence[Service]) -> None:
    """Return only when `services` have exactly `methods`, each of them async; raises Refused."""
    found = served(services)
    odd = ", ".join(sorted(methods ^ {name for name, _ in found}))
    if odd:
        raise Refused("methods served", expected="exactly the table's", got=odd, reason="table")
    for name, function in found:
        if not inspect.iscoroutinefunction(function):
            raise Refused(name, expected="an async handler", got="another", reason="table")


def build_anonymous_server(
    services: Sequence[Service],
    methods: frozenset[str],
    *,
    groups: Groups = "hybrid",
    connections: int = limits.CONNECTIONS,
    calls: int = limits.LOGIN_CALLS,
) -> grpc.aio.Server:
    """Return a server that has exactly `methods`, open to anybody, not yet bound.

    Its connections are short, so that idle ones do not use it up. In the running event loop.
    Raises Refused (`table`) when `services` have other methods.
    """
    short = {
        "grpc.max_connection_idle_ms": limits.LOGIN_IDLE_MILLISECONDS,
        "grpc.max_connection_age_ms": limits.LOGIN_SECONDS * 1000,
        "grpc.max_connection_age_grace_ms": limits.LOGIN_IDLE_MILLISECONDS,
        "grpc.max_receive_message_length": 4 * limits.LOGIN_BYTES,
    }
    check_methods(methods, services)
    server = grpc.aio.server(
        interceptors=[Anonymous(methods, groups=groups, calls=calls)],
        options=list({**dict(server_options(connections)), **short}.items()),
        compression=grpc.Compression.NoCompression,
    )
    for service in services:
        service.add(service.servicer, server)
    return server
