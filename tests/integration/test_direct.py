"""`--direct`: one on-call signature, taken past the gateway by the verbs, to real processes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from embrasure.trust import layout
from embrasure.trust.floors import FloorStore
from node.paths import Paths
from pki.folder import TrustFolder
from tests.simulate.installer import free_port
from tests.simulate.office import APP, ENV, Office, verb
from tests.simulate.running import PROGRAM, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]
PLAN = "c" * 64


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    return Office.make(tmp_path_factory.mktemp("office") / "first", nodes=1)


@contextmanager
def process(log: Path, *words: object) -> Iterator[subprocess.Popen[bytes]]:
    """A verb of the product that runs until the block ends."""
    with log.open("ab") as out:
        found = subprocess.Popen(
            [*PROGRAM, *map(str, words)], stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
        try:
            yield found
        finally:
            found.send_signal(signal.SIGTERM)
            found.wait(30)


def node_of(office: Office) -> Paths:
    """Return a push node that was made and enrolled as a person would."""
    prefix = office.folder / "node1"
    found = verb("node", "init", "--root", prefix, "--env", ENV, "--mode", "push", "--domain",
                 "office.test", "--anchor", office.trust / "anchor.json",
                 "--app", f"{APP}:web={free_port()}")  # fmt: skip
    assert found.code == 0, found.told
    statement = prefix / "etc" / "embrasure" / "statement.json"
    office.pki("pki", "enrol", statement, office.trust, "--out",
               prefix / "etc" / "embrasure" / "enrolled.json", *office.signs())  # fmt: skip
    return Paths(prefix)


def mirror_of(office: Office) -> Path:
    """Return the folder of a mirror that has verified nothing yet."""
    tls, folder = office.folder / "m1-tls", office.folder / "m1"
    office.pki("pki", "issue", "mirror/m1", office.trust, "--out", tls)
    found = verb("mirror", "init", folder, "--trust-anchor", office.trust / "anchor.json",
                 "--name", "m1", "--domain", "office.test", "--env", ENV, "--tls", tls,
                 "--gateway-issuer", office.trust / "ca" / "gateway.crt",
                 "--ca-root", office.trust / "ca" / "root.crt")  # fmt: skip
    assert found.code == 0, found.told
    return folder


def ports(file: Path) -> dict[str, int]:
    until(file.exists, seconds=40, what=str(file))
    found: dict[str, int] = json.loads(file.read_text())
    return found


def union(paths: Paths) -> set[str]:
    return set(FloorStore(paths.floors).load().union.plans)


def test_a_stop_goes_to_a_node_a_mirror_and_a_stick_in_one_command(
    office: Office, tmp_path: Path
) -> None:
    mine = office.copy(tmp_path / "office")
    node, mirror = node_of(mine), mirror_of(mine)
    stick = tmp_path / "stick"
    stick.mkdir()
    anna = mine.folder / "anna-tls"
    mine.pki("pki", "issue", "operator/anna", mine.trust, "--out", anna)
    first = mine.gateway_folder / "repository"
    # A gateway that signs the first snapshot, by which the node is enrolled, and then is lost.
    with mine.gateway():
        pass
    log = tmp_path / "log"
    with (
        process(log, "node", "run", "--root", node.prefix),
        process(log, "mirror", "run", mirror),
    ):
        door = ports(node.run / "ports.json")["door"]
        shown = ports(mirror / "ports.json")["door"]
        assert verb("node", "apply", "--root", node.prefix, first, "--plain-exit").code in (0, 3, 5)
        until((node.state / "enrolled.json").exists, what="the first look")
        done = verb(
            "trust", "revoke", mine.trust, "--env", ENV, "--plan", PLAN, "--reason", "bad build",
            "--sign", mine.trust / "keys" / "bob.key", "--passphrase-file", mine.passphrase,
            "--direct", f"node/{node_id(node)}@127.0.0.1:{door}",
            "--direct", f"mirror/m1@127.0.0.1:{shown}", "--direct", stick, "--identity", anna,
        )  # fmt: skip
        assert done.code == 0, done.told
        sent = done.body["delivered"]
        assert [one["problem"] for one in sent] == ["", "", ""]
        assert union(node) == {PLAN}
        listing = json.loads((mirror / "public" / "metadata" / "trust.json").read_text())
        newest = TrustFolder.open(mine.trust).roles()[layout.REVOCATIONS]
        assert listing["roles"][layout.REVOCATIONS] == newest
        # A wrong one: two of the fleet's keyholders lift it, by the stick and by the door.
        lifted = mine.pki("trust", "lift", mine.trust, "--env", ENV, "--plan", PLAN,
                          *mine.signs())  # fmt: skip
        assert lifted.body["dropped"]["plans"] == [PLAN]
        told = verb("trust", "deliver", mine.trust, "--to", stick)
        assert told.code == 0, told.told
        found = verb("node", "trust", "--root", node.prefix, stick)
        assert (found.code, set(found.body["taken"])) == (0, {f"fleet-{ENV}"})
        assert union(node) == set()
        by_folder = verb("mirror", "trust", mirror, stick)
        assert (by_folder.code, set(by_folder.body["taken"])) == (0, {f"fleet-{ENV}"})
        # The running mirror shows it without being asked.
        assert verb("mirror", "trust", mirror, stick).body["taken"] == {}
        nothing = verb("trust", "deliver", mine.trust, "--to", f"mirror/m1@127.0.0.1:{shown}",
                       "--identity", anna)  # fmt: skip
        assert nothing.body["targets"][0]["taken"] == {}
    # No agent runs: the verb is the node's apply for a moment.
    assert verb("node", "trust", "--root", node.prefix, stick).body["taken"] == {}


def node_id(paths: Paths) -> str:
    line = next(one for one in paths.node_toml.read_text().splitlines() if one.startswith("id"))
    return line.partition('"')[2].rstrip('"')


def test_a_gateway_restored_from_a_backup_goes_on_from_what_a_mirror_shows(
    office: Office, tmp_path: Path
) -> None:
    mine = office.copy(tmp_path / "office")
    with mine.gateway() as running:
        old = running.held.repository.view().roles["timestamp"].version
    backup = tmp_path / "backup"
    shutil.copytree(mine.gateway_folder, backup, symlinks=True)
    for number in range(3):
        mine.pki("trust", "revoke", mine.trust, "--env", ENV, "--plan", f"{number:064x}",
                 "--sign", mine.trust / "keys" / "bob.key")  # fmt: skip
        with mine.gateway() as running:
            mine.as_person("anna", running.port)
            assert mine.verb("trust", "submit", mine.trust, person="anna").code == 0
            seen = running.held.repository.view().roles["timestamp"].version
    assert seen > old + 1
    # What every mirror shows; then the disk dies, and last week's backup is put back.
    public = tmp_path / "public"
    shutil.copytree(mine.gateway_folder / "repository", public)
    shutil.rmtree(mine.gateway_folder)
    shutil.copytree(backup, mine.gateway_folder, symlinks=True)
    with mine.gateway() as running:
        assert running.held.repository.view().roles["timestamp"].version <= seen
    shutil.copytree(public, mine.gateway_folder / "repository", dirs_exist_ok=True)
    with mine.gateway() as running:
        view = running.held.repository.view()
        assert view.roles["timestamp"].version >= seen
        newest = TrustFolder.open(mine.trust).roles()[layout.REVOCATIONS]
        assert view.roles[layout.REVOCATIONS].version == newest
        mine.as_person("anna", running.port)
        mine.pki("trust", "revoke", mine.trust, "--env", ENV, "--plan", PLAN,
                 "--sign", mine.trust / "keys" / "bob.key")  # fmt: skip
        assert mine.verb("trust", "submit", mine.trust, person="anna").code == 0
        assert running.held.repository.view().roles["timestamp"].version > seen
