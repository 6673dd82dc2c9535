"""Records of keys that lie in no file: each is a permission, so nobody else may write one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from embrasure import limits
from embrasure.errors import Denied, EmbrasureError, Failed, NotFound, Refused
from embrasure.trust.documents import write
from pki import keyrecords, keyuri, schemes, signers
from pki.keyfacts import Purpose
from pki.keyrecords import KeyRecord
from tests.ablation import Ablation

FLEET, OTHER = "a" * 64, "b" * 64


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(keyrecords.VARIABLE, str(tmp_path / "records"))
    return tmp_path / "records"


def record(
    uri: str = "hsm:2?label=x", *, root: str = "", purpose: Purpose = "security"
) -> KeyRecord:
    key = schemes.public_of(schemes.generate("ecdsa-p256"))
    return KeyRecord(
        v=1, type="key-record", uri=uri, keyid=key.keyid, scheme="ecdsa-p256",
        pub=schemes.written(key)[1], purpose=purpose, label="alice", root=root,
    )  # fmt: skip


def test_a_record_is_found_by_any_uri_of_its_key(folder: Path) -> None:
    kept = keyrecords.keep(record("hsm:2?label=x&module-path=/a.so&pin-source=/pin"))
    assert keyrecords.at("hsm:2?label=x") == keyrecords.at("hsm:?label=x") == kept
    for other in ("hsm:3?label=x", "hsm:2?label=y", "hsm:2", "awskms:x"):
        with pytest.raises(NotFound):
            keyrecords.at(other)
    assert (folder.stat().st_mode & 0o777, next(folder.iterdir()).stat().st_mode & 0o777) == (
        0o700, 0o600,
    )  # fmt: skip


def test_a_key_that_took_the_place_of_another_is_the_only_one_there() -> None:
    keyrecords.keep(record())
    new = keyrecords.keep(record())
    assert keyrecords.all_records() == [new]


def test_a_known_key_keeps_its_fleet_and_its_purpose() -> None:
    first = keyrecords.keep(record())
    keyrecords.bind(first, FLEET)
    assert keyrecords.keep(first).root == FLEET
    for changed in ({"root": OTHER}, {"purpose": "operator"}):
        with pytest.raises(Denied):
            keyrecords.keep(msgspec.structs.replace(first, **changed))


@pytest.mark.misuse
def test_a_record_that_others_could_have_written_is_refused(
    folder: Path, ablation: Ablation
) -> None:
    keyrecords.keep(record())
    (file,) = folder.iterdir()
    file.chmod(0o620)
    with pytest.raises(Denied) as told:
        signers.facts_of("hsm:2?label=x")
    assert told.value.reason == "permissions"
    with ablation("the look at who can write it") as attack:
        attack.succeeded(keyrecords.parse_record(file.read_bytes()).purpose == "security")


@pytest.mark.misuse
def test_a_record_under_the_name_of_another_key_is_refused(
    folder: Path, ablation: Ablation
) -> None:
    """Two records of one key would be two permissions."""
    kept = keyrecords.keep(record(root=FLEET))
    second = folder / f"{'0' * 64}.json"
    second.write_bytes(write(msgspec.structs.replace(kept, root=OTHER)))
    second.chmod(0o600)
    with pytest.raises(Refused):
        signers.facts_of("hsm:2?label=x")
    with ablation("the name of the file") as attack:
        attack.without("pki.keyrecords._read", keyrecords.read_record)
        attack.succeeded(signers.facts_of("hsm:2?label=x").root == OTHER)


def test_a_record_of_a_key_file_is_none() -> None:
    for uri in ("keyfile:x.key", "keyrecord:x.json"):
        with pytest.raises(Refused):
            keyrecords.parse_record(write(record(uri)))


def test_a_record_whose_key_id_is_another_keys_is_refused() -> None:
    swapped = msgspec.structs.replace(record(), keyid="f" * 64)
    with pytest.raises(Refused):
        keyrecords.parse_record(write(swapped))
    with pytest.raises(Refused):
        keyrecords.keep(swapped)


def test_more_records_than_a_machine_has_keys_are_refused(folder: Path) -> None:
    folder.mkdir()
    for number in range(limits.KEY_RECORDS + 1):
        (folder / f"{number}.json").write_bytes(b"")
    with pytest.raises(Refused):
        keyrecords.all_records()


def test_the_folder_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(keyrecords.VARIABLE)
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert keyrecords.folder() == Path("/state/embrasure/keys")
    monkeypatch.delenv("XDG_STATE_HOME")
    assert keyrecords.folder() == Path.home() / ".local/state/embrasure/keys"


def test_a_record_beside_what_uses_it_is_named_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "ca.json"
    keyrecords.write_record(tmp_path, "ca.json", record(purpose="ca"), root=FLEET)
    assert signers.facts_of(f"keyrecord:{file}").root == FLEET
    assert signers.within("keyrecord:ca.json", tmp_path) == f"keyrecord:{file}"
    with pytest.raises(Denied):
        keyrecords.bind(keyrecords.read_record(file), OTHER, file=file)


@pytest.mark.misuse
@pytest.mark.parametrize("beside", [False, True], ids=["by its place", "by its record"])
@pytest.mark.parametrize(
    ("asked", "reason"),
    [({"purpose": "operator", "root": FLEET}, "key-purpose"),
     ({"purpose": "security", "root": OTHER}, "key-root")],
)  # fmt: skip
def test_what_a_record_does_not_allow_is_refused_before_anything_is_asked(
    asked: dict[str, Any], reason: str, beside: bool, tmp_path: Path, ablation: Ablation
) -> None:
    """The token is never looked for, the service never called, no passphrase wanted."""
    uri = "hsm:2?label=x&module-path=/nowhere/p11.so"
    if beside:
        free = keyrecords.keep(record(uri))
        keyrecords.write_record(tmp_path, "alice.json", free, root=FLEET)
        uri = f"keyrecord:{tmp_path / 'alice.json'}"
    else:
        keyrecords.keep(record(uri, root=FLEET))

    def opened() -> str:
        with pytest.raises(EmbrasureError) as told:
            signers.open_key(uri, lambda _: pytest.fail("it was asked for"), **asked)
        return told.value.reason

    assert opened() == reason
    with ablation("what the record allows") as attack:
        attack.without("pki.signers.check_use")
        # On to the library of the token, which is not here.
        attack.succeeded(opened() == "usage")


@pytest.mark.misuse
def test_a_record_of_one_fleet_is_not_written_as_anothers(
    tmp_path: Path, ablation: Ablation
) -> None:
    bound = record(root=OTHER, purpose="ca")
    with pytest.raises(Denied) as told:
        keyrecords.write_record(tmp_path, "node.json", bound, root=FLEET)
    assert told.value.reason == "key-root" and not (tmp_path / "node.json").exists()
    # The honest one is ours alone to read and write, and never written over.
    free = record(purpose="ca")
    keyrecords.write_record(tmp_path, "node.json", free, root=FLEET)
    assert (tmp_path / "node.json").stat().st_mode & 0o777 == 0o600
    assert keyrecords.read_record(tmp_path / "node.json").root == FLEET
    with pytest.raises(EmbrasureError) as again:
        keyrecords.write_record(tmp_path, "node.json", free, root=FLEET)
    assert again.value.reason == "exists"
    with ablation("the fleet that the record names") as attack:
        attack.without("pki.keyrecords.check_use")
        keyrecords.write_record(tmp_path, "again.json", bound, root=FLEET)
        attack.succeeded(signers.facts_of(f"keyrecord:{tmp_path}/again.json").root == FLEET)


@pytest.mark.misuse
@pytest.mark.parametrize("by", ["record", "context"])
def test_a_carried_folder_names_no_library_that_runs_here(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    """A stick's owner may have made its every file ours, mode 0600."""
    for name in keyuri.MODULE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    evil = tmp_path / "evil.so"
    evil.write_bytes(b"\x7fELF, and whatever its constructor does")
    uri = f"hsm:2?label=x&module-path={evil}"
    asked = f"keyrecord:{tmp_path / 'node.json'}"
    if by == "record":
        keyrecords.write_record(tmp_path, "node.json", record(uri, purpose="ca"), root=FLEET)
    else:
        keyrecords.keep(record(purpose="ca"))
        asked = uri

    def opened() -> None:
        where = signers.named(asked, tmp_path)
        signers.open_key(where, lambda _: b"1234", purpose="ca", root=FLEET)

    with pytest.raises(Denied) as told:
        opened()
    assert told.value.reason == "library"
    # Named by the environment or by a record of this user, it is this machine's own choice.
    monkeypatch.setenv(keyuri.MODULE_VARIABLES[0], str(evil))
    keyrecords.check_library(uri)
    monkeypatch.delenv(keyuri.MODULE_VARIABLES[0])
    with ablation("who names the library") as attack:
        attack.without("pki.keyrecords.check_library")
        with pytest.raises(Failed) as loaded:
            opened()
        # The loader was given the thief's file, and found no library in it.
        attack.succeeded(str(evil) in loaded.value.thing)
    keyrecords.keep(record(uri, purpose="ca"))
    keyrecords.check_library(uri)
