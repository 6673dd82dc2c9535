"""Migrations: undone by the release that made them, or one-way; no release runs on others' data."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
import pytest

from embrasure.bundle.manifest import Hook, Manifest
from embrasure.errors import Unavailable
from node.records import NodeRecords
from tests.ablation import Ablation
from tests.simulate.installer import SimInstaller, Told

Change = Callable[[Manifest], Manifest]


def migrating(*, one_way: bool, **lines: str) -> Change:
    """Return a change that gives a manifest hooks of one line of sh each."""

    def change(manifest: Manifest) -> Manifest:
        hooks = tuple(
            Hook(
                point=point,  # type: ignore[arg-type]  # a closed word
                argv=("sh", "-c", f'echo {point} >> "$EMBRASURE_SHARED/hooks"; {line}'),
                timeout_s=5,
            )
            for point, line in lines.items()
        )
        return msgspec.structs.replace(manifest, hooks=hooks, irreversible=one_way)

    return change


def publish(bench: SimInstaller, version: str, change: Change, mode: str = "good") -> None:
    bench.publish(version, release=bench.make(version, mode, change=change))


def hooks_run(bench: SimInstaller) -> list[str]:
    path = bench.paths.shared(bench.app) / "hooks"
    return path.read_text().split() if path.exists() else []


def is_down(bench: SimInstaller) -> bool:
    """Whether nothing of the app runs, and nothing is linked that a boot would start."""
    return bench.supervisor.running(bench.app) is None and not (
        bench.paths.current(bench.app).is_symlink()
    )


def test_an_irreversible_release_goes_back_as_any_other_until_its_migration_begins(
    running: SimInstaller,
) -> None:
    publish(running, "2.0", migrating(one_way=True, prepare="exit 1", migrate=""))
    assert running.poll() == "rolled_back hook"
    assert (running.ask(), hooks_run(running)) == ("1.0", ["prepare"])
    publish(running, "3.0", migrating(one_way=True, migrate=""))
    assert running.poll() == "committed"
    assert running.ask() == "3.0"


@pytest.mark.misuse
def test_after_an_irreversible_migration_a_failure_stops_the_app(
    running: SimInstaller, ablation: Ablation
) -> None:
    publish(running, "2.0", migrating(one_way=True, migrate=""), "bad")
    assert running.poll() == "degraded probe"
    assert is_down(running)
    (app,) = NodeRecords(running.paths).state().apps
    assert (app.state, "irreversible" in app.detail) == ("degraded", True)
    running.restart()
    assert is_down(running), "a boot starts nothing on data that were changed"
    # A later plan, approved by people, is the way on.
    publish(running, "3.0", migrating(one_way=True, migrate=""))
    assert running.poll() == "committed"
    publish(running, "4.0", migrating(one_way=True, migrate=""), "bad")
    with ablation("that an irreversible migration leads nowhere back") as attack:
        attack.without("node.rollback.is_one_way", lambda tx: False)
        assert running.poll() == "rolled_back probe"
        attack.succeeded(running.ask() == "3.0")  # on data of 4.0


@pytest.mark.parametrize("one_way", [True, False])
def test_a_migration_that_fails_and_is_not_undone_leaves_nothing_running(
    running: SimInstaller, one_way: bool
) -> None:
    lines = {"migrate": "exit 1"} if one_way else {"migrate": "exit 1", "revert": "exit 1"}
    publish(running, "2.0", migrating(one_way=one_way, **lines))
    assert running.poll() == "degraded hook"
    assert is_down(running)
    running.restart()
    assert is_down(running), "1.0 is whole and committed, but its data are not its own any more"


def test_a_migration_is_undone_once_though_it_was_cut_off(running: SimInstaller) -> None:
    stop_in(running, migrating(one_way=False, migrate="sleep 5", revert=""))
    assert running.ask() == "1.0"
    assert hooks_run(running) == ["migrate", "revert"]
    running.restart()
    assert (running.ask(), hooks_run(running)) == ("1.0", ["migrate", "revert"])


def test_an_irreversible_migration_that_was_cut_off_needs_a_person(running: SimInstaller) -> None:
    stop_in(running, migrating(one_way=True, migrate="sleep 5"))
    assert is_down(running)
    (app,) = NodeRecords(running.paths).state().apps
    assert app.state == "degraded"


def stop_in(bench: SimInstaller, change: Change) -> None:
    """The node is stopped while `migrate` runs, and started again."""

    class Quiescing(Told):
        def progress(self, state: str, done: int, total: int) -> None:
            if state == "quiescing":
                threading.Timer(0.5, bench.acceptor._ground.halt.set).start()

    publish(bench, "2.0", change)
    with pytest.raises(Unavailable):
        bench.acceptor.poll(bench.source(), Quiescing())
    bench.restart()


def test_a_committed_release_that_is_destroyed_is_not_replaced_by_one_of_older_data(
    running: SimInstaller,
) -> None:
    publish(running, "2.0", migrating(one_way=False, migrate="", revert=""))
    assert running.poll() == "committed"
    changed = running.paths.current(running.app).resolve() / "config" / "version"
    changed.chmod(0o644)
    changed.write_bytes(b"2.0 and more")
    running.restart()
    assert running.supervisor.running(running.app) is None
