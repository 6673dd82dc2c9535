"""A root ceremony as it is held: every keyholder on a machine of his own, drafts carried by hand.

Nothing is made by one hand here: three security keys and three operators' keys under passphrases of
their own, two of three signatures on every role, and the trust client as the judge.
"""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets, Timestamp

from embrasure.cli import main
from embrasure.clock import now
from embrasure.errors import Refused
from embrasure.trust import dsse, layout
from embrasure.trust.anchor import parse_anchor
from embrasure.trust.client import TrustClient
from embrasure.trust.directory import parse_enrolled, parse_shard
from embrasure.trust.folder import FolderSource
from embrasure.trust.policy import parse_policy, parse_revocations
from pki.folder import TrustFolder
from pki.passphrase import PassphraseSource
from pki.signers import open_signer
from tests.ablation import Ablation
from tests.simulate.ceremony import NewNode

SECURITY, OPERATORS = ("alice", "bob", "carl"), ("anna", "bea", "dora")


class Room:
    """The office with the trust folder, and a machine for each person."""

    def __init__(self, path: Path, output: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self.output = output
        self.office = path / "office"
        self.trust = self.office / "trust"

    def machine(self, name: str) -> Path:
        folder = self.path / name
        folder.mkdir(mode=0o700)
        file = folder / "passphrase"
        file.write_text(f"{name} has a passphrase\n")
        file.chmod(0o600)
        return folder

    def run(self, *words: object, at: str = "office", code: int = 0) -> dict[str, object]:
        """Return what the command says on stdout, typed at somebody's machine."""
        arguments = [str(word) for word in words]
        if arguments[0] != "trust" or arguments[1] in ("sign", "env"):
            arguments += ["--passphrase-file", str(self.path / at / "passphrase")]
        ended = main([*arguments, "--json", "--no-input"])
        out, self.error = self.output.readouterr()
        assert ended == code, self.error
        return dict(json.loads(out)) if out else {}

    def digests(self) -> list[str]:
        """Return what the office reads out: the digests of all open drafts."""
        found = self.run("trust", "show", self.trust)["drafts"]
        assert isinstance(found, list)
        return [str(draft["digest"]) for draft in found]

    def sign(self, *names: str, role: str | None = None) -> None:
        """The drafts were carried to each keyholder, signed there, and carried back."""
        confirmed = [word for digest in self.digests() for word in ("--confirm-digest", digest)]
        only = ["--role", role] if role else []
        for name in names:
            stick = self.path / name / "stick"
            shutil.copytree(self.trust / "drafts", stick)
            key = self.path / name / f"{name}.key"
            self.run("trust", "sign", stick, "--key", key, *only, *confirmed, at=name)
            self.run("trust", "merge", self.trust, "--from", stick)
            shutil.rmtree(stick)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the six have made their keys, once the first test has asked for a room."""
    return tmp_path_factory.mktemp("people") / "made"


@pytest.fixture
def room(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Room:
    """Six people with keys of their own; the office has the public halves only."""
    if not people.exists():
        people.mkdir()
        furnish(Room(people, capsys))
    shutil.copytree(people, tmp_path / "room")
    return Room(tmp_path / "room", capsys)


def furnish(found: Room) -> None:
    """Each of the six has a key; the office has its public half."""
    found.machine("office")
    for purpose, names in (("security", SECURITY), ("operator", OPERATORS)):
        for name in names:
            folder = found.machine(name)
            scheme = "ecdsa-p256" if name in ("bob", "bea") else "ed25519"
            words = ["--out", folder, "--purpose", purpose, "--scheme", scheme, "--kdf", "moderate"]
            found.run("keys", "generate", name, *words, at=name)
            shutil.copy(folder / f"{name}.pub", found.office)


def holders(room: Room) -> list[object]:
    return [word for n in SECURITY for word in ("--keyholder", room.office / f"{n}.pub")]


def hold(room: Room) -> TrustFolder:
    words = ["--domain", "example.org", *holders(room), "--threshold", 2, "--kdf", "moderate"]
    room.run("pki", "init", room.trust, *words)
    assert not list((room.trust).glob("keys/*"))
    room.sign("alice", "carl")
    return TrustFolder.open(room.trust)


def publish(trust: TrustFolder, room: Room, to: Path) -> FolderSource:
    """Return the repository as a gateway shows it: with its three online roles."""
    source = PassphraseSource(lambda _: b"office has a passphrase", tries=1)
    meta, at = {}, now()
    for role, version in trust.roles().items():
        if role != layout.ROOT:
            meta[f"{role}.json"] = MetaFile(version)
    gates = Metadata(Targets(expires=at + timedelta(days=7)))
    meta["gates-prod.json"] = MetaFile(1)
    online: dict[str, Metadata[Targets] | Metadata[Snapshot] | Metadata[Timestamp]] = {
        "1.gates-prod": gates,
        "1.snapshot": Metadata(Snapshot(expires=at + timedelta(days=7), meta=meta)),
        "timestamp": Metadata(Timestamp(expires=at + timedelta(days=1))),
    }
    (to / "metadata").mkdir(parents=True)
    for name, found in online.items():
        key = trust.path / "online" / f"{name.rpartition('.')[2]}.key"
        found.sign(open_signer(f"keyfile:{key}", source, purpose="online", root=trust.root_id))
        (to / "metadata" / f"{name}.json").write_bytes(found.to_bytes())
    return FolderSource(to, trust.path)


@pytest.mark.timeout(180)
def test_a_fleet_is_founded_by_two_of_three_on_machines_of_their_own(room: Room) -> None:
    # 1. Root, targets and revocations by alice and carl.
    trust = hold(room)
    assert trust.roles() == {"root": 1, "targets": 1, "revocations": 1}

    # 2. The environment, by bob and carl; one signature is not enough for targets.
    room.run("trust", "env", "add", "prod", room.trust, "--kdf", "moderate")
    room.sign("bob")
    room.run("trust", "merge", room.trust, "--role", "targets", code=3)
    assert "E_THRESHOLD" in room.error
    room.sign("carl")

    # 3. The app of three operators, two of whom approve, by alice and bob.
    named = [w for n in OPERATORS for w in ("--operator", f"{n}={room.office}/{n}.pub")]
    words = ["--env", "prod", *named, "--threshold", 2, "--min-soak", 2]
    room.run("trust", "app", "add", "shop", room.trust, *words)
    room.sign("alice", "bob")

    # 4. A push node, by alice and carl; the answer by carl, who comes to the office.
    node = NewNode(trust.root_id, 7)
    statement, answer = room.office / "statement.json", room.office / "answer.json"
    statement.write_bytes(node.envelope(now()))
    room.run("pki", "enrol", statement, room.trust, "--label", "site=a")
    room.sign("alice", "carl")
    key = room.path / "carl" / "carl.key"
    ca = ["--ca-passphrase-file", room.office / "passphrase"]
    room.run("pki", "enrol", statement, room.trust, "--sign", key, *ca, "--out", answer, at="carl")
    room.run("trust", "verify", room.trust, "--root", room.trust / "anchor.json")

    # 5. A client that knows the anchor and nothing else takes all of it.
    source = publish(trust, room, room.path / "online")
    client = TrustClient(room.path / "client", trust.anchor)
    view = client.refresh(source, roles=None)
    assert view.root_id == trust.root_id
    for role in ("root", "targets", "fleet-prod", "revocations"):
        found = view.role(role)
        assert found is not None and found.version == trust.roles()[role]
        assert len(found.signers) >= found.threshold
    shop = client.keys(view, "fleet-prod")
    assert len(shop) == 3

    def read(role: str, path: str) -> bytes:
        return client.target(view, role, path, source, limit=262_144)

    policy = parse_policy(read("fleet-prod", layout.policy_path("prod")))
    assert [person.id for person in policy.people] == ["anna", "bea", "dora"]
    shard = parse_shard(read("fleet-prod", layout.shard_path("prod", "00")))
    assert [entry.id for entry in shard.entries] == [node.id]
    assert not parse_revocations(read("revocations", layout.revocations_path("prod"))).plans
    payload, _ = dsse.unseal("enrolled", answer.read_bytes(), shop, limit=65536)
    enrolled = parse_enrolled(payload)
    fleet = view.role("fleet-prod")
    assert fleet is not None and enrolled.floors.fleet == fleet.version
    assert len(enrolled.chain) == 2

    # 6. One keyholder stops a plan; nobody else is needed.
    words = ["--env", "prod", "--plan", "d" * 64, "--reason", "bad build"]
    room.run("trust", "revoke", room.trust, *words)
    room.sign("bob", role="revocations")
    found_now = TrustFolder.open(room.trust).documents("revocations")
    assert parse_revocations(found_now["revoked/prod.json"]).plans == ("d" * 64,)


@pytest.mark.misuse
def test_one_keyholder_alone_founds_nothing_that_a_client_takes(
    room: Room, ablation: Ablation
) -> None:
    room.run("pki", "init", room.trust, "--domain", "example.org", *holders(room),
             "--threshold", 2, "--kdf", "moderate")  # fmt: skip
    room.sign("alice")
    assert TrustFolder.open(room.trust).roles() == {}
    room.run("trust", "merge", room.trust, "--role", "root", code=3)
    # The thief of one key puts the files in place himself; the trust folder does not verify.
    draft = TrustFolder.open(room.trust).drafts()[0]
    (room.trust / "metadata").mkdir()
    (room.trust / "metadata" / "1.root.json").write_bytes(draft.metadata.to_bytes())
    (room.trust / "anchor.json").write_bytes(draft.metadata.to_bytes())
    room.run("trust", "verify", room.trust, code=4)
    with pytest.raises(Refused):
        TrustClient(room.path / "client", draft.metadata.to_bytes()).refresh(
            FolderSource(room.trust), roles=()
        )
    with ablation("the threshold of the first root") as attack:
        attack.without("tuf.api.metadata.Root.verify_delegate")
        attack.succeeded(parse_anchor(draft.metadata.to_bytes()).signed.version == 1)


def test_what_a_keyholder_signs_is_on_the_screen_before_it_is_confirmed(room: Room) -> None:
    hold(room)
    room.run("trust", "env", "add", "prod", room.trust, "--kdf", "moderate")
    key = room.path / "bob" / "bob.key"
    room.run("trust", "sign", room.trust, "--role", "fleet-prod", "--key", key, at="bob", code=3)
    for part in (
        "role fleet-prod, version 1 (new)",
        "needs      2 of alice",
        '"fleet/prod/policy.json".min_isolation = 0',
        "CN=embrasure gateway-ca",
        "--confirm-digest",
    ):
        assert part in room.error
    assert not list(room.trust.glob("drafts/*/signatures/*"))
