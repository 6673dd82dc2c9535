"""Stop things: the on-call's revocations (one signature), and lasting denials in the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from embrasure import fs, limits
from embrasure.clock import Clock, write_time
from embrasure.errors import Misuse
from embrasure.net.certificates import load_certificates
from embrasure.net.denials import key_digest
from embrasure.trust import documents, layout, policy
from embrasure.trust.denied import LISTS
from pki.desk import Desk
from pki.drafts import Draft
from pki.folder import TrustFolder


@dataclass(frozen=True, slots=True)
class Denial:
    """What is denied: plans and manifests by digest, keys and nodes by id; gateway certificates and
    issuers by the SHA-256 of their public key.
    """

    plans: tuple[str, ...] = ()
    manifests: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    gateway_certs: tuple[str, ...] = ()
    issuers: tuple[str, ...] = ()


def denial(
    *,
    plans: Sequence[str],
    manifests: Sequence[str],
    keys: Sequence[str],
    nodes: Sequence[str],
    gateway_certs: Sequence[str] = (),
    issuers: Sequence[str] = (),
) -> Denial:
    """Return what the command line denies; raises Misuse for nothing at all or a bad id."""
    for text in (*plans, *manifests, *keys):
        if not layout.DIGEST.fullmatch(text):
            raise Misuse("denial", expected="64 lower-case hex digits", got=text)
    for text in nodes:
        if not layout.NODE_ID.fullmatch(text):
            raise Misuse("denial", expected="a node id", got=text)
    certs = tuple(key_named(text) for text in gateway_certs)
    found = Denial(
        tuple(plans), tuple(manifests), tuple(keys), tuple(nodes), certs,
        tuple(key_named(text) for text in issuers),
    )  # fmt: skip
    if found == Denial():
        raise Misuse("denial", expected="something to deny", got="none of the options")
    return found


def key_named(text: str) -> str:
    """Return the digest of the public key that `text` is, or whose certificate file it names.

    Of a chain the first certificate counts. Raises Misuse, Refused, NotFound.
    """
    if layout.DIGEST.fullmatch(text):
        return text
    if not Path(text).exists():
        raise Misuse("denial", expected="a certificate file, or the SHA-256 of its key", got=text)
    pem = fs.read_file(Path(text), limit=limits.TLS_BUNDLE_BYTES)
    return key_digest(load_certificates(pem, what=text)[0])


def revoke(trust: TrustFolder, env: str, what: Denial, *, reason: str, clock: Clock) -> list[Draft]:
    """The next `revocations` is a draft that also lists `what`; one signature puts it in force.

    Its number is above every one that the policy has reset: below it nobody would listen.
    """
    trust.fleet_role(env)
    path = layout.revocations_path(env)
    work = Desk(trust, clock)
    found = policy.parse_revocations(work.document(layout.REVOCATIONS, path))
    signed, reset = work.targets(layout.REVOCATIONS), reset_through(trust, env)
    if signed.version - 1 <= reset:
        # What the policy has lifted must not come back by being listed again.
        found = msgspec.structs.replace(found, **dict.fromkeys(LISTS, ()))
    signed.version = max(signed.version, reset + 1)
    merged = msgspec.structs.replace(
        found,
        plans=_more(found.plans, what.plans),
        manifests=_more(found.manifests, what.manifests),
        keys=_more(found.keys, what.keys),
        nodes=_more(found.nodes, what.nodes),
        gateway_certs=_more(found.gateway_certs, what.gateway_certs),
        issued=write_time(clock()),
        reason=reason,
    )
    raw = documents.write(merged)
    policy.parse_revocations(raw)
    work.put(layout.REVOCATIONS, path, raw)
    return work.write()


def reset_through(trust: TrustFolder, env: str) -> int:
    """Return up to which version of the revocations the newest policy, drafted or not, resets."""
    raw = trust.documents(layout.fleet_role(env)).get(layout.policy_path(env))
    return 0 if raw is None else policy.parse_policy(raw).denials_reset_through


def deny(trust: TrustFolder, env: str, what: Denial, *, lift: bool, clock: Clock) -> list[Draft]:
    """The next `fleet-<env>` is a draft whose policy also denies `what`; with `lift`, no longer."""
    path, role = layout.policy_path(env), trust.fleet_role(env)
    work = Desk(trust, clock)
    found = policy.parse_policy(work.document(role, path))
    if lift:
        check_denied(found, what)
    change = _less if lift else _more
    denied = msgspec.structs.replace(
        found.denied,
        plans=change(found.denied.plans, what.plans),
        manifests=change(found.denied.manifests, what.manifests),
        keys=change(found.denied.keys, what.keys),
        nodes=change(found.denied.nodes, what.nodes),
        gateway_certs=change(found.denied.gateway_certs, what.gateway_certs),
        issuers=change(found.denied.issuers, what.issuers),
    )
    raw = documents.write(msgspec.structs.replace(found, denied=denied))
    policy.parse_policy(raw)
    work.put(role, path, raw)
    return work.write()


def check_denied(found: policy.Policy, what: Denial) -> None:
    """Return only when the policy denies something of `what`; raises Misuse.

    Else a draft would be signed that lifts nothing, while revocations go on to deny it.
    """
    named = {name: set(getattr(what, name)) for name in what.__slots__}
    if not any(items & set(getattr(found.denied, name)) for name, items in named.items()):
        raise Misuse(
            "denial to lift", expected="something that the policy denies", got="nothing of it",
            hint="embrasure trust denials shows it; trust lift ends what revocations deny",
        )  # fmt: skip


def renew(trust: TrustFolder, role: str, *, clock: Clock) -> list[Draft]:
    """The next version of `role` is a draft with the same content and a new expiry."""
    if trust.newest(role) is None:
        raise Misuse(role, expected="a role in force", got="none")
    work = Desk(trust, clock)
    if role == layout.ROOT:
        work.root()
    else:
        work.targets(role)
    return work.write()


def _more(known: tuple[str, ...], new: tuple[str, ...]) -> tuple[str, ...]:
    return (*known, *(item for item in new if item not in known))


def _less(known: tuple[str, ...], gone: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(item for item in known if item not in gone)
