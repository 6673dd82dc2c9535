"""Secrets as a person types them, at a real gateway that never sees a plaintext."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest

from embrasure.errors import NotFound
from embrasure.fs import read_file
from embrasure.secret.keys import OpeningKey
from embrasure.secret.sealed import Me, open_sealed, parse_sealed
from embrasure.trust import layout
from embrasure.trust.directory import parse_shard
from embrasure.trust.documents import write
from embrasure.trust.view import View
from gateway.client import AdminClient
from gateway.recipients import from_gateway
from gateway.repository import Repository
from pki import sealing
from pki.recipients import Recipients
from tests.ablation import Ablation
from tests.simulate.ceremony import NewNode
from tests.simulate.office import APP, ENV, Answer, Office, Running, verb
from tests.source import TOP

PLAIN = b"hunter2-of-the-shop"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Office, list[NewNode]]:
    office = Office.make(tmp_path_factory.mktemp("office") / "first", nodes=0)
    nodes = office.enrol(range(2))
    key = office.folder / "recovery.key"
    office.pki("secret", "recovery", "generate", key, "--trust", office.trust, "--kdf", "moderate")
    office.pki("secret", "recovery", "adopt", office.trust, "--env", ENV, "--public",
               f"{key}.pub", *office.signs())  # fmt: skip
    value = office.folder / "value"
    value.touch(mode=0o600)
    value.write_bytes(PLAIN)
    return office, nodes


@pytest.fixture
def mine(made: tuple[Office, list[NewNode]], tmp_path: Path) -> Office:
    return made[0].copy(tmp_path / "office")


@pytest.fixture
def nodes(made: tuple[Office, list[NewNode]]) -> list[NewNode]:
    return made[1]


def staffed(office: Office, running: Running) -> None:
    for person in ("anna", "ben", "carl"):
        office.as_person(person, running.port)


def bundle(office: Office, version: str, *names: str) -> Path:
    """Return a bundle whose release names secrets."""
    source, out = office.folder / f"src-{version}", office.folder / f"shop-{version}.bundle"
    (source / "code").mkdir(parents=True)
    script = source / "code" / "main"
    script.write_text(f"#!/bin/sh\n# {version}\n")
    script.chmod(0o755)
    tables = "".join(f'[[secrets]]\nname = "{name}"\n' for name in names)
    (source / "app.toml").write_text(
        f'app = "{APP}"\nversion = "{version}"\n[run]\nargv = ["code/main"]\nports = ["web"]\n'
        f'[[probes]]\nkind = "tcp"\nport = "web"\n{tables}'
    )
    found = verb("release", "build", source, "--out", out)
    assert found.code == 0, found.told
    return out


def seal(office: Office, out: str, *more: object, version: int = 1) -> Path:
    """Return a file that `secret seal` made by the operator's context."""
    file = office.folder / out
    found = office.verb("secret", "seal", "db", "--env", ENV, "--app", APP, "--version", version,
                        "--from", office.folder / "value", "--out", file, *more,
                        person="anna")  # fmt: skip
    assert found.code == 0, found.told
    return file


def propose(office: Office, folder: Path, *flags: object) -> Answer:
    return office.verb("release", "propose", folder, "--plan", office.plan_file(), *flags,
                       person="anna", signs=True)  # fmt: skip


def holding(folder: Path, needle: bytes) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and needle in p.read_bytes()]


@pytest.mark.timeout(120)
def test_a_secret_from_a_file_to_a_published_release(mine: Office, nodes: list[NewNode]) -> None:
    with mine.gateway() as running:
        staffed(mine, running)
        file = seal(mine, "db.json")
        sealed = parse_sealed(file.read_bytes())
        assert [one.recipient for one in sealed.stanzas] == [
            *sorted(node.id for node in nodes), "recovery",
        ]  # fmt: skip
        for node in nodes:
            assert open_sealed(sealed, Me(node.id, node.seal, 1)) == PLAIN

        release = bundle(mine, "1.0", "db")
        strange = propose(mine, bundle(mine, "0.9"), "--secret", file)
        assert (strange.code, strange.error["thing"]) == (2, "--secret")
        lacking = propose(mine, release)
        assert (lacking.code, lacking.error["thing"]) == (2, "secret db")
        proposed = propose(mine, release, "--secret", file)
        assert proposed.code == 0, proposed.told
        assert proposed.body["secrets"] == ["db v1"]
        shown = mine.approve(str(proposed.body["plan"]), person="ben")
        assert shown.code == 0, shown.told
        assert f"db v1: 3 recipients, new, sha256:{sealed.sha256}" in shown.told
        assert all(node.id in shown.told for node in nodes)
        assert mine.approve(str(proposed.body["plan"]), person="carl").code == 0
        started = mine.verb("rollout", "start", "--plan", proposed.body["plan"], "--detach",
                            person="ben")  # fmt: skip
        assert started.code == 0, started.told

        role = running.held.repository.view().role("prod-shop")
        assert role is not None
        path = layout.secret_path(ENV, APP, sealed.sha256)
        assert role.targets[path].sha256 == sealed.sha256
        assert running.held.repository.document("prod-shop", path, limit=10**6) == file.read_bytes()
        listed = mine.verb("secret", "list", "--env", ENV, "--app", APP, person="ben")
        rows: Any = listed.body["secrets"]
        assert [(row["name"], row["missing"], row["extra"]) for row in rows] == [("db", [], [])]
        # The next release keeps what it does not bring.
        mine.verb("rollout", "abort", started.body["id"], "--reason", "test", person="ben")
        again = propose(mine, bundle(mine, "1.1", "db"))
        assert again.code == 0, again.told
        shown = mine.approve(str(again.body["plan"]), person="ben")
        assert "db v1: 3 recipients, as it runs now" in shown.told
    # Its database, its journal, its blobs, what it publishes: only sealed bytes.
    assert holding(mine.gateway_folder, sealed.payload[:60].encode())
    assert holding(mine.gateway_folder, PLAIN) == []
    assert holding(mine.folder / "anna", PLAIN) == []


@pytest.mark.timeout(120)
def test_a_replaced_node_is_rewrapped_and_every_approver_is_told(
    mine: Office, nodes: list[NewNode]
) -> None:
    with mine.gateway() as running:
        staffed(mine, running)
        old = seal(mine, "db.json")
        (new,) = mine.enrol(range(5, 6))
        mine.pki("trust", "deny", mine.trust, "--env", ENV, "--node", nodes[0].id, *mine.signs())
        assert mine.verb("trust", "submit", mine.trust, person="anna").code == 0
        # The old file: nobody may sign that it goes to a denied node.
        release = bundle(mine, "1.0", "db")
        stale = propose(mine, release, "--secret", old)
        assert (stale.code, stale.error["reason"]) == (3, "E_RECIPIENTS")
        rows: Any = mine.verb("secret", "list", old, person="anna").body["secrets"]
        assert (rows[0]["missing"], rows[0]["extra"]) == ([new.id], [nodes[0].id])

        out = mine.folder / "new"
        found = mine.verb("secret", "rewrap", old, "--recovery-key", mine.folder / "recovery.key",
                          "--out", out, person="anna", signs=True)  # fmt: skip
        assert (found.code, found.body["rotate"]) == (0, ["db"]), found.told
        again = parse_sealed((out / "db-v1.sealed.json").read_bytes())
        assert again.payload == parse_sealed(old.read_bytes()).payload
        assert open_sealed(again, Me(new.id, new.seal, 1)) == PLAIN
        assert again.stanza(nodes[0].id) is None
        good = propose(mine, release, "--secret", out / "db-v1.sealed.json")
        assert good.code == 0, good.told
    assert holding(mine.gateway_folder, PLAIN) == []
    opened = mine.folder / "opened"
    mine.pki("secret", "open", out / "db-v1.sealed.json", "--recovery-key",
             mine.folder / "recovery.key", "--out", opened)  # fmt: skip
    assert read_file(opened, limit=100, private=True) == PLAIN


@pytest.mark.timeout(120)
def test_the_trust_folder_gives_the_same_recipients_without_a_gateway(
    mine: Office, nodes: list[NewNode]
) -> None:
    file = mine.folder / "db.json"
    made = verb("secret", "seal", "db", "--env", ENV, "--app", APP, "--version", 2, "--from",
                mine.folder / "value", "--out", file, "--trust", mine.trust)  # fmt: skip
    assert made.code == 0, made.told
    rows: Any = made.body["recipients"]
    assert [row["to"] for row in rows] == [*sorted(node.id for node in nodes), "recovery"]
    assert all(row["fingerprint"][:4] in made.told for row in rows)
    again = verb("secret", "list", file, "--trust", mine.trust)
    assert again.body["secrets"][0]["recipients"] == 3
    refused = verb("secret", "seal", "db", "--env", ENV, "--app", "till", "--version", 1,
                   "--from", mine.folder / "value", "--trust", mine.trust)  # fmt: skip
    assert (refused.code, refused.error["reason"]) == (3, "E_NO_APP")


@pytest.mark.misuse
@pytest.mark.timeout(120)
def test_a_gateway_that_swaps_a_nodes_key_gets_nothing_sealed_to_it(
    mine: Office, nodes: list[NewNode], ablation: Ablation
) -> None:
    thief, victim = OpeningKey.generate(), nodes[0]
    with mine.gateway() as running:
        staffed(mine, running)
        repository = running.held.repository
        path = layout.shard_path(ENV, "00")
        raw = repository.document("fleet-prod", path, limit=10**6)
        entries = [
            msgspec.structs.replace(entry, hpke=thief.public(epoch=1))
            if entry.id == victim.id else entry
            for entry in parse_shard(raw).entries
        ]  # fmt: skip
        listed = repository.view().target("fleet-prod", path)
        assert listed is not None
        file = repository.folder / layout.target_file(path, listed.sha256)
        file.chmod(0o600)
        file.write_bytes(write(msgspec.structs.replace(parse_shard(raw), entries=tuple(entries))))
        found = mine.verb("secret", "seal", "db", "--env", ENV, "--app", APP, "--version", 1,
                          "--from", mine.folder / "value", "--out", mine.folder / "x.json",
                          person="anna")  # fmt: skip
        assert found.code == 4, found.told
        assert not (mine.folder / "x.json").exists()
        with ablation("the digest in fleet-prod") as attack:
            attack.without("embrasure.trust.client.TrustClient.target", _unverified(repository))
            with AdminClient.open(mine.context("anna")) as client:
                to = from_gateway(client, client.grounds(ENV, APP))
            sealed = parse_sealed(sealing.seal(PLAIN, name="db", version=1, to=to))
            attack.succeeded(open_sealed(sealed, Me(victim.id, thief, 1)) == PLAIN)


def _unverified(repository: Repository) -> object:
    """Return what reads a listed file and believes it."""

    def target(_: object, view: View, role: str, path: str, source: object, *, limit: int) -> bytes:
        listed = view.target(role, path)
        if listed is None:
            raise NotFound(path, expected="a target", got="none")
        return (repository.folder / layout.target_file(path, listed.sha256)).read_bytes()

    return target


@pytest.mark.misuse
@pytest.mark.timeout(120)
def test_no_approver_signs_a_secret_for_a_key_that_is_not_the_directorys(
    mine: Office, nodes: list[NewNode], ablation: Ablation
) -> None:
    """A proposer with his own tools seals to a denied node; the gateway is in league with him."""
    with mine.gateway() as running:
        staffed(mine, running)
        with AdminClient.open(mine.context("anna")) as client:
            to = from_gateway(client, client.grounds(ENV, APP))
        friend = OpeningKey.generate()
        wider = Recipients(to.root, to.env, to.app, tuple(sorted(
            [*to.keys, ("n-" + "z" * 26, friend.public(epoch=1))])))  # fmt: skip
        file = mine.folder / "wide.json"
        file.write_bytes(sealing.seal(PLAIN, name="db", version=1, to=wider))
        release = bundle(mine, "1.0", "db")
        refused = propose(mine, release, "--secret", file)
        assert (refused.code, refused.error["reason"]) == (3, "E_RECIPIENTS")
        with pytest.MonkeyPatch.context() as league:
            # His own program, and the gateway's, do not ask.
            league.setattr("gateway.proposing.check_fit", lambda _: None)
            league.setattr("gateway.proposals.check_fit", lambda _: None)
            proposed = propose(mine, release, "--secret", file)
            assert proposed.code == 0, proposed.told
            plan = str(proposed.body["plan"])
            honest = mine.approve(plan, person="ben")
            assert (honest.code, honest.error["reason"]) == (3, "E_RECIPIENTS")
            assert "is sealed to n-zzz" in honest.told
            with ablation("the approver's look at the recipients") as attack:
                attack.without("gateway.approving.check_fit")
                signed = mine.approve(plan, person="ben")
                sealed = parse_sealed(file.read_bytes())
                opened = open_sealed(sealed, Me("n-" + "z" * 26, friend, 1))
                attack.succeeded(signed.code == 0 and opened == PLAIN)


@pytest.mark.timeout(120)
def test_the_commands_of_the_page_do_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    office = Office.make(tmp_path / "office", nodes=2)
    page = (TOP / "docs" / "secrets.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert len(lines) == 8
    value = office.folder / "db.txt"
    value.touch(mode=0o600)
    value.write_bytes(PLAIN)
    bundle(office, "1.1", "db")
    office.plan_file()
    monkeypatch.chdir(office.folder)
    with office.gateway() as running:
        staffed(office, running)
        early = office.verb("secret", "seal", "db", "--env", ENV, "--app", APP, "--version", 1,
                            "--from", value, person="anna")  # fmt: skip
        assert (early.code, early.error["reason"]) == (3, "E_NO_RECOVERY")
        nothing = office.verb("secret", "list", person="anna")
        assert (nothing.code, nothing.error["thing"]) == (2, "secret list")
        secret = ["--passphrase-file", str(office.passphrase)]
        for line in lines:
            asks = any(word in line for word in ("generate", "--sign", "propose", "--recovery-key"))
            cheap = ["--kdf", "moderate"] if "generate" in line else []
            words = [*line[1:], *cheap, *(secret if asks else [])]
            found = verb(*words, "--context", office.context("anna"))
            assert found.code == 0, (line, found.told)
    assert (office.folder / "db.opened").read_bytes() == PLAIN
