"""Doctor on real folders of every kind: what is whole is quiet, each fault is found and mended."""

from __future__ import annotations

import json
import shlex
import subprocess
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from embrasure.clock import now
from embrasure.trust.floors import FloorStore
from gateway.config import read_config
from mirror import care as mirror_care
from node import care as node_care
from node.journal import Journal
from node.states import State
from tests.simulate.installer import SimInstaller
from tests.simulate.office import Answer, Office, verb


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    made = Office.make(tmp_path_factory.mktemp("office") / "first", nodes=1)
    assert made.init().code == 0
    return made


@pytest.fixture
def mine(office: Office, tmp_path: Path) -> Office:
    return office.copy(tmp_path / "office")


def doctor(*folders: object) -> list[tuple[str, str]]:
    """Return (check, thing) of each finding; no passphrase is ever given."""
    found = verb("doctor", *folders)
    assert found.code == (1 if found.body["findings"] else 0)
    assert all(row["fix"] and "\n" not in row["fix"] for row in found.body["findings"])
    return [(row["check"], Path(row["thing"]).name) for row in found.body["findings"]]


def fixes(folder: object) -> list[str]:
    return [row["fix"] for row in verb("doctor", folder).body["findings"]]


def test_whole_folders_are_quiet_and_one_call_looks_at_several(mine: Office) -> None:
    found: Answer = verb("doctor", mine.trust, mine.gateway_folder)
    assert (found.code, found.body["ok"]) == (0, True)
    assert [one["kind"] for one in found.body["looked"]] == ["trust", "gateway"]


def test_loose_keys_are_found_and_the_fix_mends_them(mine: Office) -> None:
    loose = [mine.trust / "keys" / "alice.key", mine.gateway_folder / "keys" / "snapshot.key"]
    for file in loose:
        file.chmod(0o644)
    found = doctor(mine.trust, mine.gateway_folder)
    assert found == [("permissions", "alice.key"), ("permissions", "snapshot.key")]
    for fix in [*fixes(mine.trust), *fixes(mine.gateway_folder)]:
        subprocess.run(shlex.split(fix), check=True)
    assert doctor(mine.trust, mine.gateway_folder) == []


def test_a_trust_folder_that_does_not_verify_is_one_finding_and_others_are_still_looked_at(
    mine: Office,
) -> None:
    for target in (mine.trust / "targets" / "fleet" / "prod").glob("*.policy.json"):
        target.write_bytes(b"{}")
    (mine.gateway_folder / "keys" / "timestamp.key").chmod(0o640)
    found = doctor(mine.trust, mine.gateway_folder)
    assert [check for check, _ in found] == ["read", "permissions"]


def test_half_made_drafts_and_broken_key_files_are_found(mine: Office) -> None:
    (mine.trust / "drafts" / "targets").mkdir(parents=True)
    (mine.trust / "drafts" / "what-ever.txt").mkdir()
    (mine.trust / "keys" / "bob.key").write_bytes(b"{")
    (mine.trust / "metadata" / f".{'a' * 32}.new").write_bytes(b"")
    found = doctor(mine.trust)
    assert sorted(found) == sorted(
        [
            ("half-made", "bob.key"),
            ("half-made", "draft of targets"),
            ("half-made", "what-ever.txt"),
            ("half-made", f".{'a' * 32}.new"),
        ]
    )


def test_a_gateway_without_a_key_that_it_names_is_found(mine: Office) -> None:
    (mine.gateway_folder / "keys" / "gates-prod.key").unlink()
    (mine.gateway_folder / "incoming").mkdir()
    assert doctor(mine.gateway_folder) == [
        ("half-made", "incoming"),
        ("half-made", "gates-prod.key"),
    ]


def test_a_running_gateway_is_quiet_and_one_that_died_is_not(mine: Office) -> None:
    with mine.gateway() as running:
        folder = mine.as_person("anna", running.port).parent
        assert doctor(mine.gateway_folder, folder) == []
        ports = (mine.gateway_folder / "ports.json").read_bytes()
    assert doctor(folder) == [("ports", "gateway")]
    (mine.gateway_folder / "ports.json").write_bytes(ports)
    assert doctor(mine.gateway_folder) == [("ports", "ports.json")]


def test_a_clock_behind_the_gateways_signatures_is_found(mine: Office) -> None:
    ahead = timedelta(hours=2)
    with mine.gateway(clock=lambda: now() + ahead):
        pass
    found = verb("doctor", mine.gateway_folder)
    (row,) = [row for row in found.body["findings"] if row["check"] == "clock"]
    assert row["fix"] == "timedatectl set-ntp true"
    assert read_config(mine.gateway_folder).login is None


def test_an_operators_folder_is_looked_at(mine: Office) -> None:
    folder = mine.as_person("anna", 9).parent
    assert doctor(folder) == [("ports", "gateway")]
    (folder / "tls.key").chmod(0o604)
    (folder / "anchor.json").chmod(0o666)
    assert doctor(folder)[:2] == [("permissions", "tls.key"), ("permissions", "anchor.json")]
    (folder / "tls.key").chmod(0o600)
    (folder / "anchor.json").chmod(0o644)
    (folder / "tls.crt").write_bytes((mine.trust / "ca" / "admin.crt").read_bytes())
    assert ("half-made", "anna") in doctor(folder)
    (folder / "tls.crt").unlink()
    assert ("half-made", "anna") in doctor(folder)
    text = (folder / "context.toml").read_text().replace("anna.key", "gone.key")
    (folder / "context.toml").write_text(text)
    assert ("half-made", "gone.key") in doctor(folder)


def test_a_node_is_looked_at(tmp_path: Path) -> None:
    bench = SimInstaller(tmp_path)
    try:
        folder = bench.paths.prefix
        assert node_care.findings(folder, now()) == []
        bench.publish("1.0")
        assert bench.poll() == "committed"
        assert node_care.findings(folder, now()) == []
        entry = Journal(bench.paths).read(bench.app)
        assert entry.record is not None
        Journal(bench.paths).write(msgspec.structs.replace(entry.record, state=State.PROBING))
        (stopped,) = node_care.findings(folder, now())
        assert (stopped.check, stopped.thing) == ("half-made", "shop")
        store = FloorStore(bench.paths.floors)
        store.save(msgspec.structs.replace(store.load(), time=int(now().timestamp()) + 7200))
        assert "clock" in {one.check for one in node_care.findings(folder, now())}
        for name in ("a", "b"):
            (bench.paths.floors / name).write_bytes(b"{")
        assert "clock" not in {one.check for one in node_care.findings(folder, now())}
        bench.paths.journal.joinpath("shop.json").write_bytes(b"{")
        bench.paths.journal.joinpath("shop.prev").write_bytes(b"{")
        bench.paths.enrolled.unlink()
        what = {one.what for one in node_care.findings(folder, now())}
        assert {"is not enrolled", "its state record cannot be read"} <= what
        bench.paths.receipt_key.chmod(0o644)
        checks = {one.check for one in node_care.findings(folder, now())}
        assert {"permissions", "read"} <= checks
    finally:
        bench.close()


def test_a_letterbox_is_looked_at(mine: Office) -> None:
    tls, folder = mine.folder / "tls", mine.folder / "box"
    mine.pki("pki", "issue", "letterbox/l1", mine.trust, "--out", tls)
    done = verb("letterbox", "init", folder, "--name", "l1", "--domain", "office.test", "--env",
                "prod", "--trust-anchor", mine.trust / "anchor.json", "--tls", tls,
                "--gateway-issuer", mine.trust / "ca" / "gateway.crt")  # fmt: skip
    assert done.code == 0, done.told
    assert doctor(folder) == []
    (folder / "gateway-issuer.pem").unlink()
    (folder / "ports.json").write_text(json.dumps({"ingest": 1}))
    assert doctor(folder) == [("ports", "ports.json"), ("half-made", "gateway-issuer.pem")]


def test_a_mirror_that_shows_what_expired_says_which_role(mine: Office) -> None:
    with mine.gateway():
        pass
    public = mine.gateway_folder / "repository"
    shown = {role for role, _, _ in mirror_care.shown_roles(public)}
    assert {"timestamp", "snapshot", "targets", "fleet-prod", "revocations"} <= shown
    assert list(mirror_care.shown_roles(mine.folder / "nothing")) == []
