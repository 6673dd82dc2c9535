"""What lies on disk of a node that joins: its statement, its MAC, whether it still joins."""

from __future__ import annotations

from embrasure import limits
from embrasure.errors import Denied, NotFound
from embrasure.fs import read_file
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.directory import parse_statement
from embrasure.trust.documents import read
from embrasure.trust.dsse import Envelope
from embrasure.trust.joining import parse_answering
from embrasure.trust.receipt import key_id
from node.messages import unpack
from node.paths import Paths


def check_not_enrolled(paths: Paths) -> None:
    """Return only while this node is not enrolled: afterwards it answers no stranger's questions.

    Raises Denied (`enrolled`).
    """
    if paths.taken.exists():
        raise Denied("node", expected="one that still joins", got="an enrolled one",
                     hint="it took its answer: embrasure trust submit, then fleet list",
                     reason="enrolled")  # fmt: skip


def read_statement(paths: Paths) -> bytes:
    """Return the envelope of this node's statement; raises NotFound."""
    return read_file(paths.statement, limit=2 * limits.STATEMENT_BYTES)


def read_mac(paths: Paths) -> str:
    """Return the MAC over the statement that is here, "" when no token was given for it."""
    try:
        said = parse_answering(read_file(paths.join, limit=limits.CHALLENGE_BYTES))
    except NotFound:
        return ""
    return said.mac if said.statement == sha256_hex(read_statement(paths)) else ""


def own_receipt_id(paths: Paths) -> str:
    """Return the id of this node's receipt key, by its own statement; raises NotFound, Refused.

    For the process that must not see the key. The statement lies where only the owner writes, and
    a wrong id would make letterboxes refuse this node's posts, no more.
    """
    envelope = read(
        read_statement(paths), Envelope, limit=2 * limits.STATEMENT_BYTES, document="statement"
    )
    return key_id(bytes.fromhex(parse_statement(unpack(envelope.payload)).receipt.key))
