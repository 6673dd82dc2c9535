"""A machine joins by a one-time token: real node, real gateway, every verb as a person types it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from embrasure.clock import now
from embrasure.errors import Denied, Refused
from embrasure.net.certificates import load_certificates, load_der, pem_of
from embrasure.trust.carry import carried
from embrasure.wire import admin_pb2 as wire
from gateway.client import AdminClient
from gateway.join_steps import Met, meet
from node.identity import load_identity
from node.material import Material, read_enrolled
from node.paths import Paths
from pki import enrol, joining, signers
from pki.folder import TrustFolder
from pki.passphrase import PassphraseSource
from tests.ablation import Ablation
from tests.integration.test_renewal import serial_at
from tests.simulate.ceremony import NewNode
from tests.simulate.fleet import RealNode, listed
from tests.simulate.joining import JoiningNode
from tests.simulate.jointhief import JoinThief, unguarded
from tests.simulate.office import ENV, PASSPHRASE, Office, verb
from tests.simulate.office import Running as Gateway
from tests.simulate.running import running, until


@dataclass
class Scene:
    """A gateway with anna, and a new machine that was given a token."""

    office: Office
    gateway: Gateway
    node: RealNode
    token: str

    @property
    def trust(self) -> TrustFolder:
        return TrustFolder.open(self.office.trust)

    def verb(self, *arguments: object, signs: bool = False) -> Any:
        return self.office.verb(*arguments, person="anna", signs=signs)

    def join(self, *flags: object) -> Any:
        return self.verb("pki", "join", self.node.id, self.office.trust, "--env", ENV, *flags,
                         signs=True)  # fmt: skip

    def client(self) -> AdminClient:
        return AdminClient.open(self.office.context("anna"))

    def mint(self) -> str:
        """Return a new token for the node, which answers for it."""
        file = self.office.folder / "again.token"
        file.unlink(missing_ok=True)
        made = verb("pki", "token", self.office.trust, "--env", ENV, "--id", self.node.id, "--out",
                    file)  # fmt: skip
        assert made.code == 0, made.told
        prefix = self.node.paths.prefix
        assert verb("node", "token", "--root", prefix, "--token-file", file).code == 0
        return file.read_text().strip()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    tmp_path = tmp_path_factory.mktemp("joining")
    mine = Office.make(tmp_path / "office", nodes=1)
    file = tmp_path / "n1.token"
    minted = verb("pki", "token", mine.trust, "--env", ENV, "--out", file)
    assert minted.code == 0, minted.told
    assert file.stat().st_mode & 0o777 == 0o600
    made = verb(
        "node", "init", "--root", tmp_path / "n1", "--env", ENV, "--mode", "push", "--domain",
        "office.test", "--anchor", mine.trust / "anchor.json", "--id", minted.body["node"],
        "--gateway-issuer", mine.trust / "ca" / "gateway.crt", "--token-file", file,
    )  # fmt: skip
    assert made.code == 0, made.told
    assert f"embrasure pki join {minted.body['node']} DIR" in made.told
    paths = Paths(tmp_path / "n1")
    node = RealNode(paths, listed(paths))
    with mine.gateway() as gateway, running(node):
        mine.as_person("anna", gateway.port)
        found = Scene(mine, gateway, node, file.read_text().strip())
        address = f"127.0.0.1:{node.port}"
        assert found.verb("fleet", "address", "node", node.id, address, "--env", ENV).code == 0
        yield found


@pytest.fixture
def scene(place: Scene) -> Scene:
    """One gateway and one machine for all tests; the machine has a token of its own in each."""
    place.token = place.mint()
    return place


# --- a gateway that lies -------------------------------------------------------------------------


class Impostor(NewNode):
    """Keys of its own under the id of another node."""

    taken: str

    @property
    def id(self) -> str:
        return self.taken


class Liar(AdminClient):
    """What a stolen gateway makes of the answers. leaf: which it dials, whatever it is asked."""

    def __init__(
        self, honest: AdminClient, lie: Callable[[str, wire.JoinReply], None], leaf: bytes = b""
    ) -> None:
        self._honest, self._lie, self._leaf = honest, lie, leaf

    def call(self, method: str, request: Any) -> Any:
        if self._leaf and method == "JoinProve":
            request.leaf = self._leaf
        reply = self._honest.call(method, request)
        self._lie(method, reply)
        return reply


def met(scene: Scene, lie: Callable[[str, wire.JoinReply], None], *, leaf: bytes = b"") -> Met:
    with scene.client() as client:
        return meet(Liar(client, lie, leaf), scene.trust, ENV, scene.node.id, clock=now)


def week_ago() -> datetime:
    return now() - timedelta(days=9)


def source() -> PassphraseSource:
    return PassphraseSource(lambda _: PASSPHRASE.encode(), tries=1)


def silent(method: str, reply: wire.JoinReply) -> None:
    """No lie."""


@pytest.mark.misuse
def test_a_machine_without_the_token_is_nobody(scene: Scene, ablation: Ablation) -> None:
    # The keyholder minted another one meanwhile; this machine has only the first.
    other = scene.office.folder / "other.token"
    minted = verb("pki", "token", scene.office.trust, "--env", ENV, "--id", scene.node.id, "--out",
                  other)  # fmt: skip
    assert minted.code == 0
    refused = scene.join(*scene.office.signs())
    assert refused.error["reason"] == "E_BAD_MAC"
    assert not scene.trust.drafts()
    with ablation("the MAC of the token") as attack:
        attack.without("embrasure.trust.joining.is_mac_of", lambda *_: True)
        attack.succeeded(met(scene, silent).node == scene.node.id)


@pytest.mark.misuse
def test_a_gateway_that_brings_keys_of_its_own_is_found_out(
    scene: Scene, ablation: Ablation
) -> None:
    own = Impostor(scene.trust.root_id, 1, env=ENV, domain="office.test")
    own.taken = scene.node.id
    thief = JoiningNode(own, scene.token, now())

    def lie(method: str, reply: wire.JoinReply) -> None:
        if method == "JoinStatement":
            reply.body, reply.leaf = thief.statement, pem_of(own.made[0])

    with pytest.raises(Refused) as told:
        met(scene, lie)
    assert told.value.reason == "bad-mac"
    with ablation("the MAC of the token") as attack:
        attack.without("embrasure.trust.joining.is_mac_of", lambda *_: True)
        # What is left is the proof of keys, on a connection that the thief ends himself.
        attack.without("gateway.client.AdminClient.call", thief_gateway(thief, scene))
        attack.succeeded(met(scene, lie).checked.statement.receipt.key == own.receipt_public)


def thief_gateway(thief: JoiningNode, scene: Scene) -> Callable[..., Any]:
    """Return what a gateway answers that plays the node itself."""
    from embrasure.trust.joining import parse_challenge

    _, chain = scene.gateway.held.certificates.client()
    leaf = load_certificates(chain, what="gateway")[0]

    def call(_: object, method: str, request: Any) -> wire.JoinReply:
        if method == "JoinStatement":
            return wire.JoinReply(mac="0" * 64)
        proof = thief.proof(parse_challenge(request.body), leaf)
        return wire.JoinReply(body=proof, gateway=chain)

    return call


@pytest.mark.misuse
def test_a_gateway_that_names_another_certificate_at_the_address_is_found_out(
    scene: Scene, ablation: Ablation
) -> None:
    false = pem_of(NewNode(scene.trust.root_id, 1, domain="office.test").boot(now()))
    true = pem_of(load_certificates(load_identity(scene.node.paths).boot_cert_pem, what="b")[0])

    def lie(method: str, reply: wire.JoinReply) -> None:
        if method == "JoinStatement":
            reply.leaf = false

    with pytest.raises(Refused) as told:
        met(scene, lie)
    assert told.value.reason == "boot-certificate"
    with ablation("the certificate of the statement") as attack:
        scene.mint()
        attack.without("pki.joining.check_shown")
        # It would have been dialled, and the answer sent to it.
        with pytest.raises(Exception):  # noqa: B017 - nobody has that certificate here
            met(scene, lie)
        attack.succeeded(false != true)


@pytest.mark.misuse
def test_a_gateway_that_keeps_an_old_proof_is_found_out(scene: Scene, ablation: Ablation) -> None:
    kept: list[bytes] = []

    def keep(method: str, reply: wire.JoinReply) -> None:
        if method == "JoinProve":
            kept.append(reply.body)

    def replay(method: str, reply: wire.JoinReply) -> None:
        if method == "JoinProve":
            reply.body = kept[0]

    assert met(scene, keep).node == scene.node.id
    with pytest.raises(Refused) as told:
        met(scene, replay)
    assert told.value.reason == "bad-proof"
    with ablation("the nonce of the challenge") as attack:
        attack.without("pki.joining.compared", lambda *_: "")
        attack.succeeded(met(scene, replay).node == scene.node.id)


@pytest.mark.misuse
def test_a_thief_of_the_gateway_who_answers_first_gains_nothing(
    scene: Scene, ablation: Ablation, tmp_path: Path
) -> None:
    key, chain = scene.gateway.held.certificates.client()
    thief, paths = JoinThief(key, chain, "office.test"), scene.node.paths
    false, ours = thief.false_answer(paths), carried(scene.office.trust)
    boot = serial_at(scene.node.port)
    # By his word alone, and beside the fleet's own trust files.
    assert thief.answers(paths, scene.node.port, false, {}) == "unproven"
    assert thief.answers(paths, scene.node.port, false, ours) == "bad-signature"
    assert not paths.enrolled.exists() and serial_at(scene.node.port) == boot
    log = paths.prefix.with_suffix(".log").read_text()
    assert "E_UNPROVEN" in log and "E_BAD_SIGNATURE" in log
    # It joins as before; `test_from_a_token_to_a_node_of_the_fleet` takes it to its end.
    assert met(scene, silent).node == scene.node.id
    with ablation("the check of an answer before it is written") as attack:
        copy = Paths(tmp_path / "copy")
        shutil.copytree(paths.prefix, copy.prefix, ignore=shutil.ignore_patterns("*.sock"))
        with unguarded(copy):
            port = RealNode(copy, scene.node.listed).port
            assert thief.answers(copy, port, false, {}) == ""
            # Only a gateway of the thief's CA gets in now: somebody would have to go there.
            issuer = thief.authority.issuers["gateway"].certificate
            assert issuer in Material(copy).trust().issuers_of("gateway")
            until(lambda: serial_at(port) != boot, what="the thief's certificate")
            attack.succeeded(thief.answers(copy, port, false, {}))


def test_an_operator_without_the_right_relays_nothing(scene: Scene) -> None:
    with scene.client() as client:
        request = wire.NodeRequest(env="other", node=scene.node.id)
        with pytest.raises(Denied):
            client.call("JoinStatement", request)
    assert joining.waiting(scene.trust)


# --- the whole way: last, for after it the machine is a node --------------------------------------


def test_from_a_token_to_a_node_of_the_fleet(scene: Scene) -> None:
    node, boot = scene.node, load_identity(scene.node.paths).boot_cert_pem
    first = f"{load_certificates(boot, what='boot')[0].serial_number:x}"
    assert serial_at(node.port) == first
    # One keyholder is not enough: the entry waits, and so does the node.
    signs = scene.office.signs()
    waiting = scene.join("--label", "site=a", *signs[:2])
    assert waiting.code == 0, waiting.told
    assert not waiting.body["answered"] and not node.paths.enrolled.exists()
    (draft,) = waiting.body["drafts"]
    scene.office.pki("trust", "sign", scene.office.trust, "--key", signs[3], "--confirm-digest",
                     draft["digest"])  # fmt: skip
    assert verb("trust", "merge", scene.office.trust).code == 0
    done = scene.join(*signs[:2])
    assert done.code == 0, done.told
    assert done.body["answered"] and node.paths.enrolled.exists()
    assert "fingerprint" in done.told
    # It shows the certificate of the answer now, and is in the directory.
    until(lambda: serial_at(node.port) != first, what="its certificate")
    assert scene.verb("trust", "submit", scene.office.trust).code == 0
    rows = scene.verb("fleet", "list", "--env", ENV).body["nodes"]
    (row,) = [row for row in rows if row["id"] == node.id]
    assert (row["state"], row["labels"]) == ("active", {"site": "a"})
    # An ordinary node is not dialled by its boot certificate.
    wrong = scene.verb("fleet", "recover", node.id, "--env", ENV)
    assert wrong.error["reason"] == "E_BOOT_CERTIFICATE"
    # Its certificate was made nine days ago: it shows its boot certificate, and comes back.
    raw = node.paths.statement.read_bytes()
    checked = enrol.check_statement(raw, scene.trust)
    old = enrol.answer(
        scene.trust, checked, signer=signers.open_signer(
            f"keyfile:{scene.office.trust}/keys/alice.key", source(), purpose="security",
            root=scene.trust.root_id,
        ), clock=week_ago,
        issuer=scene.trust.issuer("node", source()),
    )  # fmt: skip
    node.paths.enrolled.write_bytes(old)
    aged = [load_der(text, what="chain") for text in read_enrolled(old).chain]
    node.paths.tls_chain.write_bytes(b"".join(map(pem_of, aged)))
    until(lambda: serial_at(node.port) == first, what="the boot certificate")
    back = scene.verb("fleet", "recover", node.id, "--env", ENV)
    assert back.code == 0, back.told
    serial = back.body["nodes"][0]["serial"]
    assert serial_at(node.port) == serial
    rows = scene.verb("fleet", "list", "--env", ENV).body["nodes"]
    (row,) = [row for row in rows if row["id"] == node.id]
    assert (row["certificate"]["serial"], row["certificate"]["problem"]) == (serial, "")
    notes = [line for line in scene.gateway.held.journal.lines(0) if b'"act":"join"' in line]
    assert len(notes) >= 3 and all(b"operator/anna" in line for line in notes)
    assert scene.token.encode() not in b"".join(scene.gateway.held.journal.lines(0))
