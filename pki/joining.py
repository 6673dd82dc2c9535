"""Join tokens, on the keyholder's side: minted here, checked here, used up here.

Of a token only the key of its MAC is kept, below `joins/` of the trust folder, for an hour. The
gateway relays what a node says; what it changes, invents or repeats is refused by this file.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from msgspec import Meta

from embrasure import fs, limits
from embrasure.clock import Clock, read_time, write_time
from embrasure.errors import Denied, Misuse, NotFound, Refused
from embrasure.fs import Folder
from embrasure.net.certificates import load_certificates
from embrasure.net.profile import check_leaf
from embrasure.net.trustbundle import trust_of
from embrasure.secret.keys import seal_to
from embrasure.trust import directory, documents, dsse, joining, layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.documents import Digest, Document, EnvName, NodeId, Time
from embrasure.trust.joining import Challenge
from embrasure.trust.receipt import node_id
from pki import ca, enrol, store
from pki.enrol import Checked
from pki.folder import TrustFolder

_RECORD_BYTES = 4096
T = TypeVar("T", bound=Document)


class JoinKey(Document, frozen=True, kw_only=True):
    """What is kept of a token that was not used yet; left: wrong answers that it still survives."""

    v: Literal[1]
    type: Literal["join-key"]
    root: Digest
    env: EnvName
    node: NodeId
    key: Digest
    left: Annotated[int, Meta(ge=1, le=limits.JOIN_TRIES)]
    expires: Time


class Joining(Document, frozen=True, kw_only=True):
    """A statement whose MAC was right; from here on its node must come into force by `expires`."""

    v: Literal[1]
    type: Literal["joining-node"]
    root: Digest
    env: EnvName
    node: NodeId
    statement: Digest
    expires: Time


@dataclass(frozen=True, slots=True)
class Minted:
    """A new token, shown once."""

    node: str
    token: str
    expires: datetime


@dataclass(frozen=True, slots=True)
class Asked:
    """A challenge that was sent, and what a node must have opened."""

    challenge: Challenge
    secret: bytes

    @property
    def raw(self) -> bytes:
        """The challenge as it travels."""
        return documents.write(self.challenge)


def mint(trust: TrustFolder, env: str, node: str, *, ttl_s: int, clock: Clock) -> Minted:
    """Return a token for one node id in one environment; an earlier one for it is void.

    node: "" for a new random id. Called under the folder's lock. Raises Misuse, Denied.
    """
    node = node or node_id(secrets.token_bytes(16))
    trust.fleet_role(env)
    if not layout.NODE_ID.fullmatch(node):
        raise Misuse("node", expected="a node id", got=node)
    if not 0 < ttl_s <= limits.JOIN_SECONDS:
        raise Misuse("--ttl", expected=f"1 to {limits.JOIN_SECONDS} seconds", got=ttl_s)
    token, expires = joining.new_token(), clock() + timedelta(seconds=ttl_s)
    kept = JoinKey(
        v=1,
        type="join-key",
        root=trust.root_id,
        env=env,
        node=node,
        key=joining.join_key(token, env=env, node=node).hex(),
        left=limits.JOIN_TRIES,
        expires=write_time(expires),
    )
    _put(trust, _key_name(env, node), kept)
    _drop(trust, _joined_name(env, node))
    return Minted(node, token, expires)


def accept(
    trust: TrustFolder, env: str, node: str, statement: bytes, mac: str, *, clock: Clock
) -> Checked:
    """Return the statement that the token's holder made; the token is used up by it.

    Called under the folder's lock, so of two that race one finds no key any more. The same
    statement may come again until it lapses. Raises Denied (`no-token`, `token-expired`, `lapsed`),
    Refused (`bad-mac`, ...).
    Steps: 1 one that was accepted before, 2 the key, in time, 3 the MAC, else a try is gone, 4 the
    statement itself, of this very node, 5 the key is gone, the statement remembered.
    """
    digest = sha256_hex(statement)
    # 1.
    joined = _read(trust, _joined_name(env, node), Joining)
    if joined is not None and joined.statement == digest:
        if clock() >= read_time(joined.expires):
            _drop(trust, _joined_name(env, node))
            raise _denied(node, "a request of the last 24 hours", "one that lapsed", "lapsed")
        return check_own(enrol.check_statement(statement, trust), env=env, node=node)
    # 2.
    kept = _read(trust, _key_name(env, node), JoinKey)
    if kept is None:
        raise _denied(node, "a join token that waits", "none, or a used one", "no-token")
    if clock() >= read_time(kept.expires):
        _drop(trust, _key_name(env, node))
        raise _denied(node, "a join token in its hour", "an expired one", "token-expired")
    # 3.
    if not joining.is_mac_of(bytes.fromhex(kept.key), statement, mac):
        raise _one_try_less(trust, kept)
    # 4.
    checked = check_own(enrol.check_statement(statement, trust), env=env, node=node)
    # 5.
    expires = clock() + timedelta(seconds=limits.JOIN_PENDING_SECONDS)
    said = Joining(
        v=1, type="joining-node", root=trust.root_id, env=env, node=node, statement=digest,
        expires=write_time(expires),
    )  # fmt: skip
    _put(trust, _joined_name(env, node), said)
    _drop(trust, _key_name(env, node))
    return checked


def check_own(checked: Checked, *, env: str, node: str) -> Checked:
    """Return the statement when it is of this push node; raises Refused (`not-mine`)."""
    said = checked.statement
    if (said.env, said.node, said.mode) != (env, node, "push"):
        raise Refused(
            f"statement of {said.node}", expected=f"push node {node} of {env}",
            got=f"{said.mode} node {said.node} of {said.env}", reason="not-mine",
        )  # fmt: skip
    return checked


def _one_try_less(trust: TrustFolder, kept: JoinKey) -> Refused:
    name, left = _key_name(kept.env, kept.node), kept.left - 1
    if left:
        _put(trust, name, msgspec.structs.replace(kept, left=left))
    else:
        _drop(trust, name)
    return Refused(
        f"node {kept.node}",
        expected="a statement with the MAC of its join token",
        got=f"another; {left} wrong answers are left" if left else "another; the token is void",
        untouched="nothing was proposed",
        hint="who answers there was given no such token: look at the address, or mint anew",
        reason="bad-mac",
    )


# --- possession ---------------------------------------------------------------------------------


def challenge(trust: TrustFolder, checked: Checked) -> Asked:
    """Return a fresh challenge for the keys of a statement; raises Refused (`weak-key`)."""
    said = checked.statement
    nonce, secret = secrets.token_hex(32), secrets.token_bytes(joining.CHALLENGE_BYTES)
    info = joining.challenge_info(
        root=trust.root_id, env=said.env, node=said.node, epoch=said.epoch, nonce=nonce
    )
    made = Challenge(
        v=1,
        type="challenge",
        root=trust.root_id,
        env=said.env,
        node=said.node,
        epoch=said.epoch,
        nonce=nonce,
        sealed=base64.b64encode(seal_to(said.hpke, secret, info=info)).decode("ascii"),
    )
    return Asked(made, secret)


def check_proof(
    raw: bytes, asked: Asked, checked: Checked, *, statement: bytes, gateway: x509.Certificate
) -> None:
    """Return only when the node answered this very challenge with both of its keys.

    gateway: the certificate that the gateway says it dialled with, already checked. Raises Refused
    (`bad-signature`, `bad-proof`).
    """
    key = enrol.receipt_key(checked.statement)
    payload, _ = dsse.unseal("joining", raw, {key.keyid: key}, limit=limits.CHALLENGE_BYTES)
    proof, made = joining.parse_proof(payload), asked.challenge
    expected = {
        "fleet": made.root,
        "environment": made.env,
        "node": made.node,
        "epoch": made.epoch,
        "nonce": made.nonce,
        "seal": asked.secret.hex(),
        "gateway": gateway.fingerprint(hashes.SHA256()).hex(),
        "statement": sha256_hex(statement),
    }
    found = (proof.root, proof.env, proof.node, proof.epoch, proof.nonce, proof.opened,
             proof.gateway, proof.statement)  # fmt: skip
    wrong = compared(expected, found)
    if wrong:
        raise Refused(
            f"proof of {made.node}", expected=f"the {wrong} that was asked with", got="another",
            untouched="nothing was proposed", reason="bad-proof",
        )  # fmt: skip


def compared(expected: Mapping[str, object], found: Sequence[object]) -> str:
    """Return the name of the first value that differs, "" for none."""
    pairs = zip(expected.items(), found, strict=True)
    return next((name for (name, mine), theirs in pairs if mine != theirs), "")


def check_gateway(trust: TrustFolder, env: str, chain: bytes, *, at: datetime) -> x509.Certificate:
    """Return the leaf by which a gateway of `env` dials; raises Refused.

    The trust folder's own `tls.json` says who that may be.
    """
    held = trust.held(layout.fleet_role(env))
    if held is None:
        raise Refused(env, expected="an environment in force", got="none")
    raw = store.read_targets(trust.path, store.as_targets(held))[layout.tls_path(env)]
    believed = trust_of(directory.parse_tls_bundle(raw))
    leaf = load_certificates(chain, what="gateway certificate")[0]
    found = check_leaf(
        leaf, role="gateway", issuers=believed.issuers_of("gateway"), domain=believed.domain, at=at
    )
    if believed.gateways is not None and found.name not in believed.gateways:
        raise Refused("gateway", expected="an id that tls.json lists", got=found.name,
                      reason="identity")  # fmt: skip
    return leaf


def check_shown(checked: Checked, leaf: bytes) -> None:
    """Return only when `leaf` (PEM) is the boot certificate of the statement; raises Refused."""
    shown = load_certificates(leaf, what="certificate at the address")
    if checked.boot is None or len(shown) != 1 or ca.der(shown[0]) != ca.der(checked.boot):
        raise Refused(
            f"node {checked.statement.node}", expected="the boot certificate of its statement",
            got="another at its address", reason="boot-certificate",
        )  # fmt: skip


# --- the folder ---------------------------------------------------------------------------------


def waiting(trust: TrustFolder) -> Sequence[JoinKey]:
    """Return the tokens that were minted and not used, by node id."""
    folder = trust.path / "joins"
    names = sorted(path.name for path in folder.glob("*.key.json")) if folder.is_dir() else []
    found = (_read(trust, name, JoinKey) for name in names)
    return [one for one in found if one is not None]


def _key_name(env: str, node: str) -> str:
    return f"{env}.{node}.key.json"


def _joined_name(env: str, node: str) -> str:
    return f"{env}.{node}.json"


def _put(trust: TrustFolder, name: str, record: Document) -> None:
    with Folder.open(trust.path / "joins", create=True, mode=0o700) as folder:
        folder.replace(name, documents.write(record))


def _drop(trust: TrustFolder, name: str) -> None:
    with Folder.open(trust.path / "joins", create=True, mode=0o700) as folder:
        folder.unlink(name, missing_ok=True)


def _read(trust: TrustFolder, name: str, shape: type[T]) -> T | None:
    path: Path = trust.path / "joins" / name
    try:
        raw = fs.read_file(path, limit=_RECORD_BYTES, private=True)
    except NotFound:
        return None
    return documents.read(raw, shape, limit=_RECORD_BYTES, document="join record")


def _denied(node: str, expected: str, got: str, reason: str) -> Denied:
    return Denied(
        f"node {node}", expected=expected, got=got, untouched="nothing was proposed",
        hint="embrasure pki token mints one", reason=reason,
    )  # fmt: skip
