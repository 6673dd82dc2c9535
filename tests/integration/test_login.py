"""Log-in at a real gateway over real TLS: what a thief brings, and what it is worth to him."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner, Signer

from embrasure.clock import now
from embrasure.errors import Denied, EmbrasureError, Misuse, Refused, Unavailable
from embrasure.net.certificates import load_certificates, pem_of
from embrasure.net.credentials import pinned_channel
from embrasure.net.seen import seen_leaf
from embrasure.net.source import source_of
from embrasure.net.status import error_of
from embrasure.net.trustbundle import first_trust
from embrasure.trust import dsse, layout
from embrasure.trust.documents import write
from embrasure.trust.policy import parse_policy
from embrasure.wire import admin_pb2, login_pb2
from embrasure.wire.admin_pb2_grpc import AdminStub
from embrasure.wire.login_pb2_grpc import LoginStub
from gateway.client import AdminClient
from gateway.config import read_config, write_config
from gateway.context import read_context
from gateway.logging_in import check_answer, request_of, statement_of
from gateway.login_guard import Nonces, Sources
from pki import ca
from pki.desk import Desk
from pki.folder import TrustFolder
from pki.leaf import chain_of, fresh_leaf
from pki.passphrase import PassphraseSource
from pki.signers import open_signer
from tests.ablation import Ablation
from tests.simulate.office import PASSPHRASE, Answer, Office, Running, verb
from tests.simulate.running import until

HOST = "admin.office.test.internal"


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    made = Office.make(tmp_path_factory.mktemp("office") / "first", nodes=1)
    done = verb("gateway", "init", made.gateway_folder, "--trust", made.trust, "--login",
                "127.0.0.1:0")  # fmt: skip
    assert done.code == 0, done.told
    return made


@dataclass
class Door:
    """A running gateway's log-in port, and the fleet around it."""

    office: Office
    running: Running
    port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def context(self, person: str, port: int = 0) -> Path:
        """Return a context of `person` without any certificate yet."""
        folder = self.office.folder / person
        self.office.pki(
            "pki", "issue", f"operator/{person}", self.office.trust, "--out", folder,
            "--gateway", f"127.0.0.1:{self.running.port}",
            "--login", f"127.0.0.1:{port or self.port}",
            "--key", f"keyfile:{self.office.trust}/keys/{person}.key",
        )  # fmt: skip
        for name in ("tls.key", "tls.crt"):
            (folder / name).unlink()
        return folder

    def login(self, person: str) -> Answer:
        return self.office.verb("login", person=person, signs=True)

    def signer(self, name: str) -> Signer:
        source = PassphraseSource(lambda _: PASSPHRASE.encode(), tries=1)
        return open_signer(f"keyfile:{self.office.trust}/keys/{name}.key", source)

    def server(self) -> x509.Certificate:
        """Return the leaf that the gateway shows."""
        trust = first_trust(
            "office.test",
            "admin",
            load_certificates((self.office.trust / "ca" / "admin.crt").read_bytes(), what="ca"),
        )
        return seen_leaf(self.address, "gateway-admin", trust)

    def envelope(
        self, nonce: bytes, csr: bytes, *, by: Signer, person: str = "anna",
        server: x509.Certificate | None = None,
    ) -> bytes:  # fmt: skip
        said = statement_of(
            root=TrustFolder.open(self.office.trust).root_id, person=person, nonce=nonce, csr=csr,
            server=server or self.server(), clock=now,
        )  # fmt: skip
        return dsse.seal("login", said, by)

    def challenge(self) -> bytes:
        nonce: bytes = self._call("Challenge", login_pb2.ChallengeRequest()).nonce
        return nonce

    def certificate(self, envelope: bytes, csr: bytes) -> list[x509.Certificate]:
        """Return the chain that the gateway gives for these bytes; raises its refusal."""
        request = login_pb2.CertificateRequest(statement=envelope, csr=csr)
        return x509.load_pem_x509_certificates(self._call("Certificate", request).chain)

    def _call(self, method: str, request: object) -> Any:
        async def run() -> Any:
            channel = pinned_channel(self.address, leaf=pem_of(self.server()), host=HOST)
            async with channel:
                try:
                    return await getattr(LoginStub(channel), method)(request, timeout=10)
                except grpc.RpcError as problem:
                    return error_of(problem, thing="login")

        # Returned, not raised: what leaves a loop as an exception keeps its connection open until
        # the garbage is collected, and a hundred of them are more than the port takes at once.
        found = asyncio.run(run())
        if isinstance(found, EmbrasureError):
            raise found
        return found


@pytest.fixture
def door(office: Office, tmp_path: Path) -> Iterator[Door]:
    mine = office.copy(tmp_path / "office")
    with mine.gateway() as running:
        ports = json.loads((mine.gateway_folder / "ports.json").read_text())
        yield Door(mine, running, ports["login"])


def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def refused(door: Door, envelope: bytes, csr: bytes) -> None:
    """It is refused, and the answer says nothing else."""
    with pytest.raises(Denied) as problem:
        door.certificate(envelope, csr)
    assert problem.value.got == "denied"


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
def test_a_log_in_that_was_seen_once_is_worth_nothing_again(door: Door, ablation: Ablation) -> None:
    csr = request_of(key())
    envelope = door.envelope(door.challenge(), csr, by=door.signer("anna"))
    assert door.certificate(envelope, csr)
    refused(door, envelope, csr)
    with ablation("a nonce counts once") as attack:
        attack.without("gateway.login_guard.check_untaken")
        attack.succeeded(door.certificate(envelope, csr))


@pytest.mark.misuse
def test_a_thief_of_a_signed_log_in_gets_no_certificate_for_his_key(
    door: Door, ablation: Ablation
) -> None:
    honest, stolen = request_of(key()), key()
    envelope = door.envelope(door.challenge(), honest, by=door.signer("anna"))
    refused(door, envelope, request_of(stolen))
    with ablation("the request that was signed") as attack:
        attack.without("gateway.login.check_request")
        again = door.envelope(door.challenge(), honest, by=door.signer("anna"))
        leaf, _ = door.certificate(again, request_of(stolen))
        attack.succeeded(ca.raw_public(leaf.public_key()) == ca.raw_public(stolen.public_key()))


@pytest.mark.misuse
def test_another_gateway_cannot_pass_a_log_in_on(door: Door, ablation: Ablation) -> None:
    trust = TrustFolder.open(door.office.trust)
    source = PassphraseSource(lambda _: PASSPHRASE.encode(), tries=1)
    _, chain = fresh_leaf(trust.issuer("admin", source), "gateway-admin/g2", now)
    liar = x509.load_pem_x509_certificates(chain)[0]
    mallory = key()

    def relayed() -> tuple[bytes, bytes]:
        """Anna talks to the liar; he asks her to sign our nonce and his own request."""
        csr = request_of(mallory)
        return door.envelope(door.challenge(), csr, by=door.signer("anna"), server=liar), csr

    refused(door, *relayed())
    with ablation("the certificate that she saw") as attack:
        attack.without("gateway.login.check_gateway")
        attack.succeeded(door.certificate(*relayed()))


@pytest.mark.misuse
def test_a_key_of_nobody_logs_nobody_in(door: Door, ablation: Ablation) -> None:
    """Alice signs directories: metadata lists her key, and no policy gives it to a person."""
    csr = request_of(key())
    stranger = CryptoSigner.generate_ed25519()
    refused(door, door.envelope(door.challenge(), csr, by=stranger), csr)
    for name in ("anna", "alice"):
        mine = door.envelope(door.challenge(), csr, by=door.signer("alice"), person=name)
        refused(door, mine, csr)
    refused(door, door.envelope(door.challenge(), csr, by=door.signer("ben")), csr)
    with ablation("whose key it is") as attack:
        attack.without("gateway.login.check_person")
        mine = door.envelope(door.challenge(), csr, by=door.signer("alice"), person="alice")
        leaf, _ = door.certificate(mine, csr)
        attack.succeeded(b"operator/alice" in ca.der(leaf))


@pytest.mark.misuse
def test_a_policy_alone_gives_nobody_the_name_of_another(door: Door, ablation: Ablation) -> None:
    """A certificate holds in every environment; the keyholders of one must not make it for all."""
    door.context("carl")
    assert door.login("carl").code == 0
    trust = TrustFolder.open(door.office.trust)
    work, path = Desk(trust, now), layout.policy_path("prod")
    rules = parse_policy(work.document("fleet-prod", path))
    keys = {one.id: one.keys for one in rules.people}
    people = tuple(
        msgspec.structs.replace(one, keys=keys["ben"] if one.id == "anna" else one.keys)
        for one in rules.people
        if one.id != "ben"
    )
    work.put("fleet-prod", path, write(msgspec.structs.replace(rules, people=people)))
    work.write()
    for holder in ("alice", "bob"):
        key_file = door.office.trust / "keys" / f"{holder}.key"
        (draft,) = trust.drafts()
        door.office.pki("trust", "sign", trust.path, "--key", key_file, "--no-input",
                        "--confirm-digest", draft.digest)  # fmt: skip
    assert verb("trust", "merge", trust.path).code == 0
    sent = door.office.verb("trust", "submit", trust.path, person="carl")
    assert sent.code == 0, sent.told
    csr = request_of(key())
    refused(door, door.envelope(door.challenge(), csr, by=door.signer("ben")), csr)
    with ablation("whose key it is by targets") as attack:
        attack.without("gateway.login.check_owner")
        leaf, _ = door.certificate(door.envelope(door.challenge(), csr, by=door.signer("ben")), csr)
        attack.succeeded(b"operator/anna" in ca.der(leaf))


@pytest.mark.misuse
def test_a_denied_key_logs_nobody_in(door: Door, ablation: Ablation) -> None:
    for person in ("anna", "ben"):
        door.context(person)
        assert door.login(person).code == 0
    signer = door.signer("anna")
    keyid = signer.public_key.keyid
    office = door.office
    office.pki("trust", "revoke", office.trust, "--env", "prod", "--key", keyid,
               *office.signs()[:2])  # fmt: skip
    sent = office.verb("trust", "submit", office.trust, person="ben")
    assert sent.code == 0, sent.told
    csr = request_of(key())
    refused(door, door.envelope(door.challenge(), csr, by=signer), csr)
    inside = office.verb("status", person="anna")
    assert (inside.code, inside.error["got"]) == (3, "denied keys only")
    assert office.verb("status", person="ben").code == 0
    (mine,) = office.verb("whoami", person="anna").body["roles"]
    assert (mine["rights"], mine["keys"]) == ([], [{"id": keyid, "denied": True}])
    (other,) = office.verb("whoami", person="ben").body["roles"]
    assert "start" in other["rights"] and not other["keys"][0]["denied"]
    with ablation("denied keys, for whoever is inside already") as attack:
        attack.without("gateway.people.check_has_key")
        attack.succeeded(office.verb("status", person="anna").code == 0)
    with ablation("denied keys") as attack:
        attack.without("gateway.login.check_not_denied")
        attack.succeeded(door.certificate(door.envelope(door.challenge(), csr, by=signer), csr))


@pytest.mark.misuse
def test_a_nonce_is_ours_and_young(door: Door, ablation: Ablation) -> None:
    time = [1000.0]
    nonces, others = Nonces(lambda: time[0]), Nonces(lambda: time[0])
    csr = request_of(key())
    refused(door, door.envelope(others.fresh(), csr, by=door.signer("anna")), csr)
    young = nonces.fresh()
    time[0] += 59
    nonces.take(young)
    old = nonces.fresh()
    time[0] += 61
    with pytest.raises(Refused, match="an older one"):
        nonces.take(old)
    changed = (2**63).to_bytes(8, "big") + old[8:]
    with pytest.raises(Refused, match="got another"):
        nonces.take(changed)
    with ablation("the age of a nonce") as attack:
        attack.without("gateway.login_guard.check_age")
        nonces.take(old)
        attack.succeeded(True)


@contextmanager
def relay(source: str, target: int) -> Iterator[int]:
    """Yield a port whose connections reach `target` from the address `source`."""
    ended = threading.Event()
    loop = asyncio.new_event_loop()
    found: list[int] = []
    ready = threading.Event()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", target, local_addr=(source, 0))
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

    async def run() -> None:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        found.append(server.sockets[0].getsockname()[1])
        ready.set()
        while not ended.is_set():
            await asyncio.sleep(0.05)
        server.close()

    worker = threading.Thread(target=loop.run_until_complete, args=(run(),))
    worker.start()
    try:
        assert ready.wait(10)
        yield found[0]
    finally:
        ended.set()
        worker.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


@pytest.mark.misuse
def test_a_hundred_failures_of_one_source_lock_nobody_out(door: Door, ablation: Ablation) -> None:
    csr, stranger = request_of(key()), CryptoSigner.generate_ed25519()
    false = door.envelope(door.challenge(), csr, by=stranger)
    reasons: list[str] = []

    def fail(times: int) -> None:
        for _ in range(times):
            with pytest.raises(EmbrasureError) as problem:
                door.certificate(false, csr)
            reasons.append(problem.value.reason)

    fail(100)
    assert reasons == ["denied"] * 5 + ["paused"] * 95
    with relay("127.0.0.2", door.port) as port:
        door.context("anna", port)
        assert door.login("anna").code == 0
        with pytest.raises(Unavailable):
            door.challenge()
        with ablation("failures counted by source address") as attack:
            attack.without("gateway.login.source_of", lambda _: "everybody")
            fail(5)
            attack.succeeded(door.login("anna").error["reason"] == "E_PAUSED")


@pytest.mark.misuse
def test_the_log_in_port_knows_two_methods_and_says_nothing_of_others(
    door: Door, ablation: Ablation
) -> None:
    def answers() -> list[tuple[str, str]]:
        async def run() -> list[tuple[str, str]]:
            found = []
            channel = pinned_channel(door.address, leaf=pem_of(door.server()), host=HOST)
            async with channel:
                calls = [
                    AdminStub(channel).Whoami,
                    channel.unary_unary("/embrasure.v1.Login/Other"),
                    channel.unary_unary("/grpc.health.v1.Health/Check"),
                ]
                for call, request in zip(calls, (admin_pb2.Empty(), b"", b""), strict=True):
                    try:
                        await call(request, timeout=10)
                    except grpc.aio.AioRpcError as problem:
                        found.append((problem.code().name, problem.details() or ""))
            return found

        return asyncio.run(run())

    assert answers() == [("PERMISSION_DENIED", "denied")] * 3
    with ablation("one answer for every other method") as attack:

        async def as_grpc_does(self: object, continuation: object, details: object) -> object:
            return await continuation(details)  # type: ignore[operator]  # gRPC's own

        attack.without("embrasure.net.anonymous.Anonymous.intercept_service", as_grpc_does)
        attack.succeeded({code for code, _ in answers()} == {"UNIMPLEMENTED"})


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


def test_a_source_is_an_address_and_of_ipv6_a_network() -> None:
    assert source_of("ipv4:10.0.0.1:555") == "10.0.0.1"
    assert source_of("ipv6:%5B2001:db8::1%5D:5") == source_of("ipv6:[2001:db8::ffff]:6")
    assert source_of("ipv6:[::ffff:10.0.0.1]:6") == "10.0.0.1"
    assert source_of("unix:/x") == "unix"


def test_memory_of_sources_is_bounded_and_a_pause_ends() -> None:
    time = [0.0]
    sources = Sources(lambda: time[0])

    def fail(name: str) -> None:
        with pytest.raises(EmbrasureError), sources.attempt(name):
            raise Denied("x", expected="y", got="z")

    for _ in range(5):
        fail("a")
    with pytest.raises(Unavailable):
        sources.check("a")
    time[0] += 901
    sources.check("a")
    for number in range(5000):
        fail(f"n{number}")
    assert len(sources._failed) <= 4096


@pytest.mark.misuse
def test_a_stream_ends_when_the_key_of_its_reader_is_denied(door: Door, ablation: Ablation) -> None:
    office = door.office
    for person in ("anna", "ben"):
        door.context(person)
        assert door.login(person).code == 0

    def follow(lines: list[dict[str, object]], ended: list[EmbrasureError]) -> threading.Thread:
        def run() -> None:
            request = admin_pb2.AuditQuery(since=0, follow=True)
            with AdminClient.open(office.context("anna")) as client:
                try:
                    for line in client.stream("Audit", request):
                        lines.append(line)
                except EmbrasureError as problem:
                    ended.append(problem)

        worker = threading.Thread(target=run, daemon=True)
        worker.start()
        return worker

    lines: list[dict[str, object]] = []
    ended: list[EmbrasureError] = []
    worker = follow(lines, ended)
    until(lambda: lines or None)
    keyid = door.signer("anna").public_key.keyid
    office.pki("trust", "revoke", office.trust, "--env", "prod", "--key", keyid,
               *office.signs()[:2])  # fmt: skip
    assert office.verb("trust", "submit", office.trust, person="ben").code == 0
    worker.join(10)
    assert not worker.is_alive() and ended[0].reason == "denied"
    with ablation("the look at each turn of a stream") as attack:
        attack.without("gateway.people.check_has_key")
        seen: list[dict[str, object]] = []
        follow(seen, [])
        attack.succeeded(until(lambda: seen or None))
