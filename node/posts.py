"""A receipt as a letterbox gets it: sealed for the gateway, its header signed by this node."""

from __future__ import annotations

from nacl.public import PublicKey, SealedBox

from embrasure.net.post import seal_post
from node.identity import Identity
from node.messages import PostNote, pack
from node.receipts import Posted


def make_post(posted: Posted, identity: Identity) -> PostNote:
    """Return the post of one receipt; a second call gives other bytes of the same meaning.

    The whole receipt is sealed: the box learns who posts and how much, and nothing else.
    """
    box = SealedBox(PublicKey(bytes.fromhex(posted.collect_key)))
    body = box.encrypt(posted.signed + posted.body)
    header = seal_post(
        body,
        node=identity.node,
        epoch=identity.epoch,
        rseq=posted.rseq,
        signer=identity.signer(),
    )
    return PostNote(rseq=posted.rseq, header=pack(header), body=pack(body))
