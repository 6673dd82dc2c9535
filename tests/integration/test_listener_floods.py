"""A push node's listener under floods: honest gateways are heard, memory is bounded, nothing dies.

The attacker holds a gateway's stolen key, so that TLS lets him in; or he is a stranger who only
opens connections. The node is real: two processes, and the app's.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.site import cpu_of, forget_peak, memory_of
from embrasure import limits
from embrasure.net import server
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.fleet import RealNode, SimFleet
from tests.simulate.floods import KINDS, flood
from tests.simulate.installer import free_port
from tests.simulate.listener import listening
from tests.simulate.rawhttp2 import client_context
from tests.simulate.running import Running, answers, running

MIB_AT_MOST = 128  # of the process that listens, whatever comes
# Each has a wide margin over what is measured with both processors taken (printed below).
MIB_GROWN = 32  # what the largest flood sends, and less than keeping it takes (measured: 0 to 12)
HONEST_SECONDS = 10.0  # the longest wait of an honest gateway (measured: 0.5)
# Processor time of the listener: so many times the attacker's own, so much for each honest call
# (a handshake), and what one flood may cost (measured in all: 0.25).
TIMES_HIS_OWN, HONEST_CPU_SECONDS, CPU_SECONDS = 10, 0.1, 1.0
# 20,000 frames of the small ones; of the large ones, what makes 32 MiB.
COUNTS = {"continuation": 2_000, "header_bomb": 500}


@dataclass
class Target:
    """A push node that runs an app."""

    fleet: SimFleet
    node: RealNode
    found: Running
    web: int

    @property
    def fetch(self) -> int:
        return self.found.pid("node.agent")

    def asked(self) -> float:
        """Return how many seconds an honest gateway waited for an answer on a new connection."""
        started = time.monotonic()
        assert asyncio.run(self.fleet.gateway(self.node).status()).node
        return time.monotonic() - started


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    fleet, web = SimFleet(tmp_path_factory.mktemp("fleet")), free_port()
    node = fleet.make("n1", port=web)
    with running(node) as found:
        ordered = fleet.publish(node, "1.0")
        asyncio.run(fleet.gateway(node).order(fleet.order(node, *ordered)))
        assert answers(web)
        yield Target(fleet, node, found, web)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flood_by_a_stolen_key_shuts_nobody_out(
    target: Target, kind: str, tmp_path: Path
) -> None:
    authority = target.fleet.authority
    context = client_context(authority, authority.leaf("gateway", "g1"), tmp_path)
    host = f"{target.node.id}.node.{authority.domain}.internal"
    fetch = target.fetch
    forget_peak(fetch)
    before, held = cpu_of(fetch), memory_of(fetch)["VmRSS"]
    is_over = threading.Event()

    def ask() -> list[float]:
        waited = [target.asked()]
        while not is_over.wait(0.05):
            waited.append(target.asked())
        return waited

    with ThreadPoolExecutor(1) as honest:
        asking = honest.submit(ask)
        began = time.thread_time()
        try:
            taken = flood(target.node.port, context, kind, COUNTS.get(kind, 20_000), host=host)
        finally:
            own = time.thread_time() - began
            is_over.set()
        waited = [*asking.result(), target.asked()]
    spent = cpu_of(fetch) - before
    grown = memory_of(fetch)["VmHWM"] - held
    print(f"figure: flood_{kind}_taken = {taken / 1024:.0f} KiB")
    print(f"figure: flood_{kind}_own_cpu = {own:.2f} s")
    print(f"figure: flood_{kind}_cpu = {spent:.2f} s")
    print(f"figure: flood_{kind}_memory = {grown:.1f} MiB")
    print(f"figure: flood_{kind}_honest_waited_most = {max(waited):.2f} s")
    assert taken, "the flood never got in"
    assert target.fetch == fetch
    assert memory_of(fetch)["VmHWM"] < MIB_AT_MOST
    assert grown < MIB_GROWN
    assert max(waited) < HONEST_SECONDS
    assert spent < CPU_SECONDS + TIMES_HIS_OWN * own + HONEST_CPU_SECONDS * len(waited)
    assert answers(target.web)


# Those whom TLS lets nowhere.

SLOTS = 8


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@contextlib.contextmanager
def silent(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Connections that say nothing."""
    with contextlib.ExitStack() as held:
        yield [
            held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            for _ in range(count)
        ]


@pytest.mark.misuse
def test_strangers_who_say_nothing_hold_no_slot_for_long(
    authority: Authority, ablation: Ablation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_MILLISECONDS", 300)
    leaf = authority.leaf("gateway", "g1")

    async def heard() -> bool:
        async with listening(authority, connections=SLOTS) as listener:
            with silent(listener.port, SLOTS):
                await asyncio.sleep(0.5)  # each of them has its slot
                async with listener.channel(leaf) as line:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(line.channel_ready(), 3)
                        return True
        return False

    assert asyncio.run(heard())
    with ablation("the deadline of a handshake") as attack:
        attack.without(
            "embrasure.net.server.server_options",
            functools.partial(shortened, server.server_options, "grpc.server_handshake_timeout_ms"),
        )
        attack.succeeded(not asyncio.run(heard()))


@pytest.mark.misuse
def test_what_connects_beyond_the_slots_is_closed_at_once(
    authority: Authority, ablation: Ablation
) -> None:
    async def held() -> int:
        """Return how many of the stranger's connections the listener keeps."""
        async with listening(authority, connections=SLOTS) as listener:
            with silent(listener.port, 4 * SLOTS) as lines:
                await asyncio.sleep(1)
                return sum(1 for line in lines if is_open(line))

    assert asyncio.run(held()) <= SLOTS
    with ablation("the number of slots") as attack:
        attack.without(
            "embrasure.net.server.server_options",
            functools.partial(
                shortened, server.server_options, "grpc.max_allowed_incoming_connections"
            ),
        )
        attack.succeeded(asyncio.run(held()) > SLOTS)


def shortened(
    options: Callable[[int], list[tuple[str, int]]], left_out: str, connections: int
) -> list[tuple[str, int]]:
    """Return the bounds of a listener without one of them."""
    return [(name, value) for name, value in options(connections) if name != left_out]


def is_open(line: socket.socket) -> bool:
    """Return whether the other side has not closed it."""
    line.setblocking(False)
    try:
        return line.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
