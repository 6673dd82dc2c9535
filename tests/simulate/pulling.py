"""Pull nodes that only pretend to install: a real mirror, the real rule, a real letterbox."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256

from nacl.public import SealedBox

from embrasure.errors import Refused, Unavailable
from embrasure.net.https import LetterboxClient, MirrorSource
from embrasure.net.post import frame_post, post_path, post_signer, seal_post
from embrasure.trust import layout
from embrasure.trust.decide import Verdict
from embrasure.trust.load import Docs
from embrasure.trust.receipt import parse_receipt
from tests.simulate.agents import SimAgent
from tests.simulate.authority import Authority
from tests.simulate.listener import trust_from


@dataclass
class SimPull:
    """One pull node: polls its mirror, installs what the rule lets it, posts every receipt."""

    agent: SimAgent
    authority: Authority
    mirror: int
    letterbox: int
    posted: int = 0

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            # Nothing there yet, or cut in the middle of a publication.
            with suppress(Unavailable, Refused):
                await self.poll()
            await asyncio.sleep(0.05)

    async def poll(self) -> None:
        """Look once; install and post."""
        found = await asyncio.to_thread(self._look)
        if found is not None:
            await self.agent.install(*found)
        await asyncio.to_thread(self._post)

    def _look(self) -> tuple[Docs, Verdict] | None:
        source = MirrorSource(
            f"127.0.0.1:{self.mirror}", name="m1", trust=trust_from(self.authority)
        )
        try:
            docs, verdict = self.agent.judge(source, "shop")
            if verdict.kind != "install" or docs.manifest is None:
                return None
            for blob, length in docs.manifest.blobs().items():
                pieces = source.fetch(layout.blob_file(blob), offset=0, limit=length)
                assert sha256(b"".join(pieces)).hexdigest() == blob
            return docs, verdict
        finally:
            source.close()

    def _post(self) -> None:
        node = self.agent.node
        told = [item for plan in self.agent.told.values() for item in plan]
        client = LetterboxClient(
            f"127.0.0.1:{self.letterbox}", name="l1", trust=trust_from(self.authority)
        )
        try:
            for signed, body in told[self.posted :]:
                rseq = parse_receipt(signed, node.receipt_public).rseq
                sealed = SealedBox(self.agent.sim.collect.public_key).encrypt(signed + body)
                header = seal_post(
                    sealed, node=node.id, epoch=node.epoch, rseq=rseq,
                    signer=post_signer(node.signing),
                )  # fmt: skip
                client.post(post_path(node.receipt_id, rseq), frame_post(header, sealed))
                self.posted += 1
        finally:
            client.close()


async def polling(pulls: list[SimPull]) -> None:
    """All of them run until cancelled."""
    await asyncio.gather(*(pull.run() for pull in pulls))
