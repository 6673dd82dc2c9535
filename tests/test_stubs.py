"""The committed stubs are what `proto/` says: nobody edits them, nobody forgets to make them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.source import GENERATED, TOP


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*_pb2*"))}


def test_the_committed_stubs_are_current(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is a developer's tool (extra `dev`)")
    from tools.protos import generate

    generate(tmp_path)
    made = files(tmp_path / "embrasure" / "wire")
    assert made, "nothing was generated"
    assert made == files(GENERATED), "run: python -m tools.protos"


def test_every_proto_file_has_its_three_stubs_and_no_stub_is_an_orphan() -> None:
    names = {path.stem for path in (TOP / "proto").glob("*.proto")}
    expected = {f"{name}{end}" for name in names for end in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")}
    assert set(files(GENERATED)) == expected


def test_names_of_proto_files_cannot_hide_a_module() -> None:
    for path in (TOP / "proto").iterdir():
        assert path.suffix == ".proto"
        assert path.stem.isidentifier() and path.stem not in ("types", "select", "ssl")
