"""A person of one environment changes nothing of another one, and fills no queue of his own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from embrasure.errors import Denied, Refused
from embrasure.wire import admin_pb2 as wire
from gateway import uploads
from gateway.addresses import addresses_of, set_address
from gateway.grounds import RESERVED_NUMBERS
from tests.ablation import Ablation
from tests.simulate.gateway import SimGateway
from tests.simulate.repository import SimRepository


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[SimGateway]:
    sim = SimRepository()
    sim.add_app("shop")
    sim.publish()
    opened = SimGateway(tmp_path / "gateway", sim)
    yield opened
    opened.close()


# --- addresses -----------------------------------------------------------------------------------


NAMES = {"node": "n-" + "a" * 26, "mirror": "m1", "letterbox": "l1"}


def say(gateway: SimGateway, env: str, address: str, kind: str = "mirror") -> None:
    request = wire.AddressRequest(kind=kind, env=env, name=NAMES[kind], address=address)
    set_address(gateway.database, gateway.journal, request, person="mallory")


@pytest.mark.misuse
@pytest.mark.parametrize("kind", ["node", "mirror", "letterbox"])
@pytest.mark.parametrize("address", ["127.0.0.1:666", ""], ids=["moved", "forgotten"])
def test_an_address_of_another_environment_stays(
    kind: str, address: str, gateway: SimGateway, ablation: Ablation
) -> None:
    say(gateway, "prod", "127.0.0.1:1", kind)
    say(gateway, "dev", address, kind)
    assert addresses_of(gateway.database, "prod") == {(kind, NAMES[kind]): "127.0.0.1:1"}
    # His own is his to change, and theirs theirs: nobody is locked out by who came first.
    say(gateway, "prod", "127.0.0.1:2", kind)
    assert addresses_of(gateway.database, "prod") == {(kind, NAMES[kind]): "127.0.0.1:2"}
    assert addresses_of(gateway.database, "dev") == (
        {(kind, NAMES[kind]): address} if address else {}
    )
    with ablation("the environment in the key of a row") as attack:
        # Its caller has asked whose environment that is: below, nobody does.
        say(gateway, "prod", "127.0.0.1:666", kind)
        attack.succeeded(
            addresses_of(gateway.database, "prod")[kind, NAMES[kind]] == "127.0.0.1:666"
        )


# --- numbers -------------------------------------------------------------------------------------


@pytest.mark.misuse
def test_one_operator_cannot_use_up_the_numbers_of_an_app(
    gateway: SimGateway, ablation: Ablation
) -> None:
    reserve = gateway.proposals.reserve
    for number in range(1, RESERVED_NUMBERS + 1):
        assert reserve("dev", "shop", person="anna") == number
    with pytest.raises(Denied) as caught:
        reserve("dev", "shop", person="anna")
    assert caught.value.reason == "limit"
    # Others still propose, and what anna has taken is no number of theirs.
    assert reserve("dev", "shop", person="ben") == RESERVED_NUMBERS + 1
    with ablation("the bound on one person's numbers") as attack:
        attack.without("gateway.proposals.check_reserved")
        attack.succeeded(reserve("dev", "shop", person="anna") == RESERVED_NUMBERS + 2)


@pytest.mark.misuse
def test_only_who_may_sign_for_an_app_takes_its_numbers(
    gateway: SimGateway, ablation: Ablation
) -> None:
    with pytest.raises(Denied):
        gateway.proposals.reserve("dev", "shop", person="mallory")
    with ablation("the list of the app's operators") as attack:
        attack.without("gateway.proposals.check_operator")
        attack.succeeded(gateway.proposals.reserve("dev", "shop", person="mallory") == 1)


# --- trust files ---------------------------------------------------------------------------------


def submit(*files: wire.TrustFile) -> dict[str, bytes]:
    async def stream() -> AsyncIterator[wire.TrustFile]:
        for file in files:
            yield file

    return asyncio.run(uploads.receive_trust(stream()))[0]


@pytest.mark.misuse
@pytest.mark.parametrize("path", ["x" * 900_000, "../keys/anna.key", "metadata/1.\x1b[2J.json"])
def test_a_trust_file_has_a_repository_path_before_it_is_kept(
    path: str, ablation: Ablation
) -> None:
    with pytest.raises(Refused) as caught:
        submit(wire.TrustFile(path=path))
    assert caught.value.reason == "bad-path"
    with ablation("the grammar of paths") as attack:
        attack.without("gateway.uploads.layout.parse_file")
        attack.succeeded(submit(wire.TrustFile(path=path)) == {path: b""})


@pytest.mark.misuse
def test_trust_files_are_bounded_in_number_and_in_bytes(
    monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    names = [f"metadata/{n}.root.json" for n in range(1, uploads.TRUST_FILES + 2)]
    empty = [wire.TrustFile(path=name) for name in names]
    assert len(submit(*empty[:-1])) == uploads.TRUST_FILES
    monkeypatch.setattr("embrasure.limits.TRUST_SUBMIT_BYTES", 10)
    again = wire.TrustFile(path=names[0], body=b"x" * 10)
    assert submit(again, again) == {names[0]: b"x" * 10}
    large = [again, wire.TrustFile(path=names[1], body=b"x")]
    for files in (empty, large):
        with pytest.raises(Refused) as caught:
            submit(*files)
        assert caught.value.reason == "limit"
    with ablation("both bounds") as attack:
        attack.without("gateway.uploads.TRUST_FILES", 10**9)
        attack.without("embrasure.limits.TRUST_SUBMIT_BYTES", 10**9)
        attack.succeeded(len(submit(*empty)) == len(empty) and len(submit(*large)) == 2)
