"""New CA keys in the place of old ones, without a moment in which anybody is cut off.

Both are believed before the new one issues, and until nothing of the old one lives. Each step
drafts `tls.json` of every environment; the threshold of `fleet-<env>` puts it in force.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
from cryptography import x509

from embrasure import fs, limits
from embrasure.clock import Clock, read_time
from embrasure.errors import Denied, Misuse
from embrasure.net.denials import key_digest
from embrasure.net.identity import PROFILES, IssuerName
from embrasure.trust import documents, layout, policy
from pki import ca, ca_book, holders
from pki.bundles import (
    Keys,
    Step,
    check_ready,
    clear,
    drafted,
    is_drafted,
    listed,
    new_authority,
    saved,
)
from pki.ca_book import Authorities, Authority
from pki.desk import Desk
from pki.folder import TrustFolder
from pki.holders import Holder
from pki.keyfile import OpenedFile
from pki.next_ca_key import next_key
from pki.signerkey import SignerKey
from pki.signers import open_key


def create(
    trust: TrustFolder, name: IssuerName, keys: Keys, *, clock: Clock, uri: str | None = None
) -> Step:
    """`tls.json` drafts of every environment name a second issuer of this role, `prepared`.

    Nothing is issued with it before `activate`. uri: of its key, when that lies in a token. Raises
    Misuse while two are listed already.
    """
    book = trust.authorities()
    work, at = Desk(trust, clock), clock()
    waiting = book.of(name, "prepared")
    if waiting:
        # Made before, and perhaps not drafted: a kill between the two.
        return Step(waiting[0], tuple(drafted(work, trust, book)))
    _check_room(book, name)
    one = new_authority(book, name, at)
    key = next_key(one, "ecdsa-p256", uri, root=trust.root_id)
    certificates = {
        ca_book.file_under(one, root.number): _issued(trust, book, root, name, key.public, keys, at)
        for root in book.of("root", "active", "retiring")
    }
    clear(book, one)
    key.keep(trust, book, one, keys)
    for file, cert in certificates.items():
        fs.replace_file(book.folder, file, ca.pem(cert), mode=0o644)
    one = msgspec.structs.replace(one, key=key_digest(next(iter(certificates.values()))))
    return listed(work, trust, book, one)


def activate(
    trust: TrustFolder, name: IssuerName, report: Sequence[Holder], *, force: bool, clock: Clock
) -> Step:
    """The prepared issuer issues from now on; the former one is retiring.

    Raises Denied (`not-ready`) while a verifier lacks the new `tls.json`; 14 days after it was
    prepared `force` goes on without the rest, which are told.
    """
    book, at = trust.authorities(), clock()
    waiting = book.of(name, "prepared")
    if not waiting:
        raise Misuse(name, expected="a prepared issuer", got="none",
                     hint=f"embrasure pki issuer create {name}")  # fmt: skip
    one = waiting[0]
    _check_in_force(trust, one)
    missing = holders.lacking(trust, one, report)
    check_ready(one, missing, report, force=force, at=at, after=limits.ISSUER_OVERLAP_SECONDS)
    for old in book.of(name, "active"):
        book = book.moved(old, "retiring", at=at)
    book = book.moved(one, "active", at=at)
    book.save()
    return Step(book.active(name), lacking=tuple(missing))


def retire(trust: TrustFolder, name: IssuerName, *, force: bool, clock: Clock) -> Step:
    """`tls.json` drafts no longer name the issuer that was retiring.

    Raises Denied (`not-ready`) while leaves of it may live, unless `force`.
    """
    book, at = trust.authorities(), clock()
    old = next(iter(book.of(name, "retiring")), None)
    if old is None:
        raise Misuse(name, expected="a retiring issuer", got="none",
                     hint=f"embrasure pki issuer activate {name}")  # fmt: skip
    until = read_time(old.since) + leaf_life(name)
    if at < until and not force:
        raise Denied(
            f"{old.stem}-ca", expected=f"its last leaf to have ended ({until:%Y-%m-%d %H:%M} UTC)",
            got="a leaf that may live", hint="wait, or --force cuts those who have one",
            reason="not-ready",
        )  # fmt: skip
    work = Desk(trust, clock)
    return saved(work, trust, book.moved(old, "retired", at=at), old, [])


def taint(trust: TrustFolder, name: IssuerName, number: int, *, clock: Clock) -> Step:
    """Policy drafts of every environment deny this issuer's key; `tls.json` drafts leave it out.

    A prepared one takes its place at once. With none, the denied one stays listed, so that the
    files are whole, and nobody believes it.
    """
    book, at = trust.authorities(), clock()
    one = next(
        (known for known in book.known if (known.name, known.number) == (name, number)), None
    )
    if one is None:
        raise Misuse(f"{name} {number}", expected="an issuer of this folder", got="none")
    work = Desk(trust, clock)
    was = one.state
    book = book.moved(one, "tainted", at=at)
    if was == "active":
        for other in book.of(name, "prepared"):
            book = book.moved(other, "active", at=at)
    for env in trust.environments():
        role, path = layout.fleet_role(env), layout.policy_path(env)
        rules = policy.parse_policy(work.document(role, path))
        issuers = dict.fromkeys([*rules.denied.issuers, one.key])
        denied = msgspec.structs.replace(rules.denied, issuers=tuple(issuers))
        work.put(role, path, documents.write(msgspec.structs.replace(rules, denied=denied)))
    return saved(work, trust, book, one, [])


def next_step(
    trust: TrustFolder,
    name: IssuerName,
    keys: Keys,
    report: Sequence[Holder],
    *,
    force: bool,
    clock: Clock,
) -> Step:
    """Take the step that is due: a killed one is finished, then create, activate or retire."""
    book = trust.authorities()
    if not is_drafted(trust, book):
        newest = book.of(name, *ca_book.LISTED)[-1]
        return Step(newest, tuple(drafted(Desk(trust, clock), trust, book)))
    if book.of(name, "prepared"):
        return activate(trust, name, report, force=force, clock=clock)
    if book.of(name, "retiring"):
        return retire(trust, name, force=force, clock=clock)
    return create(trust, name, keys, clock=clock)


def leaf_life(name: IssuerName) -> timedelta:
    """Return how long a leaf of this issuer may live."""
    lives = [p.life_seconds for p in PROFILES.values() if p.issuer == name]
    return timedelta(seconds=max(lives))


def _issued(
    trust: TrustFolder,
    book: Authorities,
    root: Authority,
    name: IssuerName,
    public: object,
    keys: Keys,
    at: datetime,
) -> x509.Certificate:
    opened = open_key(book.uri_of(root), keys.source, purpose="ca", root=trust.root_id)
    private = opened.private if isinstance(opened, OpenedFile) else SignerKey(opened.signer)
    return ca.make_issuer(
        name,
        ca.check_leaf_key(public),
        root=book.certificate(root),
        root_key=ca.root_key(private),
        domain=trust.domain,
        at=at,
    )


def _check_room(book: Authorities, name: IssuerName) -> None:
    listed = book.of(name, *ca_book.LISTED)
    if len(listed) > 1:
        raise Misuse(
            f"issuer {name}", expected="one in tls.json", got=", ".join(map(str, listed)),
            hint=f"embrasure pki issuer retire {name}",
        )  # fmt: skip


def _check_in_force(trust: TrustFolder, one: Authority) -> None:
    """Return only when every environment's `tls.json` in force may name the issuer by now."""
    roles = trust.roles()
    for env, needs in one.first.items():
        if roles.get(layout.fleet_role(env), 0) < needs:
            raise Denied(
                f"{one.stem}-ca", expected=f"fleet-{env} v{needs} in force", got="a draft",
                hint="embrasure trust sign, then trust submit", reason="not-ready",
            )  # fmt: skip
