"""`embrasure gateway run` as a process: it starts, stops, is killed, and goes on."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.records import parse_event
from pki import keyfile
from tests.ablation import Ablation
from tests.simulate.office import Office, verb
from tests.simulate.running import PROGRAM, until


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    found = Office.make(tmp_path_factory.mktemp("office") / "first", nodes=1)
    assert found.init().code == 0
    return found


@contextmanager
def process(office: Office) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    ports = office.gateway_folder / "ports.json"
    ports.unlink(missing_ok=True)
    words = ["gateway", "run", office.gateway_folder, "--passphrase-file", office.passphrase]
    log = (office.folder / "gateway.log").open("ab")
    running = subprocess.Popen(
        [*PROGRAM, *map(str, words)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )
    try:

        def ready() -> int:
            if running.poll() is not None:
                raise AssertionError((office.folder / "gateway.log").read_text())
            return int(json.loads(ports.read_text())["admin"]) if ports.exists() else 0

        yield running, until(ready, seconds=40, what="the gateway")
    finally:
        running.kill()
        running.wait()
        log.close()


def test_a_gateway_is_killed_and_goes_on_where_it_was(office: Office, tmp_path: Path) -> None:
    mine = office.copy(tmp_path / "office")
    with process(mine) as (running, port):
        for person in ("anna", "ben", "carl"):
            mine.as_person(person, port)
        plan = mine.propose().body["plan"]
        assert mine.approve(plan, person="ben").code == 0
        running.send_signal(signal.SIGKILL)
        running.wait()
    # As if the kill had come between an intent and its outcome.
    journal = mine.gateway_folder / "state" / "audit.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    last = parse_event(lines[-1][:-1])
    assert (last.act, last.phase) == ("approve", "outcome")
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    import sqlite3

    with sqlite3.connect(mine.gateway_folder / "state" / "gateway.sqlite") as database:
        database.execute("DELETE FROM events WHERE n = ?", [last.n])
    database.close()
    with process(mine) as (running, port):
        for person in ("anna", "ben", "carl"):
            mine.as_person(person, port)
        answer = mine.approve(plan, person="carl")
        assert (answer.code, answer.body["state"]) == (0, "approved")
        assert answer.body["approved_by"] == ["ben", "carl"]
        assert mine.verb("audit", "verify", person="ben").code == 0
        records = mine.verb("audit", "show", person="ben").body["lines"]
        ended = [parse_event(line.encode()) for line in records if '"unknown"' in line]
        assert [(event.act, event.phase) for event in ended] == [("approve", "outcome")]
        running.terminate()
        assert running.wait(20) == 0
    assert not (mine.gateway_folder / "ports.json").exists()


def test_a_wrong_passphrase_is_told_and_nothing_serves(office: Office, tmp_path: Path) -> None:
    mine = office.copy(tmp_path / "office")
    mine.passphrase.write_text("another passphrase than that\n")
    found = verb("gateway", "run", mine.gateway_folder, "--passphrase-file", mine.passphrase)
    assert (found.code, found.error["reason"]) == (3, "E_PASSPHRASE")
    assert not (mine.gateway_folder / "ports.json").exists()


@pytest.mark.misuse
def test_key_files_that_others_may_read_are_refused(
    office: Office, tmp_path: Path, ablation: Ablation
) -> None:
    mine = office.copy(tmp_path / "office")
    (mine.gateway_folder / "keys" / "gates-prod.key").chmod(0o640)
    found = verb("gateway", "run", mine.gateway_folder, "--passphrase-file", mine.passphrase)
    assert (found.code, found.error["reason"]) == (3, "E_PERMISSIONS")
    with ablation("the look at the mode of each file") as attack:
        key, phrase = mine.gateway_folder / "keys" / "gates-prod.key", mine.passphrase.read_bytes()
        attack.succeeded(keyfile.open_bytes(key.read_bytes(), phrase.strip()).signer)


def test_no_offline_key_travels_to_the_gateway(office: Office) -> None:
    held = {path.name for path in office.gateway_folder.rglob("*.key")}
    assert held == {
        "snapshot.key",
        "timestamp.key",
        "gates-prod.key",
        "collect.key",
        "gateway-ca.key",
        "admin-ca.key",
        "node-ca.key",
        "mirror-ca.key",
    }
    modes = {path.stat().st_mode & 0o777 for path in office.gateway_folder.rglob("*.key")}
    assert modes == {0o600}
    assert office.gateway_folder.stat().st_mode & 0o777 == 0o700


def test_a_setting_that_is_not_known_stops_the_start(office: Office, tmp_path: Path) -> None:
    mine = office.copy(tmp_path / "office")
    file = mine.gateway_folder / "gateway.toml"
    file.write_text("verify = false\n" + file.read_text())
    found = verb("gateway", "run", mine.gateway_folder, "--passphrase-file", mine.passphrase)
    assert found.code == 2
    assert "verify" in found.error["thing"]
