"""Every state file lost, cut off, or with a bit flipped; a clock that is wrong by years.

What was committed runs on, nothing older and nothing unapproved is installed, no floor falls.
`--state-flips 200` damages every file in every way.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from fnmatch import fnmatch
from functools import cached_property
from operator import attrgetter
from pathlib import Path

import pytest

from embrasure.errors import EmbrasureError
from embrasure.trust.floors import FloorStore
from node.paths import Paths
from tests.ablation import Ablation
from tests.simulate.damage import Damage, Outcome, Patient, lose
from tests.simulate.installer import Confirms, SimInstaller

YEAR = timedelta(days=365)
# Every state file of a node, as a pattern, and what a new start does without it or with damage:
#   runs      works on, whatever became of the file
#   mended    writes it anew from its second copy, and works on
#   serves    only serves; `node mend` or a backup heals it
#   unchanged serves that app as before and does not change it; `node mend` heals it
#   frozen    works on, and installs nothing; a backup heals it
RUNS, MENDED, SERVES, UNCHANGED, FROZEN = "runs", "mended", "serves", "unchanged", "frozen"
EXPECTED = {
    "etc/embrasure/node.toml": SERVES,
    "etc/embrasure/apps.d/*.toml": UNCHANGED,
    "etc/embrasure/anchor.json": FROZEN,
    "etc/embrasure/holds.json": FROZEN,
    "etc/embrasure/pins.json": RUNS,
    "etc/embrasure/enrolled.json": RUNS,
    "etc/embrasure/statement.json": RUNS,
    "etc/embrasure/join.json": RUNS,
    "etc/embrasure/gateway-ca.pem": RUNS,
    "opt/embrasure/*/current": RUNS,
    "var/lib/embrasure/keys/identity.json": MENDED,
    "var/lib/embrasure/keys/receipt.key": MENDED,
    "var/lib/embrasure/keys/seal.key": MENDED,
    "var/lib/embrasure/keys/copy/?": MENDED,
    "var/lib/embrasure/serving/?": MENDED,
    "var/lib/embrasure/journal/*": RUNS,
    "var/lib/embrasure/outbox/*": RUNS,
    "var/lib/embrasure/sent/*": RUNS,
    "var/lib/embrasure/state/floors/?": RUNS,
    "var/lib/embrasure/state/*.json": RUNS,
    "var/lib/embrasure/state/boot.crt": RUNS,
    "var/lib/embrasure/state/tls.crt": RUNS,
    "var/lib/embrasure/tls/*": RUNS,
    "var/lib/embrasure/tuf/*": RUNS,
}
# Damage that nothing could tell from what an owner or a clock writes.
_IN_MEMORY = attrgetter("metrics", "credentials")  # folders of `/run`, made when they are needed
_MAYBE_UNSEEN = {SERVES, UNCHANGED}
# A whole folder, and the two copies of a floor: no installs, and a word why.
_TRUST = ("var/lib/embrasure/state/floors", "var/lib/embrasure/tuf/tuf-floors",
          "var/lib/embrasure/tuf", "var/lib/embrasure/state")  # fmt: skip
_HARMLESS = ("var/lib/embrasure/journal", "var/lib/embrasure/outbox", "opt/embrasure/.blobs",
             "var/lib/embrasure/tuf/trusted")  # fmt: skip


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Patient]:
    yield Patient(tmp_path_factory.mktemp("patient"))


def expected(file: Path) -> str:
    """Return what the table says of one file; its narrowest row counts."""
    rows = [row for row in EXPECTED if fnmatch(str(file), row)]
    assert rows, f"{file} is in no row of the table: what does a start do without it?"
    return EXPECTED[max(rows, key=len)]


def check(patient: Patient, damage: Damage, found: Outcome) -> None:
    """The outcome is the one that the table says, and after the repair the node installs."""
    wanted = expected(damage.file)
    if (damage.file.name, damage.name) == ("holds.json", "delete"):
        wanted = RUNS  # as good as `unhold`
    is_owners = wanted in _MAYBE_UNSEEN or damage.file.name == "holds.json"
    if is_owners and "flip" in damage.name and found.new == "committed":
        wanted = RUNS
    assert found.ran == "2.0", found  # whatever it is, what was committed runs
    assert found.old.startswith("refused"), found
    assert found.opened == ("serves" if wanted == SERVES else "open"), found
    if wanted in (RUNS, MENDED):
        assert (found.new, found.runs) == ("committed", "3.0"), found
        # A number that was handed out once is never given to another receipt.
        assert found.numbers == (patient.told + 1, patient.told + 2), found
        return
    assert found.new.startswith(("refused", "hold")), found
    assert (found.runs, found.healed) == ("2.0", "committed"), found


def test_every_state_file_has_its_row_and_every_row_a_file(patient: Patient) -> None:
    files = patient.files()
    for file in files:
        expected(file)
    empty = {row for row in EXPECTED if not any(fnmatch(str(file), row) for file in files)}
    assert not empty
    # And none is left out that `Paths` names: whatever is there and no folder.
    paths = Paths(patient.base)  # whatever a case before this one has left the bench at
    for name, value in vars(Paths).items():
        path = getattr(paths, name) if isinstance(value, property | cached_property) else None
        if path is not None and not path.is_dir() and path not in _IN_MEMORY(paths):
            assert path.relative_to(patient.base) in files, f"{name} is damaged by no case"
    page = (Path(__file__).parents[2] / "docs" / "node.md").read_text()
    assert [row for row in EXPECTED if f"`{row}`" not in page] == []


@pytest.mark.parametrize("name", ["delete", "a folder in its place", "zeroed", "cut to 1"])
@pytest.mark.parametrize("file", ["node.toml", "shop.toml", "identity.json", "receipt.key"])
def test_a_new_start_serves_without_what_says_who_it_is(
    patient: Patient, file: str, name: str
) -> None:
    (damage,) = (
        one for one in patient.damages(flips=0) if one.file.name == file and one.name == name
    )
    check(patient, damage, patient.suffer(damage))


@pytest.mark.long
@pytest.mark.sweep
@pytest.mark.timeout(7200)
def test_no_single_damaged_file_stops_what_runs_or_lets_in_what_should_not(
    patient: Patient, request: pytest.FixtureRequest
) -> None:
    flips = int(request.config.getoption("--state-flips"))
    cases, broken = 0, list[str]()
    for damage in patient.damages(flips=flips) if flips else patient.sample():
        cases += 1
        try:
            check(patient, damage, patient.suffer(damage))
        except (AssertionError, EmbrasureError) as problem:
            broken.append(f"{damage}: {problem}")
    print(f"figure: state_damage_cases = {cases} cases")
    print(f"figure: state_damage_broken = {len(broken)} cases")
    assert cases >= len(patient.files())
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("folder", _TRUST)
def test_without_floors_or_trust_nothing_is_installed_and_all_runs_on(
    patient: Patient, folder: str
) -> None:
    found = patient.suffer(Damage(Path(folder), "lose", lose))
    assert (found.opened, found.ran, found.runs) == ("open", "2.0", "2.0")
    assert found.new == "refused no-trust"
    assert found.old.startswith("refused")


@pytest.mark.parametrize("folder", _HARMLESS)
def test_a_lost_folder_of_no_trust_costs_nothing(patient: Patient, folder: str) -> None:
    damage = Damage(Path(folder), "lose", lose)
    found = patient.suffer(damage)
    assert (found.opened, found.ran) == ("open", "2.0")
    assert (found.old, found.new, found.runs) == ("refused rollback", "committed", "3.0")
    if not folder.endswith("journal"):
        assert found.numbers == (patient.told + 1, patient.told + 2)


@pytest.mark.misuse
def test_lost_receipts_never_give_a_number_twice(patient: Patient, ablation: Ablation) -> None:
    """The gateway drops a second receipt of one number: the roll-out would wait for ever."""
    damage = Damage(Path("var/lib/embrasure/outbox"), "lose", lose)
    assert min(patient.suffer(damage).numbers) > patient.told
    with ablation("the numbers in the journal") as attack:
        attack.without("node.journal.Journal.records", lambda self: [])
        attack.succeeded(patient.suffer(damage).numbers == ())  # 1 and 2 once more


class At:
    """A node that has 1.0, on a copy; 2.0 is approved; its clock is moved."""

    def __init__(self, patient: Patient, where: Path) -> None:
        self.bench: SimInstaller = patient.bench
        shutil.copytree(patient.base, where, symlinks=True)
        self.bench.paths, self.bench.report = Paths(where), Confirms(self.bench)

    def look(self, ahead: timedelta) -> tuple[str, str]:
        """Return what runs after a boot at that time, and what became of a poll."""
        self.bench.clock.ahead = ahead
        self.bench.open()
        try:
            runs = self.bench.ask()
            try:
                return runs, self.bench.poll()
            except EmbrasureError as problem:
                return runs, f"refused {problem.reason}"
        finally:
            self.bench.close()
            self.bench.clock.ahead = timedelta()


@pytest.mark.parametrize("ahead", [-YEAR, 10 * YEAR, -55 * YEAR], ids=["back", "forward", "none"])
def test_a_clock_wrong_by_years_installs_nothing_and_heals(
    patient: Patient, tmp_path: Path, ahead: timedelta
) -> None:
    """O01, O02, O04: at boot as well; what runs is untouched, and the right time heals it."""
    at = At(patient, tmp_path / "node")
    before = FloorStore(at.bench.paths.floors).load()
    runs, said = at.look(ahead)
    assert runs == "2.0"
    assert said != "committed"
    after = FloorStore(at.bench.paths.floors).load()
    assert before.time <= after.time <= before.time + 3600
    assert at.look(timedelta()) == ("2.0", "committed")


def test_a_clock_moved_while_it_soaks_changes_no_time_out(
    patient: Patient, tmp_path: Path
) -> None:  # fmt: skip
    """O03: durations run on a clock that nobody sets."""
    at = At(patient, tmp_path / "node")

    class Jumps(Confirms):
        def progress(self, state: str, done: int, total: int) -> None:
            at.bench.clock.ahead = 10 * YEAR if state == "probing" else at.bench.clock.ahead
            super().progress(state, done, total)

    at.bench.report = Jumps(at.bench)
    at.bench.open()
    try:
        assert at.bench.poll() == "committed"
    finally:
        at.bench.close()
        at.bench.clock.ahead = timedelta()
