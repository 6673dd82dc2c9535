"""Verify a transcript again: its chain, its closing signatures, and what it says it left behind."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from securesystemslib.signer import Key

from embrasure import limits
from embrasure.errors import EmbrasureError, Refused
from embrasure.trust import canonical, dsse, layout
from embrasure.trust.documents import read
from pki import people, store, transcript
from pki import verify as verification
from pki.folder import TrustFolder
from pki.transcript import Act, Closing, Signature

_BYTES = limits.TRANSCRIPT_LINE_BYTES


@dataclass(frozen=True, slots=True)
class Replayed:
    """A transcript that holds. signers: who closed it; checked: outputs found as it says."""

    root: str
    acts: tuple[Act, ...]
    signers: tuple[str, ...]
    first: str
    head: str
    checked: int

    def as_json(self) -> dict[str, object]:
        """Return what `--json` shows."""
        return {
            "root": self.root,
            "acts": len(self.acts),
            "signers": list(self.signers),
            "first": self.first,
            "head": self.head,
            "outputs_checked": self.checked,
        }


def verify(file: Path, trust: TrustFolder | None, *, may_be_open: bool) -> Replayed:
    """Return what a transcript says, once all of it holds; raises Refused, Damaged, NotFound.

    trust: the folder that it is about; without it, that its signers are of the fleet and that its
    outputs are there is not checked. Steps: 1 lines, numbers and chain, 2 one fleet, 3 signatures
    over all that stands before them, 4 the signers are keyholders, 5 what is in force is what was
    drafted and left. may_be_open: nobody need have signed: then the chain proves nothing.
    """
    lines = transcript.read_lines(file)
    # 1.
    acts, closing = _chain(lines)
    if not acts:
        raise _refuse("an act", "none")
    # 2.
    roots = {act.root for act in acts}
    if len(roots) != 1 or (trust is not None and roots != {trust.root_id}):
        raise _refuse("one fleet", ", ".join(root[:16] for root in roots), reason="identity")
    # 3.
    signers = [_check_closing(line, lines, acts[0].root) for line in closing]
    if not signers and not may_be_open:
        raise _refuse("signatures of those present", "none", reason="not-closed")
    if len(set(signers)) != len(signers):
        raise _refuse("each signer once", ", ".join(signers))
    checked = 0
    if trust is not None:
        # 4.
        known = keyholders(trust)
        for line in closing:
            if line.key.keyid not in known:
                raise _refuse("a keyholder of this fleet", line.key.person, reason="not-a-signer")
        # 5.
        checked = _check_outputs(trust, acts)
    head = canonical.sha256_hex(lines[-1])
    return Replayed(acts[0].root, acts, tuple(signers), acts[0].prev, head, checked)


def _chain(lines: tuple[bytes, ...]) -> tuple[tuple[Act, ...], tuple[Signature, ...]]:
    acts: list[Act] = []
    closing: list[Signature] = []
    before = None
    for number, line in enumerate(lines, start=1):
        one = _parse(line)
        if one.n != number or (before is not None and one.prev != before):
            raise _refuse(f"line {number} after the line before it", "another", reason="chain")
        if isinstance(one, Act) and closing:
            raise _refuse("no act after the first signature", one.command, reason="chain")
        if isinstance(one, Act):
            acts.append(one)
        else:
            closing.append(one)
        before = canonical.sha256_hex(line)
    return tuple(acts), tuple(closing)


def _parse(line: bytes) -> Act | Signature:
    found = canonical.parse(line, limit=_BYTES, document="transcript")
    if found.get("type") == "signature":
        return read(line, Signature, limit=_BYTES, document="transcript")
    return read(line, Act, limit=_BYTES, document="transcript")


def _check_closing(line: Signature, lines: tuple[bytes, ...], root: str) -> str:
    """Return who signed everything before this line; raises Refused."""
    key = people.named_key(line.key)
    raw = line.envelope.encode("ascii", errors="replace")
    payload, _ = dsse.unseal(transcript.KIND, raw, {key.keyid: key}, limit=_BYTES)
    said = read(payload, Closing, limit=_BYTES, document="transcript")
    before = (root, line.n - 1, canonical.sha256_hex(lines[line.n - 2]), line.key.person)
    if (said.root, said.lines, said.head, said.person) != before:
        raise _refuse(f"a signature over {line.n - 1} lines", f"one over {said.lines}")
    return line.key.person


def keyholders(trust: TrustFolder) -> Mapping[str, Key]:
    """Return every key of a person that a root or targets version of this folder names, as far as
    it verifies from the first root on; raises Refused.
    """
    newest = store.versions(trust.path, layout.ROOT)[-1]
    walked = list(verification.walk_root(trust.path, root_id=trust.root_id, newest=newest))
    roots = [store.as_root(one) for one in walked]
    found = {keyid: key for root in roots for keyid, key in root.keys.items()}
    for version in store.versions(trust.path, layout.TARGETS):
        for root in roots:
            with suppress(EmbrasureError):
                targets = store.read_metadata(trust.path, layout.TARGETS, version)
                verification.check_signed(layout.TARGETS, targets, root)
                delegations = store.as_targets(targets).delegations
                found.update(delegations.keys if delegations is not None else {})
    return {k: key for k, key in found.items() if people.PERSON in key.unrecognized_fields}


def _check_outputs(trust: TrustFolder, acts: tuple[Act, ...]) -> int:
    """Return how many metadata files are as the transcript says; raises Refused (`outputs`).

    What came into force must be what was drafted before, if the draft is in the same transcript.
    """
    drafted: dict[str, set[str]] = {}
    checked = 0
    for act in acts:
        for output in act.outputs:
            place, digest = output.place, output.sha256
            if place.startswith("drafts/") and place.count("/") == 1:
                drafted.setdefault(place.removeprefix("drafts/"), set()).add(digest)
            if not place.startswith("metadata/"):
                continue
            role = place.removesuffix(".json").partition(".")[2]
            raw = _read(trust, place, role)
            if canonical.sha256_hex(raw) != digest:
                raise _refuse(f"{place} as it was left", "other bytes", reason="outputs")
            signed = store.signed_digest(store.parse_metadata(raw, role))
            # Other verbs draft, sign and put in force in one act, which leaves no draft behind.
            merged = act.command.endswith(" merge") and f"drafts/{role}" in act.gone
            if merged and role in drafted and signed not in drafted[role]:
                raise _refuse(f"{place} to be a draft of before", signed[:16], reason="outputs")
            checked += 1
    return checked


def _read(trust: TrustFolder, place: str, role: str) -> bytes:
    try:
        return store.read(trust.path, place, limit=store.limit_of(role))
    except EmbrasureError as problem:
        raise _refuse(f"{place} as it was left", problem, reason="outputs") from None


def _refuse(expected: str, got: object, *, reason: str = "transcript") -> Refused:
    return Refused("transcript", expected=expected, got=got, reason=reason)
