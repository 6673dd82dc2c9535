"""A node that joins by a token: it shows its statement, proves its keys, takes the answer.

Fetch relays; the receipt key and the sealing key stay in apply, which answers here. An answer is
verified from the anchor alone before any of it is written: whoever has the gateway may bring one.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag

from embrasure import limits
from embrasure.clock import Clock, write_time
from embrasure.errors import Refused, Unavailable
from embrasure.trust import dsse
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.documents import write
from embrasure.trust.joining import (
    CHALLENGE_BYTES,
    Challenge,
    Proof,
    challenge_info,
    parse_challenge,
)
from embrasure.trust.source import Source
from node.identity import Identity, load_identity, load_seal_key
from node.join_files import check_not_enrolled, read_statement
from node.paths import Paths

Enrol = Callable[[bytes, Source], None]


@dataclass(frozen=True, slots=True)
class Joiner:
    """Answers in apply, for a node that is not enrolled yet.

    enrol: verifies an answer by the trust files of a source, and takes it
    """

    paths: Paths
    clock: Clock
    enrol: Enrol
    turn: threading.Lock = field(default_factory=threading.Lock)

    def prove(self, challenge: bytes, *, gateway: str) -> bytes:
        """Return the envelope that proves both keys; raises Denied (`enrolled`), Refused.

        gateway: SHA-256 of the certificate that fetch sees. Signed is what this node says of
        itself; of the challenge, its nonce and what it had sealed.
        """
        check_not_enrolled(self.paths)
        identity = load_identity(self.paths)
        asked = parse_challenge(challenge)
        check_challenge(asked, identity)
        proof = Proof(
            v=1,
            type="joining",
            root=identity.root_id,
            env=identity.env,
            node=identity.node,
            epoch=identity.epoch,
            nonce=asked.nonce,
            opened=self._open(asked),
            gateway=gateway,
            statement=sha256_hex(read_statement(self.paths)),
            at=write_time(self.clock()),
        )
        return dsse.seal("joining", write(proof), identity.signer())

    def take(self, answer: bytes, source: Source) -> None:
        """This node is enrolled; raises Denied (`enrolled`), Refused, Unavailable.

        After a refusal it joins as before: the next answer is looked at like the first.
        """
        if len(answer) > limits.ANSWER_BYTES:
            raise Refused("enrolment answer", expected=f"{limits.ANSWER_BYTES} bytes",
                          got=len(answer), reason="limit")  # fmt: skip
        if not self.turn.acquire(blocking=False):
            raise Unavailable("node", expected="one answer at a time", got="another",
                              reason="busy")  # fmt: skip
        try:
            check_not_enrolled(self.paths)
            self.enrol(answer, source)
        finally:
            self.turn.release()

    def _open(self, asked: Challenge) -> str:
        info = challenge_info(root=asked.root, env=asked.env, node=asked.node, epoch=asked.epoch,
                              nonce=asked.nonce)  # fmt: skip
        try:
            sealed = base64.b64decode(asked.sealed, validate=True)
            opened = load_seal_key(self.paths).open(sealed, info=info)
        except (binascii.Error, ValueError, InvalidTag):
            opened = b""
        if len(opened) != CHALLENGE_BYTES:
            raise Refused(
                "challenge", expected="one sealed to this node", got="another", reason="no-open"
            )
        return opened.hex()


def check_challenge(asked: Challenge, identity: Identity) -> None:
    """Return only when the challenge is for this node and epoch; raises Refused (`not-mine`)."""
    mine = (identity.root_id, identity.env, identity.node, identity.epoch)
    if (asked.root, asked.env, asked.node, asked.epoch) != mine:
        raise Refused(
            "challenge", expected=f"one for {identity.node}", got=asked.node, reason="not-mine"
        )
