"""Every operation of the disk in installs and changes of keys, each with a fault: nothing breaks.

What is real here and what is not: docs/node.md, "Sweeps". `-m campaign` takes many more pairs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import pytest

from node.transaction import Transaction
from tests.ablation import Ablation
from tests.simulate.sweep import (
    KINDS,
    Case,
    Kind,
    Scene,
    every_case,
    recovery_lengths,
    sweep,
    traced,
)
from tests.simulate.sweep_install import hook_scenes, install_scenes
from tests.simulate.sweep_keys import key_scenes
from tests.unit.node.test_sync_order import without

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(1200)]
LEAST = 5_000
HOOKS_SHARE = 40  # each case of a scene whose hooks are programs takes ten times as long
PAIRS, CAMPAIGN_PAIRS = 200, 22_000
SEED, STEP = 4, 24


@dataclass(frozen=True)
class Ground:
    """The scenes, and how many operations each takes."""

    swept: tuple[Scene, ...]
    hooked: tuple[Scene, ...]
    traces: dict[str, list[tuple[str, str]]]

    def cases(self, scenes: Sequence[Scene], kinds: Sequence[Kind] = KINDS) -> list[Case]:
        """Return every case of these scenes."""
        return [
            case
            for scene in scenes
            for case in every_case(scene.name, self.traces[scene.name], kinds)
        ]

    def share(self) -> list[Case]:
        """Return what CI has the time for: every operation, of errors one or the other."""
        found = self.cases(self.swept)
        errors = ("eio", "enospc")
        kept = [c for c in found if c.kind not in errors or c.kind == errors[c.at % 2]]
        # A first install that fails is the first install up to its start.
        kept = [case for case in kept if case.scene != "first_crash" or case.at % 2]
        # On a disk that stays read-only every place is much like its neighbours.
        return kept + self.cases(self.swept, ("erofs",))[::5]

    def scene(self, name: str) -> Scene:
        """Return the scene of this name."""
        return next(one for one in (*self.swept, *self.hooked) if one.name == name)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    root = tmp_path_factory.mktemp("sweep")
    swept: list[Scene] = [*install_scenes(root), *key_scenes(root)]
    hooked: list[Scene] = [*hook_scenes(root)]
    yield Ground(
        tuple(swept), tuple(hooked), {scene.name: traced(scene) for scene in (*swept, *hooked)}
    )


def swept(ground: Ground, cases: Sequence[Case], some: Sequence[Case]) -> None:
    outcome = sweep(ground.swept, cases)
    hooked = sweep(ground.hooked, some)
    outcome.cases += hooked.cases
    outcome.broken += hooked.broken
    print("\n".join(outcome.figures("crash_sweep")))
    print({**outcome.by_scene, **hooked.by_scene})
    assert outcome.broken == []
    assert outcome.cases == len(cases) + len(some) >= LEAST


@pytest.mark.long
def test_no_fault_at_any_operation_breaks_a_node(ground: Ground) -> None:
    swept(ground, ground.share(), ground.cases(ground.hooked)[::HOOKS_SHARE])


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_no_fault_of_any_kind_at_any_operation_breaks_a_node(ground: Ground) -> None:
    errors = ground.cases(ground.swept, ("erofs",))
    swept(ground, ground.cases(ground.swept) + errors, ground.cases(ground.hooked))


def pairs(ground: Ground, count: int) -> list[Case]:
    """Return pairs of a crash of an act and one of its recovery, drawn evenly with a fixed seed."""
    # The others have no recovery that writes.
    scenes = [scene for scene in ground.swept if scene.name not in ("renewal", "first_keys")]
    lengths = {
        scene.name: recovery_lengths(scene, range(1, len(ground.traces[scene.name]) + 1, STEP))
        for scene in scenes
    }
    chosen = random.Random(SEED)  # noqa: S311  # the same pairs each time
    found: list[Case] = []
    while len(found) < count:
        name = chosen.choice(scenes).name
        at = chosen.randrange(1, len(ground.traces[name]) + 1)
        # A neighbour's recovery is as long, or nearly.
        then = chosen.randrange(1, lengths[name][1 + (at - 1) // STEP * STEP] + 1)
        found.append(Case(name, chosen.choice(("kill_before", "kill_after")), at, then))
    return found


def double(ground: Ground, count: int) -> None:
    outcome = sweep(ground.swept, pairs(ground, count))
    print("\n".join(outcome.figures("double_crash")))
    assert outcome.broken == []
    assert outcome.cases + outcome.unmet == count
    assert outcome.cases > count * 0.9


@pytest.mark.long
def test_a_crash_in_the_recovery_of_a_crash_breaks_nothing(ground: Ground) -> None:
    double(ground, PAIRS)


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
