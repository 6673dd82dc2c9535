"""Who may try at the log-in port of a real gateway: anybody, from one address not too often."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from securesystemslib.signer import CryptoSigner

from embrasure.errors import Denied, EmbrasureError, Unavailable
from embrasure.net.certificates import pem_of
from embrasure.net.credentials import pinned_channel
from embrasure.net.source import source_of
from embrasure.wire import admin_pb2
from embrasure.wire.admin_pb2_grpc import AdminStub
from gateway.logging_in import request_of
from gateway.login_guard import Sources
from tests.ablation import Ablation
from tests.simulate.logindoor import HOST, Door, key, log_in_door, with_log_in
from tests.simulate.office import Office


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    return with_log_in(tmp_path_factory.mktemp("office") / "first")


@pytest.fixture
def door(office: Office, tmp_path: Path) -> Iterator[Door]:
    with log_in_door(office.copy(tmp_path / "office")) as found:
        yield found


@contextmanager
def relay(source: str, target: int) -> Iterator[int]:
    """Yield a port whose connections reach `target` from the address `source`."""
    ended = threading.Event()
    loop = asyncio.new_event_loop()
    found: list[int] = []
    ready = threading.Event()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", target, local_addr=(source, 0))
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

    async def run() -> None:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        found.append(server.sockets[0].getsockname()[1])
        ready.set()
        while not ended.is_set():
            await asyncio.sleep(0.05)
        server.close()

    worker = threading.Thread(target=loop.run_until_complete, args=(run(),))
    worker.start()
    try:
        assert ready.wait(10)
        yield found[0]
    finally:
        ended.set()
        worker.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


@pytest.mark.misuse
def test_a_hundred_failures_of_one_source_lock_nobody_out(door: Door, ablation: Ablation) -> None:
    csr, stranger = request_of(key()), CryptoSigner.generate_ed25519()
    false = door.envelope(door.challenge(), csr, by=stranger)
    reasons: list[str] = []

    def fail(times: int) -> None:
        for _ in range(times):
            with pytest.raises(EmbrasureError) as problem:
                door.certificate(false, csr)
            reasons.append(problem.value.reason)

    fail(100)
    assert reasons == ["denied"] * 5 + ["paused"] * 95
    with relay("127.0.0.2", door.port) as port:
        door.context("anna", port)
        assert door.login("anna").code == 0
        with pytest.raises(Unavailable):
            door.challenge()
        with ablation("failures counted by source address") as attack:
            attack.without("gateway.login.source_of", lambda _: "everybody")
            fail(5)
            attack.succeeded(door.login("anna").error["reason"] == "E_PAUSED")


@pytest.mark.misuse
def test_the_log_in_port_knows_two_methods_and_says_nothing_of_others(
    door: Door, ablation: Ablation
) -> None:
    def answers() -> list[tuple[str, str]]:
        async def run() -> list[tuple[str, str]]:
            found = []
            channel = pinned_channel(door.address, leaf=pem_of(door.server()), host=HOST)
            async with channel:
                calls = [
                    AdminStub(channel).Whoami,
                    channel.unary_unary("/embrasure.v1.Login/Other"),
                    channel.unary_unary("/grpc.health.v1.Health/Check"),
                ]
                for call, request in zip(calls, (admin_pb2.Empty(), b"", b""), strict=True):
                    try:
                        await call(request, timeout=10)
                    except grpc.aio.AioRpcError as problem:
                        found.append((problem.code().name, problem.details() or ""))
            return found

        return asyncio.run(run())

    assert answers() == [("PERMISSION_DENIED", "denied")] * 3
    with ablation("one answer for every other method") as attack:

        async def as_grpc_does(self: object, continuation: object, details: object) -> object:
            return await continuation(details)  # type: ignore[operator]  # gRPC's own

        attack.without("embrasure.net.anonymous.Anonymous.intercept_service", as_grpc_does)
        attack.succeeded({code for code, _ in answers()} == {"UNIMPLEMENTED"})


def test_a_source_is_an_address_and_of_ipv6_a_network() -> None:
    assert source_of("ipv4:10.0.0.1:555") == "10.0.0.1"
    assert source_of("ipv6:%5B2001:db8::1%5D:5") == source_of("ipv6:[2001:db8::ffff]:6")
    assert source_of("ipv6:[::ffff:10.0.0.1]:6") == "10.0.0.1"
    assert source_of("unix:/x") == "unix"


def test_memory_of_sources_is_bounded_and_a_pause_ends() -> None:
    time = [0.0]
    sources = Sources(lambda: time[0])

    def fail(name: str) -> None:
        with pytest.raises(EmbrasureError), sources.attempt(name):
            raise Denied("x", expected="y", got="z")

    for _ in range(5):
        fail("a")
    with pytest.raises(Unavailable):
        sources.check("a")
    time[0] += 901
    sources.check("a")
    for number in range(5000):
        fail(f"n{number}")
    assert len(sources._failed) <= 4096
