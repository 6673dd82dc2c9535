"""An operator's side of the Admin service: asks the gateway, believes only what it verifies."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import grpc
import msgspec
from securesystemslib.signer import Signer

from embrasure.errors import Refused, Unavailable, shown
from embrasure.fs import Folder
from embrasure.net.credentials import channel
from embrasure.net.status import error_of
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.client import TrustClient
from embrasure.trust.directory import Entry
from embrasure.trust.view import View
from embrasure.wire import admin_pb2 as wire
from embrasure.wire.admin_pb2_grpc import AdminStub
from gateway.admin_trust import admin_issuers
from gateway.context import OperatorContext, read_context
from gateway.grounds import Grounds, load_entries, load_grounds, load_policy, roles_for
from pki.signers import named, open_bound

T = TypeVar("T")
CALL_SECONDS = 60.0


class RpcSource:
    """The gateway's repository as an untrusted source."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        """Yield the bytes of `path` from `offset` on."""
        layout.parse_file(path)
        request = wire.FetchRequest(path=path, offset=offset, limit=limit)
        left = limit
        for chunk in self._client.pieces("Fetch", request, thing=path):
            left -= len(chunk.body)
            if left < 0:
                raise Refused(path, expected=f"at most {limit} bytes", got="more", reason="limit")
            yield chunk.body


class AdminClient:
    """An open connection to one gateway, which must show the name that the context demands.

    Calls are made by a loop in a thread of its own, so that code around them stays plain.
    """

    def __init__(self, context: OperatorContext, *, timeout_s: float | None = None) -> None:
        self.context = context
        self._timeout = timeout_s or CALL_SECONDS
        Folder.open(context.state, create=True, mode=0o700).close()
        self.trust = TrustClient(context.state / "tuf", context.anchor())
        key, chain = context.tls()
        issuers = admin_issuers(context, self.trust)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

        async def connect() -> grpc.aio.Channel:
            return channel(
                context.file.gateway,
                role="gateway-admin",
                name="gateway",
                domain=context.domain,
                issuer_pems=issuers,
                key=key,
                chain_pem=chain,
            )

        try:
            self._channel = self._run(connect(), thing="gateway")
        except BaseException:
            self._stop()
            raise
        self._stub = AdminStub(self._channel)

    @classmethod
    def open(cls, path: Path | None, *, timeout_s: float | None = None) -> AdminClient:
        """Return a client of the context at `path` (None: the user's); raises Misuse, Denied."""
        return cls(read_context(path), timeout_s=timeout_s)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """The connection is closed."""
        self.close()

    def close(self) -> None:
        """Close the connection and end its thread."""
        try:
            self._run(self._channel.close(), thing="gateway")
        finally:
            self._stop()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T], *, thing: str) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(self._timeout + 5)
        except grpc.RpcError as problem:
            raise error_of(problem, thing=thing) from None
        except FutureTimeoutError:
            future.cancel()
            raise Unavailable(thing, expected="an answer in time", got="none") from None
        except KeyboardInterrupt:
            future.cancel()
            raise

    # --- calling -----------------------------------------------------------------------------

    def call(self, method: str, request: object) -> Any:
        """Return the answer to one unary call; raises the gateway's typed error."""
        made: Callable[..., Any] = getattr(self._stub, method)

        async def run() -> object:
            return await made(request, timeout=self._timeout)

        return self._run(run(), thing=f"gateway {self.context.file.gateway}")

    def json(self, method: str, request: object) -> dict[str, object]:
        """Return the JSON object that `method` answers with."""
        return read_json(self.call(method, request))

    def upload(self, method: str, messages: Iterator[object]) -> dict[str, object]:
        """Return the JSON answer to a stream of messages; a piece at a time is in memory."""
        made: Callable[..., Any] = getattr(self._stub, method)

        async def pieces() -> AsyncIterator[object]:
            while (message := await asyncio.to_thread(next, messages, None)) is not None:
                yield message

        async def run() -> wire.Json:
            answer: wire.Json = await made(pieces())
            return answer

        future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        try:
            return read_json(future.result())
        except grpc.RpcError as problem:
            raise error_of(problem, thing="upload") from None

    def pieces(self, method: str, request: object, *, thing: str) -> Iterator[Any]:
        """Yield the messages of a stream as they come; raises the gateway's typed error."""
        made: Callable[..., Any] = getattr(self._stub, method)
        waiting: queue.Queue[object] = queue.Queue(maxsize=16)
        end = object()
        stopped = threading.Event()

        async def run() -> None:
            async for message in made(request):
                while not stopped.is_set():
                    try:
                        waiting.put_nowait(message)
                        break
                    except queue.Full:
                        await asyncio.sleep(0.005)

        future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        future.add_done_callback(lambda _: waiting.put(end))
        try:
            while (message := waiting.get()) is not end:
                yield message
            future.result()
        except grpc.RpcError as problem:
            raise error_of(problem, thing=thing) from None
        finally:
            stopped.set()
            future.cancel()

    def stream(self, method: str, request: object) -> Iterator[dict[str, object]]:
        """Yield the JSON objects of a stream."""
        for message in self.pieces(method, request, thing=method):
            yield read_json(message)

    # --- verified here -----------------------------------------------------------------------

    def source(self) -> RpcSource:
        """Return the gateway's repository, untrusted."""
        return RpcSource(self)

    def view(self, roles: Sequence[str]) -> View:
        """Return these roles as this machine verifies them from its pinned root."""
        return self.trust.refresh(self.source(), roles=roles)

    def grounds(self, env: str, app: str) -> Grounds:
        """Return the verified facts about `<env>-<app>`.

        When operators are replaced, what they approved may lose its signatures. It is no release in
        force then, and the review says so; all else must verify.
        """
        wanted = roles_for(env, app)
        try:
            view, orphaned = self.view(wanted), False
        except Refused as problem:
            if problem.reason != "threshold":
                raise
            others = [role for role in wanted if role != layout.app_role(env, app)]
            view, orphaned = self.view(others), True
        found = load_grounds(self.trust, view, self.source(), env=env, app=app)
        return replace(found, orphaned=orphaned)

    def entries(self, env: str) -> list[Entry]:
        """Return the verified directory of an environment."""
        view, source = self.view([layout.fleet_role(env)]), self.source()
        policy, _ = load_policy(self.trust, view, source, env=env)
        return load_entries(self.trust, view, source, policy)

    def blob(self, digest: str, *, length: int, limit: int) -> bytes:
        """Return the bytes of an uploaded blob, hashed here; raises Refused, NotFound."""
        if length > limit:
            raise Refused(f"blob {digest[:16]}", expected=f"{limit} bytes", got=length)
        raw = b"".join(self.source().fetch(layout.blob_file(digest), offset=0, limit=length))
        if layout.DIGEST.fullmatch(digest) is None or sha256_hex(raw) != digest:
            raise Refused(
                f"blob {digest[:16]}", expected="the bytes of its name", got="others",
                reason="bad-hash",
            )  # fmt: skip
        return raw

    def signer(self, passphrase: Callable[[str], bytes]) -> Signer:
        """Return the person's signing key, opened here and now of this fleet alone.

        Raises Denied, Refused.
        """
        uri = named(self.context.file.key, self.context.folder)
        return open_bound(uri, passphrase, purpose="operator", root=self.trust.root_id)


def read_json(message: wire.Json) -> dict[str, object]:
    """Return the object in an answer, each text in it one visible line; raises Refused."""
    try:
        found = msgspec.json.decode(message.body, type=dict[str, object])
        return {plain(name): plain(value) for name, value in found.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused(
            "gateway", expected="a JSON object", got="else", reason="bad-schema"
        ) from None


def plain(value: T) -> T:
    """Return `value` with every control character and line end in its texts escaped.

    The gateway may be stolen: a status of it must not look like several lines of ours.
    """
    made: object = value
    if isinstance(value, str):
        made = shown(value, limit=max(1, len(value)))
    elif isinstance(value, list):
        made = [plain(item) for item in value]
    elif isinstance(value, dict):
        made = {plain(name): plain(item) for name, item in value.items()}
    return cast("T", made)
