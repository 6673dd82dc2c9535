"""Every operation of the disk in installs and changes of keys, each with a fault: nothing breaks.

What is real here and what is not: docs/node.md, "Sweeps". `-m campaign` takes many more pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec
import pytest

from node.transaction import Transaction
from tests.ablation import Ablation
from tests.simulate.sweep import Case, Further, always, in_turns, sweep
from tests.simulate.sweep_ground import CAMPAIGN_PAIRS, Ground, pairs
from tests.unit.node.test_sync_order import without

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(1200)]
LEAST, IN_CI = 5_000, 5_050
HOOKS_SHARE = 40  # each case of a scene whose hooks are programs takes ten times as long
PAIRS = 220


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    yield Ground.make(tmp_path_factory.mktemp("sweep"))


def swept(
    ground: Ground, cases: Sequence[Case], some: Sequence[Case], further: Further = always
) -> None:
    outcome = sweep(ground.swept, cases, further=further)
    hooked = sweep(ground.hooked, some)
    outcome.cases += hooked.cases
    outcome.broken += hooked.broken
    print("\n".join(outcome.figures("crash_sweep")))
    print({**outcome.by_scene, **hooked.by_scene})
    assert outcome.broken == []
    assert outcome.cases == len(cases) + len(some) >= LEAST


@pytest.mark.long
def test_no_fault_at_any_operation_breaks_a_node(ground: Ground) -> None:
    swept(ground, ground.share(IN_CI), ground.cases(ground.hooked)[::HOOKS_SHARE], in_turns)


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_no_fault_of_any_kind_at_any_operation_breaks_a_node(ground: Ground) -> None:
    errors = ground.cases(ground.swept, ("erofs", "edquot"))
    swept(ground, ground.cases(ground.swept) + errors, ground.cases(ground.hooked))


def double(ground: Ground, count: int, further: Further = always) -> None:
    outcome = sweep(ground.swept, pairs(ground, count), further=further)
    print("\n".join(outcome.figures("double_crash")))
    assert outcome.broken == []
    assert outcome.cases + outcome.unmet == count
    assert outcome.cases > count * 0.85  # of the others the recovery was over before


@pytest.mark.long
def test_a_crash_in_the_recovery_of_a_crash_breaks_nothing(ground: Ground) -> None:
    double(ground, PAIRS, in_turns)


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_many_crashes_in_the_recovery_of_a_crash_break_nothing(ground: Ground) -> None:
    double(ground, CAMPAIGN_PAIRS)


def forgetful() -> Callable[..., None]:
    """Return `Transaction.note` that keeps in memory only what it says of a migration."""
    real = Transaction.note

    def note(self: Transaction, **changes: object) -> None:
        if "migrated" in changes:
            self.record = msgspec.structs.replace(self.record, **changes)
        else:
            real(self, **changes)

    return note


@pytest.mark.long
@pytest.mark.misuse
def test_a_sweep_finds_one_journal_write_that_is_missing(
    ground: Ground, ablation: Ablation
) -> None:
    """Control: the old release comes back to data that the new one has changed.

    Without the record of COMMITTED no case broke: a crash finds the one before, and goes on from
    there. The word that a migration has begun is what nothing else tells.
    """
    revert = [ground.scene("revert")]
    paths = [path for _, path in ground.traces["revert"]]
    switched = next(n for n, path in enumerate(paths, 1) if path.endswith("/current"))
    # Two records less bring the switch forward by their writes: between hook and switch it is.
    cases = [Case("revert", "kill_before", at) for at in range(switched - 28, switched, 2)]
    assert sweep(revert, cases).broken == []
    with ablation("the record that a migration has begun") as attack:
        attack.without("node.transaction.Transaction.note", forgetful())
        broken = sweep(revert, cases).broken
        attack.succeeded([line for line in broken if "has changed" in line])


@pytest.mark.long
@pytest.mark.misuse
@pytest.mark.parametrize("folder", ["releases", "shop", "journal"])
def test_a_sweep_finds_one_sync_that_is_missing(
    ground: Ground, folder: str, ablation: Ablation
) -> None:
    """Control: a kill loses no writes, so the order tells it (`tests/simulate/order.py`)."""
    upgrade = [ground.scene("upgrade")]
    cases = ground.cases(upgrade, ("short",))[:4]
    assert sweep(upgrade, cases).broken == []
    with ablation(f"the fsync of {folder}") as attack:
        attack.without("embrasure.folder.Folder.fsync", without("fsync", folder))
        attack.succeeded(sweep(upgrade, cases).broken)


@pytest.mark.long
def test_a_fault_that_nothing_meets_is_told(ground: Ground) -> None:
    """The sweep is checked as well: it never counts a case that was none."""
    upgrade = ground.scene("upgrade")
    beyond = Case("upgrade", "kill_before", len(ground.traces["upgrade"]) + 1)
    assert [line for line in sweep([upgrade], [beyond], workers=1).broken if "never met" in line]
