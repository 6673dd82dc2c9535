"""A fresh node believes only the answer that its own security team gave to its own statement."""

from __future__ import annotations

import base64
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from securesystemslib.signer import CryptoSigner

from embrasure import fsops
from embrasure.errors import Denied, Misuse, Refused
from embrasure.trust import dsse
from embrasure.trust.directory import parse_statement
from embrasure.trust.documents import read
from embrasure.trust.dsse import Envelope
from node.config import load_config
from node.identity import (
    create_identity,
    load_identity,
    load_seal_key,
    load_tls_key,
    mend_keys,
    statement,
)
from node.paths import Paths
from node.setup import Wish, make_node
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.installer import SimInstaller, enrol


def test_a_statement_is_signed_by_the_receipt_key_it_names(bench: SimInstaller) -> None:
    identity = bench.identity
    raw = statement(identity, load_seal_key(bench.paths).public(epoch=1), clock=bench.clock)
    keyid = read(raw, Envelope, limit=10_000, document="x").signatures[0].keyid
    keys = {keyid: identity.signer().public_key}
    payload, _ = dsse.unseal("enrolment", raw, keys, limit=20_000)
    said = parse_statement(payload)
    assert keyid == identity.receipt_id
    assert (said.node, said.receipt.key) == (identity.node, identity.receipt_public)
    assert said.boot_cert is None


def test_a_push_node_has_a_listener_key_with_its_final_names(tmp_path: Path) -> None:
    bench = SimInstaller(tmp_path, mode="push")
    identity = load_identity(bench.paths)
    assert b"PRIVATE KEY" in load_tls_key(bench.paths)
    assert b"CERTIFICATE" in identity.boot_cert_pem
    for path in (bench.paths.tls_key, *bench.paths.keys.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0
    bench.close()


def test_keys_are_never_overwritten(bench: SimInstaller) -> None:
    before = bench.paths.receipt_key.read_bytes()
    with pytest.raises(Misuse):
        create_identity(
            bench.paths, node=bench.identity.node, env="dev", mode="pull", domain="sim.test",
            root_id=bench.repo.root_id, clock=bench.clock,
        )  # fmt: skip
    assert bench.paths.receipt_key.read_bytes() == before


def test_a_damaged_key_is_what_it_was_again(bench: SimInstaller) -> None:
    """A flipped bit makes another good key of it: only the copy has a hash."""
    seal = load_seal_key(bench.paths).raw
    for path in (bench.paths.receipt_key, bench.paths.seal_key):
        raw = bytearray(path.read_bytes())
        raw[5] ^= 1  # another hex digit
        path.write_bytes(raw)
    assert load_identity(bench.paths).receipt_public == bench.identity.receipt_public
    assert load_seal_key(bench.paths).raw == seal
    bench.paths.identity.unlink()
    assert sorted(mend_keys(bench.paths)) == ["identity.json", "receipt.key", "seal.key"]
    assert mend_keys(bench.paths) == []
    for name in ("a", "b"):
        (bench.paths.key_copy / name).write_bytes(b"")
    assert mend_keys(bench.paths) == []
    assert (bench.paths.key_copy / "a").stat().st_mode & 0o077 == 0
    assert load_identity(bench.paths).card == bench.identity.card


@pytest.mark.misuse
def test_a_key_that_others_read_is_refused_whatever_its_copy_says(
    bench: SimInstaller, ablation: Ablation
) -> None:
    bench.paths.receipt_key.chmod(0o644)
    with pytest.raises(Denied) as caught:
        load_identity(bench.paths)
    assert caught.value.reason == "permissions"
    with ablation("the look at its mode") as attack:
        attack.without("embrasure.fs.check_private")
        attack.succeeded(load_identity(bench.paths).receipt_public)


class Killed(BaseException):
    """The process ends at this operation."""


class Kills:
    """Ends the making of a node at one operation of the disk; counts them."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def before(self, op: fsops.Op) -> int | None:
        self.count += 1
        if self.count == self.at:
            raise Killed
        return None

    def after(self, op: fsops.Op, result: int) -> None:
        """Nothing."""


def test_a_node_whose_making_was_killed_is_made_by_the_same_command(
    bench: SimInstaller, tmp_path: Path
) -> None:
    wish = Wish(env="dev", mode="push", domain="sim.test", anchor=bench.paths.anchor,
                apps={"shop": "[ports]\nweb = 8001\n"})  # fmt: skip
    with fsops.watched(counted := Kills(0)):
        make_node(Paths(tmp_path / "whole"), wish)
    step = max(1, counted.count // 24)
    for at in range(1, counted.count + 1, step):
        paths = Paths(tmp_path / f"cut{at}")
        with suppress(Killed), fsops.watched(Kills(at)):
            make_node(paths, wish)
        shown = paths.statement.read_bytes() if paths.statement.exists() else b""
        key = load_identity(paths).receipt_public if shown else ""
        made = make_node(paths, wish)
        assert not shown or load_identity(paths).receipt_public == key, at
        assert made.node == load_config(paths).id == load_identity(paths).node
        with pytest.raises(Misuse):
            make_node(paths, wish)


def test_a_half_made_node_is_not_made_into_another(bench: SimInstaller, tmp_path: Path) -> None:
    paths = Paths(tmp_path / "cut")
    wish = Wish(env="dev", mode="pull", domain="sim.test", anchor=bench.paths.anchor)
    make_node(paths, wish)
    paths.node_toml.unlink()  # as if it was killed before its last file
    with pytest.raises(Misuse) as caught:
        make_node(paths, replace(wish, env="prod"))
    assert "cut off" in caught.value.expected
    paths.identity.unlink()
    with pytest.raises(Misuse):  # its statement was made: these are no half-made keys
        make_node(paths, wish)


def test_a_prefix_without_a_node_is_told(tmp_path: Path) -> None:
    with pytest.raises(Misuse):
        load_identity(Paths(tmp_path))


@pytest.mark.misuse
def test_a_node_without_an_answer_installs_nothing(bench: SimInstaller, ablation: Ablation) -> None:
    answer = bench.paths.enrolled.read_bytes()
    bench.paths.enrolled.unlink()
    bench.publish("1.0")
    assert bench.poll() == "hold not_enrolled"
    with ablation("the answer of the security team") as attack:
        attack.without("node.judge.accept_enrolment", lambda *a, **_: True)
        attack.succeeded(bench.poll() == "committed")
    bench.publish("2.0")
    assert bench.poll() == "hold not_enrolled"
    bench.paths.enrolled.write_bytes(answer)
    assert bench.poll() == "committed"
    # Taken once: the file may go.
    bench.paths.enrolled.unlink()
    assert bench.poll() == "none done"


@pytest.mark.misuse
def test_an_answer_by_a_key_of_nobody_is_refused(bench: SimInstaller, ablation: Ablation) -> None:
    bench.publish("1.0")
    stranger = CryptoSigner.generate_ed25519()
    enrol(bench.paths, bench.repo, signer=stranger)
    with pytest.raises(Refused) as caught:
        bench.poll()
    assert caught.value.reason == "bad-signature"
    keys = {stranger.public_key.keyid: stranger.public_key}
    with ablation("the keys of the fleet role") as attack:
        attack.without("embrasure.trust.client.TrustClient.keys", lambda self, view, role: keys)
        attack.succeeded(bench.poll() == "committed")


@pytest.mark.misuse
@pytest.mark.parametrize(
    "changes", [{"node": "n-" + "a" * 26}, {"epoch": 2}, {"env": "prod"}, {"root": "0" * 64}]
)
def test_an_answer_for_another_node_is_refused(
    bench: SimInstaller, ablation: Ablation, changes: dict[str, object]
) -> None:
    bench.publish("1.0")
    enrol(bench.paths, bench.repo, changes=changes)
    with pytest.raises(Refused) as caught:
        bench.poll()
    assert caught.value.reason == "identity"
    assert bench.supervisor.running(bench.app) is None
    with ablation("the node that the answer names") as attack:
        attack.without("node.enrolment.check_answer", lambda *a: None)
        attack.succeeded(bench.poll() == "committed")


@pytest.mark.misuse
def test_a_fresh_node_is_not_fooled_by_an_older_repository(
    bench: SimInstaller, ablation: Ablation
) -> None:
    bench.publish("1.0")
    old = bench.repo.frozen_source()
    bench.repo.set_policy(min_seq={"shop": 99})
    bench.repo.publish()
    enrol(bench.paths, bench.repo)
    with pytest.raises(Refused) as caught:
        bench.poll(old)
    assert caught.value.reason == "rollback"
    assert bench.supervisor.running(bench.app) is None
    # Without the answer's floors the thief's old view would install.
    with ablation("the floors in the answer") as attack:
        attack.without("node.enrolment.check_answer")
        attack.without("node.enrolment.versions_of", lambda answer: {})
        attack.succeeded(bench.poll(old) == "committed")


def no_certificate(kind: str) -> str:
    """Return a chain member that is no certificate, in base64."""
    if kind == "bytes":
        return base64.b64encode(b"no certificate").decode()
    leaf = Authority().leaf("node", "n-" + "a" * 26).certificate
    forged = leaf.public_bytes(Encoding.DER).replace(
        bytes.fromhex("a003020102"), bytes.fromhex("a003020107"), 1
    )
    return base64.b64encode(forged).decode()


@pytest.mark.misuse
@pytest.mark.parametrize("kind", ["bytes", "of no version"])
def test_an_answer_with_a_chain_of_anything_else_is_refused_whole(
    bench: SimInstaller, ablation: Ablation, kind: str
) -> None:
    bench.publish("1.0")
    before = bench.paths.tls_chain.read_bytes() if bench.paths.tls_chain.exists() else b""
    bench.paths.taken.unlink(missing_ok=True)
    enrol(bench.paths, bench.repo, changes={"chain": (no_certificate(kind),)}, seq={"shop": 50})
    with pytest.raises(Refused) as caught:
        bench.poll()
    assert caught.value.reason == "pem"
    after = bench.paths.tls_chain.read_bytes() if bench.paths.tls_chain.exists() else b""
    assert after == before and not bench.paths.taken.exists()
    # Its floors were not taken either: the right answer is taken afterwards.
    enrol(bench.paths, bench.repo)
    assert bench.poll() == "committed"
    with ablation("the reading of each certificate") as attack:
        bench.paths.taken.unlink()
        enrol(bench.paths, bench.repo, changes={"chain": (no_certificate(kind),)})
        attack.without("node.enrolment.load_der", lambda der, *, what: base64.b64decode(der))
        attack.without("node.enrolment.pem_of", lambda der: der)
        bench.poll()
        attack.succeeded(b"BEGIN" not in bench.paths.tls_chain.read_bytes())


def test_first_numbers_bind_the_apps(bench: SimInstaller) -> None:
    bench.publish("1.0")
    enrol(bench.paths, bench.repo, seq={"shop": 50})
    assert bench.poll() == "refuse rollback"
