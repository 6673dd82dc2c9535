"""Log-in at a real gateway over real TLS: how an operator comes in, and what he keeps of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from embrasure.clock import now
from embrasure.errors import Misuse, Refused
from gateway.config import read_config, write_config
from gateway.context import read_context
from gateway.logging_in import check_answer
from pki import ca
from pki.folder import TrustFolder
from pki.leaf import chain_of
from pki.passphrase import PassphraseSource
from tests.ablation import Ablation
from tests.simulate.logindoor import Door, key, log_in_door, with_log_in
from tests.simulate.office import PASSPHRASE, Answer, Office, verb


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    return with_log_in(tmp_path_factory.mktemp("office") / "first")


@pytest.fixture
def door(office: Office, tmp_path: Path) -> Iterator[Door]:
    with log_in_door(office.copy(tmp_path / "office")) as found:
        yield found


def test_an_operator_without_a_certificate_logs_in_and_works(door: Door) -> None:
    folder = door.context("anna")
    context = folder / "context.toml"
    said = context.read_text()
    context.write_text("\n".join(one for one in said.splitlines() if "login =" not in one) + "\n")
    nowhere = door.login("anna")
    assert (nowhere.code, "--at" in nowhere.error["hint"]) == (2, True)
    twice = door.office.verb("login", "--key", folder / "other.key", person="anna", signs=True)
    assert (twice.code, twice.error["got"]) == (2, "--key")  # never the context's in silence
    done = door.office.verb("login", "--at", door.address, person="anna", signs=True)
    assert done.code == 0, done.told
    context.write_text(said)
    done = door.login("anna")
    assert done.code == 0, done.told
    assert done.body["identity"] == "operator/anna"
    (leaf, _) = x509.load_pem_x509_certificates((folder / "tls.crt").read_bytes())
    assert 9 * 3600 < (leaf.not_valid_after_utc - now()).total_seconds() <= 10 * 3600
    assert (folder / "tls.key").stat().st_mode & 0o777 == 0o600
    who = door.office.verb("whoami", person="anna")
    assert (who.code, who.body["certificate"]["serial"]) == (0, done.body["serial"])
    assert who.body["roles"][0]["approves"] == {"shop": "2 of 3"}
    assert [one["id"] for one in who.body["roles"][0]["keys"]] == [done.body["signed_by"]]
    notes = [line for line in door.running.held.journal.lines(0, 500) if b'"login"' in line]
    assert len(notes) == 2 and b"operator/anna" in notes[1] and b"127.0.0.1" in notes[1]


def first(door: Door, out: Path, *, person: str = "ben") -> Answer:
    """Return how a first log-in ended, of somebody who has the public files and his key."""
    trust = door.office.trust
    return verb(
        "login", "--out", out, "--person", person, "--key", trust / "keys" / "ben.key",
        "--domain", "office.test", "--gateway", f"127.0.0.1:{door.running.port}",
        "--at", door.address, "--anchor", trust / "anchor.json",
        "--admin-issuer", trust / "ca" / "admin.crt",
        "--passphrase-file", door.office.passphrase,
    )  # fmt: skip


def test_the_first_log_in_makes_the_folder_and_a_refused_one_leaves_none(door: Door) -> None:
    out = door.office.folder / "ben"
    wrong = first(door, out, person="anna")
    assert (wrong.code, out.exists()) == (3, False)
    done = first(door, out)
    assert done.code == 0, done.told
    assert door.office.verb("whoami", person="ben").body["person"] == "ben"
    again = first(door, out)
    assert (again.code, again.error["got"]) == (2, "one with a context")
    half = verb("login", "--out", door.office.folder / "x", "--person", "ben")
    assert half.code == 2
    for flag in ("--key", "--domain", "--gateway", "--at", "--anchor", "--admin-issuer"):
        assert flag in half.error["expected"]


@pytest.mark.misuse
def test_nothing_is_signed_for_a_server_that_is_not_the_gateway(
    door: Door, ablation: Ablation
) -> None:
    """Her context knows another issuer, so the server that answers is a stranger's."""
    folder = door.context("anna")
    foreign = door.office.trust / "ca" / "mirror.crt"
    (folder / "admin-ca.pem").write_bytes(foreign.read_bytes())
    before = len(door.running.held.journal.lines(0, 500))
    done = door.login("anna")
    assert (done.code, done.error["reason"]) == (4, "E_CERTIFICATE")
    assert done.error["untouched"] == "nothing was signed"
    assert len(door.running.held.journal.lines(0, 500)) == before
    with ablation("the look at who is there") as attack:
        stranger = door.server()
        attack.without("gateway.logging_in.seen_leaf", lambda *_, **__: stranger)
        attack.succeeded(door.login("anna").code == 0)


def test_an_answer_that_is_not_ours_is_not_kept(door: Door) -> None:
    folder = door.context("anna")
    context = read_context(folder)
    trust = TrustFolder.open(door.office.trust)
    source = PassphraseSource(lambda _: PASSPHRASE.encode(), tries=1)
    issuer, mine = trust.issuer("operator", source), key()

    def answer(name: str, public: object) -> bytes:
        return chain_of(ca.issue_leaf(f"operator/{name}", public, issuer, now), issuer)

    good = check_answer(answer("anna", mine.public_key()), mine, context, clock=now)
    assert ca.raw_public(good.public_key()) == ca.raw_public(mine.public_key())
    for name, public in (("ben", mine.public_key()), ("anna", key().public_key())):
        with pytest.raises(Refused):
            check_answer(answer(name, public), mine, context, clock=now)
    with pytest.raises(Refused):
        check_answer(b"-----BEGIN", mine, context, clock=now)
    text = (folder / "context.toml").read_text()
    (folder / "context.toml").write_text(text[: text.index("login = ")])
    assert (door.login("anna").code, (folder / "tls.crt").exists()) == (2, False)


def test_nobody_there_is_unavailable(door: Door) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    door.context("anna", port)
    assert door.login("anna").code == 5


def test_a_gateway_that_exists_gets_its_log_in_port_later(office: Office, tmp_path: Path) -> None:
    mine = office.copy(tmp_path / "office")
    folder = mine.folder / "g2"
    assert verb("gateway", "init", folder, "--trust", mine.trust).code == 0
    assert read_config(folder).login is None
    assert not (folder / "keys" / "operator-ca.key").exists()
    again = ("gateway", "init", folder, "--trust", mine.trust)
    assert verb(*again, "--login", "127.0.0.1:0").code == 0
    assert read_config(folder).login == "127.0.0.1:0"
    assert (folder / "keys" / "operator-ca.key").exists()
    assert verb(*again).code == 0
    assert read_config(folder).login == "127.0.0.1:0"


def test_the_port_and_its_issuer_are_set_together(office: Office, tmp_path: Path) -> None:
    config = read_config(office.gateway_folder)
    assert config.login == "127.0.0.1:0" and config.issuers.operator is not None
    write_config(tmp_path, msgspec.structs.replace(config, login=None))
    with pytest.raises(Misuse, match="together"):
        read_config(tmp_path)
