"""The security team's answer, verified before anything of it is believed: from the anchor alone.

With the answer come the trust files that vouch for it: root step by step, targets, the fleet role
and its documents. Who brings them proves nothing: a thief of the gateway can bring these or none.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from securesystemslib.signer import Key

from embrasure import limits
from embrasure.clock import now
from embrasure.errors import Refused
from embrasure.fs import read_file
from embrasure.net.certificates import load_certificates, load_der, pem_of
from embrasure.net.trustbundle import trust_of
from embrasure.trust import dsse, layout
from embrasure.trust.directory import (
    Enrolled,
    Entry,
    SealKey,
    parse_enrolled,
    parse_shard,
    parse_tls_bundle,
    shard_of,
)
from embrasure.trust.documents import digest
from embrasure.trust.listing import TrustFolderSource
from embrasure.trust.offline import Offline
from embrasure.trust.policy import parse_policy
from embrasure.trust.proven import check_current, proven, proven_document
from embrasure.trust.source import Source
from node.enrolment import versions_of
from node.identity import Identity, load_identity, load_seal_key
from node.material import lives, read_enrolled
from node.paths import Paths
from node.setup import check_mine


def verified_answer(
    raw: bytes, source: Source, *, anchor: bytes, identity: Identity, seal: SealKey, at: datetime
) -> Enrolled:
    """Return the answer in the envelope `raw`; nothing of it was believed before.

    seal: this node's sealing key, its public half
    Steps: 1 about this node, its chain for its own key, 2 root, targets and fleet role from the
    anchor on, none expired, none older than the answer says, 3 a key of the fleet role signed the
    answer, 4 its trust bundle is the one that k of n keyholders listed, and one of the node issuers
    in it signed its chain, 5 the directory, which k of n signed, lists this node with its own keys.
    Raises Refused (`not-mine`, `unproven`, `rollback`, `expired`, `bad-signature`, `bundle`,
    `certificate`, `identity`, ...), NotFound, Unavailable.
    """
    # 1. The payload is used for nothing before step 3.
    claimed = read_enrolled(raw)
    check_mine(claimed, identity)
    # 2.
    role, env = layout.fleet_role(identity.env), identity.env
    held = proven(anchor, source, env=env)
    for name, least in versions_of(claimed).items():
        if name != layout.REVOCATIONS:
            check_current(held, name, least=least, at=at)
        elif least:
            # They only stop: that they ran out must not keep a node from joining.
            check_current(held, name, least=least, at=None)
    # 3.
    payload, _ = dsse.unseal("enrolled", raw, fleet_keys(held, role), limit=limits.ENROLMENT_BYTES)
    answer = parse_enrolled(payload)
    # 4.
    root = identity.root_id
    tls = proven_document(held, role, layout.tls_path(env), source, root=root)
    check_bundle(answer, tls)
    check_issued(answer, identity, at)
    # 5.
    policy = proven_document(held, role, layout.policy_path(env), source, root=root)
    path = layout.shard_path(env, shard_of(identity.node, parse_policy(policy).shards))
    entries = parse_shard(proven_document(held, role, path, source, root=root)).entries
    check_listed({entry.id: entry for entry in entries}, identity, seal)
    return answer


def verify_carried(paths: Paths, answer: Path, trust: Path) -> None:
    """Return only when the trust files in the folder `trust` vouch for a carried answer.

    Raises what `verified_answer` raises.
    """
    identity = load_identity(paths)
    verified_answer(
        read_file(answer, limit=limits.ENROLMENT_BYTES),
        TrustFolderSource(trust),
        anchor=read_file(paths.anchor, limit=limits.ROOT_BYTES),
        identity=identity,
        seal=load_seal_key(paths).public(epoch=identity.epoch),
        at=now(),
    )


def fleet_keys(held: Offline, role: str) -> Mapping[str, Key]:
    """Return the keys that proven targets let sign `role`."""
    targets = held.targets
    known = targets.delegations.keys if targets is not None and targets.delegations else {}
    return {keyid: known[keyid] for keyid in held.holders(role) if keyid in known}


def check_bundle(answer: Enrolled, listed: bytes) -> None:
    """Return only when the answer's trust bundle is `listed`; raises Refused (`bundle`).

    One keyholder's key signs an answer; whom a node believes takes the threshold.
    """
    if digest(answer.tls) != digest(parse_tls_bundle(listed)):
        raise Refused(
            "trust bundle of the enrolment answer", expected="the one that the fleet role lists",
            got="another", reason="bundle",
            hint="publish the new bundle first, or ask for another answer: embrasure pki enrol",
        )  # fmt: skip


def check_issued(answer: Enrolled, identity: Identity, at: datetime) -> None:
    """Return only when a node issuer of the bundle signed the chain, which has not ended.

    Raises Refused (`certificate`).
    """
    if identity.mode == "pull":
        return
    chain = b"".join(pem_of(load_der(text, what="node certificate")) for text in answer.chain)
    if not lives(chain, at=at, trust=trust_of(answer.tls)):
        raise Refused(
            "certificate of the enrolment answer", expected="one by a node issuer of its bundle",
            got="another, or one that has ended", reason="certificate",
            hint="ask for another answer: embrasure pki enrol",
        )  # fmt: skip


def check_listed(entries: Mapping[str, Entry], identity: Identity, seal: SealKey) -> None:
    """Return only when the directory lists this node, active, under its own keys.

    Raises Refused (`identity`).
    """
    found = entries.get(identity.node)
    if found is None:
        raise Refused(
            "directory",
            expected=f"{identity.node} in it",
            got="no such entry",
            reason="identity",
            hint="publish what the security team signed: embrasure trust submit DIR",
        )
    boot = None
    if identity.boot_cert_pem:
        (cert,) = load_certificates(identity.boot_cert_pem, what="boot certificate")
        boot = cert.fingerprint(hashes.SHA256()).hex()
    mine = (
        "active", identity.epoch, identity.mode, boot, identity.receipt_public, seal.key
    )  # fmt: skip
    theirs = (
        found.state, found.epoch, found.mode, found.boot_cert, found.receipt.key, found.hpke.key
    )  # fmt: skip
    if mine != theirs:
        raise Refused(
            f"directory entry of {identity.node}", expected="active, with this node's own keys",
            got="another", reason="identity",
            hint="ask for an answer to this node's own statement.json: embrasure pki enrol",
        )  # fmt: skip
