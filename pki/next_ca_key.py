"""The key of the next CA root or issuer: made here under a passphrase, or lying in a token."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec

from embrasure.errors import Misuse
from pki import ca, keyrecords, signers
from pki.bundles import Keys
from pki.ca_book import Authorities, Authority
from pki.folder import TrustFolder
from pki.keyfacts import check_use, public_key
from pki.keyrecords import KeyRecord
from pki.makekeys import NewKey, new_key, write_keys
from pki.schemes import Scheme
from pki.signerkey import SignerKey, p256_of


@dataclass(frozen=True, slots=True)
class NextKey:
    """One of the two: a key in memory that has no file yet, or the record of a key elsewhere."""

    made: NewKey | None = field(default=None, repr=False)
    record: KeyRecord | None = None

    @property
    def public(self) -> ec.EllipticCurvePublicKey:
        """The public half, for an issuer's certificate; raises Refused unless P-256."""
        if self.record is not None:
            return p256_of(public_key(self.record))
        return p256_of(self._held.public)

    @property
    def _held(self) -> NewKey:
        if self.made is None:
            raise Misuse("CA key", expected="a new one or a record", got="neither")
        return self.made

    def root_key(self, keys: Keys, *, root: str) -> ca.RootKey:
        """Return the key as one that certifies issuers; of a token the PIN is asked."""
        if self.record is None:
            return ca.root_key(self._held.private)
        signer = signers.open_signer(self.record.uri, keys.source, purpose="ca", root=root)
        return ca.root_key(SignerKey(signer))

    def keep(self, trust: TrustFolder, book: Authorities, one: Authority, keys: Keys) -> None:
        """The folder `ca` has the key file, or the record, bound to this fleet."""
        if self.record is not None:
            file = f"{one.stem}.json"
            keyrecords.write_record(book.folder, file, self.record, root=trust.root_id)
            return
        passphrase = keys.source.new(f"the key of {one.stem}-ca")
        write_keys(trust.path, [self._held], passphrase, root=trust.root_id, cost=keys.cost)


def next_key(one: Authority, scheme: Scheme, uri: str | None, *, root: str) -> NextKey:
    """Return the next key of this authority; uri: where it lies already, with a record.

    Raises NotFound (`key-record`), Denied (not made for `ca`, or of another fleet).
    """
    if uri is None:
        return NextKey(new_key(one.stem, purpose="ca", file=f"ca/{one.stem}.key", scheme=scheme))
    record = keyrecords.of(uri)
    check_use(record, purpose="ca", root=root)
    if record.scheme != scheme:
        raise Misuse(uri, expected=f"a key of {scheme}", got=record.scheme)
    return NextKey(record=record)
