"""Enrol a node: check its statement, draft its directory entry, answer with first floors and TLS.

Names, labels and the certificate's content come from here; from the node come its public keys and
the proof that it holds them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID
from securesystemslib.signer import Key, Signer, SSlibKey

from embrasure import limits
from embrasure.clock import Clock, write_time
from embrasure.errors import Denied, Misuse, Refused
from embrasure.net.certificates import UNTRUE
from embrasure.net.identity import dns_name, uri
from embrasure.secret.keys import check_sound
from embrasure.trust import directory, documents, dsse, layout, policy
from embrasure.trust.directory import Enrolled, Entry, Statement
from pki import ca, store, verify
from pki.ca import Issuer
from pki.desk import Desk
from pki.drafts import Draft
from pki.folder import TrustFolder


@dataclass(frozen=True, slots=True)
class Checked:
    """A statement that holds: who signed it has the receipt key; boot: certificate, push only."""

    statement: Statement
    boot: x509.Certificate | None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the statement, to be compared with what the node shows."""
        return documents.digest(self.statement)


def check_statement(raw: bytes, trust: TrustFolder) -> Checked:
    """Return the statement in an envelope; raises Refused.

    Steps: 1 form, 2 the receipt key that it names signed it, 3 this fleet and an environment of
    it, 4 a push node's boot certificate is its own and for exactly its names, 5 secrets can be
    sealed to its key.
    """
    # 1. The key to verify with is inside; it is used for nothing but the signature.
    claimed = directory.parse_statement(_payload(raw))
    # 2.
    key = receipt_key(claimed)
    payload, _ = dsse.unseal("enrolment", raw, {key.keyid: key}, limit=2 * limits.STATEMENT_BYTES)
    statement = directory.parse_statement(payload)
    # 3.
    if statement.root != trust.root_id:
        raise Refused(
            statement.node, expected=f"fleet {trust.root_id[:16]}", got=statement.root[:16]
        )
    # 4.
    if (statement.boot_cert is None) == (statement.mode == "push"):
        raise Refused(
            statement.node, expected="a boot certificate for a push node only", got=statement.mode
        )
    boot = check_boot(statement, domain=trust.domain)
    # 5.
    check_sound(statement.hpke)
    return Checked(statement, boot)


def receipt_key(statement: Statement) -> SSlibKey:
    """Return the statement's receipt key, under its id in plans and receipts."""
    raw = statement.receipt.key
    keyid = hashlib.sha256(bytes.fromhex(raw)).hexdigest()
    return SSlibKey(keyid, "ed25519", "ed25519", {"public": raw})


def _payload(raw: bytes) -> bytes:
    envelope = documents.read(
        raw, dsse.Envelope, limit=2 * limits.STATEMENT_BYTES, document="enrolment envelope"
    )
    try:
        return base64.b64decode(envelope.payload, validate=True)
    except binascii.Error:
        raise Refused("enrolment envelope", expected="base64", got="something else") from None


def check_boot(statement: Statement, *, domain: str) -> x509.Certificate | None:
    """Return the boot certificate of a push node: P-256, self-signed, of its names; or None."""
    if statement.boot_cert is None:
        return None
    thing = f"boot certificate of {statement.node}"
    try:
        found = x509.load_der_x509_certificate(base64.b64decode(statement.boot_cert, validate=True))
        ca.check_leaf_key(found.public_key())
        found.verify_directly_issued_by(found)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except UNTRUE:
        raise Refused(thing, expected="a self-signed certificate", got="else") from None
    hosts = names.get_values_for_type(x509.DNSName)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    wanted = uri("node", statement.node, domain), dns_name("node", statement.node, domain)
    if (uris, hosts, len(list(names))) != ([wanted[0]], [wanted[1]], 2):
        raise Refused(thing, expected=f"the names {wanted[0]} and {wanted[1]}", got=uris + hosts)
    if list(usage) != [ExtendedKeyUsageOID.SERVER_AUTH]:
        raise Refused(thing, expected="server authentication only", got="another usage")
    return found


def entry_of(checked: Checked, *, domain: str, labels: Mapping[str, str]) -> Entry:
    """Return the directory entry of a new node."""
    said = checked.statement
    boot = None if checked.boot is None else hashlib.sha256(ca.der(checked.boot)).hexdigest()
    return documents.convert(
        {
            "id": said.node,
            "env": said.env,
            "state": "active",
            "epoch": said.epoch,
            "labels": dict(labels),
            "mode": said.mode,
            "tls_name": None if boot is None else dns_name("node", said.node, domain),
            "boot_cert": boot,
            "receipt": msgspec.to_builtins(said.receipt),
            "hpke": msgspec.to_builtins(said.hpke),
        },
        Entry,
        f"entry of {said.node}",
    )


def add_nodes(
    trust: TrustFolder,
    checked: Sequence[Checked],
    *,
    labels: Mapping[str, str] | None,
    clock: Clock,
) -> list[Draft]:
    """`fleet-<env>` is a draft that lists these nodes; no draft when all are listed as they are.

    labels: None keeps those of a node that is listed already
    """
    work = Desk(trust, clock)
    changed = False
    for one in checked:
        changed = _add_node(work, one, labels) or changed
    return work.write() if changed else []


def _add_node(work: Desk, one: Checked, labels: Mapping[str, str] | None) -> bool:
    trust, said = work.trust, one.statement
    role = layout.fleet_role(said.env)
    if trust.newest(role) is None:
        raise Refused(said.node, expected="an environment of this fleet", got=said.env)
    rules = policy.parse_policy(work.document(role, layout.policy_path(said.env)))
    path = layout.shard_path(said.env, directory.shard_of(said.node, rules.shards))
    shard = directory.parse_shard(work.document(role, path))
    known = {entry.id: entry for entry in shard.entries}
    old = known.get(said.node)
    kept = labels if labels is not None else (old.labels if old is not None else {})
    new = entry_of(one, domain=trust.domain, labels=kept)
    if new == old:
        return False
    if old is not None:
        check_successor(old, new)
    known[new.id] = new
    entries = tuple(known[name] for name in sorted(known))
    raw = documents.write(msgspec.structs.replace(shard, entries=entries))
    directory.parse_shard(raw)
    work.put(role, path, raw)
    return True


def check_successor(old: Entry, new: Entry) -> None:
    """Return only when `new` may take the place of `old`; raises Refused, Denied.

    Routine: other labels under the same keys, or new keys under a higher epoch. A retired id is
    never used again; new keys under the old epoch are somebody else.
    """
    if old.state == "retired":
        raise Denied(old.id, expected="an id never used before", got="a retired one")
    same = (old.epoch, old.mode, old.boot_cert, old.receipt, old.hpke)
    if same == (new.epoch, new.mode, new.boot_cert, new.receipt, new.hpke):
        return
    if new.epoch <= old.epoch or new.receipt.key == old.receipt.key:
        raise Refused(
            old.id,
            expected=f"the same keys, or new ones under epoch {old.epoch + 1}",
            got=f"other keys under epoch {new.epoch}",
            hint=f"if the node was made anew: embrasure node init --id {old.id} "
            f"--epoch {old.epoch + 1}",
            reason="identity",
        )


def answer(
    trust: TrustFolder, checked: Checked, *, signer: Signer, issuer: Issuer | None, clock: Clock
) -> bytes:
    """Return the envelope for the node: first floors, TLS trust bundle, its TLS chain (push).

    signer: a key of `fleet-<env>`; issuer: node-ca, for push nodes. The entry must be in force.
    Raises Denied, Refused.
    """
    said, role = checked.statement, layout.fleet_role(checked.statement.env)
    held = trust.held(role)
    if held is None or not _is_listed(trust, held, checked):
        raise Denied(
            said.node,
            expected=f"its entry in force in {role}",
            got="no such entry",
            hint="sign and merge the draft, then ask for the answer again",
            reason="threshold",
        )
    check_fleet_key(trust, role, signer.public_key)
    tls = store.read_targets(trust.path, store.as_targets(held))[layout.tls_path(said.env)]
    versions = trust.roles()
    found = Enrolled(
        v=1,
        type="enrolled",
        root=trust.root_id,
        env=said.env,
        node=said.node,
        epoch=said.epoch,
        floors=directory.Floors(
            root=versions[layout.ROOT],
            targets=versions[layout.TARGETS],
            fleet=versions[role],
            revocations=versions.get(layout.REVOCATIONS, 0),
            seq={},
            time=write_time(clock()),
        ),
        tls=directory.parse_tls_bundle(tls),
        chain=_chain(checked, issuer, clock),
    )
    return dsse.seal("enrolled", documents.write(found), signer)


def check_fleet_key(trust: TrustFolder, role: str, key: Key) -> None:
    """Return only when `key` is one of the role's keys in force; raises Denied."""
    held = trust.held(layout.TARGETS)
    known = verify.keys_of(role, store.as_targets(held))[1] if held is not None else {}
    if key.keyid not in known:
        raise Denied(role, expected="one of its keys", got=key.keyid[:16], reason="not-a-signer")


def _is_listed(trust: TrustFolder, held: store.AnyMetadata, checked: Checked) -> bool:
    said, found = checked.statement, store.read_targets(trust.path, store.as_targets(held))
    rules = policy.parse_policy(found[layout.policy_path(said.env)])
    path = layout.shard_path(said.env, directory.shard_of(said.node, rules.shards))
    entries = {entry.id: entry for entry in directory.parse_shard(found[path]).entries}
    old = entries.get(said.node)
    return old is not None and old == entry_of(checked, domain=trust.domain, labels=old.labels)


def _chain(checked: Checked, issuer: Issuer | None, clock: Clock) -> tuple[str, ...]:
    if checked.boot is None:
        return ()
    if issuer is None:
        raise Misuse(checked.statement.node, expected="the node issuer", got="none")
    key = checked.boot.public_key()
    if not isinstance(key, EllipticCurvePublicKey):
        raise Refused(checked.statement.node, expected="a P-256 key", got="another")
    leaf = ca.issue_leaf(f"node/{checked.statement.node}", key, issuer, clock)
    return tuple(base64.b64encode(ca.der(c)).decode("ascii") for c in (leaf, issuer.certificate))
