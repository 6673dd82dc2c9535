"""Metadata bent at random, also by a thief who can sign it: a typed error or an honest view."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.formats import encode_canonical

from embrasure.errors import EmbrasureError
from embrasure.trust.client import TrustClient
from tests.simulate.repository import SimRepository
from tests.simulate.sources import MemorySource

ROLES = ("fleet-dev", "revocations", "gates-dev", "dev-shop")
FILES = {
    "root": "metadata/2.root.json",
    "timestamp": "metadata/timestamp.json",
    "snapshot": "metadata/3.snapshot.json",
    "targets": "metadata/3.targets.json",
    "dev-shop": "metadata/2.dev-shop.json",
}


def make() -> SimRepository:
    repo = SimRepository()
    node = repo.add_node()
    repo.add_app("shop")
    repo.set_gate(repo.set_plan(repo.add_release("shop"), canary=[node]))
    repo.publish()
    repo.touch("root", "targets", "dev-shop")
    repo.publish()
    return repo


REPO = make()
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.text(max_size=20)
    | st.just("2026-02-30T00:00:00Z")
    | st.lists(st.integers(0, 3), max_size=3)
    | st.dictionaries(st.text(max_size=5), st.integers(0, 3), max_size=3)
)


def paths(value: object, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    found = [at] if at else []
    if isinstance(value, dict):
        for name in value:
            found += paths(value[name], (*at, name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            found += paths(item, (*at, number))
    return found


def bend(value: Any, at: tuple[Any, ...], new: object, *, drop: bool) -> None:
    for step in at[:-1]:
        value = value[step]
    if drop:
        del value[at[-1]]
    else:
        value[at[-1]] = new


def sign_again(value: dict[str, Any], role: str) -> bytes:
    """What a thief of the role's keys serves; some values cannot be signed at all."""
    try:
        payload = str(encode_canonical(value["signed"])).encode()
        signed = [s.sign(payload).to_dict() for s in REPO.sign_with[role]]
        value["signatures"] = signed
    except Exception:
        return json.dumps(value).encode()
    return json.dumps(value).encode()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.data(), leaves, st.booleans(), st.booleans())
def test_bent_metadata_raises_only_our_errors(
    role: str, data: st.DataObject, new: object, drop: bool, thief: bool
) -> None:
    value = copy.deepcopy(json.loads(REPO.files[FILES[role]]))
    at = data.draw(st.sampled_from(paths(value)))
    bend(value, at, new, drop=drop)
    raw = sign_again(value, role) if thief else json.dumps(value).encode()
    source = MemorySource({**REPO.files, FILES[role]: raw})
    with tempfile.TemporaryDirectory() as folder:
        client = TrustClient(Path(folder) / "tuf", REPO.anchor)
        try:
            view = client.refresh(source, roles=ROLES)
        except EmbrasureError:
            # Nothing of it may stand in the way of the honest repository afterwards, unless the
            # thief could sign: then his version or root counts until the keys are replaced.
            if not thief:
                client.refresh(REPO.source(), roles=ROLES)
        else:
            assert view.roles["timestamp"].version >= 1
            assert all(len(found.signers) >= found.threshold for found in view.roles.values())


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_one_flipped_byte_is_noticed_or_means_the_same(role: str, data: st.DataObject) -> None:
    honest = REPO.files[FILES[role]]
    place = data.draw(st.integers(0, len(honest) - 1))
    raw = bytearray(honest)
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    source = MemorySource({**REPO.files, FILES[role]: bytes(raw)})
    with tempfile.TemporaryDirectory() as folder:
        client = TrustClient(Path(folder) / "tuf", REPO.anchor)
        try:
            view = client.refresh(source, roles=ROLES)
        except EmbrasureError:
            client.refresh(REPO.source(), roles=ROLES)
            return
        # White space, or a signature above the threshold: what was signed is unchanged.
        fresh = TrustClient(Path(folder) / "honest", REPO.anchor)
        same = fresh.refresh(REPO.source(), roles=ROLES)
        assert {r.sha256 for r in view.roles.values()} == {r.sha256 for r in same.roles.values()}
