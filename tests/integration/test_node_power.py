"""A power cut at the writes of an install, on a real file system: what was not synced is gone.

First install, upgrade with collection, roll-back, and the recovery from an earlier cut. Needs root
and loop devices. `--power-points 5000` takes more cuts, `--power-fs xfs` another file system. The
controls show that a missing sync is found.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from embrasure import limits
from embrasure.fs import Folder
from node.releases import find_release, is_whole
from tests.ablation import Ablation
from tests.simulate.disk import MIB, missing_need, roomy
from tests.simulate.power import Cut, Rig, Way, spread

pytestmark = [
    pytest.mark.long,
    pytest.mark.sweep,
    pytest.mark.timeout(14_400),
    pytest.mark.skipif(bool(missing_need()), reason=f"needs {missing_need()}"),
]
_POINTS_A_RUN = 200  # of all ways together, beyond the first two runs
Commits = Callable[[int], bool]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Rig]:
    kind = request.config.getoption("--power-fs")
    if missing_need(kind):
        pytest.skip(f"needs {missing_need(kind)}")
    patch = pytest.MonkeyPatch()
    patch.setattr(limits, "FREE_BYTES", 0)
    patch.setattr(limits, "INODES_KEPT", 0)
    with roomy(tmp_path_factory.mktemp("power"), needs=1024 * MIB) as root:
        found = Rig(root, kind)
        found.prepare()
        yield found
    patch.undo()


def cuts_of(rig: Rig, way: Way, number: int, points: int) -> list[Cut]:
    """Return the cuts of run `number`: nothing else syncs; somebody syncs at each cut; or, with
    the number as seed, now and then.
    """
    wanted = spread(way.writes, min(points, way.writes), offset=(number % 4) / 4) | {0}
    chosen = random.Random(number)  # noqa: S311  # a choice of cases, no secret
    every = {at for at in range(1, way.writes + 1) if chosen.random() < 0.1}
    commits: Commits = (
        (lambda at: False, lambda at: at in wanted)[number] if number < 2 else every.__contains__
    )
    return rig.run(way, wanted.__contains__, commits=commits)[0]


def test_a_power_cut_at_any_write_leaves_one_whole_release(
    rig: Rig, request: pytest.FixtureRequest
) -> None:
    points = int(request.config.getoption("--power-points"))
    runs = max(2, points // (len(rig.ways) * _POINTS_A_RUN))
    cases, broken = 0, list[str]()
    for way in rig.ways.values():
        for number in range(runs):
            cuts = cuts_of(rig, way, number, points // (len(rig.ways) * runs))
            cases += len(cuts)
            broken += rig.broken(cuts)
    print(f"figure: power_loss_cases = {cases} cases")
    print(f"figure: power_loss_broken = {len(broken)} cases")
    assert cases >= points
    assert not broken, "\n".join(broken[:10])


@pytest.mark.misuse
def test_without_the_sync_of_the_data_a_power_cut_leaves_a_broken_release(
    rig: Rig, ablation: Ablation
) -> None:
    """The link is on disk, the files behind it are empty: what most deployers still do."""
    assert rig.broken(rig.run(rig.ways["upgrade"], lambda at: at == 0)[0]) == []

    def no_sync() -> None:
        pytest.MonkeyPatch().setattr(Folder, "syncfs", lambda self: None)

    (left,) = rig.run(rig.ways["upgrade"], lambda at: at == 0, before=no_sync)[0]
    with (
        rig.on(rig.ways["upgrade"], left.image, rig.root / "left") as bench,
        ablation("the sync of the data") as attack,
    ):
        paths = bench.paths
        release = find_release(paths, "shop", paths.current("shop").readlink().name)
        attack.succeeded(release is None or not is_whole(paths, "shop", release, deep=True))
    assert "is no release" in "".join(rig.broken([left]))


@pytest.mark.misuse
def test_without_the_sync_of_the_names_what_was_told_is_lost(rig: Rig, ablation: Ablation) -> None:
    way = rig.ways["first"]

    def is_told(at: int) -> bool:
        """Before the first write after `soaked` was handed out."""
        was, counted["told"] = counted["told"], len(way.bench.report.receipts)
        return counted["told"] == 2 and was == 1

    def no_names() -> None:
        pytest.MonkeyPatch().setattr(Folder, "fsync", lambda self: None)

    counted = {"told": 0}
    (honest,) = rig.run(way, is_told)[0]
    assert len(honest.told) == 2
    assert rig.broken([honest]) == []
    (left,) = rig.run(way, is_told, before=no_names)[0]
    with ablation("the sync of the names") as attack:
        attack.succeeded("was handed out, and is not here" in "".join(rig.broken([left])))
