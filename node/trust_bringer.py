"""A pull node's way to the metadata door: the trust files that its mirrors list.

A mirror's listing is a hint; apply verifies what comes. When a mirror's certificate is of an issuer
that this node does not know, denied or out of date, its trust files are asked for all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from logging import getLogger

from cryptography import x509

from embrasure import limits
from embrasure.errors import EmbrasureError, NotFound
from embrasure.net.https import MirrorSource
from embrasure.net.trustbundle import Trust
from embrasure.trust import layout
from embrasure.trust.fetcher import fetch_whole
from node.answering import Deaf, converse
from node.config import Server
from node.ipc import Channel
from node.messages import FromApply, TrustAsk, TrustNote

LOG = getLogger(__name__)
# How a mirror fails whose certificate this node has no reason to believe any more.
_CERTIFICATE = frozenset({"certificate", "no-issuer", "identity", "denied"})

Connect = Callable[[], Channel[FromApply]]


class TrustBringer:
    """Brings the trust files of mirrors to apply, each listing once."""

    def __init__(
        self,
        connect: Connect,
        trust: Callable[[], Trust],
        roots: Callable[[], Sequence[x509.Certificate]],
    ) -> None:
        self._connect, self._trust, self._roots = connect, trust, roots
        self._seen: dict[str, bytes] = {}  # mirror -> listing whose files apply has looked at

    def bring(self, mirror: Server, source: MirrorSource) -> None:
        """Apply has looked at what the mirror lists, unless it did before; nothing is raised.

        A mirror without a listing is a static one, or older than the door.
        """
        try:
            self._bring(mirror, source)
        except NotFound:
            return
        except EmbrasureError as problem:
            LOG.info("trust files of mirror %s: %s [%s]", mirror.name, problem, problem.word)
            self.bring_all_the_same(mirror, problem)

    def bring_alone(self, mirror: Server) -> None:
        """As `bring`, over a connection of its own; nothing is raised."""
        try:
            with closing(
                MirrorSource(mirror.address, name=mirror.name, trust=self._trust())
            ) as source:
                self.bring(mirror, source)
        except EmbrasureError as problem:
            self.bring_all_the_same(mirror, problem)

    def bring_all_the_same(self, mirror: Server, problem: EmbrasureError) -> None:
        """When `problem` is the mirror's certificate: as `bring`, by the CA roots alone."""
        if problem.reason not in _CERTIFICATE:
            return
        self._seen.pop(mirror.name, None)
        try:
            source = MirrorSource(
                mirror.address, name=mirror.name, trust=self._trust(), roots=self._roots()
            )
            with closing(source):
                self._bring(mirror, source)
        except EmbrasureError as also:
            LOG.info("trust files of mirror %s: %s [%s]", mirror.name, also, also.word)

    def _bring(self, mirror: Server, source: MirrorSource) -> None:
        listing = fetch_whole(source, layout.TRUST_LISTING, limit=limits.DOOR_LISTING_BYTES)
        if self._seen.get(mirror.name) == listing:
            return
        found = self._ask(source)
        if found is not None and found.taken:
            LOG.warning("trust files by mirror %s: %s", mirror.name, dict(found.taken))
        if found is not None and not found.missing:
            self._seen[mirror.name] = listing

    def _ask(self, source: MirrorSource) -> TrustNote | None:
        with self._connect() as channel:
            return converse(channel, TrustAsk(), source, Deaf()).trusted
