"""What a damaged node goes by: the copy of the last whole start, never anything weaker."""

from __future__ import annotations

import msgspec
import pytest

from embrasure.errors import Denied, EmbrasureError, Misuse
from node import mending, serving
from node.apply_main import mend
from node.backends import Bare
from node.config import load_app, load_config
from node.exits import DAMAGED, exit_of_error, exit_of_state
from node.isolation import Isolation, app_users, is_production
from node.metrics import Metrics
from node.records import NodeRecords
from node.serve_only import acceptor_of
from node.serving import Standing, app_config, stand
from node.show import state_text
from node.users import User
from tests.ablation import Ablation
from tests.simulate.installer import SimInstaller


def started(bench: SimInstaller) -> None:
    """The node was started once, whole."""
    mend(bench.paths, stand(bench.paths))


@pytest.mark.misuse
def test_a_node_toml_that_lost_its_end_never_ends_production(
    bench: SimInstaller, ablation: Ablation
) -> None:
    """Cut off before `production = true` it is good TOML of a development node."""
    whole = bench.paths.node_toml.read_text()
    bench.paths.node_toml.write_text(whole + 'production = true\nfetch_user = "31001"\n')
    started(bench)
    bench.paths.node_toml.write_text(whole)
    found = stand(bench.paths)
    assert found.config.production and "--forget node" not in found.trouble[0]
    assert "first" in found.trouble[0]
    # The same with another line instead: no beginning of what it was, and yet weaker.
    bench.paths.node_toml.write_text(whole + "poll_s = 61\n")
    found = stand(bench.paths)
    assert found.config.production and found.trouble
    with ablation("what the node knows of its owner's files") as attack:
        attack.without("node.serving.check_node")
        attack.succeeded(not is_production(bench.paths, stand(bench.paths).config))
    assert serving.forget(bench.paths, serving.NODE)
    assert not stand(bench.paths).config.production and stand(bench.paths).is_whole


@pytest.mark.misuse
def test_a_file_of_an_app_that_lost_its_end_lets_nothing_in_outside_of_its_window(
    running: SimInstaller, ablation: Ablation
) -> None:
    file = running.paths.app_toml(running.app)
    whole = file.read_text()
    # A window that is shut: one minute, now less than any time-out of the release.
    file.write_text(whole + '[[windows]]\nstart = "00:00"\nlength = "1m"\n')
    started(running)
    running.publish("2.0")
    file.write_text(whole)
    assert running.poll_error() == "config"
    assert running.ask() == "1.0"
    with ablation("what the node knows of its owner's files") as attack:
        attack.without("node.owned.Owned.check", lambda self, app: None)
        attack.succeeded(running.poll() == "committed")


def test_a_node_that_only_serves_says_so_everywhere(running: SimInstaller) -> None:
    started(running)
    running.close()
    running.paths.node_toml.write_bytes(b"\0" * 80)
    standing = stand(running.paths)
    running.open(standing)
    records = NodeRecords(running.paths)
    state = records.state()
    assert exit_of_state(state) == DAMAGED
    assert "damaged" in state_text(state, is_running=True)
    assert "embrasure node mend" in state_text(state, is_running=True)
    text = Metrics(running.paths, records, clock=running.clock).text()
    assert "\nembrasure_node_serve_only 1\n" in text
    running.publish("2.0")
    with pytest.raises(Denied) as caught:
        running.poll()
    assert exit_of_error(caught.value) == DAMAGED and running.ask() == "1.0"
    for act in (
        lambda: running.acceptor.order(b"", running.source(), running.report),
        lambda: running.acceptor.confirm(b"", running.source(), opened_ms=0),
        lambda: running.acceptor.look_again(running.source(), opened_ms=0),
        lambda: running.acceptor.enrol(b"", running.source()),
        lambda: running.acceptor.repair(running.app, running.source(), running.report),
        lambda: running.acceptor.go_back(running.app),
    ):
        with pytest.raises(Denied) as caught:
            act()
        assert caught.value.reason == "serve-only"
    done = mending.mend(running.paths)
    assert done.mended == (str(running.paths.node_toml),) and not done.left
    assert running.paths.node_toml.with_name("node.toml.broken").read_bytes() == b"\0" * 80
    running.close()
    running.open(stand(running.paths))
    assert running.poll() == "committed"


def test_without_a_copy_a_damaged_node_does_not_start(bench: SimInstaller) -> None:
    started(bench)
    for path in bench.paths.serving.iterdir():
        path.unlink()
    bench.paths.node_toml.write_text("")
    with pytest.raises(Misuse):
        stand(bench.paths)


def test_all_keys_lost_only_serves_and_signs_nothing(running: SimInstaller) -> None:
    started(running)
    running.close()
    for path in sorted(running.paths.keys.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    standing = stand(running.paths)
    assert standing.identity.key is None and standing.identity.node == running.identity.node
    running.open(standing)
    assert running.ask() == "1.0"
    with pytest.raises(EmbrasureError) as caught:
        standing.identity.signer()
    assert caught.value.reason == "no-key"


def test_a_file_of_another_node_is_not_gone_by(running: SimInstaller) -> None:
    started(running)
    text = running.paths.node_toml.read_text()
    running.paths.node_toml.write_text(text.replace(running.identity.node, "n-" + "a" * 26) + "\n")
    found = stand(running.paths)
    assert found.config.id == running.identity.node and not found.is_whole


def test_an_app_that_was_taken_away_is_served_until_it_is_forgotten(
    running: SimInstaller,
) -> None:
    started(running)
    running.paths.app_toml(running.app).unlink()
    assert serving.served(running.paths) == (running.app,)
    config, why = app_config(running.paths, running.app)
    assert config.ports == {"web": running.port} and "NOT_DECLARED" in why
    with pytest.raises(Misuse):
        mending.mend(running.paths, forget="nothing")
    assert not mending.mend(running.paths, forget=running.app).mended
    assert serving.served(running.paths) == ()


def test_only_the_app_without_its_user_is_refused(running: SimInstaller) -> None:
    """The rest of the node runs; nothing of that app is started or changed."""
    file = running.paths.app_toml(running.app)
    file.write_text('user = "no-such-user-here"\n' + file.read_text())
    users, refused = app_users(running.paths, load_config(running.paths))
    assert users == {} and list(refused) == [running.app]
    running.close()
    standing = Standing(load_config(running.paths), running.identity)
    alone = Isolation(True, Bare(), 0, refused)
    running.supervisor = type(running.supervisor)(running.paths)
    running.acceptor = acceptor_of(
        running.paths, standing, running.supervisor, clock=running.clock, isolation=alone
    )
    with pytest.raises(Denied) as caught:
        running.acceptor.recover()
    assert caught.value.reason == "no-user"
    assert running.supervisor.running(running.app) is None
    running.publish("2.0")
    assert running.poll_error() == "no-user"
    assert load_app(running.paths, running.app).user == "no-such-user-here"
    assert alone.user("other", msgspec.structs.replace(load_app(running.paths, running.app),
                      user="31002")) == User(31002, 31002)  # fmt: skip


def test_an_app_that_is_called_node_does_not_take_the_place_of_the_node(
    bench: SimInstaller,
) -> None:
    (bench.paths.apps / "node.toml").write_text("keep = 4\n")
    started(bench)
    wanted = stand(bench.paths).config
    bench.paths.node_toml.write_text("damaged")
    for _ in range(2):
        started(bench)  # what is kept at a start that only serves is no other file
        assert stand(bench.paths).config == wanted
