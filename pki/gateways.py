"""Which gateways a fleet lets in by their id: a list in `tls.json` of each environment."""

from __future__ import annotations

import msgspec

from embrasure.clock import Clock
from embrasure.errors import Misuse
from embrasure.net.identity import check_name
from embrasure.trust import directory, documents, layout
from pki.desk import Desk
from pki.drafts import Draft
from pki.folder import TrustFolder


def change(
    trust: TrustFolder, env: str, *, add: tuple[str, ...], remove: tuple[str, ...], clock: Clock
) -> list[Draft]:
    """The next `fleet-<env>` is a draft whose `tls.json` lists these gateways too, or no longer.

    Raises Misuse for an id that is no name or not listed, and when no gateway would be left.
    """
    role, path = trust.fleet_role(env), layout.tls_path(env)
    work = Desk(trust, clock)
    found = directory.parse_tls_bundle(work.document(role, path))
    for name in remove:
        if name not in found.gateways:
            listed = ", ".join(found.gateways)
            raise Misuse("gateway", expected=f"one of {listed}", got=name)
    ids = dict.fromkeys([*found.gateways, *(check_name(name) for name in add)])
    left = tuple(name for name in ids if name not in remove)
    if not left:
        raise Misuse("gateways", expected="at least one", got="none", hint="add the next one first")
    raw = documents.write(msgspec.structs.replace(found, gateways=left))
    directory.parse_tls_bundle(raw)
    work.put(role, path, raw)
    return work.write()
