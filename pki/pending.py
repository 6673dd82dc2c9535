"""Which keys each open draft still needs: whose, which of them, and where it lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tuf.api.metadata import Key

from embrasure import fs, limits
from embrasure.clock import write_time
from embrasure.errors import EmbrasureError
from embrasure.trust import layout
from pki import counting, people, refusals, verify
from pki.drafts import Draft
from pki.folder import TrustFolder


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key that can still sign a draft. where: the device or file to look for, a hint only."""

    person: str
    keyid: str
    scheme: str
    where: str

    def line(self) -> str:
        """Return one line for a person."""
        short = f"{self.keyid[:4]} {self.keyid[4:8]}"
        return f"{self.person} ({short}, {self.scheme}): {self.where}"


@dataclass(frozen=True, slots=True)
class Need:
    """What one set of keyholders still owes a draft. by: which version of whom names them."""

    by: str
    threshold: int
    signed: tuple[str, ...]
    missing: int
    wanted: tuple[Wanted, ...]


def needs(trust: TrustFolder, draft: Draft) -> list[Need]:
    """Return what the keyholders in force, and those of open drafts, still owe to `draft`."""
    found = []
    for delegator in counting.delegators(trust, draft):
        threshold, keys = verify.keys_of(draft.role, delegator)
        valid = verify.signers(draft.role, draft.metadata, delegator)
        above = layout.ROOT if draft.role in (layout.ROOT, layout.TARGETS) else layout.TARGETS
        missing = max(0, threshold - len(valid))
        open_keys = [key for keyid, key in keys.items() if keyid not in valid]
        found.append(
            Need(
                by=f"{above} v{delegator.version}",
                threshold=threshold,
                signed=tuple(sorted(verify.name_of(key) for key in valid.values())),
                missing=missing,
                wanted=tuple(_wanted(trust, key) for key in open_keys) if missing else (),
            )
        )
    return found


def _wanted(trust: TrustFolder, key: Key) -> Wanted:
    name = verify.name_of(key)
    return Wanted(name, key.keyid, key.scheme, _where(trust, name, key.keyid))


def _where(trust: TrustFolder, person: str, keyid: str) -> str:
    """Return what the public half says of the device, or which key file here is that key."""
    try:
        raw = fs.read_file(trust.path / "public" / f"{person}.pub", limit=limits.KEYFILE_BYTES)
        found = people.parse_public(raw)
    except EmbrasureError:
        return "a key whose public half is not in this folder"
    if found.keyid != keyid:
        return "an older key than the public half in this folder"
    if found.device is not None:
        return f"insert {found.device}"
    here = trust.path / "keys" / f"{person}.key"
    return f"key file {here}" if here.exists() else "a key file of that person"


def as_json(trust: TrustFolder, draft: Draft) -> dict[str, object]:
    """Return what `--json` shows of one draft."""
    said = refusals.valid(trust, draft)
    return {
        "role": draft.role,
        "version": draft.version,
        "digest": f"sha256:{draft.digest}",
        "expires": write_time(draft.metadata.signed.expires),
        "refused": [{"person": one.person, "reason": one.reason} for one in said],
        "needs": [
            {
                "by": need.by,
                "threshold": need.threshold,
                "signed": list(need.signed),
                "missing": need.missing,
                "keys": [
                    {
                        "person": key.person,
                        "keyid": key.keyid,
                        "scheme": key.scheme,
                        "where": key.where,
                    }
                    for key in need.wanted
                ],
            }
            for need in needs(trust, draft)
        ],
    }


def as_text(trust: TrustFolder) -> str:
    """Return all open drafts for a person."""
    lines = [line for draft in trust.drafts() for line in _lines(trust, draft)]
    return "\n".join(lines) or "no draft waits"


def _lines(trust: TrustFolder, draft: Draft) -> Iterator[str]:
    yield f"{draft.role} v{draft.version} sha256:{draft.digest[:16]}"
    said = refusals.valid(trust, draft)
    for one in said:
        yield f"  refused by {one.person} at {one.at}: {one.reason}"
    if said:
        yield f"  next: embrasure trust discard {trust.path} --role {draft.role}"
        return
    for need in needs(trust, draft):
        by = f", signed by {', '.join(need.signed)}" if need.signed else ""
        yield f"  by {need.by}: {need.missing} more of {need.threshold}{by}"
        yield from (f"    {key.line()}" for key in need.wanted)
    if not any(need.missing for need in needs(trust, draft)):
        yield f"  next: embrasure trust merge {trust.path}"
