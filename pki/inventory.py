"""What a trust folder holds and who holds it: certificates, roles, node keys; verified first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cryptography import x509

from embrasure import limits
from embrasure.advice import Where, command_of
from embrasure.clock import now, read_time
from embrasure.expiry import Item, certificate_item, role_item
from embrasure.net.certificates import load_der
from embrasure.net.denials import key_digest
from embrasure.trust.directory import parse_shard, parse_tls_bundle
from embrasure.trust.layout import ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from pki import ca, ca_book, issued, joining, store, verify
from pki.folder import TrustFolder
from pki.verify import Verified


def items(folder: Path) -> list[Item]:
    """Return the rows of the trust folder at `folder`; raises Misuse, Refused, Damaged."""
    trust = TrustFolder.open(folder)
    verified = trust.verify(now()) if ROOT in trust.roles() else []
    return [
        *_authorities(trust, verified),
        *(_leaf(trust, leaf) for leaf in issued.leaves(trust.path) if not _left(leaf)),
        *(_role(trust, one) for one in verified),
        *_delegated(trust, verified),
        *_keys(trust, verified),
        *_tokens(trust),
    ]


def _left(leaf: x509.Certificate) -> bool:
    """An operator whose certificate has ended went home: he logs in when he comes back."""
    item = certificate_item(leaf, place="")
    return item.kind == "operator" and leaf.not_valid_after_utc <= now()


def _authorities(trust: TrustFolder, verified: list[Verified]) -> Iterator[Item]:
    """Yield CA roots and issuers in use: those in `ca/`, and those that a `tls.json` names."""
    book = trust.authorities()
    states = {one.key: one.state for one in book.known}
    found: dict[bytes, tuple[x509.Certificate, list[str]]] = {}
    for one in book.known:
        if one.state in ca_book.LISTED:
            cert = book.certificate(one)
            found.setdefault(ca.der(cert), (cert, []))[1].append(f"ca/{book.file_of(one)}")
    for role, path, raw in _documents(trust, verified):
        if path.endswith("/tls.json"):
            bundle = parse_tls_bundle(raw)
            texts = [*bundle.ca_root, *(text for one in bundle.issuers.values() for text in one)]
            for text in texts:
                cert = load_der(text, what="tls.json")
                found.setdefault(ca.der(cert), (cert, []))[1].append(f"tls.json of {role}")
    for cert, places in found.values():
        state = states.get(key_digest(cert), "unknown")
        yield certificate_item(
            cert, place=", ".join(places), where=Where(trust=trust.path), state=state
        )


def _leaf(trust: TrustFolder, leaf: x509.Certificate) -> Item:
    return certificate_item(leaf, place=f"issued by {trust.path}", where=Where(trust=trust.path))


def _role(trust: TrustFolder, one: Verified) -> Item:
    return role_item(
        one.role,
        version=one.version,
        until=one.expires,
        holder=f"{one.threshold} of {', '.join(one.owners)}",
        place=trust.path,
        where=Where(trust=trust.path),
    )


def _delegated(trust: TrustFolder, verified: list[Verified]) -> Iterator[Item]:
    """Yield the roles that others sign, elsewhere: who may, and how many of them it takes."""
    here = {one.role for one in verified}
    for delegator, role in _delegations(trust, here):
        threshold, keys = verify.keys_of(role, delegator)
        owners = sorted(verify.name_of(key) for key in keys.values())
        yield role_item(
            role,
            version=0,
            until=None,
            holder=f"{threshold} of {', '.join(owners)}",
            place="the gateway has its file",
        )


def _delegations(trust: TrustFolder, here: set[str]) -> Iterator[tuple[verify.Delegator, str]]:
    root, held = trust.held(ROOT), trust.held(TARGETS)
    if root is not None:
        for role in (SNAPSHOT, TIMESTAMP):
            yield store.as_root(root), role
    if held is not None:
        targets = store.as_targets(held)
        found = (targets.delegations.roles or {}) if targets.delegations is not None else {}
        for role in found:
            if role not in here:
                yield targets, role


def _tokens(trust: TrustFolder) -> Iterator[Item]:
    """Yield the join tokens that were minted here and not used."""
    for one in joining.waiting(trust):
        yield Item(
            kind="token",
            what="join token",
            name=one.node,
            holder=f"node/{one.node}",
            issuer=one.env,
            until=read_time(one.expires),
            life_s=limits.JOIN_SECONDS,
            action="be used",
            command=command_of("token", one.node, Where(trust=trust.path, env=one.env)),
            place=f"{trust.path}/joins",
        )


def _keys(trust: TrustFolder, verified: list[Verified]) -> Iterator[Item]:
    """Yield each active node's key epochs; keys have no end but the one people give them."""
    for role, path, raw in _documents(trust, verified):
        if "/dir/" not in path:
            continue
        for entry in parse_shard(raw).entries:
            if entry.state == "active":
                yield Item(
                    kind="key",
                    what=f"keys of epoch {entry.epoch}",
                    name=f"node/{entry.id}",
                    holder=f"node/{entry.id}",
                    issuer=role,
                    serial=entry.receipt_id[:16],
                    until=None,
                    life_s=0,
                    action="enrol again after a loss or a theft",
                    command=command_of("key", entry.id, Where(trust=trust.path)),
                    place=path,
                )


def _documents(trust: TrustFolder, verified: list[Verified]) -> Iterator[tuple[str, str, bytes]]:
    """Yield (role, path, bytes) of every target file in force of the `fleet` roles."""
    for one in verified:
        if one.role.startswith("fleet-"):
            held = store.as_targets(store.read_metadata(trust.path, one.role, one.version))
            for path, raw in store.read_targets(trust.path, held).items():
                yield one.role, path, raw
