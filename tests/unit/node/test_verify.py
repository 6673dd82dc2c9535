"""`node verify`: drift to the file, with every server down."""

from __future__ import annotations

from pathlib import Path

import pytest

from embrasure.errors import Misuse
from node.tree import Drift
from node.verify import verify
from tests.ablation import Ablation
from tests.simulate.installer import SimInstaller


def drift(bench: SimInstaller, *, deep: bool = True) -> list[tuple[str, str]]:
    (found,) = verify(bench.paths, deep=deep)
    return [(one.path, one.what) for one in found.drift]


def current(bench: SimInstaller) -> Path:
    return bench.paths.current(bench.app).resolve()


def test_what_was_installed_verifies(running: SimInstaller) -> None:
    (found,) = verify(running.paths)
    assert (found.app, found.version, found.drift) == ("shop", "1.0", ())
    assert found.release == current(running).name


def test_a_node_on_which_nothing_is_installed_verifies(bench: SimInstaller) -> None:
    assert drift(bench) == []


def test_each_changed_file_is_named(running: SimInstaller) -> None:
    folder = current(running)
    (folder / "code/main.py").chmod(0o755)
    (folder / "code/main.py").write_bytes(b"import os  # evil\n")
    (folder / "config/mode").unlink()
    (folder / "code/x.pth").write_bytes(b"import os")
    assert sorted(drift(running)) == [
        ("code/main.py", "content"),
        ("code/main.py", "mode"),
        ("code/x.pth", "extra"),
        ("config/mode", "missing"),
    ]


@pytest.mark.misuse
def test_a_changed_byte_of_the_same_length_needs_a_deep_look(
    running: SimInstaller, ablation: Ablation
) -> None:
    path = current(running) / "config/version"
    path.chmod(0o644)
    path.write_bytes(b"6.6")
    path.chmod(0o444)
    assert drift(running) == [("config/version", "content")]
    with ablation("the hash of each file") as attack:
        attack.succeeded(drift(running, deep=False) == [])


@pytest.mark.parametrize("name", ["manifest.json", "plan.json", "approval.json"])
def test_a_swapped_document_is_found(running: SimInstaller, name: str) -> None:
    path = current(running) / name
    path.chmod(0o644)
    path.write_bytes(b"{}")
    path.chmod(0o444)
    found = drift(running)
    assert found
    assert all(what == "content" for _, what in found)


def test_a_link_to_another_release_is_found(running: SimInstaller) -> None:
    old = current(running).name
    running.publish("2.0")
    assert running.poll() == "committed"
    link = running.paths.current(running.app)
    link.unlink()
    link.symlink_to(f"releases/{old}")
    assert drift(running) == [("current", "link")]
    link.unlink()
    assert drift(running) == [("current", "missing")]


def test_a_drift_has_an_order() -> None:
    assert sorted([Drift("b", "mode"), Drift("a", "mode")])[0].path == "a"


def test_an_app_that_this_node_does_not_know_is_not_told_to_be_well(bench: SimInstaller) -> None:
    with pytest.raises(Misuse, match="shopp"):
        verify(bench.paths, "shopp")
