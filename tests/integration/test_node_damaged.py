"""The real node with damage: it serves, says so, is mended by the verb for it, and installs."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from node.metrics import FILE
from tests.integration.test_node_verbs import Site
from tests.simulate.running import Running, answers, until

pytestmark = pytest.mark.long


@pytest.fixture
def site(tmp_path: Path) -> Site:
    found = Site(tmp_path)
    found.release("1.0")
    assert found.call("apply", found.stick).returncode == 0
    return found


def status(site: Site) -> tuple[int, str]:
    """Return the exit code of `node status`, and its text."""
    done = site.call("status")
    return done.returncode, done.stdout


def test_a_node_without_its_node_toml_serves_and_is_mended(site: Site) -> None:
    site.node.paths.node_toml.write_bytes(bytes(80))
    node = Running(site.node)
    try:
        until(lambda: answers(site.web) == "1.0", what="the app")
        until(lambda: status(site)[0] == 61, what="a word about it")
        assert "node.toml" in status(site)[1] and "embrasure node mend" in status(site)[1]
        assert "embrasure node mend" in node.log.read_text()
        until(lambda: "serve_only 1" in _figures(site), what="a figure of it")
        assert site.call("apply", site.stick).returncode == 61
        done = site.call("mend", "--json")
        assert json.loads(done.stdout)["mended"] == [str(site.node.paths.node_toml)]
        assert node.process.poll() is None and answers(site.web) == "1.0"
        assert node.stop() == 0
    finally:
        node.end()
    assert site.call("boot").returncode == 0
    site.release("2.0")
    assert site.call("apply", site.stick).returncode == 0


def _figures(site: Site) -> str:
    path = site.node.paths.metrics / FILE
    return path.read_text() if path.exists() else ""


def test_keys_that_are_lost_but_for_their_copy_cost_nothing(site: Site) -> None:
    paths = site.node.paths
    paths.identity.unlink()
    paths.receipt_key.write_bytes(b"")
    paths.seal_key.unlink()
    paths.seal_key.mkdir()
    site.release("2.0")
    assert site.call("apply", site.stick).returncode == 0
    assert site.call("boot").returncode == 0
    assert paths.seal_key.is_file() and paths.receipt_key.stat().st_size == 64


def test_a_pull_node_without_a_mirror_waits_and_says_so_once(site: Site) -> None:
    """Its fetch used to end with 2 and to be started again, for ever."""
    node = Running(site.node)
    try:
        until(lambda: answers(site.web) == "1.0", what="the app")
        until(lambda: "[E_NO_MIRROR]" in status(site)[1], what="a word about it")
        fetch = node.pid("node.agent")
        time.sleep(6.0)  # it looks again after 5 s
        assert node.pid("node.agent") == fetch
        assert node.log.read_text().count("[E_NO_MIRROR]") == 1
        assert status(site)[0] == 0  # all that it was told to do it does
    finally:
        node.end()


def test_a_push_node_waits_for_its_tls_key_and_goes_on_by_itself(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.node = site.fleet.make("n2", mode="push", port=site.web)
    site.root = site.node.paths.prefix
    whole = site.node.paths.tls_key.read_bytes()
    site.node.paths.tls_key.write_bytes(whole[:40])
    node = Running(site.node)
    try:
        until(lambda: "network side: " in status(site)[1], what="a word about it")
        assert not node.is_ready()
        site.node.paths.tls_key.write_bytes(whole)
        until(node.is_ready, what="the listener")
        until(lambda: "network side: " not in status(site)[1], what="no word about it")
    finally:
        node.end()
