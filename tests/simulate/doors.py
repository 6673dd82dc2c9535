"""What a person brings to a metadata door: the trust files of a simulated fleet, no others."""

from __future__ import annotations

from embrasure.trust.directory import TlsBundle
from embrasure.trust.listing import GivenSource, is_trust_path, newest_of
from tests.simulate.authority import Authority
from tests.simulate.repository import SimRepository


def real_bundle(
    sim: SimRepository,
    authority: Authority,
    *,
    env: str = "dev",
    gateways: tuple[str, ...] = ("g1",),
) -> TlsBundle:
    """Return the `tls.json` of `authority` for the fleet of `sim`."""
    members = {"v": 1, "type": "tls", "root": sim.root_id, "env": env}
    found = {**members, **authority.tls_members(), "gateways": gateways}
    return TlsBundle(**found)  # type: ignore[arg-type]  # members by name


def trust_files(sim: SimRepository) -> dict[str, bytes]:
    """Return every trust file that was ever published."""
    return {path: raw for path, raw in sim.files.items() if is_trust_path(path)}


def newest_files(sim: SimRepository) -> dict[str, bytes]:
    """Return roots and the newest version of every other trust file, with all documents."""
    files = trust_files(sim)
    newest = newest_of(files)
    return {
        path: raw
        for path, raw in files.items()
        if not path.startswith("metadata/")
        or ".root." in path
        or any(path == f"metadata/{version}.{role}.json" for role, version in newest.items())
    }


def given(sim: SimRepository) -> GivenSource:
    """Return the newest trust files as a source."""
    return GivenSource(newest_files(sim))
