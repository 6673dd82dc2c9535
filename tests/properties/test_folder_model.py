"""A held folder behaves like a table of names, and reaches nothing beside it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from embrasure.errors import EmbrasureError, NotFound, Refused
from embrasure.fs import Folder

NAMES = st.sampled_from(["a", "b", ".c", "d.json"])
DATA = st.binary(max_size=20)


class FolderMachine(RuleBasedStateMachine):
    """Every operation against a dict; nothing but the dict's names is ever on disk."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp())
        self.folder = Folder.open(self.place / "ours", create=True)
        self.model: dict[str, bytes] = {}

    @rule(name=NAMES, data=DATA)
    def replace(self, name: str, data: bytes) -> None:
        self.folder.replace(name, data)
        self.model[name] = data

    @rule(name=NAMES, data=DATA)
    def create(self, name: str, data: bytes) -> None:
        try:
            self.folder.create(name, data)
            assert name not in self.model
            self.model[name] = data
        except Refused as problem:
            assert problem.reason == "exists" and name in self.model

    @rule(name=NAMES, data=DATA)
    def append(self, name: str, data: bytes) -> None:
        self.model[name] = self.model.get(name, b"") + data
        assert self.folder.append(name, data) == len(self.model[name])

    @rule(name=NAMES, data=DATA, limit=st.integers(0, 20))
    def write(self, name: str, data: bytes, limit: int) -> None:
        try:
            self.folder.write(name, [data[:3], data[3:]], mode=0o600, limit=limit)
            assert name not in self.model and len(data) <= limit
            self.model[name] = data
        except Refused as problem:
            assert (problem.reason == "exists") == (name in self.model)

    @rule(name=NAMES)
    def unlink(self, name: str) -> None:
        try:
            self.folder.unlink(name)
            del self.model[name]
        except NotFound:
            assert name not in self.model

    @rule(name=NAMES, new=NAMES, replace=st.booleans())
    def rename(self, name: str, new: str, replace: bool) -> None:
        try:
            self.folder.rename(name, self.folder, new, replace=replace)
            self.model[new] = self.model.pop(name)
        except NotFound:
            assert name not in self.model
        except Refused:
            assert new in self.model and not replace

    @invariant()
    def disk_is_the_model(self) -> None:
        assert self.folder.list() == sorted(self.model)
        for name, data in self.model.items():
            assert self.folder.read(name, limit=1000) == data
        assert [path.name for path in self.place.iterdir()] == ["ours"]

    def teardown(self) -> None:
        self.folder.close()
        shutil.rmtree(self.place)


FolderMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20)
TestFolder = FolderMachine.TestCase


@given(st.text(max_size=8) | st.sampled_from(["..", ".", "", "a/b", "/", "a/../b", "\0", "../x"]))
def test_any_name_is_refused_or_stays_in_the_folder(name: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        with Folder.open(root / "ours", create=True) as folder:
            try:
                folder.replace(name, b"x")
            except EmbrasureError:
                assert folder.list() == []
            except UnicodeEncodeError:
                assert any(0xD800 <= ord(c) <= 0xDFFF for c in name)
            else:
                assert folder.list() == [name]
        assert [path.name for path in root.iterdir()] == ["ours"]
