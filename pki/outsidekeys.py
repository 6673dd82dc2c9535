"""Keys that lie in no file: made in a token, or exported from one or from a key service.

Either leaves two things: the public half `NAME.pub` to hand to others, and this machine's record
of whose key it is (`pki.keyrecords`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from securesystemslib.signer import SSlibKey

from embrasure.errors import Misuse
from embrasure.fingerprint import groups, words
from pki import keyrecords, keyuri, people, schemes, services
from pki.handkeys import purpose_of, read_anchor
from pki.keyrecords import KeyRecord
from pki.keyuri import TokenUri
from pki.makekeys import write_public
from pki.people import Device

if TYPE_CHECKING:
    from pki.tokens import TokenFacts


@dataclass(frozen=True, slots=True)
class Exported:
    """A key outside files: its record, where its public half was written, what to plug in."""

    record: KeyRecord
    file: Path
    device: Device | None

    def as_json(self) -> dict[str, object]:
        """Return what `--json` shows."""
        found: dict[str, object] = {
            "file": str(self.file),
            "uri": keyrecords.address(self.record.uri),
            "person": self.record.label,
            "purpose": self.record.purpose,
            "scheme": self.record.scheme,
            "keyid": self.record.keyid,
            "root": self.record.root or None,
        }
        if self.device is not None:
            found["device"] = str(self.device)
        return found

    def as_text(self) -> str:
        """Return what a person sees."""
        lines = [
            f"{self.record.label}: {self.record.purpose} key, {self.record.scheme}",
            f"  public half  {self.file}",
            f"  key id       {self.record.keyid}",
            f"  fingerprint  {groups(self.record.keyid)}",
            f"  in words     {words(self.record.keyid)}",
            f"  sign with    --key '{keyrecords.address(self.record.uri)}'",
        ]
        return "\n".join([*lines, *([f"  device       {self.device}"] if self.device else [])])


def generate(
    name: str,
    uri: TokenUri,
    out: Path,
    *,
    purpose: str,
    scheme: str,
    anchor: Path | None,
    passphrase: Callable[[str], bytes],
) -> Exported:
    """The token has a new key that cannot leave it; see `Exported`.

    Raises Misuse, Denied (`pin`, `token-locked`), Failed (`token-full`), Refused (`extractable`).
    """
    keyuri.check_installed("hsm")
    from pki import tokenkeys  # its library is an extra

    people.check_person(name)
    root = _root_of(anchor)
    made = tokenkeys.generate(
        uri, scheme=scheme, label=f"embrasure {purpose_of(purpose)} {name}", passphrase=passphrase
    )
    return _keep(name, str(uri), made.public, out, purpose, root, device_of(made.token))


def export(
    uri: str,
    name: str,
    out: Path,
    *,
    purpose: str,
    anchor: Path | None,
    passphrase: Callable[[str], bytes],
) -> Exported:
    """The public half of a key in a token or key service is a file; see `Exported`.

    Of a token the PIN is asked: its private half must be there, unable to leave. Raises Misuse,
    Denied, NotFound, Unavailable, Refused (`extractable`).
    """
    people.check_person(name)
    root, backend = _root_of(anchor), keyuri.backend_of(uri)
    if backend == "keyfile":
        raise Misuse(uri, expected="a key in a token or a key service", got="a key file",
                     hint="its public half is NAME.pub beside it")  # fmt: skip
    if backend != "hsm":
        full, public = services.public_at(uri)
        return _keep(name, full, public, out, purpose, root, None)
    keyuri.check_installed("hsm")
    from pki import tokenkeys, tokens

    where = keyuri.parse_token(uri)
    found = tokenkeys.public_at(where)
    tokenkeys.log_in(tokens.find(where), where, passphrase, found.public)
    named = TokenUri(where.id, found.token.label, where.module, where.pin_source)
    return _keep(name, str(named), found.public, out, purpose, root, device_of(found.token))


def _keep(
    name: str,
    uri: str,
    public: SSlibKey,
    out: Path,
    purpose: str,
    root: str,
    device: Device | None,
) -> Exported:
    scheme, pub = schemes.written(public)
    record = keyrecords.keep(
        KeyRecord(
            v=1,
            type="key-record",
            uri=uri,
            keyid=public.keyid,
            scheme=scheme,
            pub=pub,
            purpose=purpose_of(purpose),
            label=name,
            root=root,
        )
    )
    write_public(out, people.public_file(record, device=device), name)
    return Exported(record, out / f"{name}.pub", device)


def _root_of(anchor: Path | None) -> str:
    return "" if anchor is None else read_anchor(anchor)


def device_of(token: TokenFacts) -> Device:
    """Return the hint by which a person finds a token; what cannot be shown is left out."""

    def plain(text: str) -> str:
        return re.sub(r"[^ -~]", "?", text)[:64]

    return Device(
        token=plain(token.label),
        serial=plain(token.serial),
        model=plain(token.model),
        slot=token.slot,
    )


def known() -> list[dict[str, object]]:
    """Return the keys outside files that this machine has a record of."""
    return [
        {
            "person": record.label,
            "purpose": record.purpose,
            "scheme": record.scheme,
            "keyid": record.keyid,
            "root": record.root or None,
            "uri": record.uri,
        }
        for record in keyrecords.all_records()
    ]


def known_text(found: list[dict[str, object]]) -> str:
    """Return that list for a person."""
    lines = [
        f"{one['person']}  {one['purpose']}  {one['scheme']}  {str(one['keyid'])[:16]}  "
        f"fleet {str(one['root'])[:16] if one['root'] else 'not yet bound'}  {one['uri']}"
        for one in found
    ]
    return "\n".join(lines) or f"no record in {keyrecords.folder()}"


def list_tokens(uri: TokenUri) -> list[dict[str, object]]:
    """Return every token of the module, with the ECDSA keys that it shows without a PIN."""
    keyuri.check_installed("hsm")
    from pki import tokenkeys, tokens

    found: list[dict[str, object]] = []
    for token in tokens.all_tokens(keyuri.module_of(uri)):
        facts = tokens.facts_of(token)
        keys = [
            {
                "id": number,
                "uri": TokenUri(number, facts.label).plain,
                "scheme": schemes.written(key)[0],
                "keyid": key.keyid,
            }
            for number, key in tokenkeys.public_keys(token).items()
        ]
        found.append({**facts.as_json(), "state": facts.state, "keys": keys})
    return found


def tokens_text(found: list[dict[str, object]]) -> str:
    """Return the list for a person."""
    lines: list[str] = []
    for token in found:
        lines.append(
            f"{token['token']}: {token['model']}, serial {token['serial']}, "
            f"slot {token['slot']}, {token['state']}"
        )
        keys = token["keys"]
        for key in keys if isinstance(keys, list) else []:
            lines.append(f"  {key['uri']}  {key['scheme']}  {key['keyid'][:16]}")
    return "\n".join(lines) or "no token"
