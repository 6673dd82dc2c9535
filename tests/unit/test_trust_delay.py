"""The trust client against sources that freeze, never end, or are slow: metadata ends by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from embrasure import limits
from embrasure.errors import Refused, Unavailable
from embrasure.trust.client import TrustClient
from tests.ablation import Ablation
from tests.simulate.sources import BrokenSource, EndlessSource
from tests.simulate.trustbench import ROLES, START, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.misuse
def test_a_frozen_mirror_is_refused_when_its_timestamp_expires(
    bench: Bench, ablation: Ablation
) -> None:
    frozen = bench.repo.frozen_source()
    bench.refresh()
    bench.time.pass_(hours=23)
    bench.refresh(frozen)
    bench.time.pass_(hours=2)
    assert bench.refused(frozen).reason == "expired"
    with ablation("the clock") as attack:
        # The only guard is time: with the clock of yesterday the same bytes pass.
        fresh = TrustClient(bench.folder.parent / "other", bench.repo.anchor, clock=lambda: START)
        attack.succeeded(fresh.refresh(frozen, roles=ROLES).roles["timestamp"].version == 2)


@pytest.mark.misuse
def test_a_clock_set_back_does_not_bring_old_metadata_to_life(
    bench: Bench, ablation: Ablation
) -> None:
    bench.refresh()
    bench.time.pass_(days=2)
    bench.gate()
    bench.refresh()
    floor = bench.client().workflow.floors().time
    assert floor == int(bench.time.at.timestamp())
    bench.time.at = START - timedelta(days=400)
    bench.gate()  # signed for 24 h from the false clock on: long expired
    assert bench.refused().reason == "expired"
    assert bench.client().workflow.floors().time == floor
    with ablation("the floor of the time") as attack:
        attack.without(
            "embrasure.trust.workflow.session.Workflow.now", lambda self, floors: self.clock()
        )
        held = bench.refresh().roles["timestamp"].expires
        attack.succeeded(held.timestamp() < floor)  # long dead by any honest clock


def test_a_signer_whose_clock_jumped_does_not_brick_a_node(bench: Bench) -> None:
    bench.repo.life["timestamp"] = timedelta(days=365 * 70)
    bench.gate()
    bench.refresh()
    assert bench.client().workflow.floors().time <= START.timestamp() + limits.SKEW_SECONDS
    bench.repo.life.clear()
    bench.time.pass_(hours=1)
    bench.gate()
    bench.refresh()


@pytest.mark.parametrize("role", ["root", "snapshot", "targets", "dev-shop", "gates-dev"])
def test_each_role_expires_by_itself(bench: Bench, role: str) -> None:
    bench.repo.life[role] = timedelta(hours=1)
    bench.repo.touch(role)
    bench.repo.publish()
    bench.refresh()
    bench.time.pass_(hours=1)
    bench.repo.publish() if role != "snapshot" else None
    assert bench.refused().reason == "expired"


@pytest.mark.misuse
def test_an_expired_app_does_not_stop_a_mirror_but_stops_a_node(
    bench: Bench, ablation: Ablation
) -> None:
    bench.repo.life["dev-shop"] = timedelta(hours=1)
    bench.repo.touch("dev-shop")
    bench.repo.publish()
    bench.time.pass_(hours=2)
    client = bench.client()
    for _ in range(2):
        view = client.refresh(bench.source, roles=None, tolerate_expired=True)
        assert view.roles["dev-shop"].expires < bench.time.at
    with pytest.raises(Refused) as refused:
        client.refresh(bench.source, roles=ROLES)
    assert refused.value.reason == "expired"
    with ablation("the refusal of expired roles") as attack:
        view = client.refresh(bench.source, roles=ROLES, tolerate_expired=True)
        attack.succeeded(view.roles["dev-shop"].expires < bench.time.at)
    bench.time.pass_(hours=23)  # now the timestamp too: tolerated by nobody
    with pytest.raises(Refused):
        client.refresh(bench.source, roles=None, tolerate_expired=True)


def test_expiry_is_checked_also_when_nothing_changed(bench: Bench) -> None:
    client = bench.client()
    client.refresh(bench.source, roles=ROLES)
    bench.time.pass_(hours=25)
    with pytest.raises(Refused) as refused:
        client.refresh(bench.source, roles=ROLES)
    assert refused.value.reason == "expired"


@pytest.mark.misuse
@pytest.mark.parametrize(
    "path", ["metadata/2.root.json", "metadata/timestamp.json", "metadata/1.dev-shop.json"]
)
def test_data_without_end_is_cut_off(bench: Bench, path: str, ablation: Ablation) -> None:
    endless = EndlessSource(bench.repo.source(), path)
    assert bench.refused(endless).reason == "limit"
    assert endless.sent <= limits.ROOT_BYTES + 2 * 4096
    with ablation("the cut in the reader") as attack:
        # What such a source goes on to send to whoever keeps reading.
        pieces = endless.fetch(path, offset=0, limit=1)
        got = sum(len(piece) for piece, _ in zip(pieces, range(1000), strict=False))
        attack.succeeded(got > limits.ROOT_BYTES)


@pytest.mark.misuse
def test_a_source_that_drips_is_given_up(bench: Bench, ablation: Ablation) -> None:
    ticks = iter(range(0, 10**9, 7))  # each look at the clock is 7 s later

    @dataclass
    class Dripping:
        def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
            for byte in b"".join(bench.source.fetch(path, offset=offset, limit=limit)):
                yield bytes([byte])

    client = TrustClient(
        bench.folder, bench.repo.anchor, clock=bench.time, ticks=lambda: float(next(ticks))
    )
    with pytest.raises(Unavailable) as slow:
        client.refresh(Dripping(), roles=ROLES)
    assert slow.value.reason == "slow"
    with ablation("the time for a whole file") as attack:
        attack.without("embrasure.trust.fetcher.timed", lambda pieces, **options: iter(pieces))
        attack.succeeded(client.refresh(Dripping(), roles=ROLES).roles["root"].version == 1)


def test_a_cut_line_is_an_error_and_not_a_short_file(bench: Bench) -> None:
    broken = BrokenSource(bench.repo.source(), "metadata/1.dev-shop.json", 100)
    assert isinstance(bench.refused(broken), Unavailable)
    bench.refresh()
