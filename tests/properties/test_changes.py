"""The signer's screen is complete: two contents that differ anywhere differ in a shown line."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator

from hypothesis import assume, given
from hypothesis import strategies as st

from pki import changes

Json = None | bool | int | str | list["Json"] | dict[str, "Json"]

SCALARS = st.none() | st.booleans() | st.integers(-5, 300) | st.text(max_size=8)
NAMES = st.sampled_from(["id", "name", "keyid", "a", "a.b", "x[y]", "order", "", "é", "v"])
VALUES: st.SearchStrategy[Json] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


def places(value: Json) -> dict[str, str]:
    found = list(changes.flatten(value))
    assert len({place for place, _ in found}) == len(found), "two places of one name"
    return dict(found)


@given(VALUES, VALUES)
def test_two_values_that_differ_differ_in_a_place(one: Json, two: Json) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
    assert (places(one) == places(two)) == same


@given(VALUES, st.data())
def test_any_single_change_inside_a_value_is_shown(value: Json, data: st.DataObject) -> None:
    spots = list(leaves(value))
    assume(spots)
    spot = data.draw(st.sampled_from(spots))
    changed = put(value, spot, data.draw(SCALARS))
    assume(json.dumps(changed, sort_keys=True) != json.dumps(value, sort_keys=True))
    assert places(changed) != places(value)


def leaves(value: Json, spot: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, (*spot, name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from leaves(item, (*spot, number))
    elif spot:
        yield spot


def put(value: Json, spot: tuple[str | int, ...], new: Json) -> Json:
    found = copy.deepcopy(value)
    inside: Json = found
    for step in spot[:-1]:
        inside = inside[step]  # type: ignore[index]  # the steps come from `leaves`
    inside[spot[-1]] = new  # type: ignore[index]  # as above
    return found
