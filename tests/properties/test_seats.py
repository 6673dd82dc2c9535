"""Whatever seats change, in whatever order: what is drafted is sound, and what is refused changes
nothing.
"""

from __future__ import annotations

import copy
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Role, Root

from embrasure.errors import EmbrasureError
from pki import lint, people, seats

PERSONS = tuple("abcdefgh")
ROLES = ("root", "targets")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def key(number: int, person: str) -> SSlibKey:
    """The same key for the same number, whoever it is said to belong to."""
    private = Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))
    return people.with_owner(SSlibKey.from_crypto(private.public_key()), person)


def first() -> Root:
    holders = [key(number, PERSONS[number]) for number in range(3)]
    online = [SSlibKey.from_crypto(Ed25519PrivateKey.from_private_bytes(bytes([9] * 31 + [n]))
                                   .public_key()) for n in (1, 2)]  # fmt: skip
    ids = [one.keyid for one in holders]
    return Root(
        expires=NOW,
        keys={one.keyid: one for one in (*holders, *online)},
        roles={
            "root": Role(list(ids), 2),
            "targets": Role(list(ids), 2),
            "snapshot": Role([online[0].keyid], 1),
            "timestamp": Role([online[1].keyid], 1),
        },
    )


def owner_of(root: Root, keyid: str) -> object:
    return root.keys[keyid].unrecognized_fields.get(people.PERSON)


def shared(one: Root, other: Root) -> set[str]:
    return set(one.keys) & set(other.keys)


acts = st.lists(
    st.tuples(
        st.sampled_from(ROLES),
        st.lists(st.sampled_from(PERSONS), max_size=3),
        st.lists(st.tuples(st.integers(0, 11), st.sampled_from(PERSONS)), max_size=3),
        st.none() | st.integers(0, 9),
    ),
    max_size=6,
)


@given(acts)
@example([("root", ["a"], [(3, "d")], None), ("root", ["d"], [(3, "a")], None)])
def test_seats_move_only_to_where_a_root_is_sound(
    found: list[tuple[str, list[str], list[tuple[int, str]], int | None]],
) -> None:
    root = first()
    for role, leave, join, threshold in found:
        before = copy.deepcopy(root)
        try:
            seats.move(root, role, leave, [key(*one) for one in join], threshold)
            lint.check_root(root)
        except EmbrasureError:
            root = before  # a desk that refuses writes nothing
            continue
        seated = seats.seats_of(root, role)
        assert not set(leave) & (set(seated) - {person for _, person in join})
        assert {person for _, person in join} <= set(seated)
        # A key keeps its owner, in whatever role it is listed.
        assert all(owner_of(root, one) == owner_of(before, one) for one in shared(root, before))
        assert threshold is None or root.roles[role].threshold == threshold
    lint.check_root(root)
    for role in ROLES:
        assert 1 <= root.roles[role].threshold <= len(seats.seats_of(root, role))
        # Keys that nobody names any more are gone from the list.
        named = {keyid for one in root.roles.values() for keyid in one.keyids}
        assert set(root.keys) == named
