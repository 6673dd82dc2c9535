"""Production is refused whole or kept whole; development says of itself what it is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from embrasure.errors import Denied
from node import isolation, transient
from node.config import AppConfig, NodeConfig, load_config
from node.isolation import app_users, check_keys, demanded, look
from node.paths import Paths
from node.show import separation_text
from node.users import User, find_user
from tests.ablation import Ablation
from tests.simulate.hooks import kinds, missing
from tests.simulate.installer import SimInstaller
from tests.simulate.running import embrasure

needs_rooms = pytest.mark.skipif(not kinds(), reason=missing())
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@contextmanager
def somebody_else() -> Iterator[None]:
    os.seteuid(31007)
    try:
        yield
    finally:
        os.seteuid(0)


def production(bench: SimInstaller, **changes: object) -> NodeConfig:
    """Return the node's configuration as its owner writes it for production."""
    said = {"production": True, "fetch_user": "31001", **changes}
    with bench.paths.node_toml.open("a") as file:
        for name, value in said.items():
            file.write(f"{name} = {str(value).lower() if value is True else repr(value)}\n")
    for app in bench.paths.apps.glob("*.toml"):
        app.write_text('user = "31002"\n' + app.read_text())
    return load_config(bench.paths)


def reason(paths: Paths, config: NodeConfig) -> str:
    """Return why production is refused."""
    with pytest.raises(Denied) as caught:
        demanded(paths, config)
    return caught.value.reason


def test_development_has_no_sandbox_and_says_level_0(bench: SimInstaller) -> None:
    found = demanded(bench.paths, load_config(bench.paths))
    assert (found.is_production, found.backend.name, found.level) == (False, "none", 0)
    assert found.user("shop", AppConfig()) is None
    assert separation_text(found.note()).startswith("development: sandbox none (isolation 0)")


@needs_rooms
def test_production_has_a_sandbox_that_was_tried(bench: SimInstaller) -> None:
    config = production(bench)
    found = demanded(bench.paths, config)
    best = 2 if transient.find() else 1
    assert (found.is_production, found.level) == (True, best)
    assert found.user("shop", AppConfig(user="31002")) == User(31002, 31002)
    assert "production: sandbox" in separation_text(found.note())
    # A sandbox in development is worth having, and counts for no gate.
    wished = msgspec.structs.replace(config, production=False, sandbox="bubblewrap")
    assert look(bench.paths, wished).level == 0


def test_the_root_folder_is_always_production(bench: SimInstaller) -> None:
    assert look(Paths(Path("/")), load_config(bench.paths)).is_production
    assert look(Paths(Path("/")), load_config(bench.paths)).backend.level != 0 or not kinds()


@needs_rooms
@pytest.mark.misuse
def test_production_without_a_sandbox_is_refused(bench: SimInstaller, ablation: Ablation) -> None:
    config = production(bench, sandbox="none")
    assert reason(bench.paths, config) == "no-sandbox"
    ended = embrasure("node", "run", "--root", bench.paths.prefix)
    assert ended.returncode == 60, ended.stderr
    ended = embrasure("node", "run", "--only", "apply", "--root", bench.paths.prefix)
    assert ended.returncode == 60, ended.stderr
    with ablation("the word production") as attack:
        bare = msgspec.structs.replace(config, production=False)
        attack.succeeded(demanded(bench.paths, bare).backend.name == "none")


@needs_rooms
@pytest.mark.misuse
def test_production_is_refused_to_another_user_than_root(
    bench: SimInstaller, ablation: Ablation
) -> None:
    config = production(bench)
    with somebody_else():
        assert reason(bench.paths, config) == "not-root"
    with ablation("the demand of root") as attack, somebody_else():
        attack.without("node.isolation.check_root")
        attack.succeeded(reason(bench.paths, config) != "not-root")


@needs_root
@pytest.mark.misuse
def test_production_is_refused_with_keys_that_others_reach(
    bench: SimInstaller, ablation: Ablation
) -> None:
    check_keys(bench.paths)
    bench.paths.keys.chmod(0o750)
    with pytest.raises(Denied) as caught:
        check_keys(bench.paths)
    assert caught.value.reason == "open-keys"
    with ablation("the check of the folder") as attack:
        attack.succeeded(os.access(bench.paths.keys, os.R_OK, effective_ids=True))


@pytest.mark.misuse
def test_no_two_apps_and_not_fetch_share_a_user(bench: SimInstaller, ablation: Ablation) -> None:
    config = production(bench)
    assert app_users(bench.paths, config) == ({"shop": User(31002, 31002)}, {})
    bench.paths.app_toml("bank").write_text('user = "31002"\n')
    bench.paths.app_toml("lone").write_text('user = "31003"\n')
    bench.paths.app_toml("net").write_text('user = "31001"\n')
    bench.paths.app_toml("none").write_text('user = "no-such-user-here"\n')
    users, refused = app_users(bench.paths, config)
    assert users == {"lone": User(31003, 31003)}
    assert sorted(refused) == ["bank", "net", "none", "shop"]
    assert {problem.reason for problem in refused.values()} == {"no-user"}
    assert "shop" in refused["bank"].got and "fetch" in refused["net"].got
    alone = isolation.Isolation(True, look(bench.paths, config).backend, 0, refused)
    assert alone.user("lone", AppConfig(user="31003")) == users["lone"]
    with pytest.raises(Denied):
        alone.user("shop", AppConfig(user="31002"))
    with ablation("the comparison") as attack:
        one = isolation.Isolation(True, look(bench.paths, config).backend, 0)
        attack.succeeded(
            one.user("bank", AppConfig(user="31002")) == one.user("shop", AppConfig(user="31002"))
        )


@pytest.mark.parametrize("name", ["0", "root", "no-such-user-here", "4294967295", "٣"])
def test_nobody_is_root_and_everybody_is_there(name: str) -> None:
    with pytest.raises(Denied) as caught:
        find_user(name, what="app shop")
    assert caught.value.reason == "no-user"
    assert find_user("nobody", what="app shop").uid > 0


@pytest.mark.parametrize(
    ("kernel", "mode"),
    [("6.18.5", "syncfs"), ("5.8", "syncfs"), ("5.7.19-x", "syncfs, and each file"),
     ("4.19.0-25", "syncfs, and each file")],
)  # fmt: skip
def test_the_sync_mode_follows_the_kernel(kernel: str, mode: str) -> None:
    assert isolation.sync_mode(kernel) == mode


@needs_root
def test_a_stick_that_apply_may_not_read_is_told_with_a_way_out(tmp_path: Path) -> None:
    """Without an agent the verb is apply, which has given up reading what is others'."""
    stick = tmp_path / "stick"
    (stick / "metadata").mkdir(parents=True)
    (stick / "metadata" / "timestamp.json").write_text("{}")
    stick.chmod(0o700)
    os.chown(stick, 31009, 31009)
    script = """
import sys
from pathlib import Path
from embrasure.errors import Denied
from embrasure.sandbox import CAPABILITIES, keep_capabilities
from embrasure.trust.folder import FolderSource
from node.stick import readable
stick = Path(sys.argv[1])
def read():
    return b"".join(FolderSource(stick).fetch("metadata/timestamp.json", offset=0, limit=9))
assert read() == b"{}"
keep_capabilities(CAPABILITIES)
try:
    with readable(stick):
        read()
except Denied as problem:
    print(problem.hint)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script, str(stick)], capture_output=True, text=True, check=True
    )
    assert "start the node first" in ended.stdout
