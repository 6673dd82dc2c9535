"""The wheel owns exactly its packages, holds no tests, and two builds give the same bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.source import PACKAGES, TOP

BUILD = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
# What hatchling reads; everything else in the folder must make no difference.
INPUTS = (*PACKAGES, "pyproject.toml", "README.md", "LICENSE")


def wheel_of(project: Path, out: Path, *, umask: int) -> Path:
    pytest.importorskip("hatchling", reason="hatchling is a developer's tool")
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(out)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": ""},
        umask=umask,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


def copy_of_the_project(target: Path) -> Path:
    """Another checkout: other place, other times, other order of creation."""
    target.mkdir()
    skip = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in reversed(INPUTS):
        if (TOP / name).is_dir():
            shutil.copytree(TOP / name, target / name, copy_function=shutil.copyfile, ignore=skip)
        else:
            shutil.copyfile(TOP / name, target / name)
    return target


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield wheel_of(TOP, tmp_path_factory.mktemp("wheel") / "dist", umask=0o022)


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_owns_exactly_its_packages(wheel: Path) -> None:
    # A distribution `node` or `mirror` of somebody else would be overwritten in silence by pip.
    tops = {name.partition("/")[0] for name in names(wheel)}
    infos = {top for top in tops if top.endswith(".dist-info")}
    assert tops - infos == set(PACKAGES)
    assert len(infos) == 1


def test_every_package_of_the_wheel_tells_its_types(wheel: Path) -> None:
    held = set(names(wheel))
    assert {f"{package}/py.typed" for package in PACKAGES} <= held


def test_the_wheel_has_every_module_and_nothing_but_modules(wheel: Path) -> None:
    held = {name for name in names(wheel) if ".dist-info/" not in name}
    modules = {
        str(p.relative_to(TOP)) for package in PACKAGES for p in (TOP / package).rglob("*.py")
    }
    assert modules <= held
    assert [name for name in held if "test" in name or name.endswith((".proto", ".pyc"))] == []


def test_two_builds_in_two_places_give_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    other = wheel_of(copy_of_the_project(tmp_path / "elsewhere"), tmp_path / "dist", umask=0o077)
    assert other.name == wheel.name
    first, second = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (wheel, other))
    assert first == second


def test_the_installed_command_is_the_one_lazy_command() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"embrasure": "embrasure.cli:main"}
