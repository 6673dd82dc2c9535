"""Keys in PKCS#11 tokens (SoftHSM2): made there, exported, signing; and what is wrong is said."""

from __future__ import annotations

import itertools
import json
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from embrasure.cli import main
from embrasure.errors import Denied, Failed, Misuse, NotFound, Refused, Unavailable
from pki import keyrecords, outsidekeys, people, signers, signing
from pki.folder import TrustFolder
from pki.keyfacts import Purpose
from pki.keyuri import TokenUri, parse_token
from pki.outsidekeys import Exported
from pki.passphrase import PassphraseSource
from tests.ablation import Ablation
from tests.simulate import ceremony
from tests.simulate.softhsm import PIN, SoftHsm

Output = pytest.CaptureFixture[str]
LABELS = itertools.count()
FLEET, OTHER = "a" * 64, "b" * 64


def source(pin: bytes = PIN) -> PassphraseSource:
    return PassphraseSource(lambda _: pin, tries=1)


@pytest.fixture
def token(hsm: SoftHsm) -> str:
    """The label of a new, empty token."""
    return hsm.token(f"token-{next(LABELS)}")


def make(
    token: str, out: Path, *, name: str = "alice", purpose: Purpose = "security", number: int = 2
) -> Exported:
    return outsidekeys.generate(
        name, TokenUri(number, token), out, purpose=purpose, scheme="ecdsa-p256", anchor=None,
        passphrase=source(),
    )  # fmt: skip


@pytest.fixture
def pin_file(tmp_path: Path) -> Path:
    file = tmp_path / "pin"
    file.write_bytes(PIN)
    file.chmod(0o600)
    return file


def attributes(token: str, number: int = 2) -> Iterator[object]:
    from pki import tokenkeys, tokens

    with tokens.session(tokens.find(TokenUri(number, token)), PIN) as opened:
        private = tokenkeys.private_key(opened, number)
        yield from (private[name] for name in tokenkeys._NEVER_LEAVES)


@pytest.mark.parametrize("scheme", ["ecdsa-p256", "ecdsa-p384"])
def test_a_key_made_in_a_token_signs_and_never_leaves(
    token: str, tmp_path: Path, scheme: str
) -> None:
    made = outsidekeys.generate(
        "alice", TokenUri(3, token), tmp_path, purpose="security", scheme=scheme, anchor=None,
        passphrase=source(),
    )  # fmt: skip
    assert list(attributes(token, 3)) == [True, False, True]
    opened = signers.open_key(f"hsm:3?label={token}", source(), purpose="security", root=FLEET)
    signature = opened.signer.sign(b"payload")
    public = people.read_public(tmp_path / "alice.pub", purpose="security")
    people.named_key(public).verify_signature(signature, b"payload")
    assert public.device is not None and public.device.token == token
    assert made.record.scheme == scheme and "serial" in str(public.device)


def test_a_key_made_elsewhere_in_the_token_is_exported_and_known_again(
    token: str, tmp_path: Path
) -> None:
    uri = f"hsm:2?label={token}"
    made = make(token, tmp_path / "here")
    keyrecords.bind(made.record, FLEET)
    again = outsidekeys.export(
        uri, "alice", tmp_path / "there", purpose="security", anchor=None, passphrase=source()
    )
    assert again.record.keyid == made.record.keyid
    # It stays the key of its fleet, and of its purpose.
    assert again.record.root == FLEET
    with pytest.raises(Denied) as told:
        outsidekeys.export(
            uri, "alice", tmp_path, purpose="operator", anchor=None, passphrase=source()
        )
    assert told.value.reason == "key-purpose"


def test_a_keyholder_signs_a_draft_with_a_token_and_a_key_file(
    hsm: SoftHsm, token: str, tmp_path: Path, pin_file: Path, capsys: Output
) -> None:
    make(token, tmp_path)
    keys = ["keys", "generate", "bob", "--purpose", "security", "--scheme", "ml-dsa-65"]
    words = ["--out", str(tmp_path), "--kdf", "moderate", "--passphrase-file", str(pin_file)]
    assert main([*keys, *words]) == 0
    folder = tmp_path / "trust"
    holders = [
        word for name in ("alice", "bob") for word in ("--keyholder", f"{tmp_path}/{name}.pub")
    ]
    init = ["pki", "init", str(folder), "--domain", "example.org", "--threshold", "2", *holders]
    assert main([*init, "--kdf", "moderate", "--passphrase-file", str(pin_file)]) == 0
    for uri in (f"hsm:2?label={token}", f"{tmp_path}/bob.key"):
        confirm = [
            w for d in TrustFolder.open(folder).drafts() for w in ("--confirm-digest", d.digest)
        ]
        sign = ["trust", "sign", str(folder), "--key", uri, "--passphrase-file", str(pin_file)]
        assert main([*sign, *confirm]) == 0
    assert main(["trust", "merge", str(folder)]) == 0
    capsys.readouterr()
    assert main(["trust", "verify", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["root"] == TrustFolder.open(folder).root_id
    # Both keys are this fleet's now, the one in the token too.
    assert signers.facts_of(f"hsm:2?label={token}").root == TrustFolder.open(folder).root_id


@pytest.mark.misuse
def test_a_token_key_of_another_fleet_does_not_sign_here(
    token: str, tmp_path: Path, ablation: Ablation
) -> None:
    made, uri = make(token, tmp_path), f"hsm:2?label={token}"
    keyrecords.bind(made.record, FLEET)
    with pytest.raises(Denied) as told:
        signers.open_key(uri, source(), purpose="security", root=OTHER)
    assert told.value.reason == "key-root"
    with pytest.raises(Denied):
        keyrecords.bind(keyrecords.at(uri), OTHER)
    with ablation("the fleet of the key's record") as attack:
        opened = signers.open_key(uri, source())
        attack.succeeded(opened.signer.sign(b"metadata of another fleet").signature)


@pytest.mark.misuse
def test_a_token_key_without_a_record_signs_nothing(
    token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    made = make(token, tmp_path)
    uri = TokenUri(2, token)
    monkeypatch.setenv(keyrecords.VARIABLE, str(tmp_path / "another machine"))
    with pytest.raises(NotFound) as told:
        signers.open_key(str(uri), source(), purpose="operator", root=OTHER)
    assert told.value.reason == "key-record" and "keys export" in told.value.hint
    with ablation("the record of what the key may do") as attack:
        from pki import tokenkeys
        from pki.keyfacts import public_key

        signer = tokenkeys.open_signer(uri, public_key(made.record), source())
        attack.succeeded(signer.sign(b"anything at all").signature)


@pytest.mark.misuse
def test_a_key_that_could_leave_its_token_is_no_key(
    hsm: SoftHsm, token: str, tmp_path: Path, ablation: Ablation
) -> None:
    from pkcs11 import Attribute, KeyType
    from pkcs11.util.ec import encode_named_curve_parameters

    from pki import tokens

    curve = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
    with tokens.session(tokens.find(TokenUri(2, token)), PIN, write=True) as opened:
        domain = opened.create_domain_parameters(KeyType.EC, curve, local=True)
        template = {Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}
        domain.generate_keypair(id=b"\x02", store=True, private_template=template)
    uri = f"hsm:2?label={token}"

    def export() -> Exported:
        return outsidekeys.export(
            uri, "alice", tmp_path, purpose="security", anchor=None, passphrase=source()
        )

    with pytest.raises(Refused) as told:
        export()
    assert told.value.reason == "extractable"
    with ablation("the check of the key's attributes") as attack:
        attack.without("pki.tokenkeys.check_never_leaves")
        attack.succeeded(export().record.keyid)
        with tokens.session(tokens.find(TokenUri(2, token)), PIN) as opened:
            from pki.tokenkeys import private_key

            attack.succeeded(private_key(opened, 2)[Attribute.VALUE])


def test_a_key_that_a_token_made_able_to_leave_is_destroyed(token: str) -> None:
    """As a token would that does not do what it is asked for: then no key stays, and it is told."""
    from pkcs11 import Attribute

    from pki import tokenkeys, tokens

    uri = TokenUri(2, token)
    for template in (
        {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: True},
        {Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: False},
    ):
        with pytest.raises(Refused) as told:
            tokenkeys.generate(
                uri, scheme="ecdsa-p256", label="x", passphrase=source(), template=template
            )
        assert told.value.reason == "extractable"
        with tokens.session(tokens.find(uri), PIN) as opened:
            assert not list(opened.get_objects({Attribute.ID: b"\x02"}))


@pytest.mark.misuse
def test_a_token_that_was_made_anew_signs_for_nobody(
    hsm: SoftHsm, token: str, tmp_path: Path, ablation: Ablation
) -> None:
    from pki import tokenkeys, tokens
    from pki.keyfacts import public_key

    uri = TokenUri(2, token)
    old = make(token, tmp_path / "old").record
    with tokens.session(tokens.find(uri), PIN, write=True) as opened:
        for item in list(opened.get_objects()):
            item.destroy()
    tokenkeys.generate(uri, scheme="ecdsa-p256", label="another", passphrase=source())
    with pytest.raises(Refused) as told:
        signers.open_key(str(uri), source())
    assert told.value.reason == "other-key"
    with ablation("the two comparisons with the recorded key") as attack:
        attack.without("pki.tokenkeys.check_there")
        attack.without("pki.checked.check_made")
        signer = tokenkeys.open_signer(uri, public_key(old), source())
        attack.succeeded(signer.sign(b"x").keyid == old.keyid)


def test_each_signature_is_verified_before_anybody_has_it(token: str, tmp_path: Path) -> None:
    from pki import tokenkeys
    from pki.keyfacts import public_key

    make(token, tmp_path / "one", number=2)
    other = make(token, tmp_path / "two", name="bob", number=3).record
    signer = tokenkeys.open_signer(TokenUri(3, token), public_key(other), source())
    signer._inner.hsm_keyid = 2  # type: ignore[attr-defined]  # the key behind it is swapped
    with pytest.raises(Refused) as told:
        signer.sign(b"x")
    assert told.value.reason == "other-key"


def test_many_threads_sign_with_keys_of_two_tokens(
    hsm: SoftHsm, token: str, tmp_path: Path
) -> None:
    """A process is logged in to a token once: without one lock, threads log each other out."""
    other = hsm.token(f"token-{next(LABELS)}")
    make(token, tmp_path / "one")
    make(other, tmp_path / "two", name="bob")
    opened = [signers.open_key(f"hsm:2?label={label}", source()) for label in (token, other)]

    def work(number: int) -> bool:
        key, payload = opened[number % 2], f"payload {number}".encode()
        key.public.verify_signature(key.signer.sign(payload), payload)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(40)))


def test_an_absent_token_is_named_with_those_that_are_here(token: str, tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as told:
        outsidekeys.export(
            "hsm:2?label=at+home", "alice", tmp_path, purpose="security", anchor=None,
            passphrase=source(),
        )  # fmt: skip
    assert told.value.reason == "token-absent" and "these tokens: '" in told.value.got


def test_a_wrong_pin_is_said_and_a_person_may_type_it_again(token: str, tmp_path: Path) -> None:
    make(token, tmp_path)
    uri = f"hsm:2?label={token}"
    with pytest.raises(Denied) as told:
        signers.open_key(uri, source(b"not this one"))
    assert told.value.reason == "pin" and "not this one" not in " ".join(told.value.lines())
    answers = [b"not this one", PIN]
    typed = PassphraseSource(lambda _: answers.pop(0), tries=3)
    assert signers.open_key(uri, typed).signer.sign(b"x").signature
    # A PIN from a file is tried once: three wrong ones would lock a real token.
    answers = [b"not this one", PIN]
    with pytest.raises(Denied):
        signers.open_key(uri, PassphraseSource(lambda _: answers.pop(0), tries=1))
    assert answers == [PIN]


def test_a_key_that_is_not_there_is_not_found(token: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound) as told:
        outsidekeys.export(
            f"hsm:9?label={token}", "alice", tmp_path, purpose="security", anchor=None,
            passphrase=source(),
        )  # fmt: skip
    assert told.value.reason == "token-key"


def test_a_taken_id_is_never_overwritten(token: str, tmp_path: Path) -> None:
    made = make(token, tmp_path)
    with pytest.raises(Refused) as told:
        make(token, tmp_path / "again")
    assert told.value.reason == "exists"
    assert signers.facts_of(f"hsm:2?label={token}").keyid == made.record.keyid


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files that are written here end after so many bytes, as on a disk without room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.misuse
@pytest.mark.parametrize("size", [330, 400, 620, 700])
def test_a_full_token_makes_no_key_that_anybody_counts_on(
    hsm: SoftHsm, token: str, tmp_path: Path, size: int, ablation: Ablation
) -> None:
    """SoftHSM says that it made the key, whatever the disk kept of it."""
    from pki import tokenkeys, tokens

    with full_disk(size), pytest.raises(Failed) as told:
        make(token, tmp_path / "out")
    assert told.value.reason == "token-full"
    assert not (tmp_path / "out").exists() and not keyrecords.all_records()
    with ablation("the look after the token was opened anew") as attack:
        attack.without("pki.tokenkeys.check_kept", lambda uri, *_: tokens.find(uri))
        with full_disk(size):
            made = tokenkeys.generate(
                TokenUri(3, token), scheme="ecdsa-p256", label="lost", passphrase=source()
            )
        attack.succeeded(made.public.keyid)


def test_a_locked_token_is_said_before_a_pin_is_tried() -> None:
    """SoftHSM never locks: this is the library's own error, and the flags that a token shows."""
    import pkcs11
    from pkcs11 import TokenFlag

    from pki import tokens

    assert tokens.explained(pkcs11.PinLocked(), "token 'x'").reason == "token-locked"
    ready = TokenFlag.USER_PIN_INITIALIZED

    def shows(flags: TokenFlag, *, person: bool = False) -> str:
        try:
            tokens.check_usable(SimpleNamespace(label="x", flags=flags), person=person)  # type: ignore[arg-type]  # what a token shows
        except Denied as problem:
            return problem.reason
        return "usable"

    assert shows(ready) == "usable"
    assert shows(ready | TokenFlag.USER_PIN_LOCKED, person=True) == "token-locked"
    assert shows(TokenFlag.TOKEN_INITIALIZED) == "token-locked"
    # The last try is a person's: a file that is wrong would use it up.
    assert shows(ready | TokenFlag.USER_PIN_FINAL_TRY) == "pin"
    assert shows(ready | TokenFlag.USER_PIN_FINAL_TRY, person=True) == "usable"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("DeviceMemory", "token-full"),
        ("TokenNotPresent", "token-absent"),
        ("DeviceRemoved", "token-absent"),
        ("PinLenRange", "pin"),
        ("TokenWriteProtected", "denied"),
        ("GeneralError", "token"),
    ],
)
def test_every_error_of_a_token_has_one_sentence(name: str, reason: str) -> None:
    import pkcs11

    from pki import tokens

    told = tokens.explained(getattr(pkcs11, name)(), "token 'x'")
    assert told.reason == reason and "token 'x'" in str(told)


def test_two_tokens_of_one_label_are_not_guessed_between(
    hsm: SoftHsm, token: str, tmp_path: Path
) -> None:
    hsm.token(token)
    with pytest.raises(Misuse) as told:
        make(token, tmp_path)
    assert "two" in told.value.hint


def test_the_list_shows_tokens_and_keys_without_a_pin(
    token: str, tmp_path: Path, capsys: Output
) -> None:
    keyid = make(token, tmp_path).record.keyid
    assert main(["keys", "hsm", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["tokens"]
    (mine,) = [one for one in found if one["token"] == token]
    assert [key["keyid"] for key in mine["keys"]] == [keyid]
    assert mine["state"] == "ready"
    assert main(["keys", "list", "--json"]) == 0
    (known,) = json.loads(capsys.readouterr().out)["keys"]
    assert (known["keyid"], known["purpose"], known["root"]) == (keyid, "security", None)
    assert main(["keys", "list"]) == 0
    assert "not yet bound" in capsys.readouterr().out
    assert main(["keys", "hsm", "list"]) == 0
    assert f"hsm:2?label={token}" in capsys.readouterr().out


def test_the_pin_file_of_a_uri_is_read_with_the_checks_of_a_secret(
    token: str, tmp_path: Path, pin_file: Path
) -> None:
    make(token, tmp_path)
    uri = f"hsm:2?label={token}&pin-source={pin_file}"

    def nobody(what: str) -> bytes:
        raise AssertionError(what)

    assert signers.open_key(uri, nobody).signer.sign(b"x").signature
    pin_file.chmod(0o644)
    with pytest.raises(Denied) as told:
        signers.open_key(uri, nobody)
    assert told.value.reason == "permissions"


def test_a_token_signs_a_draft_as_a_keyholder(
    token: str, tmp_path: Path, trust: TrustFolder, at: datetime
) -> None:
    """A key that no metadata lists counts for nothing, wherever it lies."""
    make(token, tmp_path)
    draft = ceremony.add_environment(trust, "prod", lambda: at)[0]
    reviewed = signing.review(draft, pinned=trust.root_id, at=at)
    with pytest.raises(Denied) as told:
        signing.check_may_sign(reviewed, signers.facts_of(f"hsm:2?label={token}"))
    assert told.value.reason == "not-a-signer"


def test_the_uri_of_a_token_is_read_back(tmp_path: Path) -> None:
    for uri in (TokenUri(2, "a b#1", "/x/y.so", "/run/pin"), TokenUri(), TokenUri(7)):
        assert parse_token(str(uri)) == uri
    assert parse_token("hsm:").id == 2
