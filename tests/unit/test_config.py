"""Configuration: exactly its keys, told by path; nothing in it may be secret or shared."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure import limits
from embrasure.config import known_keys, parse_toml, read_toml
from embrasure.errors import Denied, Misuse, Refused
from embrasure.fs import create_file
from tests.ablation import Ablation


class Port(msgspec.Struct, forbid_unknown_fields=True):
    number: int
    path: str = "/"


class Http(msgspec.Struct, forbid_unknown_fields=True, tag="http", tag_field="kind"):
    status: int = 200


class Tcp(msgspec.Struct, forbid_unknown_fields=True, tag="tcp", tag_field="kind"):
    wait_s: int = 1


class Shape(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    mode: Literal["push", "pull"] = "push"
    ports: dict[str, Port] = {}
    probes: tuple[Http | Tcp, ...] = ()


def refused(text: str) -> Misuse:
    with pytest.raises(Misuse) as problem:
        parse_toml(text.encode(), Shape, thing="node.toml")
    assert problem.value.reason == "config"
    return problem.value


def test_a_file_is_read_with_its_defaults(tmp_path: Path) -> None:
    create_file(tmp_path, "c.toml", b'name = "a"\n[ports.web]\nnumber = 80\n')
    found = read_toml(tmp_path / "c.toml", Shape, document="configuration")
    assert found == Shape(name="a", ports={"web": Port(number=80)})


@pytest.mark.parametrize(
    ("text", "thing", "hint"),
    [
        ('name = "a"\nmoed = "push"', "node.toml: moed", "did you mean `mode`?"),
        (
            'name = "a"\n[ports.web]\nnumbr = 1',
            "node.toml: ports[...].numbr",
            "did you mean `number`?",
        ),
        (
            'name = "a"\n[[probes]]\nkind = "tcp"\nwait = 1',
            "node.toml: probes[0].wait",
            "did you mean `wait_s`?",
        ),
        ('name = "a"\nzzzzzz = 1', "node.toml: zzzzzz", ""),
    ],
)
def test_an_unknown_key_is_told_with_its_path_and_the_nearest_known_one(
    text: str, thing: str, hint: str
) -> None:
    problem = refused(text)
    assert (problem.thing, problem.hint) == (thing, hint)


@pytest.mark.parametrize(
    ("text", "thing"),
    [
        ("name = 1", "node.toml: name"),
        ('name = "a"\nmode = "both"', "node.toml: mode"),
        ('name = "a"\n[ports.web]\nnumber = "80"', "node.toml: ports[...].number"),
        ('name = "a"\n[ports.web]\nnumber = 80.0', "node.toml: ports[...].number"),
        ('name = "a"\n[ports.web]\nnumber = true', "node.toml: ports[...].number"),
        ("mode = 'push'", "node.toml"),
    ],
)
def test_a_wrong_value_is_told_with_its_path(text: str, thing: str) -> None:
    assert refused(text).thing == thing


@pytest.mark.parametrize(
    "text",
    ["name", 'name = "a"\nname = "b"', "x = " + "[" * 50_000, "x = " + "9" * 5_000, "\0", "= 1"],
)
def test_what_is_no_toml_is_told(text: str) -> None:
    refused(text)


def test_a_missing_file_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(Misuse) as problem:
        read_toml(tmp_path / "none.toml", Shape, document="configuration")
    assert problem.value.exit_code == 2


@pytest.mark.misuse
def test_a_configuration_that_another_user_can_write_is_refused(
    tmp_path: Path, ablation: Ablation
) -> None:
    create_file(tmp_path, "c.toml", b'name = "a"', mode=0o666)
    with pytest.raises(Denied) as problem:
        read_toml(tmp_path / "c.toml", Shape, document="configuration")
    assert problem.value.exit_code == 3
    with ablation("the look at its owner and mode") as attack:
        without = read_toml(tmp_path / "c.toml", Shape, document="app file", owned=False)
        attack.succeeded(without.name == "a")


@pytest.mark.misuse
def test_a_private_key_in_a_configuration_is_refused_and_not_shown(ablation: Ablation) -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQ\n-----END PRIVATE KEY-----"
    with pytest.raises(Denied) as problem:
        parse_toml(f'name = """{key}"""'.encode(), Shape, thing="node.toml")
    assert problem.value.reason == "secret"
    assert "MC4" not in "\n".join(problem.value.lines())
    with ablation("the look for a key") as attack:
        attack.succeeded(key in tomllib.loads(f'name = """{key}"""')["name"])


def test_a_file_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    create_file(tmp_path, "c.toml", b"#" * (limits.CONFIG_BYTES + 1))
    with pytest.raises(Refused):
        read_toml(tmp_path / "c.toml", Shape, document="configuration")


def test_the_known_keys_are_those_of_the_place() -> None:
    assert known_keys(Shape, "$") == {"name", "mode", "ports", "probes"}
    assert known_keys(Shape, "$.ports[...]") == {"number", "path"}
    assert known_keys(Shape, "$.probes[3]") == {"status", "wait_s"}
    assert known_keys(Shape, "$.nothing") == set()


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8")))
def test_any_bytes_are_the_shape_or_one_clear_error(raw: bytes) -> None:
    try:
        assert isinstance(parse_toml(raw, Shape, thing="c.toml"), Shape)
    except (Misuse, Denied) as problem:
        assert problem.lines()


def test_a_service_without_its_folder_says_what_makes_one(tmp_path: Path) -> None:
    for kind in ("gateway", "mirror", "letterbox"):
        with pytest.raises(Misuse, match="nothing there") as problem:
            read_toml(tmp_path / "x.toml", Shape, document=kind)
        assert problem.value.hint == f"embrasure {kind} init makes such a folder"
