"""`tls.json` of every environment as the state of the CA keys asks for it, as drafts."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
from cryptography import x509

from embrasure.clock import read_time, write_time
from embrasure.errors import Denied
from embrasure.fs import Folder
from embrasure.net.identity import IssuerName
from embrasure.trust import directory, documents, layout
from pki import ca, ca_book, holders, profiles
from pki.ca_book import Authorities, Authority
from pki.desk import Desk
from pki.drafts import Draft
from pki.folder import TrustFolder
from pki.holders import Holder, Lacking
from pki.keyfile import Cost
from pki.passphrase import PassphraseSource


@dataclass(frozen=True, slots=True)
class Keys:
    """How new CA keys are protected, and the passphrase of those that sign them."""

    source: PassphraseSource
    cost: Cost


@dataclass(frozen=True, slots=True)
class Step:
    """What one step changed. drafts: what waits for signatures; lacking: who is not ready."""

    authority: Authority
    drafts: tuple[Draft, ...] = ()
    lacking: tuple[Lacking, ...] = ()


def new_authority(book: Authorities, name: ca_book.Name, at: datetime) -> Authority:
    """Return the next key of this name, before it exists."""
    number = book.next_number(name)
    return Authority(name=name, number=number, state="prepared", key="0" * 64,
                     since=write_time(at), first={})  # fmt: skip


def check_ready(
    one: Authority,
    missing: Sequence[Lacking],
    report: Sequence[Holder],
    *,
    force: bool,
    at: datetime,
    after: int,
) -> None:
    """Return only when everybody who must believe `one` holds it; raises Denied (`not-ready`).

    after: seconds since it was prepared from which `force` goes on without the rest
    """
    needed = bool(holders.VERIFIERS.get(one.name))
    if not missing and (report or not needed):
        return
    late = at >= read_time(one.since) + timedelta(seconds=after)
    if force and late:
        return
    lines = "; ".join(item.as_text() for item in missing[:10]) or "no report"
    raise Denied(
        f"{one.stem}-ca",
        expected="everybody who must believe it to hold the new files",
        got=lines,
        hint="embrasure trust submit brings it to push nodes that are up, trust deliver to a door; "
        "then embrasure fleet trust --json > FILE, and --report FILE; "
        f"--force after {after // 86400} days",
        reason="not-ready",
    )


def clear(book: Authorities, one: Authority) -> None:
    """A key that a killed call left under this number is gone: nothing was certified with it."""
    with Folder.open(book.folder) as folder:
        folder.unlink(f"{one.stem}.key", missing_ok=True)
        folder.unlink(f"{one.stem}.json", missing_ok=True)


def listed(work: Desk, trust: TrustFolder, book: Authorities, one: Authority) -> Step:
    """`one` is known, and every environment's draft names it."""
    first = {env: work.targets(layout.fleet_role(env)).version for env in trust.environments()}
    one = msgspec.structs.replace(one, first=first)
    return saved(work, trust, book.with_one(one), one, [])


def saved(
    work: Desk,
    trust: TrustFolder,
    book: Authorities,
    one: Authority,
    missing: Sequence[Lacking],
) -> Step:
    """The folder and every environment's draft say what `book` says; return the step."""
    _put_bundles(work, trust, book)
    book.save()
    return Step(one, tuple(work.write()), tuple(missing))


def drafted(work: Desk, trust: TrustFolder, book: Authorities) -> list[Draft]:
    """Every environment's draft says what `book` says; return the drafts."""
    _put_bundles(work, trust, book)
    return work.write()


def is_drafted(trust: TrustFolder, book: Authorities) -> bool:
    """Return whether every environment's newest `tls.json` says what `book` says."""
    for env in trust.environments():
        raw = trust.documents(layout.fleet_role(env))[layout.tls_path(env)]
        old = directory.parse_tls_bundle(raw)
        if old != _bundle(book, old):
            return False
    return True


def _bundle(book: Authorities, old: directory.TlsBundle) -> directory.TlsBundle:
    issuers = {name: _texts(_shown(book, name)) for name in profiles.ISSUERS}
    return msgspec.structs.replace(old, ca_root=_texts(book.roots()), issuers=issuers)


def _put_bundles(work: Desk, trust: TrustFolder, book: Authorities) -> None:
    """Every environment's `tls.json` names the roots and issuers of `book`, and nothing else."""
    for env in trust.environments():
        role, path = layout.fleet_role(env), layout.tls_path(env)
        old = directory.parse_tls_bundle(work.document(role, path))
        work.put(role, path, documents.write(_bundle(book, old)))


def _shown(book: Authorities, name: IssuerName) -> list[x509.Certificate]:
    """Return the listed issuers; of a role that has none left, the last one, which is denied."""
    found = book.issuers(name)
    return found or [book.certificate(one) for one in book.of(name, "tainted")[-1:]]


def _texts(certs: Sequence[x509.Certificate]) -> tuple[str, ...]:
    return tuple(base64.b64encode(ca.der(cert)).decode("ascii") for cert in certs)


def issuer_name(one: Authority) -> IssuerName:
    """Return the name of an issuer."""
    return next(name for name in profiles.ISSUERS if name == one.name)
