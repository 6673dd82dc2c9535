"""The security team's folder: what is in force, what is drafted, and the keys made here.

`metadata/` and `targets/` are a part of the repository; `drafts/` waits for signatures; `public/`
holds public halves; `keys/`, `online/` and `ca/` hold encrypted key files and never travel.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
from cryptography.x509 import Certificate
from msgspec import Meta
from tuf.api.metadata import Root, Targets

from embrasure import fs, limits
from embrasure.config import read_toml
from embrasure.errors import Damaged, Misuse, NotFound
from embrasure.net.identity import IssuerName
from embrasure.trust import layout
from pki import ca, drafts, roles, store, transcript, verify
from pki.ca_book import Authorities
from pki.drafts import Draft
from pki.passphrase import PassphraseSource
from pki.signers import open_signer
from pki.store import AnyMetadata

_Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
_FLEET = "fleet.toml"


class Fleet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `fleet.toml` says: the trust domain, the fleet's id, the key receipts are sealed to."""

    domain: Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
    root: _Digest
    collect: _Digest


def write_fleet(folder: Path, fleet: Fleet) -> None:
    """`fleet.toml` says what `fleet` says."""
    lines = [f'{name} = "{value}"' for name, value in msgspec.to_builtins(fleet).items()]
    fs.create_file(folder, _FLEET, ("\n".join(lines) + "\n").encode("ascii"))


@dataclass(frozen=True, slots=True)
class TrustFolder:
    """An existing trust folder; raises Misuse when there is none at `path`."""

    path: Path
    fleet: Fleet

    @classmethod
    def open(cls, path: Path) -> TrustFolder:
        """Return the trust folder at `path`; raises Misuse, Refused."""
        if not (path / _FLEET).exists():
            raise Misuse(
                str(path),
                expected="a trust folder",
                got="none",
                hint="embrasure pki init DIR makes one",
            )
        return cls(path, read_toml(path / _FLEET, Fleet, document="fleet"))

    @staticmethod
    def is_at(path: Path) -> bool:
        """Return whether there is a trust folder at `path`."""
        return (path / _FLEET).exists()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """A context in which nobody else changes this folder; what it changes is in the transcript.

        Raises Unavailable.
        """
        with (
            fs.lock(self.path / ".lock", seconds=limits.LOCK_SECONDS),
            transcript.recorded(self.path, self.root_id),
        ):
            yield

    @property
    def domain(self) -> str:
        """The TLS trust domain."""
        return self.fleet.domain

    @property
    def root_id(self) -> str:
        """SHA-256 of the signed part of root version 1: which fleet this is."""
        return self.fleet.root

    @property
    def anchor(self) -> bytes:
        """The bytes of root version 1, which every node is given; raises NotFound before merge."""
        raw = fs.read_file(self.path / "anchor.json", limit=limits.ROOT_BYTES)
        if store.signed_digest(store.parse_metadata(raw, layout.ROOT)) != self.root_id:
            raise Damaged("anchor.json", expected=f"fleet {self.root_id[:16]}", got="another")
        return raw

    def roles(self) -> dict[str, int]:
        """Return the newest version in force of every role, in order of delegation."""
        names = {
            file.name.partition(".")[2].removesuffix(".json")
            for file in (self.path / "metadata").glob("*.*.json")
        }
        known = filter(roles.is_drafted, names)
        found = {name: store.versions(self.path, name) for name in known}
        return {name: found[name][-1] for name in drafts.in_order(found) if found[name]}

    def held(self, role: str) -> AnyMetadata | None:
        """Return the newest version in force, or None."""
        found = store.versions(self.path, role)
        return store.read_metadata(self.path, role, found[-1]) if found else None

    def draft_folder(self, role: str) -> Path:
        """Return where an open draft of `role` lies, readable or not; raises Misuse, NotFound."""
        roles.check_drafted(role)
        folder = self.path / "drafts" / role
        if not folder.exists():
            raise NotFound(f"draft of {role}", expected="an open draft", got="none")
        return folder

    def draft(self, role: str) -> Draft | None:
        """Return the open draft of `role`, or None."""
        folder = self.path / "drafts" / role
        return drafts.load(folder, role) if (folder / drafts.METADATA).exists() else None

    def drafts(self) -> list[Draft]:
        """Return all open drafts, in order of delegation."""
        folder = self.path / "drafts"
        names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
        found = [self.draft(name) for name in drafts.in_order(filter(roles.is_drafted, names))]
        return [draft for draft in found if draft is not None]

    def newest(self, role: str) -> AnyMetadata | None:
        """Return the draft of `role` if one is open, else what is in force, else None."""
        draft = self.draft(role)
        return draft.metadata if draft is not None else self.held(role)

    def environments(self) -> list[str]:
        """Return the environments of this folder, drafted ones too."""
        drafted = [draft.role for draft in self.drafts()]
        names = {role for role in (*self.roles(), *drafted) if role.startswith("fleet-")}
        return sorted(name.removeprefix("fleet-") for name in names)

    def fleet_role(self, env: str) -> str:
        """Return the role of an environment, in force or drafted; raises Misuse for a typo."""
        role, known = layout.fleet_role(layout.check_env(env)), self.environments()
        if env not in known:
            raise Misuse(
                f"environment {env}", expected=f"one of {', '.join(known) or 'none yet'}",
                got="one that is not here", hint=f"embrasure trust env add {env} DIR makes it",
            )  # fmt: skip
        return role

    def root(self) -> Root:
        """Return the newest root, drafts included; raises Damaged."""
        return store.as_root(self._must(layout.ROOT))

    def targets(self) -> Targets:
        """Return the newest targets, drafts included; raises Damaged."""
        return store.as_targets(self._must(layout.TARGETS))

    def documents(self, role: str) -> dict[str, bytes]:
        """Return the target files of the newest version of `role`, drafts included, by path."""
        draft = self.draft(role)
        if draft is not None:
            return dict(draft.documents)
        held = self.held(role)
        return store.read_targets(self.path, store.as_targets(held)) if held else {}

    def verify(self, at: datetime) -> list[verify.Verified]:
        """Return every role in force, verified from the anchor at time `at`; raises Refused."""
        return verify.verify(self.path, root_id=self.root_id, found=self.roles(), at=at)

    def issuer(
        self, name: IssuerName, passphrase: PassphraseSource, *, root: int | None = None
    ) -> ca.Issuer:
        """Return one issuer of this folder, opened; raises Denied, Refused.

        root: as the CA root of this number certified it; None: as the one that counts did
        """
        book = self.authorities()
        one = book.active(name)
        if root is not None:
            book = book.under(root, one)
        signer = open_signer(book.uri_of(one), passphrase, purpose="ca", root=self.root_id)
        certificate = book.folder / book.file_of(one)
        return ca.load_issuer(name, domain=self.domain, certificate=certificate, signer=signer)

    def authorities(self) -> Authorities:
        """Return the CA roots and issuers, and in which state each is."""
        return Authorities.load(self.path / "ca")

    def ca_uri(self, name: str) -> str:
        """Return where the key of the active CA root or issuer of this name is."""
        book = self.authorities()
        return book.uri_of(book.active(name))

    def certificate(self, name: str) -> Certificate:
        """Return the certificate of the active CA root or issuer of this name."""
        book = self.authorities()
        return book.certificate(book.active(name))

    def _must(self, role: str) -> AnyMetadata:
        found = self.newest(role)
        if found is None:
            raise Damaged(str(self.path), expected=f"{role} metadata", got="none")
        return found
