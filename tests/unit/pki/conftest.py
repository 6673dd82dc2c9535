"""One ceremony for all tests of pki: making key files costs Argon2, copying a folder nothing."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from embrasure.clock import Clock
from pki import apps
from pki.folder import TrustFolder
from tests.simulate import ceremony

AT = datetime(2026, 11, 23, 4, 0, tzinfo=UTC)


def clock() -> datetime:
    return AT


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trust folder after `pki init --generate`, never changed."""
    path = tmp_path_factory.mktemp("first") / "trust"
    ceremony.hold(path, clock)
    return path


@pytest.fixture(scope="session")
def second(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with environment `prod` and its app `shop`, never changed."""
    path = tmp_path_factory.mktemp("second") / "trust"
    shutil.copytree(first, path)
    trust = TrustFolder.open(path)
    ceremony.add_environment(trust, "prod", clock)
    who = apps.operators(trust, ["anna", "bea", "dora"], generate=True)
    rules = apps.Rules(group={}, min_canary=1, min_soak_s=2, max_second_percent=50)
    work = apps.add_app(trust, "prod", "shop", who=who, threshold=2, rules=rules, clock=clock)
    apps.keep_keys(trust, who, ceremony.PASSPHRASE, ceremony.COSTS.online)
    work.write()
    ceremony.sign_and_merge(trust, "alice", "bob", at=AT)
    return path


@pytest.fixture
def trust(first: Path, tmp_path: Path) -> TrustFolder:
    """A trust folder of one's own, after the ceremony."""
    return _copy(first, tmp_path)


@pytest.fixture
def shop(second: Path, tmp_path: Path) -> TrustFolder:
    """A trust folder of one's own with environment `prod` and app `shop`."""
    return _copy(second, tmp_path)


@pytest.fixture
def at() -> datetime:
    """The time of all tests."""
    return AT


@pytest.fixture
def ticking() -> Clock:
    """The clock of all tests."""
    return clock


def _copy(source: Path, tmp_path: Path) -> TrustFolder:
    path = tmp_path / "trust"
    shutil.copytree(source, path)
    return TrustFolder.open(path)
