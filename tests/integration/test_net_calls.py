"""Calls over real TLS while they run: they end with the trust in their caller, and are bounded."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any

import grpc
import pytest

from embrasure import limits
from embrasure.clock import now
from embrasure.errors import Refused
from embrasure.net.authorize import Authorize
from embrasure.net.identity import Identity
from embrasure.net.status import error_of
from embrasure.net.trustbundle import Trust
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.listener import DENIED, METHODS, Listener, call, listening, trust_from

G1 = Identity("gateway", "g1")
PROFILE = "embrasure.net.authorize.Peers._check_profile"
INTERCEPT = "embrasure.net.authorize.Authorize.intercept_service"


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


async def straight(
    self: Authorize, continuation: Callable[[Any], Awaitable[Any]], details: object
) -> object:
    """Hand a call on as a listener without our interceptor does."""
    return await continuation(details)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.mark.misuse
@pytest.mark.parametrize("kind", METHODS)
def test_a_running_call_ends_when_its_peer_is_no_longer_trusted(
    authority: Authority, kind: str, ablation: Ablation
) -> None:
    async def denied_while_it_runs(listener: Listener) -> asyncio.Task[object]:
        listener.handlers.wait = asyncio.Event()
        running = asyncio.create_task(listener.call(kind, authority.leaf("gateway", "g1")))
        while not listener.handlers.ran[kind]:
            await asyncio.sleep(0.01)
        listener.holder.swap(trust_from(authority, frozenset({"g2"})))
        return running

    async def work() -> None:
        async with listening(authority, recheck_s=0.05) as listener:
            running = await denied_while_it_runs(listener)
            with pytest.raises(grpc.aio.AioRpcError):
                await asyncio.wait_for(running, 5)
            assert listener.handlers.ran[f"{kind} ended"] == 0
        with ablation("the check again while a call runs") as attack:
            async with listening(authority, recheck_s=1000) as listener:
                running = await denied_while_it_runs(listener)
                await asyncio.sleep(0.2)  # four times as long as the guard takes
                assert listener.handlers.wait is not None
                listener.handlers.wait.set()
                attack.succeeded(await running is not None)
                attack.succeeded(listener.handlers.ran[f"{kind} ended"] == 1)

    run(work())


@pytest.mark.misuse
def test_an_open_connection_does_not_outlive_its_certificate(
    authority: Authority, ablation: Ablation
) -> None:
    moment = now()

    async def work() -> None:
        nonlocal moment
        async with (
            listening(authority, clock=lambda: moment) as listener,
            listener.channel(authority.leaf("gateway", "g1")) as open_channel,
        ):
            await call(open_channel, "unary_unary", METHODS["unary_unary"])
            moment += timedelta(hours=24)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(open_channel, "unary_unary", METHODS["unary_unary"])
            assert (caught.value.code(), caught.value.details()) == DENIED
            with ablation("the dates, read again at each call") as attack:
                attack.without("embrasure.net.authorize.check_life")
                await call(open_channel, "unary_unary", METHODS["unary_unary"])
                attack.succeeded(listener.handlers.ran["unary_unary"] == 2)

    run(work())


@pytest.mark.misuse
def test_a_new_issuer_ends_the_trust_in_connections_of_the_old_one(
    authority: Authority, ablation: Ablation
) -> None:
    async def work() -> None:
        async with (
            listening(authority) as listener,
            listener.channel(authority.leaf("gateway", "g1")) as open_channel,
        ):
            await call(open_channel, "unary_unary", METHODS["unary_unary"])
            other = authority.new_issuer("gateway").certificate
            trust = trust_from(authority)
            listener.holder.swap(Trust(trust.domain, {**trust.issuers, "gateway": (other,)}, None))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(open_channel, "unary_unary", METHODS["unary_unary"])
            assert (caught.value.code(), caught.value.details()) == DENIED
            with ablation("the profile under the trust of now") as attack:
                attack.without(PROFILE)
                await call(open_channel, "unary_unary", METHODS["unary_unary"])
                attack.succeeded(listener.handlers.ran["unary_unary"] == 2)

    run(work())


@pytest.mark.misuse
def test_a_peer_has_a_bounded_number_of_open_calls(
    authority: Authority, ablation: Ablation
) -> None:
    most, method = limits.OPEN_CALLS_PER_PEER, METHODS["unary_unary"]

    async def work() -> None:
        async with listening(authority) as listener:
            listener.handlers.wait = asyncio.Event()
            leaf = authority.leaf("gateway", "g1")
            async with listener.channel(leaf) as open_channel:
                held = [
                    asyncio.create_task(call(open_channel, "unary_unary", method))
                    for _ in range(most)
                ]
                while listener.handlers.ran["unary_unary"] < most:
                    await asyncio.sleep(0.01)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(open_channel, "unary_unary", method)
                assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                listener.handlers.wait.set()
                await asyncio.gather(*held)
                await call(open_channel, "unary_unary", method)

    async def flood() -> int:
        async with listening(authority) as listener:
            listener.handlers.wait = asyncio.Event()
            async with listener.channel(authority.leaf("gateway", "g1")) as open_channel:
                held = [
                    asyncio.create_task(call(open_channel, "unary_unary", method))
                    for _ in range(most + 1)
                ]
                while (found := listener.handlers.ran["unary_unary"]) <= most:
                    await asyncio.sleep(0.01)
                listener.handlers.wait.set()
                await asyncio.gather(*held)
                return found

    run(work())
    with ablation("the bound on one peer's calls") as attack:
        endless = functools.partial(Authorize, calls_per_peer=10**9)
        attack.without("embrasure.net.server.Authorize", endless)
        attack.succeeded(asyncio.run(flood()) > most)


@pytest.mark.misuse
@pytest.mark.parametrize("kind", METHODS)
def test_the_text_of_an_unforeseen_error_never_reaches_the_peer(
    authority: Authority, kind: str, ablation: Ablation
) -> None:
    async def work() -> None:
        async with listening(authority) as listener:
            listener.handlers.fail = lambda: ValueError("the passphrase is swordfish")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await listener.call(kind, authority.leaf("gateway", "g1"))
            assert caught.value.code() == grpc.StatusCode.INTERNAL
            assert caught.value.details() == "internal"
            with ablation("our own answer to an unforeseen error") as attack:
                attack.without(INTERCEPT, straight)
                attack.without("tests.simulate.listener.peer", lambda _: G1)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await listener.call(kind, authority.leaf("gateway", "g1"))
                attack.succeeded("swordfish" in (caught.value.details() or ""))

    run(work())


def test_a_typed_error_arrives_as_the_same_class_with_its_words(authority: Authority) -> None:
    def refusal() -> Refused:
        return Refused("gate", expected="3", got="2\x1b[2J", hint="look", reason="rollback")

    async def work() -> None:
        async with listening(authority) as listener:
            listener.handlers.fail = refusal
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await listener.call("unary_unary", authority.leaf("gateway", "g1"))
            found = error_of(caught.value, thing="call")
            assert type(found) is Refused
            assert (found.thing, found.expected, found.hint) == ("gate", "3", "look")
            assert found.word == "E_ROLLBACK"
            assert "\x1b" not in found.got

    run(work())
