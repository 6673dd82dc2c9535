"""The transcript of a ceremony: every act on a trust folder, hash-chained, closed by signatures.

`transcripts/<number>.jsonl`: one canonical JSON object a line, each with the SHA-256 of the line
before. Digests and names only: nothing of it is a secret, and nothing is believed because of it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import click
from msgspec import Meta

from embrasure import __version__, fs, limits
from embrasure.clock import now, write_time
from embrasure.errors import Damaged, EmbrasureError, Misuse, NotFound, shown
from embrasure.trust import canonical, dsse
from embrasure.trust.documents import (
    Count,
    Digest,
    Document,
    KeyId,
    PersonId,
    Positive,
    Time,
    read,
    write,
)
from pki import store
from pki.keyfacts import Opened
from pki.people import PublicFile

FOLDER, FIRST = "transcripts", "0" * 64
KIND: dsse.Type = "transcript"
_Text = Annotated[str, Meta(max_length=limits.TRANSCRIPT_LINE_BYTES)]


class Output(Document, frozen=True, kw_only=True):
    """Something that is there now: where, and its digest."""

    place: _Text
    sha256: Digest


class Act(Document, frozen=True, kw_only=True):
    """One act. who: the account that ran it; outputs: what is new or other after it, by place, with
    its digest; gone: places that are no more.
    """

    v: Literal[1]
    type: Literal["act"]
    root: Digest
    n: Positive
    prev: Digest
    at: Time
    who: _Text
    tool: _Text
    command: _Text
    inputs: dict[str, _Text]
    outputs: tuple[Output, ...]
    gone: tuple[_Text, ...]
    ended: _Text


class Closing(Document, frozen=True, kw_only=True):
    """What one of those present signs: so many lines, of which the last has this digest."""

    v: Literal[1]
    type: Literal["transcript"]
    root: Digest
    lines: Count
    head: Digest
    person: PersonId
    keyid: KeyId
    at: Time


class Signature(Document, frozen=True, kw_only=True):
    """A line that closes: the envelope, and the public half of the key that signed it."""

    v: Literal[1]
    type: Literal["signature"]
    n: Positive
    prev: Digest
    key: PublicFile
    envelope: _Text


@dataclass(frozen=True, slots=True)
class Held:
    """The transcript that the next line goes to: its file's number, its lines, its last digest."""

    number: int
    lines: tuple[bytes, ...]
    head: str
    closed: bool


def state_of(folder: Path) -> dict[str, str]:
    """Return the digest of everything in a trust folder that a ceremony makes, by place."""
    found: dict[str, str] = {}
    for pattern in ("anchor.json", "metadata/*.json", "refused/*.json", "public/*.pub", "ca/*.crt",
                    "drafts/*/signatures/*.json", "drafts/*/proofs/*.json"):  # fmt: skip
        for file in sorted(folder.glob(pattern)):
            found[file.relative_to(folder).as_posix()] = canonical.sha256_hex(
                fs.read_file(file, limit=limits.ROOT_BYTES)
            )
    for file in sorted(folder.glob("drafts/*/metadata.json")):
        found[f"drafts/{file.parent.name}"] = _draft_digest(file)
    return found


def _draft_digest(file: Path) -> str:
    """Return what the draft's signers confirm: the digest of its signed part."""
    raw = fs.read_file(file, limit=limits.ROOT_BYTES)
    try:
        return store.signed_digest(store.parse_metadata(raw, file.parent.name))
    except EmbrasureError:
        return canonical.sha256_hex(raw)


@contextlib.contextmanager
def recorded(folder: Path, root: str) -> Iterator[None]:
    """What the block changes in the trust folder is one more line, also when the block fails."""
    before, ended = state_of(folder), "done"
    try:
        yield
    except BaseException as problem:
        ended = f"failed: {problem}" if isinstance(problem, EmbrasureError) else "failed"
        raise
    finally:
        after = state_of(folder)
        if after != before:
            append(folder, root, before, after, ended=ended)


@contextlib.contextmanager
def from_nothing(folder: Path, root: str) -> Iterator[None]:
    """Everything that a new trust folder holds when the block has ended is the first line."""
    yield
    append(folder, root, {}, state_of(folder), ended="done")


@contextlib.contextmanager
def recorded_unlocked(folder: Path, root: str) -> Iterator[None]:
    """The same for a person's round, which may take long: the lock is held for the line only."""
    before, ended = state_of(folder), "done"
    try:
        yield
    except BaseException as problem:
        ended = f"failed: {problem}" if isinstance(problem, EmbrasureError) else "failed"
        raise
    finally:
        with fs.lock(folder / ".lock", seconds=limits.LOCK_SECONDS):
            after = state_of(folder)
            if after != before:
                append(folder, root, before, after, ended=ended)


def append(
    folder: Path, root: str, before: Mapping[str, str], after: Mapping[str, str], *, ended: str
) -> None:
    """The transcript has one more line that says what changed; it is on disk."""
    held = last(folder)
    if held.closed or sum(map(len, held.lines)) > limits.TRANSCRIPT_BYTES // 2:
        held = Held(held.number + 1, (), held.head, False)
    command, inputs = _command()
    line = write(
        Act(
            v=1,
            type="act",
            root=root,
            n=len(held.lines) + 1,
            prev=held.head,
            at=write_time(now()),
            who=shown(_account()),
            tool=f"embrasure {__version__}",
            command=command,
            inputs=inputs,
            outputs=tuple(
                Output(place=place, sha256=new)
                for place, new in after.items()
                if before.get(place) != new
            ),
            gone=tuple(place for place in before if place not in after),
            ended=shown(ended),
        )
    )
    _write(folder, held, line)


def close(folder: Path, root: str, opened: Opened, pub: PublicFile) -> Path:
    """The last transcript has the signature of this key as one more line; return its file.

    Raises Misuse when nothing was written yet or this key has signed it already.
    """
    held = last(folder)
    if not held.lines:
        raise Misuse(str(folder / FOLDER), expected="a transcript", got="none")
    if any(pub.keyid in _keyid_of(line) for line in held.lines):
        raise Misuse("transcript", expected="each signature once", got=f"{pub.person} again")
    said = Closing(
        v=1,
        type="transcript",
        root=root,
        lines=len(held.lines),
        head=held.head,
        person=pub.person,
        keyid=pub.keyid,
        at=write_time(now()),
    )
    envelope = dsse.seal(KIND, write(said), opened.signer).decode("ascii")
    number = len(held.lines) + 1
    line = write(
        Signature(v=1, type="signature", n=number, prev=held.head, key=pub, envelope=envelope)
    )
    return _write(folder, held, line)


def _keyid_of(line: bytes) -> str:
    raw = canonical.parse(line, limit=limits.TRANSCRIPT_LINE_BYTES, document="transcript")
    if raw.get("type") != "signature":
        return ""
    found = read(line, Signature, limit=limits.TRANSCRIPT_LINE_BYTES, document="transcript")
    return found.key.keyid


def last(folder: Path) -> Held:
    """Return the transcript that goes on; a new folder has number 0 without lines."""
    numbers = [int(f.stem) for f in (folder / FOLDER).glob("[0-9]*.jsonl") if f.stem.isdigit()]
    number = max(numbers, default=1)
    try:
        lines = read_lines(file_of(folder, number))
    except NotFound:
        return Held(number, (), FIRST, False)
    head = canonical.sha256_hex(lines[-1]) if lines else FIRST
    return Held(number, lines, head, bool(lines) and bool(_keyid_of(lines[-1])))


def file_of(folder: Path, number: int) -> Path:
    """Return the file of a transcript of this folder."""
    return folder / FOLDER / f"{number:04d}.jsonl"


def read_lines(file: Path) -> tuple[bytes, ...]:
    """Return the lines of a transcript without their ends; raises NotFound, Damaged."""
    raw = fs.read_file(file, limit=limits.TRANSCRIPT_BYTES)
    if raw and not raw.endswith(b"\n"):
        raise Damaged(str(file), expected="whole lines", got="a line without an end")
    return tuple(raw.split(b"\n")[:-1])


def _write(folder: Path, held: Held, line: bytes) -> Path:
    if len(line) > limits.TRANSCRIPT_LINE_BYTES:
        raise Damaged(
            "transcript", expected=f"{limits.TRANSCRIPT_LINE_BYTES} bytes a line", got=len(line)
        )
    store.make_folder(folder / FOLDER)
    file = file_of(folder, held.number)
    fs.replace_file(file.parent, file.name, b"\n".join([*held.lines, line]) + b"\n")
    return file


def _account() -> str:
    """Return the account's name, else its number: no act goes unrecorded for want of a name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"


def _command() -> tuple[str, dict[str, str]]:
    """Return the verb that runs, and what it was given: names and files, never what opens a key.

    A secret is no argument of any verb; where a passphrase is read from is left out all the same.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return "library", {}
    given = {
        name: value
        for name, value in context.params.items()
        if value not in (None, False, ()) and "passphrase" not in name
    }
    return context.command_path, {name: shown(_text(value)) for name, value in given.items()}


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(_text(item) for item in value)
    return str(value)
