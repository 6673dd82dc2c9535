"""The node's half of joining: it answers for its token and its keys until it is enrolled."""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path
from typing import Any

import pytest

from embrasure.clock import now
from embrasure.errors import Denied, EmbrasureError, Misuse, Refused
from embrasure.secret.keys import OpeningKey, seal_to
from embrasure.trust import dsse
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.documents import write
from embrasure.trust.floors import FloorStore
from embrasure.trust.joining import (
    Challenge,
    challenge_info,
    is_mac_of,
    join_key,
    new_token,
    parse_proof,
)
from embrasure.trust.listing import GivenSource
from node.ground import FloorKeeper
from node.identity import load_identity, load_seal_key
from node.join_files import read_mac, read_statement
from node.joining import Enrol, Joiner
from node.judge import Judge
from node.paths import Paths
from node.setup import Wish, make_node
from node.tokens import read_token
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.nodes import fixed_node_id
from tests.simulate.office import verb
from tests.simulate.repository import SimRepository

NODE, GATEWAY = fixed_node_id(1), "ab" * 32
ANCHOR = SimRepository().anchor


def make(tmp_path: Path, token: str = "", **changed: object) -> Paths:
    """Return a new push node that was given a token."""
    anchor, issuer = tmp_path / "anchor.json", tmp_path / "gateway.crt"
    anchor.write_bytes(ANCHOR)
    issuer.write_bytes(Authority().issuer_pem("gateway"))
    asked: dict[str, object] = {
        "env": "dev", "mode": "push", "domain": "fleet.example", "anchor": anchor, "node": NODE,
        "gateway_issuer": issuer, "token": token,
    }  # fmt: skip
    paths = Paths(tmp_path / "node")
    make_node(paths, Wish(**{**asked, **changed}))  # type: ignore[arg-type]  # members by name
    return paths


def enrolling(paths: Paths) -> Enrol:
    """Return what takes answers of this node."""
    floors = FloorKeeper(FloorStore(paths.floors))
    return Judge(paths, load_identity(paths), floors, clock=now).enrol


def challenge(paths: Paths, *, to: OpeningKey | None = None, **changed: object) -> bytes:
    """Return a challenge for the node, or one that differs."""
    identity, nonce = load_identity(paths), secrets.token_hex(32)
    key = (to or load_seal_key(paths)).public(epoch=1)
    info = challenge_info(root=identity.root_id, env="dev", node=NODE, epoch=1, nonce=nonce)
    honest: dict[str, object] = {
        "v": 1, "type": "challenge", "root": identity.root_id, "env": "dev", "node": NODE,
        "epoch": 1, "nonce": nonce,
        "sealed": base64.b64encode(seal_to(key, b"s" * 32, info=info)).decode(),
    }  # fmt: skip
    return write(Challenge(**{**honest, **changed}))  # type: ignore[arg-type]  # members by name


def test_the_token_leaves_only_a_mac_over_the_statement(tmp_path: Path) -> None:
    token = new_token()
    paths = make(tmp_path, token)
    key = join_key(token, env="dev", node=NODE)
    assert is_mac_of(key, read_statement(paths), read_mac(paths))
    held = b"".join(path.read_bytes() for path in paths.prefix.rglob("*") if path.is_file())
    assert token.encode() not in held and key.hex().encode() not in held


def test_a_node_without_a_token_has_no_mac(tmp_path: Path) -> None:
    paths = make(tmp_path)
    assert read_mac(paths) == ""
    # One for another statement counts for nothing.
    token = new_token()
    done = verb(
        "node", "token", "--root", paths.prefix, "--token-file", token_file(tmp_path, token)
    )
    assert done.code == 0 and read_mac(paths)
    paths.statement.write_bytes(b"{}")
    assert read_mac(paths) == ""


def token_file(tmp_path: Path, token: str) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{token}\n")
    file.chmod(0o600)
    return file


@pytest.mark.parametrize("changed", [{"mode": "pull"}, {"node": ""}, {"gateway_issuer": None}])
def test_a_token_is_for_a_push_node_with_an_id_that_knows_the_gateways_issuer(
    changed: dict[str, object], tmp_path: Path
) -> None:
    with pytest.raises(Misuse):
        make(tmp_path, new_token(), **changed)
    assert not (tmp_path / "node" / "var").exists()


@pytest.mark.misuse
def test_a_token_comes_from_a_private_file_or_a_descriptor_only(
    tmp_path: Path, ablation: Ablation
) -> None:
    token = new_token()
    file = token_file(tmp_path, token)
    assert read_token(fd=None, file=file) == token
    reading, writing = os.pipe()
    os.write(writing, token.encode())
    os.close(writing)
    assert read_token(fd=reading, file=None) == token
    os.close(reading)
    assert read_token(fd=None, file=None) == ""
    with pytest.raises(Misuse):
        read_token(fd=0, file=file)
    with pytest.raises(EmbrasureError):
        read_token(fd=977, file=None)
    file.chmod(0o644)
    with pytest.raises(Denied):
        read_token(fd=None, file=file)
    with ablation("the mode of the file") as attack:
        attack.without("embrasure.fs.check_private")
        attack.succeeded(read_token(fd=None, file=file) == token)


def test_a_token_of_another_form_makes_no_node(tmp_path: Path) -> None:
    with pytest.raises(Refused) as told:
        make(tmp_path, "embrjoin-short")
    assert told.value.reason == "bad-token" and "short" not in str(told.value)


def test_the_proof_says_what_the_node_knows_itself(tmp_path: Path) -> None:
    paths = make(tmp_path, new_token())
    identity = load_identity(paths)
    raw = Joiner(paths, now, enrolling(paths)).prove(challenge(paths), gateway=GATEWAY)
    keys = {identity.receipt_id: identity.signer().public_key}
    payload, _ = dsse.unseal("joining", raw, keys, limit=8192)
    proof = parse_proof(payload)
    assert (proof.opened, proof.gateway) == ((b"s" * 32).hex(), GATEWAY)
    assert proof.statement == sha256_hex(read_statement(paths))


@pytest.mark.misuse
@pytest.mark.parametrize(
    "changed", [{"root": "0" * 64}, {"env": "prod"}, {"node": fixed_node_id(2)}, {"epoch": 2}]
)
def test_a_challenge_for_another_node_is_not_answered(
    changed: dict[str, Any], tmp_path: Path, ablation: Ablation
) -> None:
    paths = make(tmp_path, new_token())
    joiner = Joiner(paths, now, enrolling(paths))
    with pytest.raises(Refused) as told:
        joiner.prove(challenge(paths, **changed), gateway=GATEWAY)
    assert told.value.reason == "not-mine"
    with ablation("whose challenge it is") as attack:
        # Two guards: the fields, and the context that the seal is bound to.
        attack.without("node.joining.check_challenge")
        with pytest.raises(Refused) as second:
            joiner.prove(challenge(paths, **changed), gateway=GATEWAY)
        assert second.value.reason == "no-open"
        attack.without("node.joining.challenge_info", lambda **_: INFO)
        attack.without("tests.unit.node.test_joining.challenge_info", lambda **_: INFO)
        attack.succeeded(joiner.prove(challenge(paths, **changed), gateway=GATEWAY))


INFO = b"any"


@pytest.mark.misuse
def test_a_challenge_that_was_sealed_to_others_is_not_answered(
    tmp_path: Path, ablation: Ablation
) -> None:
    paths = make(tmp_path, new_token())
    other = OpeningKey.generate()
    asked = challenge(paths, to=other)
    with pytest.raises(Refused) as told:
        Joiner(paths, now, enrolling(paths)).prove(asked, gateway=GATEWAY)
    assert told.value.reason == "no-open"
    with ablation("the node's own sealing key") as attack:
        attack.without("node.joining.load_seal_key", lambda _: other)
        attack.succeeded(Joiner(paths, now, enrolling(paths)).prove(asked, gateway=GATEWAY))


@pytest.mark.misuse
def test_an_enrolled_node_answers_no_more(tmp_path: Path, ablation: Ablation) -> None:
    paths = make(tmp_path, new_token())
    paths.taken.write_text("{}")
    joiner = Joiner(paths, now, enrolling(paths))
    for ask in (
        lambda: joiner.prove(challenge(paths), gateway=GATEWAY),
        lambda: joiner.take(b"", GivenSource({})),
    ):
        with pytest.raises(Denied) as told:
            ask()
        assert told.value.reason == "enrolled"
    with ablation("that it is enrolled") as attack:
        attack.without("node.joining.check_not_enrolled")
        attack.succeeded(joiner.prove(challenge(paths), gateway=GATEWAY))


def test_an_answer_of_any_bytes_is_refused_and_not_kept(tmp_path: Path) -> None:
    paths = make(tmp_path, new_token())
    for raw in (b"", b"{}", b"x" * 50_000):
        with pytest.raises(EmbrasureError):
            Joiner(paths, now, enrolling(paths)).take(raw, GivenSource({}))
    assert not paths.enrolled.exists()
