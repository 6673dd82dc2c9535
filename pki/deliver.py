"""Take trust files past the gateway: to metadata doors, or into a folder that somebody carries."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from embrasure import fs, limits
from embrasure.errors import EmbrasureError, Misuse, Unavailable
from embrasure.net.certificates import load_certificates, load_der, pem_of
from embrasure.net.deliver import Caller, deliver
from embrasure.net.door import Outcome
from embrasure.net.identity import Role
from embrasure.trust import layout
from embrasure.trust.carry import carried, lay_down
from embrasure.trust.directory import TlsBundle, parse_tls_bundle

_DOOR = re.compile(
    r"(?P<kind>node|mirror|letterbox)/(?P<name>[a-z0-9][a-z0-9-]{0,62})@(?P<address>[^@\s]{1,262})"
)
_WHICH_PORT = "a door has a port of its own: `door` in ports.json, --door where it was made"
_AT_ONCE = 16  # doors called at the same time


@dataclass(frozen=True, slots=True)
class Target:
    """One door, or a folder (then there is no address)."""

    text: str
    role: Role = "node"
    name: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of one target; problem: empty when it answered."""

    target: str
    outcome: Outcome
    problem: str = ""

    def as_json(self) -> dict[str, object]:
        """Return what `--json` shows."""
        return {
            "to": self.target,
            "taken": dict(self.outcome.taken),
            "missing": list(self.outcome.missing),
            "refused": dict(self.outcome.refused),
            "problem": self.problem,
        }

    def as_text(self) -> str:
        """Return what a person sees."""
        if self.problem:
            return f"{self.target}: {self.problem}"
        words = [f"{role} v{version}" for role, version in sorted(self.outcome.taken.items())]
        words += [f"{role} refused {word}" for role, word in sorted(self.outcome.refused.items())]
        words += [f"lacks {path}" for path in self.outcome.missing]
        return f"{self.target}: {', '.join(words) or 'nothing newer'}"

    @property
    def is_well(self) -> bool:
        """Whether everything that is newer was taken."""
        return not (self.problem or self.outcome.refused or self.outcome.missing)


def parse_target(text: str) -> Target:
    """Return the door `KIND/NAME@HOST:PORT`, or the folder, that `text` names; raises Misuse."""
    found = _DOOR.fullmatch(text)
    if found is not None:
        roles: dict[str, Role] = {"node": "node", "mirror": "mirror", "letterbox": "letterbox"}
        return Target(text, roles[found["kind"]], found["name"], found["address"])
    if "@" in text or not Path(text).is_dir():
        raise Misuse(
            "where to deliver",
            expected="node/NAME@HOST:PORT, mirror/..., letterbox/..., or a folder",
            got=text,
        )
    return Target(text)


def caller_of(files: Mapping[str, bytes], identity: Path | None, pins: Sequence[Path]) -> Caller:
    """Return who delivers: the leaf in `identity`, believing the roots and issuers of `files`.

    The issuers too: a node that slept through a change of the CA root shows the old root's
    certificate of its issuer, whose key is the same.

    pins: certificates that are believed too: the boot certificate of a node that slept too long.
    Raises Misuse without an identity, Refused, NotFound.
    """
    if identity is None:
        raise Misuse(
            "delivery to a door", expected="--identity DIR (tls.key, tls.crt)", got="none",
            hint="embrasure pki issue operator/NAME TRUST --out DIR",
        )  # fmt: skip
    bundles = bundles_in(files)
    if not bundles:
        raise Misuse("trust files", expected="a tls.json among them", got="none")
    roots = [load_der(text, what="CA root") for one in bundles for text in one.ca_root]
    for one in bundles:
        for name in ("node", "mirror"):
            roots += [load_der(text, what=f"{name} issuer") for text in one.issuers[name]]
    for pin in pins:
        pem = fs.read_file(pin, limit=limits.TLS_BUNDLE_BYTES)
        roots.extend(load_certificates(pem, what=str(pin)))
    return Caller(
        domain=bundles[0].domain,
        roots_pem=b"".join(pem_of(cert) for cert in dict.fromkeys(roots)),
        key=fs.read_file(identity / "tls.key", limit=limits.KEYFILE_BYTES, private=True),
        chain_pem=fs.read_file(identity / "tls.crt", limit=limits.TLS_BUNDLE_BYTES),
    )


def bundles_in(files: Mapping[str, bytes]) -> list[TlsBundle]:
    """Return every `tls.json` among trust files; raises Refused."""
    return [
        parse_tls_bundle(raw)
        for path, raw in files.items()
        if path.startswith("targets/fleet/") and path.endswith(".tls.json")
    ]


def deliver_all(
    folder: Path, targets: Sequence[Target], *, identity: Path | None, pins: Sequence[Path] = ()
) -> list[Delivered]:
    """Return what became of each target; one that cannot be reached stops no other.

    Raises Misuse, Refused, NotFound before anything was sent.
    """
    files = carried(folder)
    doors = [target for target in targets if target.address]
    caller = caller_of(files, identity, pins) if doors else None
    found = [_laid(files, target) for target in targets if not target.address]
    if caller is not None:
        found += asyncio.run(_call(files, doors, caller))
    return found


def _laid(files: Mapping[str, bytes], target: Target) -> Delivered:
    lay_down(files, Path(target.text))
    return Delivered(target.text, Outcome(dict(_versions(files))))


def _versions(files: Mapping[str, bytes]) -> dict[str, int]:
    found: dict[str, int] = {}
    for path in files:
        if layout.parse_file(path).metadata:
            number, _, role = path.removeprefix("metadata/").removesuffix(".json").partition(".")
            found[role] = max(int(number), found.get(role, 0))
    return found


async def _call(
    files: Mapping[str, bytes], doors: Sequence[Target], caller: Caller
) -> list[Delivered]:
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(door: Target) -> Delivered:
        async with room:
            try:
                outcome = await deliver(
                    door.address, role=door.role, name=door.name, caller=caller, files=files
                )
            except EmbrasureError as problem:
                hint = f"; {_WHICH_PORT}" if isinstance(problem, Unavailable) else ""
                return Delivered(door.text, Outcome({}), f"{problem} [{problem.word}]{hint}")
            return Delivered(door.text, outcome)

    return list(await asyncio.gather(*(one(door) for door in doors)))
