"""Who already holds which trust files: the gateway's report, and who is still missing from it.

A report decides nothing that a thief could use: it only says when it is time to take the next step
of a rotation, and a step taken too early cuts nodes off until they get the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from embrasure import fs, limits
from embrasure.clock import write_time
from embrasure.errors import Refused
from embrasure.net.certificates import load_der
from embrasure.net.denials import key_digest
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.directory import Entry, parse_shard, parse_tls_bundle
from pki.ca_book import LISTED, Authority
from pki.folder import TrustFolder

SCHEMA = "embrasure.fleet.trust/1"
Kind = Literal["push", "pull", "mirror", "letterbox"]
# Who must believe an issuer before its leaves mean anything. The gateway and its operators verify
# the others: what the gateway has published it believes itself.
VERIFIERS: dict[str, frozenset[Kind]] = {
    "gateway": frozenset({"push", "mirror", "letterbox"}),
    "mirror": frozenset({"pull"}),
    "root": frozenset({"push", "pull", "mirror", "letterbox"}),
}


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """What one listener or pull node said. tls: SHA-256 of the `tls.json` that it believes, ""
    when it did not say; at: when it said so.
    """

    kind: Kind
    name: str
    env: str
    tls: str
    at: str


class _Data(msgspec.Struct, frozen=True, kw_only=True):
    holders: list[Holder]


@dataclass(frozen=True, slots=True)
class Lacking:
    """One that does not hold what it needs yet."""

    kind: Kind
    name: str
    env: str
    tls: str

    def as_text(self) -> str:
        """Return what a person sees."""
        has = f"tls.json {self.tls[:16]}" if self.tls else "nothing that we heard of"
        return f"{self.kind} {self.name} of {self.env}: has {has}"


def read_report(path: Path) -> list[Holder]:
    """Return the rows of `embrasure fleet trust --json`; raises Refused, NotFound."""
    raw = fs.read_file(path, limit=limits.MANIFEST_BYTES)
    try:
        found = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        if msgspec.json.decode(found.get("schema", msgspec.Raw(b'""'))) != SCHEMA:
            raise msgspec.ValidationError("another schema")
        return msgspec.json.decode(raw, type=_Data).holders
    except (msgspec.DecodeError, msgspec.ValidationError) as problem:
        raise Refused(
            str(path), expected="what `embrasure fleet trust --json` wrote", got=problem,
            reason="bad-schema",
        ) from None  # fmt: skip


def lacking(trust: TrustFolder, one: Authority, report: Sequence[Holder]) -> list[Lacking]:
    """Return who must hold the files that name `one` and does not, as far as is known.

    Every active node of the directory in force must have said so; mirrors and letterboxes are known
    by the report alone.
    """
    kinds = VERIFIERS.get(one.name, frozenset())
    said = {(holder.env, holder.kind, holder.name): holder.tls for holder in report}
    found = []
    for env in sorted(one.first):
        good = naming(trust, env, one)
        nodes = {(env, entry.mode, entry.id) for entry in _active(trust, env)}
        others = {key for key in said if key[0] == env and key[1] in ("mirror", "letterbox")}
        for _, kind, name in sorted(nodes | others):
            has = said.get((env, kind, name), "")
            if kind in kinds and has not in good:
                found.append(Lacking(kind, name, env, has))
    return found


def naming(trust: TrustFolder, env: str, one: Authority) -> frozenset[str]:
    """Return the SHA-256 of every `tls.json` of this folder that names `one`.

    Files are kept when newer ones come, so one that holds an older one of them is known, too.
    """
    found = set()
    for file in (trust.path / "targets" / "fleet" / env).glob("*.tls.json"):
        digest = file.name.partition(".")[0]
        raw = fs.read_file(file, limit=limits.TLS_BUNDLE_BYTES)
        bundle = parse_tls_bundle(raw)
        texts = bundle.ca_root if one.name == "root" else bundle.issuers.get(one.name, ())
        keys = {key_digest(load_der(text, what="tls.json")) for text in texts}
        if one.key in keys and digest == sha256_hex(raw):
            found.add(digest)
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Row:
    """One CA root or issuer, and who lacks the files that name it first."""

    authority: Authority
    until: str
    lacking: tuple[Lacking, ...]

    def as_json(self) -> dict[str, object]:
        """Return what `--json` shows."""
        one = self.authority
        return {
            "authority": one.stem,
            "state": one.state,
            "since": one.since,
            "not_after": self.until,
            "key": one.key,
            "lacking": [item.as_text() for item in self.lacking],
        }

    def as_text(self) -> str:
        """Return what a person sees."""
        one = self.authority
        head = f"{one.stem}-ca: {one.state} since {one.since}, until {self.until}"
        return "\n".join([head, *(f"  lacks it: {item.as_text()}" for item in self.lacking)])


def rows(trust: TrustFolder, report: Sequence[Holder]) -> list[Row]:
    """Return every CA root and issuer of the folder; who lacks one counts while it is listed."""
    book, found = trust.authorities(), []
    for one in book.known:
        missing = lacking(trust, one, report) if one.state in LISTED else []
        until = write_time(book.certificate(one).not_valid_after_utc)
        found.append(Row(one, until, tuple(missing)))
    return found


def _active(trust: TrustFolder, env: str) -> Iterator[Entry]:
    for path, raw in trust.documents(layout.fleet_role(env)).items():
        if path.startswith(f"fleet/{env}/dir/"):
            yield from (entry for entry in parse_shard(raw).entries if entry.state == "active")
