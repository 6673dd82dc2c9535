"""What a crash leaves unfinished goes at the next start; a disk that takes nothing stops no app."""

from __future__ import annotations

from pathlib import Path

from node import leftovers
from tests.simulate.installer import SimInstaller
from tests.simulate.sweep import Case, Place, traced
from tests.simulate.sweep_install import InstallScene, small

UNFINISHED = f".{'a' * 32}.new"


def test_unfinished_files_are_gone_after_a_start(tmp_path: Path) -> None:
    bench = SimInstaller(tmp_path, inner=True)
    bench.publish(release=small(bench, "1.0"))
    assert bench.poll() == "committed"
    bench.close()
    paths = bench.paths
    own = [paths.state, paths.floors, paths.journal, paths.outbox, paths.sent, paths.keys]
    for folder in (*own, paths.tuf / "tuf-floors", paths.tls):
        (folder / UNFINISHED).write_bytes(b"half")
    (paths.state / "kept.json").write_bytes(b"{}")
    bench.open()
    bench.close()
    assert [path.parent.name for path in paths.data.rglob(UNFINISHED)] == [paths.tls.name]
    assert (paths.state / "kept.json").exists()
    assert leftovers.clear_own(paths) == 1, "fetch's own folder is fetch's to clear"


def test_a_disk_that_turns_read_only_after_the_switch_leaves_the_app_running(
    tmp_path: Path,
) -> None:
    """The link cannot go back, and a state cannot be written: the committed release runs."""
    scene = InstallScene(tmp_path, "upgrade", held=("1.0",))
    trace = traced(scene)
    (switched,) = [n for n, (_, path) in enumerate(trace, 1) if path.endswith("/current")]
    place = Place(scene, tmp_path)
    for at in (switched, switched + 1, switched + 2, switched + 8):
        assert place.run(Case("upgrade", "erofs", at)) == []
