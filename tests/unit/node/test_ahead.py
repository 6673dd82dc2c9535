"""Files that come along with an order: each answers one want, is believed as little as an answer,
and counts for seconds.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure import limits
from embrasure.errors import EmbrasureError, NotFound, Refused, Unavailable
from embrasure.trust import layout
from embrasure.trust.client import TrustClient
from embrasure.wire import node_pb2 as wire
from node.ahead import Ahead
from node.ahead import Held as Along
from node.asking import IpcSource
from node.ipc import Channel
from node.messages import FromFetch, OrderAsk, pack, parse_from_fetch, write_message
from node.offer import ahead_of
from tests.ablation import Ablation
from tests.simulate.repository import SimRepository
from tests.unit.node.test_push import BLOB, MISSING, TIMESTAMP, Bench, bench
from tests.unit.node.test_wants import Held, run, whole

__all__ = ["bench"]
ROOT = "metadata/2.root.json"


def file(path: str, body: bytes) -> Ahead:
    return Ahead(path=path, absent=False, body=pack(body))


def test_what_came_along_is_not_wanted(bench: Bench) -> None:
    bench.door.paths = [TIMESTAMP, BLOB, TIMESTAMP]
    ahead = [wire.Ahead(path=TIMESTAMP, body=b"along"), wire.Ahead(path=MISSING, absent=True)]

    async def main() -> None:
        async with bench.listening():
            gateway = bench.gateway({BLOB: b"blob", TIMESTAMP: b"asked for"})
            said = await gateway.order(b"envelope", ahead=ahead)
            assert [want.path for want in said.wants] == [BLOB, TIMESTAMP], "each answers once"
            assert said.refusals == []

    asyncio.run(main())
    assert bench.door.got == [b"along", b"blob", b"asked for"]


def test_a_word_that_there_is_none_is_an_answer(bench: Bench) -> None:
    bench.door.paths = [MISSING]

    async def main() -> None:
        async with bench.listening():
            gateway = bench.gateway({MISSING: b"it is here"})
            said = await gateway.order(
                b"envelope", ahead=[wire.Ahead(path=MISSING, absent=True)]
            )  # fmt: skip
            assert (said.wants, said.refusals) == ([], [("wait", "not-found")])

    asyncio.run(main())
    assert bench.door.got == []


def odd() -> wire.Ahead:
    found = wire.Ahead(path=TIMESTAMP)
    found.MergeFromString(b"\x7a\x01x")  # field 15
    return found


@pytest.mark.parametrize(
    "ahead",
    [
        pytest.param(
            [wire.Ahead(path=f"metadata/{n}.root.json") for n in range(1, limits.AHEAD_FILES + 2)],
            id="too many",
        ),
        pytest.param(
            [wire.Ahead(path=TIMESTAMP, body=bytes(limits.AHEAD_BYTES + 1))], id="too large"
        ),
        pytest.param(
            [wire.Ahead(path=path, body=bytes(limits.AHEAD_BYTES // 2 + 1))
             for path in (TIMESTAMP, BLOB)], id="too large together",
        ),
        pytest.param([wire.Ahead(path="../keys", body=b"x")], id="no path"),
        pytest.param([wire.Ahead(body=b"x")], id="none"),
        pytest.param([wire.Ahead(path=TIMESTAMP, body=b"x", absent=True)], id="both"),
        pytest.param([odd()], id="unknown"),
    ],
)  # fmt: skip
def test_an_offer_out_of_bounds_is_refused_whole(bench: Bench, ahead: list[wire.Ahead]) -> None:
    async def main() -> None:
        async with bench.listening():
            said = await bench.gateway({BLOB: b"x"}).order(b"envelope", ahead=ahead)
            assert said.code is grpc.StatusCode.FAILED_PRECONDITION

    asyncio.run(main())
    assert not bench.door.started.is_set(), "nothing of it reaches apply"


@pytest.mark.misuse
def test_a_gateway_cannot_fill_the_agent_with_what_nobody_wants(
    bench: Bench, ablation: Ablation
) -> None:
    bench.door.paths = []
    large = [wire.Ahead(path=TIMESTAMP, body=bytes(limits.AHEAD_BYTES + 1))]

    def attack() -> bool:
        async def main() -> None:
            async with bench.listening():
                await bench.gateway({}).order(b"envelope", ahead=large)

        asyncio.run(main())
        return bench.door.started.is_set()

    assert not attack()
    with ablation("the bytes that may come along with an order") as without:
        without.without("embrasure.limits.AHEAD_BYTES", 2 * limits.AHEAD_BYTES)
        without.succeeded(attack())


@pytest.mark.misuse
def test_a_document_that_came_along_is_the_one_that_was_signed(
    tmp_path: Path, ablation: Ablation
) -> None:
    repo = SimRepository()
    repo.add_app("shop")
    node = repo.add_node()
    repo.set_gate(repo.set_plan(repo.add_release("shop"), canary=[node]))
    repo.publish()
    role, path = layout.app_role("dev", "shop"), layout.plan_path("dev", "shop")

    def attack(folder: Path) -> bytes:
        client, got = TrustClient(folder, repo.anchor), bytearray()
        view = client.refresh(repo.source(), roles=None)
        listed = view.target(role, path)
        assert listed is not None
        where = layout.target_file(path, listed.sha256)
        lie = bytes(reversed(repo.files[where]))

        def work(source: IpcSource, _: Channel[FromFetch]) -> None:
            source.came_along([file(where, lie)])
            got.extend(client.target(view, role, path, source, limit=limits.PLAN_BYTES))

        run(Held({}), work)
        return bytes(got)

    with pytest.raises(Refused) as refused:
        attack(tmp_path / "guarded")
    assert refused.value.reason == "bad-hash"
    with ablation("the hash of a target file") as without:
        without.without("embrasure.trust.client.check_target")
        without.succeeded(attack(tmp_path / "open"))


def test_the_most_that_may_come_along_fits_one_message() -> None:
    each = limits.AHEAD_BYTES // limits.AHEAD_FILES
    longest = f"targets/{'a' * 48}/{'b' * 48}/{'c' * 48}/{'d' * 64}.{'e' * 80}.json"
    files = [wire.Ahead(path=longest, body=bytes(each)) for _ in range(limits.AHEAD_FILES)]
    ask = OrderAsk(envelope=pack(bytes(limits.ORDER_BYTES)), ahead=ahead_of(files))
    assert parse_from_fetch(write_message(ask)) == ask


def test_more_than_was_wanted_is_refused_and_from_an_offset_it_is_asked_for() -> None:
    held = Held({TIMESTAMP: [b"rest"]})

    def work(source: IpcSource, _: Channel[FromFetch]) -> None:
        source.came_along([file(TIMESTAMP, b"whole")])
        assert whole(source, TIMESTAMP, offset=1) == b"rest"
        with pytest.raises(Refused, match="more"):
            whole(source, TIMESTAMP, limit=4)
        assert whole(source, TIMESTAMP) == b"rest", "it answered once, as a source would"
        source.came_along([file(TIMESTAMP, b"")])
        assert whole(source, TIMESTAMP) == b""

    run(held, work)
    assert [offset for _, offset, _ in held.asked] == [1, 0]


def test_nothing_is_answered_in_a_conversation_that_was_broken_off() -> None:
    def work(source: IpcSource, _: Channel[FromFetch]) -> None:
        source.came_along([file(TIMESTAMP, b"whole")])
        source.give_way()
        with pytest.raises(Unavailable):
            whole(source, TIMESTAMP)

    with pytest.raises(EmbrasureError):
        run(Held({}), work)


@pytest.mark.misuse
def test_an_old_timestamp_does_not_lie_in_wait(ablation: Ablation) -> None:
    """A gateway, or fetch, that is taken over sends the timestamp of today along with an order, so
    that it is found when the node looks again for a stop, hours later in the same conversation.
    """
    now = 0.0

    def attack() -> bytes:
        nonlocal now
        along = Along(lambda: now)
        along.keep([file(TIMESTAMP, b"of today"), Ahead(path=ROOT, absent=True, body="")])
        now += limits.FORETOLD_SECONDS + 0.001
        got = bytearray()

        def work(source: IpcSource, _: Channel[FromFetch]) -> None:
            source._ahead = along  # the same, on another clock
            got.extend(whole(source, TIMESTAMP))
            with pytest.raises(NotFound):
                whole(source, ROOT)

        run(Held({TIMESTAMP: [b"with the stop"]}), work)
        return bytes(got)

    assert attack() == b"with the stop"
    with ablation("the seconds for which a word ahead counts") as without:
        without.without("embrasure.limits.FORETOLD_SECONDS", float("inf"))
        without.succeeded(attack() == b"of today")


FILES = st.builds(
    wire.Ahead,
    path=st.sampled_from([TIMESTAMP, ROOT, BLOB, "", "metadata/../x"]) | st.text(max_size=20),
    body=st.binary(max_size=60),
    absent=st.booleans(),
)


@given(st.lists(FILES, max_size=limits.AHEAD_FILES + 2))
def test_whatever_comes_along_is_passed_on_whole_or_refused(files: list[wire.Ahead]) -> None:
    try:
        found = ahead_of(files)
    except Refused:
        return
    assert [(one.path, one.absent, one.body) for one in found] == [
        (one.path, one.absent, pack(one.body)) for one in files
    ]
