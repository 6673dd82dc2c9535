"""Key files: what opens them, what they refuse, and what one could do without each check."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner

from embrasure import limits
from embrasure.errors import Denied, Misuse, Refused
from embrasure.trust.canonical import canonical
from pki import keyfile, schemes, signers
from pki.keyfile import MODERATE, OpenedFile, Scheme
from tests.ablation import Ablation

PASSPHRASE = b"correct horse battery"
SALT = b"0123456789abcdef"
FLEET, OTHER = "a" * 64, "b" * 64


def make(scheme: Scheme = "ed25519", **changed: object) -> bytes:
    fields: dict[str, object] = {"purpose": "security", "label": "alice", "root": ""} | changed
    private = keyfile.generate(scheme)
    return keyfile.seal(private, PASSPHRASE, cost=MODERATE, salt=SALT, **fields)  # type: ignore[arg-type]  # a table of fields


def reopen(raw: bytes) -> OpenedFile:
    return keyfile.open_bytes(raw, PASSPHRASE)


def with_field(raw: bytes, **fields: object) -> bytes:
    return canonical({**json.loads(raw), **fields})


@pytest.mark.parametrize("scheme", schemes.SCHEMES)
def test_a_key_file_opens_with_its_passphrase_and_signs(scheme: Scheme) -> None:
    opened = reopen(make(scheme))
    signature = opened.signer.sign(b"payload")
    keyfile.public_key(opened.header).verify_signature(signature, b"payload")
    assert signature.keyid == opened.header.keyid


def test_another_passphrase_is_denied_and_nothing_of_the_key_is_told() -> None:
    with pytest.raises(Denied) as told:
        keyfile.open_bytes(make(), b"incorrect horse battery")
    assert told.value.reason == "passphrase"
    assert "incorrect" not in str(told.value)


def test_the_private_key_is_in_no_representation() -> None:
    opened = reopen(make())
    seed = schemes.seed_of(opened.private).hex()
    assert seed not in repr(opened) and opened.box_key.hex() not in repr(opened)
    assert "box_key" not in repr(opened)


@pytest.mark.parametrize(
    "field",
    [{"label": "mallory"}, {"purpose": "operator"}, {"root": OTHER}],
    ids=["name", "purpose", "fleet"],
)
@pytest.mark.misuse
def test_a_swapped_header_is_refused(field: dict[str, object], ablation: Ablation) -> None:
    raw = with_field(make(root=FLEET), **field)
    with pytest.raises(Refused):
        reopen(raw)
    with ablation("the sealed copy of the header") as attack:
        # Without the check the lie is believed: SecretBox authenticates nothing but its content.
        attack.without("pki.keyfile.check_same")
        attack.succeeded(msgspec.to_builtins(reopen(raw).header).items() >= field.items())


@pytest.mark.misuse
def test_a_swapped_public_key_is_refused(ablation: Ablation) -> None:
    other = keyfile.header_of(make())
    raw = with_field(make(), keyid=other.keyid, pub=other.pub)
    with pytest.raises(Refused):
        reopen(raw)
    with ablation("the comparison with what was sealed, and with the seed") as attack:
        # Who reads the header alone takes the file for the other's key.
        attack.succeeded(keyfile.header_of(raw).keyid == other.keyid)


@pytest.mark.misuse
@pytest.mark.parametrize("fields", [("pub",), ("keyid",), ("pub", "keyid")], ids="-".join)
def test_a_public_key_that_was_sealed_as_a_lie_is_refused(
    fields: tuple[str, ...], ablation: Ablation
) -> None:
    """Whoever makes the file knows its passphrase: the sealed header says what he likes."""
    opened, other = reopen(make()), keyfile.header_of(make())
    lie = {name: getattr(other, name) for name in fields}
    header = msgspec.structs.replace(opened.header, **lie)
    raw = keyfile._seal(header, opened.private, opened.box_key)
    with pytest.raises(Refused) as refused:
        reopen(raw)
    assert refused.value.expected == "the public half of its key"
    with ablation("the comparison with the seed's own public key") as attack:
        attack.without("pki.keyfile.schemes.written", lambda _: (header.scheme, header.pub))
        claimed = SimpleNamespace(keyid=header.keyid)
        attack.without("pki.keyfile.public_of", lambda _: claimed)
        attack.without("pki.keyfile.CryptoSigner", lambda *_: None)
        assert reopen(raw).header == header
        attack.succeeded(lie)


def unbounded(raw: bytes) -> SimpleNamespace:
    """Read a key file and believe its parameters."""
    return SimpleNamespace(**json.loads(raw))


# A cheap guess, twice, and more memory than any machine has.
@pytest.mark.parametrize("field", [{"ops": 2}, {"mem": 255 * 2**20}, {"mem": 2**42}])
@pytest.mark.misuse
def test_hostile_costs_are_refused_before_argon2_runs(
    field: dict[str, object], ablation: Ablation
) -> None:
    raw = with_field(make(), **field)
    before = keyfile.derive.cache_info()
    with pytest.raises(Refused):
        keyfile.open_bytes(raw, b"a passphrase never used before")
    assert keyfile.derive.cache_info() == before
    with ablation("the bounds of the parameters") as attack:
        attack.without("pki.keyfile.parse", unbounded)
        with pytest.raises(Denied):
            keyfile.open_bytes(raw, b"a passphrase never used before")
        attack.succeeded(keyfile.derive.cache_info().misses == before.misses + 1)


@pytest.mark.parametrize(
    "field",
    [
        {"ops": 11},
        {"mem": 2**31 + 1},
        {"salt": "AAAA"},
        {"kdf": "scrypt"},
        {"v": 2},
        {"keyid": "x"},
        {"pub": "00"},
        {"label": "../../etc"},
        {"more": 1},
    ],
    ids=lambda field: "-".join(map(str, field.items())),
)
def test_bad_parameters_are_refused_before_argon2_runs(field: dict[str, object]) -> None:
    raw = with_field(make(), **field)
    before = keyfile.derive.cache_info()
    with pytest.raises(Refused):
        keyfile.open_bytes(raw, b"a passphrase never used before")
    assert keyfile.derive.cache_info() == before


@pytest.mark.misuse
def test_a_cheaper_cost_does_not_open_the_box(ablation: Ablation) -> None:
    # A thief cannot make guessing cheap: the cost is inside the box, and changes its key.
    raw = with_field(make(), ops=4)
    with pytest.raises(Denied):
        keyfile.open_bytes(raw, PASSPHRASE)
    with ablation("the cost inside the box, and in its key") as attack:
        real = keyfile.derive
        attack.without("pki.keyfile.derive", lambda given, salt, _: real(given, salt, MODERATE))
        with pytest.raises(Refused):
            keyfile.open_bytes(raw, PASSPHRASE)
        attack.without("pki.keyfile.check_same")
        attack.succeeded(keyfile.open_bytes(raw, PASSPHRASE).header.ops == 4)


def test_a_passphrase_has_twelve_characters_at_least() -> None:
    with pytest.raises(Misuse):
        keyfile.check_passphrase(b"short")
    keyfile.check_passphrase(b"twelve chars")
    with pytest.raises(Misuse):
        keyfile.seal(
            keyfile.generate("ed25519"), b"eleven char", purpose="security", label="alice",
            cost=MODERATE, salt=SALT,
        )  # fmt: skip


@pytest.mark.parametrize("short", ["äöüäöüäöüäö".encode(), b"\xff" * 11, b""])
def test_a_passphrase_is_counted_in_characters_not_in_bytes(short: bytes) -> None:
    with pytest.raises(Misuse):
        keyfile.check_passphrase(short)
    keyfile.check_passphrase("äöüäöüäöüäöü".encode())


@pytest.mark.misuse
def test_what_cannot_be_read_again_is_never_written(ablation: Ablation) -> None:
    """A key file that nobody can open would be a key that is lost."""
    opened = reopen(make())
    wrong = msgspec.structs.replace(opened.header, salt="AAAA")
    with pytest.raises(Refused):
        keyfile._seal(wrong, opened.private, opened.box_key)
    with ablation("the reading of what was made") as attack:
        attack.without("pki.keyfile.parse")
        attack.succeeded(b"AAAA" in keyfile._seal(wrong, opened.private, opened.box_key))


def test_a_key_file_is_bound_to_a_fleet_under_the_same_passphrase() -> None:
    opened = reopen(make())
    bound = reopen(keyfile.rebind(opened, FLEET))
    assert bound.header.root == FLEET
    assert bound.header.keyid == opened.header.keyid


def test_a_changed_passphrase_opens_and_the_old_one_does_not() -> None:
    opened = reopen(make(root=FLEET))
    raw = keyfile.change_passphrase(opened, b"another good phrase")
    found = keyfile.open_bytes(raw, b"another good phrase")
    assert (found.header.keyid, found.header.root) == (opened.header.keyid, FLEET)
    assert found.header.salt != opened.header.salt
    with pytest.raises(Denied):
        reopen(raw)


def write(folder: Path, raw: bytes, mode: int = 0o600) -> Path:
    file = folder / "alice.key"
    file.write_bytes(raw)
    file.chmod(mode)
    return file


def open_file(file: Path) -> CryptoSigner:
    return signers.open_file(f"keyfile:{file}", lambda _: PASSPHRASE).signer


def exposed(folder: Path) -> Path:
    return write(folder, make(), 0o640)


def linked(folder: Path) -> Path:
    write(folder, make())
    (folder / "link.key").symlink_to("alice.key")
    return folder / "link.key"


def twice(folder: Path) -> Path:
    file = write(folder, make())
    (folder / "copy.key").hardlink_to(file)
    return file


def foreign(folder: Path) -> Path:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    file = write(folder, make())
    os.chown(file, 65534, 65534)
    return file


@pytest.mark.parametrize("build", [exposed, linked, twice, foreign])
@pytest.mark.misuse
def test_a_key_file_that_others_could_reach_is_refused(
    build: Callable[[Path], Path], tmp_path: Path, ablation: Ablation
) -> None:
    file = build(tmp_path)
    with pytest.raises((Denied, Refused)):
        open_file(file)
    with ablation("the look at the file before it is read") as attack:
        attack.succeeded(reopen(file.read_bytes()).signer.sign(b"x").signature)


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "alice.key", 0o600)
    return folder / "alice.key"


def huge(folder: Path) -> Path:
    return write(folder, make() + b" " * limits.KEYFILE_BYTES)


@pytest.mark.parametrize("build", [pipe, huge])
def test_what_is_no_small_file_is_refused_before_it_is_read(
    build: Callable[[Path], Path], tmp_path: Path
) -> None:
    with pytest.raises(Refused):
        open_file(build(tmp_path))


@pytest.mark.parametrize("scheme", [name for name in schemes.SCHEMES if name != "ed25519"])
def test_a_key_is_of_the_scheme_that_its_file_says(scheme: Scheme) -> None:
    """A seed of 32 bytes would be a key of three kinds."""
    other = keyfile.header_of(make(scheme))
    with pytest.raises(Refused):
        reopen(with_field(make(), scheme=scheme, pub=other.pub, keyid=other.keyid))


def test_a_box_of_another_file_is_refused() -> None:
    """Made in one act they share passphrase and salt: the box opens, and says whose it is."""
    other = json.loads(make(label="mallory"))
    with pytest.raises(Refused):
        reopen(with_field(make(), box=other["box"]))


def test_a_private_key_file_is_opened_by_its_uri(tmp_path: Path) -> None:
    assert open_file(write(tmp_path, make())).sign(b"x").signature
