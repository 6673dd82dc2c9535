"""What a node promises after any crash (docs/node.md), checked on a node that has just recovered.

Each function raises AssertionError for a broken promise and returns otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from pathlib import Path

from embrasure.trust.floors import Floors, FloorStore
from embrasure.trust.receipt import Kind, Outcome, chain_hash, parse_receipt
from node.paths import Paths
from node.receipts import Outbox
from node.releases import find_release, is_whole
from node.states import RESTING
from node.verify import verify
from tests.simulate.installer import SimInstaller

LATER = timedelta(hours=1, minutes=1)  # the longest wait after an interruption


def check_link(paths: Paths, app: str, approved: Collection[str]) -> None:
    """I1, before anything was repaired: `current` is absent, or a whole release that was approved.

    approved: digests of manifests
    """
    link = paths.current(app)
    if not link.is_symlink():
        return
    name = link.readlink().name
    release = find_release(paths, app, name)
    assert release is not None, f"current -> {name} is no release"
    assert release.manifest in approved, f"{name} was never approved"
    assert is_whole(paths, app, release, deep=True), f"{name} is not whole"


def check_rest(bench: SimInstaller, versions: Collection[str]) -> None:
    """I1, I3, I8: the app rests on one whole release that answers.

    versions: any of these may answer; "" when nothing may run
    """
    record = bench.acceptor._ground.journal.read(bench.app).record
    assert record is None or record.state in RESTING, record
    assert record is None or record.ending != "degraded", record
    link = bench.paths.current(bench.app)
    if "" in versions and not link.is_symlink():
        assert bench.supervisor.running(bench.app) is None, "runs without a link"
        return
    assert link.resolve().parent == bench.paths.releases(bench.app).resolve()
    assert (answer := bench.ask()) in versions, f"{answer} answers"
    (found,) = verify(bench.paths, bench.app)
    assert found.drift == (), found.drift


def check_twice(bench: SimInstaller) -> None:
    """I3: recovery run twice is recovery run once."""
    before = state(bench.paths, bench.app)
    bench.acceptor.recover()
    assert state(bench.paths, bench.app) == before, "a second recovery changed something"


def state(paths: Paths, app: str) -> dict[str, object]:
    """Return all of the node that recovery may change."""
    journal = {path.name: path.read_bytes() for path in paths.journal.glob(f"{app}.*")}
    link = paths.current(app)
    return {
        "link": link.readlink() if link.is_symlink() else None,
        "journal": journal,
        "floors": FloorStore(paths.floors).load(repair=False),
        "outbox": sorted(path.name for path in paths.outbox.iterdir()),
        "releases": sorted(path.name for path in paths.releases(app).glob("*")),
        "blobs": sorted(path.name for path in paths.blobs.rglob("*")),
    }


def check_told(paths: Paths, key: bytes, told: Sequence[bytes]) -> None:
    """I2, I7: every receipt that was handed out is still here, byte for byte, in one chain.

    A success that was told is what the floors say.
    """
    outbox = Outbox(paths)
    here = [posted.signed for posted in outbox.pending(1000)]
    parsed = [parse_receipt(signed, key) for signed in here]
    for signed in told:
        receipt = parse_receipt(signed, key)
        assert signed in here, f"receipt {receipt.rseq} was handed out, and is not here"
        if (receipt.kind, receipt.outcome) == (Kind.SOAKED, Outcome.OK):
            seen = [app for app in FloorStore(paths.floors).load(repair=False).apps.values()
                    if app.committed is not None]  # fmt: skip
            assert any(
                one.committed is not None and one.committed.plan == receipt.plan.hex()
                for one in seen
            ), f"{receipt.seq} was told as a success, and is not what is committed"
    assert [one.rseq for one in parsed] == list(range(1, len(parsed) + 1))
    for signed, after in zip(here, parsed[1:], strict=False):
        assert after.previous == chain_hash(signed), f"receipt {after.rseq} breaks the chain"
    soaked = [(one.plan, one.kind) for one in parsed if one.kind is Kind.SOAKED]
    assert len(soaked) == len(set(soaked)), "a success was told twice"


def check_floors(before: Floors, after: Floors) -> None:
    """I7: no floor is lower than it was."""
    assert after.time >= before.time
    assert after.epoch == before.epoch
    assert after.union.through >= before.union.through
    for keyid, number in before.oseq.items():
        assert after.oseq.get(keyid, 0) >= number
    for app, floor in before.apps.items():
        now = after.app(app)
        assert (now.seen_seq, now.gate_seq, now.gseq) >= (
            floor.seen_seq, floor.gate_seq, floor.gseq if now.gate_seq == floor.gate_seq else 0,
        )  # fmt: skip
        if floor.committed is not None:
            assert now.committed is not None
            assert now.committed.seq >= floor.committed.seq


def check_end(bench: SimInstaller, *, good: bool, version: str) -> None:
    """I5, I6: after the wait of an interruption the install ends as it would have without a crash.

    version: what then runs; good: it is what was being installed
    """
    answers: list[str] = []
    wanted = "none done" if good else "hold quarantine"
    while wanted not in answers and len(answers) < 4:
        bench.clock.ahead += LATER
        answers.append(bench.poll())
    assert answers[-1] == wanted, answers
    assert bench.ask() == version
    check_leftovers(bench.paths, bench.app)


def check_leftovers(paths: Paths, app: str) -> None:
    """I6: no staging, no half switch, no unfinished file, no blob that nothing is made of."""
    names = [path.name for path in paths.app(app).rglob("*")]
    assert not [name for name in names if name.startswith((".tmp-", ".current"))]
    assert len(list(paths.releases(app).iterdir())) <= 3
    assert not [name for name in paths.journal.iterdir() if name.suffix == ".next"]


def unfinished(root: Path) -> list[Path]:
    """Return every file that a crash left unfinished below `root`."""
    return [path for path in root.rglob(".*.new") if path.is_file()]
