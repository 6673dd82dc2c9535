"""A denied key or issuer at a real listener: new calls, open connections, running streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import grpc
import pytest

from embrasure import limits
from embrasure.net.denials import TlsDenials, key_digest
from embrasure.net.trustbundle import Trust
from gateway.guarding import while_believed
from tests.ablation import Ablation
from tests.simulate.authority import Authority, Leaf
from tests.simulate.listener import METHODS, Listener, call, listening, trust_from

DENIED = (grpc.StatusCode.PERMISSION_DENIED, "denied")
Deny = Callable[[Authority, Leaf], TlsDenials]


def by_key(authority: Authority, leaf: Leaf) -> TlsDenials:
    return TlsDenials(gateway_certs=frozenset({key_digest(leaf.certificate)}))


def by_issuer(authority: Authority, leaf: Leaf) -> TlsDenials:
    issuer = authority.issuers["gateway"].certificate
    return TlsDenials(issuers=frozenset({key_digest(issuer)}))


HOW = pytest.mark.parametrize("deny", [by_key, by_issuer])


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


async def running(listener: Listener, leaf: Leaf, kind: str) -> asyncio.Task[object]:
    """A call whose handler waits for `handlers.wait`."""
    listener.handlers.wait = asyncio.Event()
    before = listener.handlers.ran[kind]
    found = asyncio.create_task(listener.call(kind, leaf))
    while listener.handlers.ran[kind] == before:
        await asyncio.sleep(0.01)
    return found


@pytest.mark.misuse
@pytest.mark.parametrize("kind", METHODS)
@HOW
def test_a_running_call_of_each_kind_ends_when_its_peer_is_denied(
    authority: Authority, kind: str, deny: Deny, ablation: Ablation
) -> None:
    async def work() -> None:
        leaf = authority.leaf("gateway", "g1")
        denied = replace(trust_from(authority), denied=deny(authority, leaf))
        async with listening(authority, recheck_s=0.05) as listener:
            stream = await running(listener, leaf, kind)
            listener.holder.swap(denied)
            with pytest.raises(grpc.aio.AioRpcError):
                await asyncio.wait_for(stream, 5)
            assert listener.handlers.ran[f"{kind} ended"] == 0
        with ablation("the check of running calls") as attack:
            async with listening(authority, recheck_s=1000) as listener:
                stream = await running(listener, leaf, kind)
                listener.holder.swap(denied)
                assert listener.handlers.wait is not None
                listener.handlers.wait.set()
                await stream
                attack.succeeded(listener.handlers.ran[f"{kind} ended"] == 1)

    run(work())


@pytest.mark.misuse
@HOW
def test_an_open_connection_makes_no_new_call_once_its_key_is_denied(
    authority: Authority, deny: Deny, ablation: Ablation
) -> None:
    async def work() -> None:
        leaf, method = authority.leaf("gateway", "g1"), METHODS["unary_unary"]
        trust = trust_from(authority)
        async with listening(authority) as listener, listener.channel(leaf) as open_channel:
            await call(open_channel, "unary_unary", method)
            listener.holder.swap(replace(trust, denied=deny(authority, leaf)))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(open_channel, "unary_unary", method)
            assert (caught.value.code(), caught.value.details()) == DENIED
            assert listener.handlers.ran["unary_unary"] == 1
            with ablation("the denial") as attack:
                listener.holder.swap(trust)
                await call(open_channel, "unary_unary", method)
                attack.succeeded(listener.handlers.ran["unary_unary"] == 2)

    run(work())


@pytest.mark.misuse
def test_a_denied_key_stays_denied_under_a_new_certificate(
    authority: Authority, ablation: Ablation
) -> None:
    from tests.simulate.authority import new_key

    async def work() -> None:
        key = new_key()
        stolen, again = (authority.leaf("gateway", "g1", key=key) for _ in range(2))
        assert stolen.certificate != again.certificate
        async with listening(authority) as listener:
            trust = replace(trust_from(authority), denied=by_key(authority, stolen))
            listener.holder.swap(trust)
            with pytest.raises(grpc.aio.AioRpcError):
                await listener.call("unary_unary", again)
            # The same gateway with a key of its own goes on.
            await listener.call("unary_unary", authority.leaf("gateway", "g1"))
            assert listener.handlers.ran["unary_unary"] == 1
            with ablation("naming the key instead of the certificate") as attack:
                listener.holder.swap(trust_from(authority))
                await listener.call("unary_unary", again)
                attack.succeeded(listener.handlers.ran["unary_unary"] == 2)

    run(work())


def test_a_listener_whose_issuers_are_all_denied_listens_and_serves_nobody(
    authority: Authority,
) -> None:
    async def work() -> None:
        leaf = authority.leaf("gateway", "g1")
        async with listening(authority) as listener:
            denied = replace(trust_from(authority), denied=by_issuer(authority, leaf))
            listener.holder.swap(denied)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await listener.call("unary_unary", leaf)
            assert (caught.value.code(), caught.value.details()) == DENIED
            assert listener.keys.failures == 0
            listener.holder.swap(trust_from(authority))
            await listener.call("unary_unary", leaf)

    run(work())


def test_the_new_issuer_of_an_overlap_goes_on_when_the_old_one_is_denied(
    authority: Authority,
) -> None:
    async def work() -> None:
        old, new = authority.issuers["gateway"], authority.new_issuer("gateway")
        trust = trust_from(authority)
        both = Trust(
            trust.domain,
            {**trust.issuers, "gateway": (old.certificate, new.certificate)},
            None,
            by_issuer(authority, authority.leaf("gateway", "g1")),
        )
        async with listening(authority) as listener:
            listener.holder.swap(both)
            await listener.call("unary_unary", authority.leaf("gateway", "g1", issuer=new))
            with pytest.raises(grpc.aio.AioRpcError):
                await listener.call("unary_unary", authority.leaf("gateway", "g1", issuer=old))

    run(work())


@pytest.mark.misuse
def test_a_caller_ends_its_own_stream_when_the_server_is_no_longer_believed(
    authority: Authority, ablation: Ablation
) -> None:
    """The caller cannot see whose certificate it reached: it closes what it dialled."""

    async def work() -> None:
        leaf = authority.leaf("gateway", "g1")
        earlier = trust_from(authority)
        node_issuer = authority.issuers["node"].certificate
        denied = TlsDenials(issuers=frozenset({key_digest(node_issuer)}))
        now = replace(earlier, denied=denied)

        def check() -> None:
            if not now.keeps(earlier, "node"):
                raise RuntimeError("not believed")

        async with listening(authority) as listener:
            stream = await running(listener, leaf, "stream_stream")
            with pytest.raises(RuntimeError):
                await while_believed(_of(stream), check, every_s=0.05)
            assert stream.cancelled()
            with ablation("the look at what is believed now") as attack:
                stream = await running(listener, leaf, "stream_stream")
                assert listener.handlers.wait is not None
                listener.handlers.wait.set()
                await while_believed(_of(stream), lambda: None, every_s=0.05)
                attack.succeeded(listener.handlers.ran["stream_stream ended"] == 1)

    run(work())


async def _of(task: asyncio.Task[object]) -> object:
    return await task


def test_the_two_bounds_together_are_below_ten_seconds() -> None:
    from node.agent import _RELOAD_SECONDS

    assert limits.RECHECK_SECONDS + _RELOAD_SECONDS < 10
