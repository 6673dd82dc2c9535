"""The CA roots and issuers of a trust folder through their lives: `ca/authorities.json`.

prepared: in every `tls.json`, issues nothing. active: issues. retiring: its leaves still count, it
issues nothing more. retired: gone from `tls.json`. tainted: gone, and its key is denied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from cryptography import x509
from msgspec import Meta

from embrasure import fs, limits
from embrasure.clock import write_time
from embrasure.errors import Denied, Misuse, NotFound
from embrasure.net.denials import key_digest
from embrasure.net.identity import IssuerName
from embrasure.trust.documents import Count, Digest, Document, EnvName, Positive, Time, read, write
from pki import ca
from pki.schemes import Scheme

Name = Literal["root", "gateway", "admin", "node", "mirror", "operator"]
State = Literal["prepared", "active", "retiring", "retired", "tainted"]
NAMES: tuple[Name, ...] = get_args(Name)
LISTED: tuple[State, ...] = ("prepared", "active", "retiring")  # stands in `tls.json`
FILE = "authorities.json"
ROOT_ALGORITHMS: dict[str, Scheme] = {
    "p256": "ecdsa-p256",
    "p384": "ecdsa-p384",
    "ml-dsa-65": "ml-dsa-65",
}
_NEXT: dict[State, frozenset[State]] = {
    "prepared": frozenset({"active", "retired", "tainted"}),
    "active": frozenset({"retiring", "tainted"}),
    "retiring": frozenset({"retired", "tainted"}),
    "retired": frozenset({"tainted"}),
    "tainted": frozenset(),
}


class Authority(Document, frozen=True, kw_only=True):
    """One key that certifies. number: 1 for the first of its name, then 2, 3, ...

    key: SHA-256 of its public key; since: when it came into this state; first: environment ->
    version of `fleet-<env>` whose `tls.json` is the first with it, as far as one was needed
    """

    name: Name
    number: Annotated[int, Meta(ge=1, le=99)]
    state: State
    key: Digest
    since: Time
    first: dict[EnvName, Positive]

    def __str__(self) -> str:
        return self.stem

    @property
    def stem(self) -> str:
        """How its files are called: `node`, and `node-2` for the second."""
        return self.name if self.number == 1 else f"{self.name}-{self.number}"


class _Book(Document, frozen=True, kw_only=True):
    v: Literal[1]
    type: Literal["authorities"]
    root: Count  # number of the CA root whose certificates of the issuers stand in `tls.json`
    authorities: tuple[Authority, ...]


@dataclass(frozen=True, slots=True)
class Authorities:
    """All of them in the folder `ca` of a trust folder. root: number of the root that counts."""

    folder: Path
    known: tuple[Authority, ...]
    root: int = 1

    @classmethod
    def load(cls, folder: Path) -> Authorities:
        """Return those of the trust folder's `ca`; before the first rotation all are active."""
        try:
            raw = fs.read_file(folder / FILE, limit=limits.CONFIG_BYTES)
        except NotFound:
            return cls(folder, tuple(_first(folder)))
        book = read(raw, _Book, limit=limits.CONFIG_BYTES, document="authorities")
        return cls(folder, book.authorities, book.root)

    def save(self) -> None:
        """The folder says so."""
        book = _Book(v=1, type="authorities", root=self.root, authorities=self.known)
        fs.replace_file(self.folder, FILE, write(book), mode=0o644)

    def of(self, name: str, *states: State) -> list[Authority]:
        """Return those of one name in one of these states, oldest first."""
        return [one for one in self.known if one.name == name and one.state in states]

    def active(self, name: str) -> Authority:
        """Return the one that issues; raises Denied when none does."""
        found = self.of(name, "active")
        if not found:
            raise Denied(
                f"{name}-ca", expected="an active key", got="none",
                hint=f"embrasure pki issuer create {name}, then activate", reason="no-issuer",
            )  # fmt: skip
        return found[0]

    def moved(self, one: Authority, state: State, *, at: datetime) -> Authorities:
        """Return these with `one` in another state; raises Misuse for a step that is none."""
        if state not in _NEXT[one.state]:
            steps = ", ".join(sorted(_NEXT[one.state])) or "nothing"
            raise Misuse(str(one), expected=f"one of: {steps}", got=f"{one.state} to {state}")
        new = msgspec.structs.replace(one, state=state, since=write_time(at))
        return self.with_one(new)

    def with_one(self, new: Authority) -> Authorities:
        """Return these with `new` in the place of the one of its name and number, or added."""
        rest = [one for one in self.known if (one.name, one.number) != (new.name, new.number)]
        known = sorted([*rest, new], key=lambda one: (NAMES.index(one.name), one.number))
        return Authorities(self.folder, tuple(known), self.root)

    def next_number(self, name: str) -> int:
        """Return the number of the next key of this name; none is ever used again."""
        return max((one.number for one in self.known if one.name == name), default=0) + 1

    def file_of(self, one: Authority) -> str:
        """Return the name of its certificate's file: the one that the counting root signed."""
        file = file_under(one, self.root)
        # One that was retired before the root was changed has no certificate of the new one.
        return file if one.state in LISTED or (self.folder / file).exists() else f"{one.stem}.crt"

    def under(self, root: int, one: Authority) -> Authorities:
        """Return these as the CA root of number `root` certified them, retired or not.

        Raises Misuse when that one has not certified `one`.
        """
        if not (self.folder / file_under(one, root)).exists():
            raise Misuse(
                f"CA root {root}", expected=f"one that has certified {one.stem}-ca", got="none",
                hint="embrasure pki issuer status",
            )  # fmt: skip
        return Authorities(self.folder, self.known, root)

    def certificate(self, one: Authority) -> x509.Certificate:
        """Return its certificate; raises Refused, NotFound."""
        return read_certificate(self.folder / self.file_of(one))

    def uri_of(self, one: Authority) -> str:
        """Return where its key is: a record of a token's key, else its encrypted file."""
        record = self.folder / f"{one.stem}.json"
        return f"keyrecord:{record}" if record.exists() else f"keyfile:{record.with_suffix('.key')}"

    def roots(self) -> list[x509.Certificate]:
        """Return the CA roots that `tls.json` names, newest last."""
        return [self.certificate(one) for one in self.of("root", *LISTED)]

    def issuers(self, name: IssuerName) -> list[x509.Certificate]:
        """Return the issuers of one role that `tls.json` names, newest last."""
        return [self.certificate(one) for one in self.of(name, *LISTED)]


def file_under(one: Authority, root: int) -> str:
    """Return the name of the certificate that the CA root of this number signed."""
    return f"{one.stem}.crt" if one.name == "root" or root == 1 else f"{one.stem}.root-{root}.crt"


def read_certificate(path: Path) -> x509.Certificate:
    """Return the one certificate in a file of `ca/`; raises Refused, NotFound."""
    return ca.parse_certificate(fs.read_file(path, limit=16384))


def _first(folder: Path) -> Iterator[Authority]:
    """Yield what the root ceremony made."""
    for name in NAMES:
        cert = read_certificate(folder / f"{name}.crt")
        yield Authority(
            name=name,
            number=1,
            state="active",
            key=key_digest(cert),
            since=write_time(cert.not_valid_before_utc),
            first={},
        )
