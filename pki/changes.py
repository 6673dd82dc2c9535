"""The whole change of a draft in words: what a signer reads before the key is opened.

Complete by construction: old and new content are flattened to `place = value` lines, and every
line that differs is shown. A field that this version does not know is shown like any other.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from tuf.api.metadata import Key, Targets

from embrasure.clock import write_time
from embrasure.errors import shown
from embrasure.fingerprint import groups, words
from embrasure.net.certificates import UNREADABLE
from embrasure.trust import layout
from pki import people, possession, stopped, store, verify
from pki.base import Base
from pki.drafts import Draft

_LONG = 200  # characters; what is longer is shown by its digest
_NAMES = ("id", "name", "keyid")  # members that name an item of a list


@dataclass(frozen=True, slots=True)
class Change:
    """One place that differs: `old` None for a new one, `new` None for one that goes."""

    place: str
    old: str | None
    new: str | None

    def line(self, names: Mapping[str, str]) -> str:
        """Return the change as one line; key ids are followed by their owner's name."""
        place = _named(self.place, names)
        if self.old is None:
            return f"  + {place} = {_named(self.new or '', names)}"
        if self.new is None:
            return f"  - {place} = {_named(self.old, names)}"
        return f"  ~ {place}: {_named(self.old, names)} -> {_named(self.new, names)}"


def changes(draft: Draft, base: Base) -> list[Change]:
    """Return every place where the draft differs from what is in force."""
    new = dict(flatten(content(draft.metadata, draft.documents)))
    old: dict[str, str] = {}
    if base.previous is not None:
        old = dict(flatten(content(base.previous, base.former)))
    places = [*old, *(place for place in new if place not in old)]
    return [
        Change(place, old.get(place), new.get(place))
        for place in places
        if old.get(place) != new.get(place)
    ]


def content(metadata: store.AnyMetadata, documents: Mapping[str, bytes]) -> dict[str, object]:
    """Return signed part and documents as one value; a listed file's digest gives way to its
    content, which `drafts.load` has compared with that digest.
    """
    signed = metadata.signed.to_dict()
    signed.pop("targets", None)
    return {**signed, **{path: json.loads(raw) for path, raw in sorted(documents.items())}}


def flatten(value: object, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield each place inside `value` with its text; two values that differ differ in a place."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from flatten(item, f"{place}.{_part(name)}" if place else _part(name))
    elif isinstance(value, list) and value and all(_name_in(item) for item in value):
        names = [_name_in(item) for item in value]
        if len(set(names)) != len(names):
            yield place, _text(value)
            return
        yield f"{place}[order]", ", ".join(names)
        for name, item in zip(names, value, strict=True):
            yield from flatten(item, f"{place}[{name}]")
    else:
        yield place, _text(value)


def render(draft: Draft, base: Base, *, at: datetime) -> str:
    """Return what a signer of `draft` must read, as text for a terminal."""
    threshold, keys = verify.keys_of(draft.role, base.delegator)
    names = {**_owners(keys), **owners(draft, base)}
    signed = verify.signers(draft.role, draft.metadata, base.delegator)
    found = changes(draft, base)
    expires = draft.metadata.signed.expires
    was = "new" if base.previous is None else f"in force: v{base.previous.signed.version}"
    lines = [
        f"role {draft.role}, version {draft.version} ({was})",
        f"  fleet      {groups(base.root_id)}",
        f"  in words   {words(base.root_id)}",
        f"  digest     sha256:{draft.digest}",
        f"  expires    {write_time(expires)} (in {(expires - at).days} days)",
        f"  needs      {threshold} of {', '.join(_owner(key, keys[key]) for key in keys)}",
        *_own_needs(draft, base),
        f"  signed by  {', '.join(_owner(key, signed[key]) for key in signed) or 'nobody yet'}",
        *(f"  note       {note}" for note in base.notes),
        *(f"  WARNING    {warning}" for warning in warnings(draft, base)),
        *(f"  WARNING    {warning}" for warning in possession.unproved(draft, base, at=at)),
        f"changes ({len(found)}):",
        *(change.line(names) for change in found),
    ]
    return "\n".join(shown(line, limit=len(line) + 1) for line in lines)


def _own_needs(draft: Draft, base: Base) -> Iterator[str]:
    """Yield who else must sign a new root: its own keyholders, beside those of the old one."""
    if draft.role == layout.ROOT and base.previous is not None:
        threshold, keys = verify.keys_of(layout.ROOT, store.as_root(draft.metadata))
        yield f"  and        {threshold} of {', '.join(_owner(key, keys[key]) for key in keys)}"


def warnings(draft: Draft, base: Base) -> Iterator[str]:
    """Yield what a signer must not overlook, in words."""
    if draft.role in (layout.ROOT, layout.TARGETS) and base.previous is not None:
        yield from _lowered(draft, base)
    yield from stopped.nobody(draft, base, owners(draft, base))
    for path, raw in draft.documents.items():
        found = json.loads(raw)
        if path != layout.policy_path(str(found.get("env"))):
            continue
        if found.get("min_isolation") == 0:
            yield "policy min_isolation 0: receipts of nodes without a sandbox count as evidence"
        yield from _strangers(found["people"], owners(draft, base))


def _strangers(
    people_of: Sequence[Mapping[str, object]], names: Mapping[str, str]
) -> Iterator[str]:
    """Yield each key that the policy gives to one person and targets to another."""
    for person in people_of:
        listed = person["keys"]
        for keyid in listed if isinstance(listed, list) else []:
            if names.get(keyid, person["id"]) != person["id"]:
                yield f"policy gives the key of {names[keyid]} ({keyid[:8]}) to {person['id']}"


def _lowered(draft: Draft, base: Base) -> Iterator[str]:
    old, new = (_thresholds(found) for found in (base.previous, draft.metadata))
    for role, before in old.items():
        after = new.get(role)
        if after is None:
            yield f"role {role} is no longer delegated"
        elif after < before:
            yield f"role {role} needs fewer signatures: {after}, was {before}"


def _thresholds(found: store.AnyMetadata | None) -> dict[str, int]:
    if found is None:
        return {}
    if found.signed.type == layout.ROOT:
        return {name: role.threshold for name, role in store.as_root(found).roles.items()}
    delegations = store.as_targets(found).delegations
    listed = delegations.roles if delegations is not None else None
    return {name: role.threshold for name, role in (listed or {}).items()}


def owners(draft: Draft, base: Base) -> dict[str, str]:
    """Return whose each key id is: by the draft's own keys, then by those in force."""
    found: dict[str, str] = {}
    if isinstance(base.delegator, Targets) and base.delegator.delegations is not None:
        found.update(_owners(base.delegator.delegations.keys))
    for metadata in (base.previous, draft.metadata):
        if metadata is not None and metadata.signed.type == layout.ROOT:
            found.update(_owners(store.as_root(metadata).keys))
        elif metadata is not None:
            delegations = store.as_targets(metadata).delegations
            found.update(_owners(delegations.keys if delegations is not None else {}))
    return found


def _owners(keys: Mapping[str, Key]) -> dict[str, str]:
    return {
        keyid: people.owner_of(key)
        for keyid, key in keys.items()
        if people.PERSON in key.unrecognized_fields
    }


def _owner(keyid: str, key: Key) -> str:
    return f"{verify.name_of(key)} ({keyid[:8]})"


def _named(text: str, names: Mapping[str, str]) -> str:
    for keyid, name in names.items():
        text = text.replace(keyid, f"{keyid} <{name}>")
    return text


def _name_in(item: object) -> str:
    if not isinstance(item, dict):
        return ""
    return next((_part(item[key]) for key in _NAMES if isinstance(item.get(key), str)), "")


def _part(name: object) -> str:
    text = str(name)
    plain = text.replace("/", "").replace("-", "").replace("_", "").replace("*", "")
    return text if plain.isalnum() and plain.isascii() else json.dumps(text)


def _text(value: object) -> str:
    """Return a value as JSON; a certificate or another long text by digest, never cut."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    if isinstance(value, list):
        inside = [_certificate(item) for item in value]
        if inside and all(inside):
            return f"[{', '.join(inside)}]"
    if len(text) <= _LONG or not isinstance(value, str):
        return text
    return f"sha256:{hashlib.sha256(text.encode('ascii')).hexdigest()} ({len(text)} characters)"


def _certificate(item: object) -> str:
    """Return a base64 DER certificate as fingerprint, name and end; empty for anything else."""
    try:
        raw = base64.b64decode(item, validate=True) if isinstance(item, str) else b""
        found = x509.load_der_x509_certificate(raw) if raw else None
    except UNREADABLE:
        return ""
    if found is None or base64.b64encode(raw).decode("ascii") != item:
        return ""
    fingerprint = hashlib.sha256(raw).hexdigest()
    until = write_time(found.not_valid_after_utc)
    return f"certificate sha256:{fingerprint} ({found.subject.rfc4514_string()}, until {until})"
