"""The model of lost writes: any legal part of what is not synced is gone, behind every operation.

Install, upgrade, roll-back and collection are recorded at the port to the disk; each state that a
power cut may leave is built, and the node's own recovery runs on it. `--loss-states 100000` takes
more. The controls leave out the syncs that other deployers leave out, and are found broken.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from embrasure import limits
from tests.ablation import Ablation
from tests.simulate.installer import SimInstaller, patient
from tests.simulate.loss_cases import every_sync, lose, no_data_sync, no_name_sync
from tests.simulate.sweep_install import InstallScene
from tests.simulate.trees import room

FOUR = ("1.0", "2.0", "3.0", "4.0")


@pytest.fixture(scope="module")
def scenes() -> Iterator[dict[str, InstallScene]]:
    with pytest.MonkeyPatch.context() as patch, room() as top:
        patch.setattr(limits, "FREE_BYTES", 0)
        patch.setattr(limits, "INODES_KEPT", 0)
        found = [
            InstallScene(top, "first"),
            InstallScene(top, "upgrade", held=FOUR[:1]),
            InstallScene(top, "rollback", held=FOUR[:1], mode="crash"),
            InstallScene(top, "collect", held=FOUR, owned=True),
            InstallScene(top, "packed", more=limits.PACK_LEAST_BLOBS, owned=True),
        ]
        yield {scene.name: scene for scene in found}


@pytest.mark.long
@pytest.mark.sweep
@pytest.mark.timeout(14_400)
def test_whatever_a_power_cut_takes_one_whole_release_is_left(
    scenes: dict[str, InstallScene], request: pytest.FixtureRequest
) -> None:
    points = int(request.config.getoption("--loss-states")) // len(scenes)
    lost = lose(list(scenes.values()), points)
    print(f"figure: lost_write_states = {lost.states} states")
    print(f"figure: lost_write_every = {lost.every} states")
    print(f"figure: lost_write_prefixes = {lost.prefixes} operations")
    print(f"figure: lost_write_prefixes_sampled = {lost.sampled} operations")
    print(f"figure: lost_write_broken = {len(lost.broken)} states")
    assert not lost.broken, "\n".join(lost.broken[:10])
    assert lost.every >= lost.states >= min(points, 100) * len(scenes)


@pytest.mark.long
@pytest.mark.sweep
@pytest.mark.timeout(600)
@pytest.mark.misuse
def test_without_the_sync_of_the_data_the_model_finds_broken_releases(
    scenes: dict[str, InstallScene], ablation: Ablation
) -> None:
    """Protocol B: I1 breaks, a link on disk names a release whose files are not."""
    assert lose([scenes["upgrade"]], 20, keep=every_sync).broken == []
    lost = lose([scenes["upgrade"]], 60, keep=no_data_sync)
    with ablation("the sync of the data") as attack:
        attack.succeeded("is no release" in "".join(lost.broken))


@pytest.mark.long
@pytest.mark.sweep
@pytest.mark.timeout(600)
@pytest.mark.misuse
def test_without_the_sync_of_the_names_the_model_finds_lost_successes(
    scenes: dict[str, InstallScene], ablation: Ablation
) -> None:
    """Protocol C: I2 breaks, what was told is not there any more."""
    assert lose([scenes["upgrade"]], 20, keep=every_sync).broken == []
    lost = lose([scenes["upgrade"]], 60, keep=no_name_sync)
    with ablation("the sync of the names") as attack:
        attack.succeeded("I2: " in "".join(lost.broken))


def test_zeros_that_a_power_cut_left_of_a_transfer_are_fetched_again(tmp_path: Path) -> None:
    """Found by the model: they were taken for a whole transfer, and the install was rejected."""
    bench = SimInstaller(tmp_path)
    try:
        release = patient(bench, "1.0", files={"code/big": b"x" * 100_000})
        bench.publish(release=release)
        partial = bench.paths.blobs / ".partial"
        for digest, data in release.blobs.items():
            # A whole length of zeros, and half of one.
            half = len(data) > 1000
            (partial / digest).write_bytes(bytes(len(data) // 2 if half else len(data)))
        assert bench.poll() == "committed"
        assert bench.ask() == "1.0"
    finally:
        bench.close()
