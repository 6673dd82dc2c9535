"""Any tree of files is built to the same bytes from any copy, or refused; never half of it."""

from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from embrasure.bundle.build import build, write_bundle
from embrasure.bundle.diff import diff, render
from embrasure.bundle.folder import open_bundle, verify_bundle
from embrasure.bundle.manifest import parse_manifest
from embrasure.command import screen
from embrasure.errors import EmbrasureError, shown
from tests.simulate.apps import make_app

PARTS = st.sampled_from(["a", "b", "bin", "lib", "x.py", "ü"]) | st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=6
).filter(lambda part: part not in (".", "..") and len(part.encode()) < 200)
PATHS = st.tuples(st.sampled_from(["code", "config"]), st.lists(PARTS, min_size=1, max_size=3)).map(
    lambda pair: "/".join([pair[0], *pair[1]])
)
TREES = st.dictionaries(PATHS, st.binary(max_size=30), min_size=1, max_size=6)


def is_possible(files: dict[str, bytes]) -> bool:
    """A file is nobody's folder."""
    return not any(a != b and b.startswith(f"{a}/") for a in files for b in files)


@given(TREES.filter(is_possible))
def test_any_tree_is_built_alike_from_any_copy_or_refused(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        try:
            built = build(make_app(place / "a", files=files))
        except EmbrasureError:
            return
        other = build(make_app(place / "b", files=dict(reversed(files.items()))))
        assert built.raw == other.raw
        assert parse_manifest(built.raw) == built.manifest
        assert {entry.path for entry in built.manifest.files} == set(files)
        write_bundle(built, place / "out")
        assert verify_bundle(open_bundle(place / "out")) == ()
        for entry in built.manifest.files:
            blob = open_bundle(place / "out").blob_path(entry.sha256)
            assert blob.read_bytes() == files[entry.path]


@given(TREES.filter(is_possible), TREES.filter(is_possible))
def test_the_difference_of_any_two_trees_tells_every_path(
    first: dict[str, bytes], second: dict[str, bytes]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            old = build(make_app(Path(folder) / "a", files=first)).manifest
            new = build(make_app(Path(folder) / "b", files=second)).manifest
        except EmbrasureError:
            return
    found = diff(old, new)
    text = render(found)
    before = {entry.path: (entry.sha256, entry.mode) for entry in old.files}
    after = {entry.path: (entry.sha256, entry.mode) for entry in new.files}
    unlike = {path for path in before | after if before.get(path) != after.get(path)}
    assert {change.path for change in found.files} == unlike
    assert all(shown(path) in text for path in unlike)
    assert found.unchanged == len(before | after) - len(unlike)
    assert diff(new, new).is_empty and diff(None, new).is_empty is False


@given(st.text(max_size=300))
def test_no_text_reaches_a_screen_unescaped(text: str) -> None:
    for safe in (shown(text), screen(text).replace("\n", "")):
        assert {unicodedata.category(c) for c in safe}.isdisjoint({"Cc", "Cf", "Zl", "Zp"})
