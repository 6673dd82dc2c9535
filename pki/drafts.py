"""A draft: the unsigned next version of one role, all that its signers must see, and signatures.

`drafts/<role>/` is complete in itself, so it can be carried to a signer without any network:
`metadata.json`, `targets/...` (every target file of the new version), `base/` (what is in force,
from root version 1 on, for the comparison) and `signatures/<key id>.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta
from securesystemslib.signer import Signature

from embrasure import fs, limits
from embrasure.errors import Denied, Refused
from embrasure.folder import Folder
from embrasure.trust import documents, layout
from embrasure.trust.documents import Document, KeyId
from pki import roles, store
from pki.store import AnyMetadata

METADATA = "metadata.json"
BASE = "base"
PROOFS = "proofs"
_SIGNATURES = "signatures"
_FILE_BYTES = 2 * limits.SIGNATURE_BYTES + limits.KIB  # hex, and the key id
in_order = roles.in_order


class _SignatureFile(Document, frozen=True, kw_only=True):
    keyid: KeyId
    sig: Annotated[str, Meta(pattern=r"^([0-9a-f]{2})+$", max_length=2 * limits.SIGNATURE_BYTES)]


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft as its files say; signatures are kept, not yet verified.

    documents: the target files of the new version, by path; their digests are checked
    """

    folder: Path
    role: str
    metadata: AnyMetadata
    documents: Mapping[str, bytes]

    @property
    def version(self) -> int:
        """The version that this draft will be."""
        return self.metadata.signed.version

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes that are signed: what a signer confirms."""
        return store.signed_digest(self.metadata)


def load(folder: Path, role: str) -> Draft:
    """Return the draft in `folder`; raises Refused, NotFound, Misuse."""
    roles.check_drafted(role)
    raw = fs.read_file(folder / METADATA, limit=store.limit_of(role))
    found = store.parse_metadata(raw, role)
    if found.signatures:
        raise Refused(f"draft of {role}", expected="no signature inside", got="signatures")
    listed = {} if role == layout.ROOT else store.as_targets(found).targets
    contents = store.read_targets(folder, store.as_targets(found)) if listed else {}
    found.signatures.update(_load_signatures(folder))
    return Draft(folder, role, found, contents)


def find(folder: Path, role: str | None) -> list[Draft]:
    """Return the drafts that a signer means by `folder`: a trust folder, its `drafts`, or one
    draft carried alone (which then bears its role's name).
    """
    if (folder / METADATA).exists():
        name = role or folder.resolve().name
        return [load(folder, name)]
    inside = folder / "drafts" if (folder / "drafts").is_dir() else folder
    names = [role] if role else in_order(f.parent.name for f in inside.glob(f"*/{METADATA}"))
    return [load(inside / name, name) for name in names if (inside / name / METADATA).exists()]


def write(folder: Path, role: str, metadata: AnyMetadata, contents: Mapping[str, bytes]) -> None:
    """`folder` is a draft of `role`: these signed bytes, these target files, no signature."""
    roles.check_drafted(role)
    proofs = _proofs(folder)
    discard(folder)
    store.make_folder(folder)
    metadata.signatures.clear()
    for name, raw in proofs.items():
        store.make_folder(folder / PROOFS)
        fs.create_file(folder / PROOFS, name, raw)
    if role != layout.ROOT:
        for path, entry in store.as_targets(metadata).targets.items():
            store.write(folder, layout.target_file(path, entry.hashes["sha256"]), contents[path])
    # Last: a draft cut short by a crash has no metadata and counts as none.
    fs.create_file(folder, METADATA, metadata.to_bytes())


def _proofs(folder: Path) -> dict[str, bytes]:
    """Return the proofs of possession of an edited draft: its new keys are still the same."""
    inside = folder / PROOFS
    files = list(inside.glob("*.json"))[: limits.PROOFS_PER_DRAFT] if inside.is_dir() else []
    return {file.name: fs.read_file(file, limit=limits.POSSESSION_BYTES) for file in files}


def discard(folder: Path) -> None:
    """There is no draft in `folder`."""
    if folder.exists():
        with Folder.open(folder) as held:
            # First: what a crash leaves behind has no metadata and counts as none.
            held.unlink(METADATA, missing_ok=True)
        store.remove_folder(folder)


def write_base(draft: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """The draft carries these repository files as what is in force, and no others."""
    base = draft / BASE
    store.remove_folder(base)
    for path, raw in files:
        store.write(base, path, raw)


def add_signature(draft: Draft, signature: Signature) -> Path:
    """The draft's folder has this signature as a file of its own; return the file."""
    folder = draft.folder / _SIGNATURES
    store.make_folder(folder)
    raw = documents.write(_SignatureFile(keyid=signature.keyid, sig=signature.signature))
    fs.replace_file(folder, f"{signature.keyid}.json", raw)
    draft.metadata.signatures[signature.keyid] = signature
    return folder / f"{signature.keyid}.json"


def check_unsigned(draft: Draft) -> None:
    """Return only when nobody has signed the draft; raises Denied: a change would void that."""
    if draft.metadata.signatures:
        raise Denied(
            f"draft of {draft.role} v{draft.version}",
            expected="no signature yet",
            got=f"{len(draft.metadata.signatures)}",
            hint=f"embrasure trust merge, or embrasure trust discard --role {draft.role}",
            reason="draft-open",
        )


def _load_signatures(folder: Path) -> dict[str, Signature]:
    found: dict[str, Signature] = {}
    inside = folder / _SIGNATURES
    files = sorted(inside.glob("*.json")) if inside.is_dir() else []
    if len(files) > 2 * limits.KEYS_PER_ROLE:
        raise Refused("signatures", expected=f"at most {2 * limits.KEYS_PER_ROLE}", got=len(files))
    for file in files:
        raw = fs.read_file(file, limit=_FILE_BYTES)
        one = documents.read(raw, _SignatureFile, limit=_FILE_BYTES, document="signature")
        if file.name != f"{one.keyid}.json":
            raise Refused(str(file), expected=f"{one.keyid[:12]}....json", got=file.name)
        found[one.keyid] = Signature(one.keyid, one.sig)
    return found
