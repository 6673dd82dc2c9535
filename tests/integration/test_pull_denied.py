"""A mirror is denied while a pull node downloads from it: the running download ends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from embrasure import limits
from embrasure.net.denials import key_digest
from embrasure.net.https import MirrorSource
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from node.believed import held_denials
from node.config import Server
from tests.ablation import Ablation
from tests.integration.test_node_pull import Service
from tests.simulate.fleet import ENV, RealNode, SimFleet
from tests.simulate.installer import free_port
from tests.simulate.listener import trust_from
from tests.simulate.running import answers, running, until
from tests.simulate.slowline import SlowLine

SIZE, RATE = 16 * limits.MIB, 0.7 * limits.MIB
WHOLE_SECONDS = 10  # from the denial on this node's disk to the end of the download


class Site:
    """A mirror behind a slow line, and a pull node that knows no other."""

    def __init__(self, folder: Path) -> None:
        self.fleet = SimFleet(folder)
        self.mirror = Service(self.fleet, "mirror", "m1")
        self.line = SlowLine(self.mirror.ports["read"], rate=RATE, back=True)
        self.web = free_port()
        where = Server(name="m1", address=f"127.0.0.1:{self.line.port}")
        self.node: RealNode = self.fleet.make("n1", mode="pull", port=self.web, mirrors=(where,))
        self.issuer = key_digest(self.fleet.authority.issuers["mirror"].certificate)

    def deny(self, *issuers: str) -> None:
        """The policy denies these issuers, and the mirror shows it."""
        repository = self.fleet.repository
        denied = repository.policies[ENV].denied
        repository.set_policy(denied=msgspec.structs.replace(denied, issuers=issuers))
        repository.publish()
        self.mirror.upload()

    def log(self) -> str:
        return self.node.paths.prefix.with_suffix(".log").read_text()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path)
    try:
        yield found
    finally:
        found.line.close()
        found.mirror.stop()


@pytest.mark.long
@pytest.mark.misuse
def test_a_running_download_ends_within_ten_seconds_of_a_denial_and_goes_on_once_it_is_lifted(
    site: Site, ablation: Ablation
) -> None:
    extra = os.urandom(SIZE)
    site.fleet.publish(site.node, "1.0", extra=extra)
    site.mirror.upload()
    blob = layout.blob_file(sha256_hex(extra))
    with running(site.node):
        until(lambda: site.line.carried > 3 * limits.MIB, seconds=40, what="the download")
        # The mirror itself shows the denial; the node asks for it beside the download.
        site.deny(site.issuer)
        until(lambda: site.issuer in held_denials(site.node.paths).issuers, what="the denial")
        began = time.monotonic()
        until(lambda: "an open connection ends" in site.log(), what="the end of the download")
        took = time.monotonic() - began
        assert took < WHOLE_SECONDS
        assert site.line.carried < SIZE and answers(site.web) == ""
        print(f"figure: denied_download_ends = {took:.1f} s")
        with ablation("the look at open connections") as attack:
            # As a connection that was open before, and is not looked at again.
            trust = trust_from(site.fleet.authority)
            source = MirrorSource(f"127.0.0.1:{site.line.port}", name="m1", trust=trust)
            with closing(source):
                until_then, got = time.monotonic() + 1.5, 0
                for piece in source.fetch(blob, offset=0, limit=SIZE):
                    got += len(piece)
                    if time.monotonic() > until_then:
                        break
            attack.succeeded(got > limits.MIB // 2)
        assert answers(site.web) == ""
        # A wrong denial: lifted through the same mirror, the download goes on at its byte.
        site.line.rate = 100 * limits.MIB
        before = site.line.carried
        site.deny()
        until(lambda: answers(site.web) == "1.0", seconds=60, what="the release")
        assert site.line.carried - before < SIZE
