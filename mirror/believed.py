"""Whom a mirror or letterbox believes on TLS: its `tls.json`, less what is denied.

Denials of the revocations only ever grow here, as on a node: a later version that leaves an entry
out, signed by one stolen on-call key, lets no gateway back in.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

from cryptography import x509

from embrasure import limits
from embrasure.errors import EmbrasureError, NotFound, Refused
from embrasure.fs import read_file
from embrasure.net.certificates import load_certificates, load_der
from embrasure.net.denials import tls_denials
from embrasure.net.trustbundle import TrustHolder, first_trust, trust_of
from embrasure.trust import layout
from embrasure.trust.denied import DeniedSets, denied_sets, merge
from embrasure.trust.directory import TlsBundle, parse_tls_bundle
from embrasure.trust.floors import PairStore, Union
from embrasure.trust.policy import Policy, parse_policy, parse_revocations
from embrasure.trust.view import Role
from mirror.config import Config, Paths

LOG = logging.getLogger(__name__)


class Believed:
    """The trust of one service. holder: what its listeners ask; swapped as a whole by `take`."""

    def __init__(
        self, paths: Paths, config: Config, documents: dict[str, bytes], revoked: Role | None
    ) -> None:
        """Believe `tls.json` as last shown, else the issuer that the service was made with.

        Raises Refused (`no-trust`) when what was denied here before is lost.
        """
        issuer = load_certificates(
            read_file(paths.issuer, limit=limits.TLS_BUNDLE_BYTES), what="gateway issuer"
        )
        self._own_roots = own_roots(paths)
        self._first = first_trust(config.domain, "gateway", issuer)
        self.holder = TrustHolder(self._first)
        self._config = config
        self._policy: Policy | None = None
        self._bundle: TlsBundle | None = None
        self._store = PairStore(paths.denied, Union)
        if not self._store.exists():
            self._store.create(Union())
        self._union = self._store.load()
        self.take(documents, revoked)

    def ca_roots(self) -> list[x509.Certificate]:
        """Return the CA roots that the door lets in by: of `tls.json`, and of this service's file.

        Out of memory: asked at every handshake.
        """
        texts = self._bundle.ca_root if self._bundle is not None else ()
        return [*(load_der(text, what="CA root") for text in texts), *self._own_roots]

    def take(self, documents: dict[str, bytes], revoked: Role | None) -> None:
        """The verified `documents` hold from now on, for running calls too.

        revoked: the role whose file the revocations are. What is absent or wrong takes nothing
        away: what held before it stays. The policy comes first, for only it resets denials.
        """
        env = self._config.env
        for path, take in (
            (layout.policy_path(env), self._take_policy),
            (layout.revocations_path(env), partial(self._take_revocations, revoked)),
            (layout.tls_path(env), self._take_bundle),
        ):
            raw = documents.get(path)
            if raw is not None:
                try:
                    take(raw)
                except EmbrasureError as problem:
                    LOG.warning("%s cannot be used, the old one stays: %s", path, problem)
        denied = tls_denials(self.denied)
        first = replace(self._first, denied=denied)
        self.holder.swap(trust_of(self._bundle, denied) if self._bundle else first)

    @property
    def denied(self) -> DeniedSets:
        """What policy and revocations deny together, as far as it was verified here."""
        return denied_sets(self._policy, self._union)

    def _take_revocations(self, role: Role | None, raw: bytes) -> None:
        """What revocations deny counts at once, and is on disk for the next start."""
        if role is None:
            raise Refused("revocations", expected="their role", got="none", reason="scope")
        before = self._union
        self._union = merge(
            before,
            parse_revocations(raw),
            version=role.version,
            reset_through=self._policy.denials_reset_through if self._policy else 0,
            holders=role.keys,
        )
        if self._union != before:
            self._store.save(self._union)

    def _take_policy(self, raw: bytes) -> None:
        self._policy = parse_policy(raw)

    def _take_bundle(self, raw: bytes) -> None:
        bundle = parse_tls_bundle(raw)
        if bundle.domain != self._config.domain:
            raise Refused(
                "tls.json",
                expected=f"the domain {self._config.domain}",
                got=bundle.domain,
                reason="domain",
            )
        trust_of(bundle)
        self._bundle = bundle


def own_roots(paths: Paths) -> tuple[x509.Certificate, ...]:
    """Return the CA roots that the service was made with; none for one made without."""
    try:
        raw = read_file(paths.ca_root, limit=limits.TLS_BUNDLE_BYTES)
    except NotFound:
        return ()
    return load_certificates(raw, what="CA root")
