"""Recovery key, recipients and the verbs around them, on a real trust folder."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from embrasure import limits
from embrasure.errors import Denied, Misuse, Refused
from embrasure.secret.keys import OpeningKey
from embrasure.secret.sealed import Me, open_sealed, parse_sealed
from embrasure.trust import layout
from embrasure.trust.denied import DeniedSets
from embrasure.trust.directory import Recovery, parse_recovery, parse_shard
from embrasure.trust.documents import write
from embrasure.trust.policy import parse_policy
from pki import denials, enrol, recoverykey, sealing, secretfiles, store
from pki.folder import TrustFolder
from pki.keyfile import MODERATE
from pki.passphrase import PassphraseSource
from pki.recipients import from_folder, recipients
from tests.ablation import Ablation
from tests.simulate import ceremony
from tests.unit.pki.conftest import AT, clock

PLAIN = b"the value of a secret"


def source(passphrase: bytes = ceremony.PASSPHRASE) -> PassphraseSource:
    return PassphraseSource(lambda _: passphrase, tries=1)


@pytest.fixture(scope="module")
def recovery(second: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recovery key of the fleet of `shop`."""
    file = tmp_path_factory.mktemp("recovery") / "recovery.key"
    root = TrustFolder.open(second).root_id
    recoverykey.generate(file, ceremony.PASSPHRASE, root=root, cost=MODERATE)
    return file


def adopt(trust: TrustFolder, recovery: Path) -> None:
    half = recoverykey.read_public(recovery.with_name("recovery.key.pub"))
    recoverykey.adopt(trust, "prod", half, clock=clock)
    ceremony.sign_and_merge(trust, "alice", "bob", at=AT)


def add(trust: TrustFolder, *numbers: int) -> list[ceremony.NewNode]:
    """Return nodes that are in the directory in force."""
    nodes = [ceremony.NewNode(trust.root_id, number, mode="pull") for number in numbers]
    checked = [enrol.check_statement(node.envelope(AT), trust) for node in nodes]
    enrol.add_nodes(trust, checked, labels=None, clock=clock)
    ceremony.sign_and_merge(trust, "alice", "bob", at=AT)
    return nodes


@pytest.fixture
def ready(shop: TrustFolder, recovery: Path) -> tuple[TrustFolder, list[ceremony.NewNode]]:
    """The environment with a recovery recipient and two nodes."""
    adopt(shop, recovery)
    return shop, add(shop, 1, 2)


Ready = tuple[TrustFolder, list[ceremony.NewNode]]


def test_a_secret_goes_to_every_node_and_to_recovery(ready: Ready, recovery: Path) -> None:
    trust, nodes = ready
    to = from_folder(trust, "prod", "shop", at=AT)
    assert [name for name, _ in to.keys] == [*sorted(node.id for node in nodes), "recovery"]
    sealed = parse_sealed(sealing.seal(PLAIN, name="db", version=1, to=to))
    for node in nodes:
        assert open_sealed(sealed, Me(node.id, node.seal, 1)) == PLAIN
    key = recoverykey.open_file(recovery, source(), root=trust.root_id)
    assert sealing.open_with_recovery(sealed, key=key) == PLAIN


def test_a_replaced_node_gets_the_secret_by_a_rewrap(ready: Ready, recovery: Path) -> None:
    trust, nodes = ready
    old = parse_sealed(
        sealing.seal(PLAIN, name="db", version=1, to=from_folder(trust, "prod", "shop", at=AT))
    )
    denials.deny(trust, "prod", denials.denial(plans=(), manifests=(), keys=(),
                 nodes=(nodes[0].id,)), lift=False, clock=clock)  # fmt: skip
    ceremony.sign_and_merge(trust, "alice", "bob", at=AT)
    (new,) = add(trust, 3)
    to = from_folder(trust, "prod", "shop", at=AT)
    assert to.differences(old) == ([new.id], [nodes[0].id])
    key = recoverykey.open_file(recovery, source(), root=trust.root_id)
    again = parse_sealed(sealing.rewrap(old, key=key, to=to))
    assert again.payload == old.payload
    assert open_sealed(again, Me(new.id, new.seal, 1)) == PLAIN
    with pytest.raises(Refused) as caught:
        open_sealed(again, Me(nodes[0].id, nodes[0].seal, 1))
    assert caught.value.reason == "not-a-recipient"


@pytest.mark.misuse
def test_a_directory_that_somebody_changed_names_no_recipient(
    ready: Ready, ablation: Ablation
) -> None:
    """A thief of the gateway swaps a node's key in the files that he hands to the operator."""
    trust, nodes = ready
    thief = OpeningKey.generate()
    held = store.as_targets(trust.held("fleet-prod") or pytest.fail("no fleet"))
    path = layout.shard_path("prod", "00")
    file = trust.path / layout.target_file(path, held.targets[path].hashes["sha256"])
    shard = parse_shard(file.read_bytes())
    entries = [
        msgspec.structs.replace(entry, hpke=thief.public(epoch=1)) if entry.id == nodes[0].id
        else entry
        for entry in shard.entries
    ]  # fmt: skip
    file.write_bytes(write(msgspec.structs.replace(shard, entries=tuple(entries))))
    with pytest.raises(Refused):
        from_folder(trust, "prod", "shop", at=AT)
    with ablation("the verification of the directory") as attack:
        swapped = parse_shard(file.read_bytes()).entries
        documents = {p: (trust.path / layout.target_file(p, t.hashes["sha256"])).read_bytes()
                     for p, t in held.targets.items()}  # fmt: skip
        to = recipients(
            swapped,
            policy=parse_policy(documents[layout.policy_path("prod")]),
            denied=_nothing(),
            recovery=_recovery(documents),
            app="shop",
        )
        sealed = parse_sealed(sealing.seal(PLAIN, name="db", version=1, to=to))
        attack.succeeded(open_sealed(sealed, Me(nodes[0].id, thief, 1)) == PLAIN)


def _nothing() -> DeniedSets:
    empty = frozenset[str]()
    fields = dict.fromkeys(DeniedSets.__dataclass_fields__, empty)
    return DeniedSets(**fields)


def _recovery(documents: dict[str, bytes]) -> Recovery:
    return parse_recovery(documents[layout.recovery_path("prod")])


@pytest.mark.misuse
@pytest.mark.parametrize("how", ["policy", "revocations", "key"])
def test_a_denied_node_is_no_recipient(ready: Ready, how: str, ablation: Ablation) -> None:
    trust, nodes = ready
    bad = nodes[0]
    if how == "key":
        keys = (hashlib.sha256(bytes.fromhex(bad.receipt_public)).hexdigest(),)
        what = denials.denial(plans=(), manifests=(), keys=keys, nodes=())
    else:
        what = denials.denial(plans=(), manifests=(), keys=(), nodes=(bad.id,))
    if how == "revocations":
        denials.revoke(trust, "prod", what, reason="stolen", clock=clock)
    else:
        denials.deny(trust, "prod", what, lift=False, clock=clock)
    ceremony.sign_and_merge(trust, "alice", "bob", at=AT)
    names = [name for name, _ in from_folder(trust, "prod", "shop", at=AT).keys]
    assert names == [nodes[1].id, "recovery"]
    with ablation("the question whether a node may have it") as attack:
        attack.without("pki.recipients.may_open", lambda *_, **__: True)
        to = from_folder(trust, "prod", "shop", at=AT)
        sealed = parse_sealed(sealing.seal(PLAIN, name="db", version=1, to=to))
        attack.succeeded(open_sealed(sealed, Me(bad.id, bad.seal, 1)) == PLAIN)


def test_a_draft_names_no_recipient(ready: Ready) -> None:
    trust, nodes = ready
    extra = ceremony.NewNode(trust.root_id, 9, mode="pull")
    checked = [enrol.check_statement(extra.envelope(AT), trust)]
    enrol.add_nodes(trust, checked, labels=None, clock=clock)
    names = [name for name, _ in from_folder(trust, "prod", "shop", at=AT).keys]
    assert names == [*sorted(node.id for node in nodes), "recovery"]


def test_without_recovery_recipient_app_or_fresh_roles_nothing_is_sealed(
    shop: TrustFolder, recovery: Path
) -> None:
    add(shop, 1)
    for env, app, reason in (("prod", "shop", "no-recovery"), ("prod", "till", "no-app")):
        with pytest.raises(Denied) as caught:
            from_folder(shop, env, app, at=AT)
        assert caught.value.reason == reason
    with pytest.raises(Denied) as nowhere:
        from_folder(shop, "dev", "shop", at=AT)
    assert nowhere.value.reason == "no-env"
    adopt(shop, recovery)
    held = store.as_targets(shop.held("fleet-prod") or pytest.fail("no fleet"))
    documents = store.read_targets(shop.path, held)
    other = msgspec.structs.replace(_recovery(documents), env="dev")
    with pytest.raises(Refused) as elsewhere:
        recipients(
            [],
            policy=parse_policy(documents[layout.policy_path("prod")]),
            denied=_nothing(),
            recovery=other,
            app="shop",
        )
    assert elsewhere.value.reason == "not-mine"
    with pytest.raises(Refused) as late:
        from_folder(shop, "prod", "shop", at=AT + timedelta(days=181))
    assert late.value.reason == "stale"


def test_a_fleet_with_too_many_nodes_is_told(ready: Ready) -> None:
    trust, _ = ready
    raw = store.read_targets(trust.path, store.as_targets(trust.held("fleet-prod")))  # type: ignore[arg-type]  # in force
    (entry, _) = parse_shard(raw[layout.shard_path("prod", "00")]).entries
    with pytest.raises(Denied) as caught:
        recipients(
            [entry] * (limits.SECRET_RECIPIENTS + 1),
            policy=parse_policy(raw[layout.policy_path("prod")]),
            denied=_nothing(),
            recovery=_recovery(raw),
            app="shop",
        )
    assert caught.value.reason == "limit"


def test_the_same_recovery_recipient_is_not_adopted_twice_and_a_new_one_has_a_new_epoch(
    ready: Ready, recovery: Path, tmp_path: Path
) -> None:
    trust, _ = ready
    half = recoverykey.read_public(recovery.with_name("recovery.key.pub"))
    with pytest.raises(Misuse):
        recoverykey.adopt(trust, "prod", half, clock=clock)
    recoverykey.generate(
        tmp_path / "next.key", ceremony.PASSPHRASE, root=trust.root_id, cost=MODERATE
    )
    adopt_file = tmp_path / "next.key.pub"
    recoverykey.adopt(trust, "prod", recoverykey.read_public(adopt_file), clock=clock)
    ceremony.sign_and_merge(trust, "alice", "bob", at=AT)
    to = from_folder(trust, "prod", "shop", at=AT)
    assert to.keys[-1][1].epoch == 2


def test_a_recovery_key_file_is_private_and_opens_with_its_passphrase_alone(
    recovery: Path, ready: Ready, tmp_path: Path
) -> None:
    trust, _ = ready
    assert stat.S_IMODE(recovery.stat().st_mode) == 0o600
    with pytest.raises(Denied) as caught:
        recoverykey.open_file(recovery, source(b"another passphrase"), root=trust.root_id)
    assert caught.value.reason == "passphrase"
    with pytest.raises(Refused) as other:
        recoverykey.open_file(recovery, source(), root="f" * 64)
    assert other.value.reason == "identity"
    with pytest.raises(Refused) as there:
        recoverykey.generate(recovery, ceremony.PASSPHRASE, root=trust.root_id, cost=MODERATE)
    assert there.value.reason == "exists"
    for changes in ({"mem": 1}, {"ops": 99}, {"mem": 2**40}):
        file = tmp_path / "changed.key"
        file.write_bytes(_changed(recovery, changes))
        file.chmod(0o600)
        with pytest.raises(Refused) as form:
            recoverykey.open_file(file, source(), root=trust.root_id)
        assert form.value.reason == "bad-schema"


def _changed(file: Path, changes: Mapping[str, object]) -> bytes:
    found = {**json.loads(file.read_bytes()), **changes}
    return json.dumps(found, sort_keys=True, separators=(",", ":")).encode()


def test_a_swapped_public_half_in_the_key_file_is_refused(
    recovery: Path, ready: Ready, tmp_path: Path
) -> None:
    # Who can write to the medium would have the team adopt his own key.
    trust, _ = ready
    thief = OpeningKey.generate().public(epoch=1).key
    file = tmp_path / "swapped.key"
    file.write_bytes(_changed(recovery, {"public": thief}))
    file.chmod(0o600)
    with pytest.raises(Refused) as caught:
        recoverykey.open_file(file, source(), root=trust.root_id)
    assert caught.value.reason == "bad-signature"


def test_a_weak_public_half_is_not_adopted(tmp_path: Path) -> None:
    half = {"v": 1, "type": "recovery-public", "suite": "x25519", "key": "00" * 32}
    file = tmp_path / "weak.pub"
    file.write_text(json.dumps(half, sort_keys=True, separators=(",", ":")))
    with pytest.raises(Refused) as caught:
        recoverykey.read_public(file)
    assert caught.value.reason == "weak-key"


@pytest.mark.misuse
def test_a_value_that_others_can_read_is_not_sealed(tmp_path: Path, ablation: Ablation) -> None:
    file = tmp_path / "value"
    file.write_bytes(PLAIN)
    file.chmod(0o644)
    with pytest.raises(Denied) as caught:
        secretfiles.read_plaintext(file=file, fd=None)
    assert caught.value.reason == "permissions"
    with ablation("the check of its mode") as attack:
        attack.without("embrasure.fs.check_private")
        attack.succeeded(secretfiles.read_plaintext(file=file, fd=None) == PLAIN)
    file.chmod(0o600)
    assert secretfiles.read_plaintext(file=file, fd=None) == PLAIN


def test_a_value_comes_from_a_pipe_and_never_from_a_terminal(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, PLAIN)
    os.close(write_end)
    assert secretfiles.read_plaintext(file=None, fd=read_end) == PLAIN
    os.close(read_end)
    leader, follower = os.openpty()
    try:
        with pytest.raises(Misuse, match="terminal"):
            secretfiles.read_plaintext(file=None, fd=follower)
    finally:
        os.close(leader)
        os.close(follower)
    with pytest.raises(Misuse):
        secretfiles.read_plaintext(file=tmp_path, fd=0)
    with pytest.raises(Misuse):
        secretfiles.read_plaintext(file=None, fd=1000)
