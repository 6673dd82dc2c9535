"""The root ceremony: a new trust folder with its CAs, online keys, and drafts of the first roles.

With `generate` the keyholders' keys are made here too and sign at once (a one-machine ceremony);
else the drafts wait for the keyholders' own machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from nacl.public import PrivateKey as SealKey
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Metadata, Role, Root, Targets

from embrasure import fs
from embrasure.clock import Clock
from embrasure.errors import Misuse
from embrasure.net.identity import check_domain
from embrasure.trust import layout
from pki import desk, drafts, people, roles, signing, store, transcript
from pki.authorities import Authorities, make_authorities
from pki.folder import Fleet, TrustFolder, write_fleet
from pki.keyfile import Cost
from pki.makekeys import NewKey, new_key, write_keys, write_public
from pki.people import PublicFile
from pki.schemes import Scheme


@dataclass(frozen=True, slots=True)
class Keyholders:
    """Who signs root, targets and the environments: `threshold` of them.

    made: keys made in this ceremony; known: public halves of keys made elsewhere
    """

    threshold: int
    made: tuple[NewKey, ...]
    known: tuple[PublicFile, ...]

    @property
    def keys(self) -> list[SSlibKey]:
        """All keys as metadata lists them."""
        return [key.named for key in self.made] + [people.named_key(pub) for pub in self.known]


def keyholders(names: Sequence[str], *, threshold: int, generate: bool) -> Keyholders:
    """Return the keyholders that the command line names; raises Misuse, Refused, NotFound.

    names: with `generate`, a plain name means a key to be made; else each is a `.pub` file
    """
    made, known = [], []
    for text in names:
        if generate and "/" not in text and not text.endswith(".pub"):
            name = people.check_person(text)
            made.append(new_key(name, purpose="security", file=f"keys/{name}.key"))
        else:
            known.append(people.read_public(Path(text), purpose="security"))
    found = Keyholders(threshold, tuple(made), tuple(known))
    roles.check_threshold(layout.ROOT, found.keys, threshold)
    return found


@dataclass(frozen=True, slots=True)
class Costs:
    """Cost of the passphrase of offline keys (keyholders, CA root) and of all others."""

    offline: Cost
    online: Cost


def hold(
    path: Path,
    *,
    domain: str,
    holders: Keyholders,
    passphrase: bytes,
    costs: Costs,
    clock: Clock,
    outside: Authorities | None = None,
    root_scheme: Scheme = "ecdsa-p256",
) -> TrustFolder:
    """`path` is a new trust folder; return it. Drafts of keys made here are signed and in force.

    outside: CA keys that lie in tokens; the others are made here. root_scheme: of the CA root's
    key alone; issuers and leaves are P-256, which TLS needs
    Raises Misuse, Refused (`exists`).
    """
    check_domain(domain)
    if path.exists() and any(path.iterdir()):
        raise Misuse(
            str(path), expected="a new or empty folder", got="one with files",
            hint="a fleet that exists is changed by embrasure trust ... and pki keyholder ...",
        )  # fmt: skip
    store.make_folder(path)
    at = clock()
    online = [
        new_key(name, purpose="online", file=f"online/{name}.key")
        for name in (layout.SNAPSHOT, layout.TIMESTAMP)
    ]
    root = _first_root(holders, online[0].public, online[1].public, at)
    root_id = store.signed_digest(root)
    outside = outside or Authorities()
    authorities = make_authorities(
        path, domain=domain, at=at, outside=outside, root_scheme=root_scheme
    )
    outside.keep(path / "ca", root_id)
    offline = [*holders.made, *(key for key in authorities if key.label == "root")]
    others = [*online, *(key for key in authorities if key.label != "root")]
    write_keys(path, offline, passphrase, root=root_id, cost=costs.offline)
    write_keys(path, others, passphrase, root=root_id, cost=costs.online)
    for pub in holders.known:
        write_public(path / "public", people.write_public_file(pub), pub.person)
    seal = SealKey.generate()
    fs.create_file(path / "online", "collect.key", f"{bytes(seal).hex()}\n".encode("ascii"))
    fleet = Fleet(domain=domain, root=root_id, collect=bytes(seal.public_key).hex())
    write_fleet(path, fleet)
    trust = TrustFolder(path, fleet)
    with transcript.from_nothing(path, root_id):
        _first_drafts(trust, root, holders, clock)
        _sign_all(trust, holders, at)
    return trust


def _first_root(
    holders: Keyholders, snapshot: SSlibKey, timestamp: SSlibKey, at: datetime
) -> Metadata[Root]:
    ids = [key.keyid for key in holders.keys]
    root = Root(
        expires=at + timedelta(seconds=roles.kind_of(layout.ROOT).life_s),
        keys={key.keyid: key for key in (*holders.keys, snapshot, timestamp)},
        roles={
            layout.ROOT: Role(list(ids), holders.threshold),
            layout.TARGETS: Role(list(ids), holders.threshold),
            layout.SNAPSHOT: Role([snapshot.keyid], 1),
            layout.TIMESTAMP: Role([timestamp.keyid], 1),
        },
    )
    return Metadata(root)


def _first_drafts(
    trust: TrustFolder, root: Metadata[Root], holders: Keyholders, clock: Clock
) -> None:
    drafts.write(trust.path / "drafts" / layout.ROOT, layout.ROOT, root, {})
    work = desk.Desk(trust, clock)
    targets: Targets = work.targets()
    # The on-call role: one signature, and it can only stop.
    roles.delegate(targets, layout.REVOCATIONS, holders.keys, threshold=1)
    work.targets(layout.REVOCATIONS)
    work.write()


def _sign_all(trust: TrustFolder, holders: Keyholders, at: datetime) -> None:
    for draft in trust.drafts():
        for key in holders.made:
            drafts.add_signature(draft, key.signer.sign(draft.metadata.signed_bytes))
    signing.merge_ready(trust, at=at)
