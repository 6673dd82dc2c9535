"""Opens the secrets that a release names: in the apply process alone, when it is started.

On disk they stay sealed, beside the release's other documents, so code, configuration and secrets
come and go together and a node boots with every server down.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from logging import getLogger

from embrasure.bundle.manifest import Manifest
from embrasure.errors import Denied, EmbrasureError
from embrasure.secret.sealed import Me, check_context, open_sealed, parse_sealed
from node import credentials
from node.identity import Identity, load_seal_key
from node.paths import Paths
from node.releases import Installed, secret_document
from node.users import User

LOG = getLogger(__name__)


class Secrets:
    """What opens secrets on this node. The key is read when it is needed and then forgotten."""

    def __init__(self, paths: Paths, identity: Identity) -> None:
        self._paths, self._identity = paths, identity

    def check(self, manifest: Manifest, documents: Mapping[str, bytes]) -> None:
        """Return only when every secret that the release names opens here; nothing is written.

        Raises Denied (`no-secret`): the release is not for this node as it was sealed.
        """
        for _ in self._opened(manifest, documents):
            pass

    def place(self, installed: Installed, user: User | None) -> None:
        """The release's secrets lie where its processes look for them; raises Denied.

        user: whom these run as, None for the node's own
        """
        app, release = installed.manifest.app, installed.release.id
        if installed.manifest.secrets and not credentials.is_placed(self._paths, app, release):
            if not credentials.in_memory(self._paths):
                LOG.warning("secrets of %s lie on a disk: %s is no tmpfs", app, self._paths.run)
            opened = dict(self._opened(installed.manifest, installed.documents))
            credentials.place(self._paths, app, release, opened, user)

    def _opened(
        self, manifest: Manifest, documents: Mapping[str, bytes]
    ) -> Iterator[tuple[str, bytes]]:
        if not manifest.secrets:
            return
        identity = self._identity
        for wanted in manifest.secrets:
            try:
                me = Me(identity.node, load_seal_key(self._paths), identity.epoch)
                raw = documents.get(secret_document(wanted.name))
                if raw is None:
                    raise _none(wanted.name)
                sealed = parse_sealed(raw)
                check_context(
                    sealed, root=identity.root_id, env=identity.env, app=manifest.app,
                    name=wanted.name, min_version=wanted.min_version,
                )  # fmt: skip
                yield wanted.name, open_sealed(sealed, me)
            except EmbrasureError as problem:
                raise Denied(
                    f"secret {wanted.name}", expected=problem.expected, got=problem.got,
                    untouched="the release that runs", hint=problem.hint, reason="no-secret",
                ) from None  # fmt: skip


def _none(name: str) -> Denied:
    return Denied(
        f"secret {name}", expected="a sealed file that the approval lists", got="none",
        hint="embrasure release propose --secret FILE", reason="no-secret",
    )  # fmt: skip
