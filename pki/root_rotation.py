"""A new CA root in the place of the old one, while the doors of old images still open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from embrasure import fs, limits
from embrasure.clock import Clock
from embrasure.errors import Misuse
from embrasure.net.denials import key_digest
from pki import ca, ca_book, holders, profiles
from pki.bundles import Keys, Step, check_ready, clear, issuer_name, listed, new_authority, saved
from pki.desk import Desk
from pki.folder import TrustFolder
from pki.holders import Holder
from pki.next_ca_key import next_key
from pki.schemes import Scheme


def rotate_root(
    trust: TrustFolder, scheme: Scheme, keys: Keys, *, clock: Clock, uri: str | None = None
) -> Step:
    """`tls.json` drafts name a second CA root, and it has certified every issuer in use too.

    Chains still show the old root's certificates, so doors of old images open. New issuers are
    certified by both. uri: of its key, when that lies in a token.
    """
    book, at = trust.authorities(), clock()
    work = Desk(trust, clock)
    if len(book.of("root", *ca_book.LISTED)) > 1:
        raise Misuse("ca rotate", expected="one CA root", got="two", hint="embrasure pki ca retire")
    old = book.active("root")
    one = new_authority(book, "root", at)
    next_one = next_key(one, scheme, uri, root=trust.root_id)
    key = next_one.root_key(keys, root=trust.root_id)
    cert = ca.make_root(key, domain=trust.domain, at=at, number=one.number)
    crossed = {}
    for issuer in [i for name in profiles.ISSUERS for i in book.of(name, *ca_book.LISTED)]:
        public = ca.check_leaf_key(book.certificate(issuer).public_key())
        crossed[ca_book.file_under(issuer, one.number)] = ca.make_issuer(
            issuer_name(issuer), public, root=cert, root_key=key, domain=trust.domain, at=at
        )
    clear(book, one)
    next_one.keep(trust, book, one, keys)
    for file, found in {f"{one.stem}.crt": cert, **crossed}.items():
        fs.replace_file(book.folder, file, ca.pem(found), mode=0o644)
    one = msgspec.structs.replace(one, key=key_digest(cert), state="active")
    return listed(work, trust, book.moved(old, "retiring", at=at), one)


def retire_root(trust: TrustFolder, report: Sequence[Holder], *, force: bool, clock: Clock) -> Step:
    """`tls.json` drafts name the new CA root alone, and the issuers as it certified them.

    Raises Denied (`not-ready`) while somebody may lack the files with both roots, or before 90 days
    without `force`.
    """
    book, at = trust.authorities(), clock()
    old = next(iter(book.of("root", "retiring")), None)
    if old is None:
        raise Misuse("ca retire", expected="a CA root that is retiring", got="none",
                     hint="embrasure pki ca rotate")  # fmt: skip
    new = book.active("root")
    missing = holders.lacking(trust, new, report)
    check_ready(new, missing, report, force=force, at=at, after=limits.ROOT_OVERLAP_SECONDS)
    work = Desk(trust, clock)
    book = replace(book.moved(old, "retired", at=at), root=new.number)
    return saved(work, trust, book, old, missing)
