"""Key files that a person makes, looks at and re-protects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from embrasure import fs, limits
from embrasure.errors import Misuse
from embrasure.fingerprint import groups, words
from embrasure.trust.layout import ROOT
from pki import keyfile, people, signers, store
from pki.acting import cost_of
from pki.keyfacts import PURPOSES, Purpose
from pki.keyfile import Header
from pki.makekeys import write_public
from pki.passphrase import PassphraseSource
from pki.people import PublicFile
from pki.schemes import SCHEMES, Scheme


@dataclass(frozen=True, slots=True)
class Shown:
    """What may be told of a key. header: of a key file, None for a `.pub` file."""

    file: Path
    public: PublicFile
    header: Header | None

    def as_json(self) -> dict[str, object]:
        """Return what `--json` shows."""
        found: dict[str, object] = {
            "file": str(self.file),
            "person": self.public.person,
            "purpose": self.public.purpose,
            "scheme": self.public.scheme,
            "keyid": self.public.keyid,
            "public": self.public.pub,
        }
        if self.public.device is not None:
            found["device"] = msgspec.to_builtins(self.public.device)
        if self.header is not None:
            found |= {"root": self.header.root or None, "ops": self.header.ops}
            found |= {"memory_bytes": self.header.mem}
        return found

    def as_text(self) -> str:
        """Return what a person sees."""
        lines = [
            f"{self.public.person}: {self.public.purpose} key, {self.public.scheme}",
            f"  key id       {self.public.keyid}",
            f"  fingerprint  {groups(self.public.keyid)}",
            f"  in words     {words(self.public.keyid)}",
        ]
        if self.public.device is not None:
            lines.append(f"  device       {self.public.device}")
        if self.header is not None:
            serves = groups(self.header.root) if self.header.root else "not yet bound"
            lines.append(f"  fleet        {serves}")
        return "\n".join(lines)


def generate(
    name: str,
    out: Path,
    *,
    purpose: str,
    scheme: str,
    anchor: Path | None,
    kdf: str | None,
    source: PassphraseSource,
) -> Shown:
    """`out` has a new key file and its public half; raises Misuse, Refused (`exists`)."""
    people.check_person(name)
    use, kind = purpose_of(purpose), _scheme(scheme)
    root = "" if anchor is None else read_anchor(anchor)
    store.make_folder(out)
    passphrase = source.new(f"the key of {name}")
    sealed = keyfile.seal(
        keyfile.generate(kind),
        passphrase,
        purpose=use,
        label=name,
        root=root,
        cost=cost_of(kdf, purpose=use),
        salt=keyfile.salt_for(passphrase),
    )
    fs.create_file(out, f"{name}.key", sealed)
    write_public(out, people.public_file(keyfile.header_of(sealed)), name)
    return show(out / f"{name}.key")


def read_anchor(anchor: Path) -> str:
    """Return the id of the fleet whose root version 1 this is; raises Refused, NotFound."""
    raw = fs.read_file(anchor, limit=limits.ROOT_BYTES)
    return store.signed_digest(store.parse_metadata(raw, ROOT))


def show(file: Path) -> Shown:
    """Return what a key file or a `.pub` file says in the open; raises Refused, NotFound."""
    raw = fs.read_file(file, limit=limits.KEYFILE_BYTES)
    if file.suffix == ".pub":
        return Shown(file, people.parse_public(raw), None)
    header = keyfile.header_of(raw)
    keyfile.public_key(header)
    return Shown(file, people.parse_public(people.public_file(header)), header)


def change(file: Path, *, old: PassphraseSource, new: PassphraseSource) -> Shown:
    """The key file opens with the new passphrase only; raises Denied, Refused, Misuse."""
    opened = signers.open_file(f"keyfile:{file}", old)
    raw = keyfile.change_passphrase(opened, new.new(f"the key of {opened.header.label}"))
    fs.replace_file(file.parent, file.name, raw)
    return show(file)


def purpose_of(text: str) -> Purpose:
    """Return `text` as a purpose; raises Misuse."""
    for purpose in PURPOSES:
        if purpose == text:
            return purpose
    raise Misuse("purpose", expected=f"one of {', '.join(PURPOSES)}", got=text)


def _scheme(text: str) -> Scheme:
    for scheme in SCHEMES:
        if scheme == text:
            return scheme
    raise Misuse("scheme", expected=f"one of {', '.join(SCHEMES)}", got=text)
