"""A sealed file opens for its recipients, in its own context, and for nothing else."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import msgspec
import pytest
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt as decrypt

from embrasure import limits
from embrasure.errors import Misuse, Refused
from embrasure.secret.keys import OpeningKey, check_sound, seal_to
from embrasure.secret.sealed import (
    RECOVERY,
    Me,
    Sealed,
    check_context,
    info_of,
    open_file_key,
    open_payload,
    open_sealed,
    parse_sealed,
)
from embrasure.trust.directory import SealKey, SealSuite
from embrasure.trust.documents import write
from pki.recipients import Recipients
from pki.sealing import open_with_recovery, rewrap, seal
from tests.ablation import Ablation

ROOT = "0" * 63 + "1"
A, B, C = (f"n-{'a' * 25}{letter}" for letter in "abc")
PLAIN = b"correct-horse-database-password\n"
VECTORS = Path(__file__).parents[2] / "vectors" / "secret.json"


class Group:
    """Two nodes, a recovery recipient, and the secret that was sealed to them."""

    def __init__(self, suite: SealSuite = "mlkem768x25519") -> None:
        self.keys = {name: OpeningKey.generate(suite) for name in (A, B, RECOVERY)}
        self.to = self.recipients(A, B)
        self.raw = seal(PLAIN, name="db", version=3, to=self.to)
        self.sealed = parse_sealed(self.raw)

    def recipients(self, *names: str) -> Recipients:
        keys = [(name, self.keys[name].public(epoch=1)) for name in (*names, RECOVERY)]
        return Recipients(ROOT, "prod", "shop", tuple(sorted(keys)))

    def me(self, name: str, *, epoch: int = 1) -> Me:
        return Me(name, self.keys[name], epoch)


@pytest.fixture(scope="module")
def group() -> Group:
    return Group()


def changed(sealed: Sealed, **changes: object) -> Sealed:
    """Return the file as an attacker would change it, still well-formed."""
    return parse_sealed(write(msgspec.structs.replace(sealed, **changes)))


def same_file_key(sealed: Sealed, me: Me, original: Sealed) -> bool:
    """Return whether the attacker gets the plaintext of the original from the changed file."""
    return open_payload(original, open_file_key(sealed, me)) == PLAIN


@pytest.mark.parametrize("suite", ["x25519", "mlkem768x25519"])
def test_every_recipient_opens_it_and_a_stranger_does_not(suite: SealSuite) -> None:
    group = Group(suite)
    assert [open_sealed(group.sealed, group.me(name)) for name in (A, B, RECOVERY)] == [PLAIN] * 3
    with pytest.raises(Refused) as caught:
        open_sealed(group.sealed, Me(C, OpeningKey.generate(suite), 1))
    assert caught.value.reason == "not-a-recipient"
    with pytest.raises(Refused) as caught:
        open_sealed(group.sealed, Me(A, group.keys[B], 1))
    assert caught.value.reason == "no-open"


def test_the_plaintext_is_nowhere_in_the_file(group: Group) -> None:
    assert PLAIN.strip() not in group.raw
    assert repr(group.keys[A]) == "OpeningKey(suite='mlkem768x25519')"


@pytest.mark.misuse
@pytest.mark.parametrize(
    "changes", [{"name": "other"}, {"version": 4}, {"env": "dev"}], ids=["name", "version", "env"]
)
def test_a_replay_under_another_head_does_not_open(
    group: Group, changes: dict[str, object], ablation: Ablation
) -> None:
    forged = changed(group.sealed, **changes)
    with pytest.raises(Refused) as caught:
        open_sealed(forged, group.me(A))
    assert caught.value.reason == "no-open"
    with ablation("the context in the stanza") as attack:
        attack.without("pki.sealing.info_of", lambda *_, **__: b"one for all")
        loose = Group()
        attack.without("embrasure.secret.sealed.info_of", lambda *_, **__: b"one for all")
        forged = changed(loose.sealed, **changes)
        attack.succeeded(same_file_key(forged, loose.me(A), loose.sealed))


@pytest.mark.misuse
@pytest.mark.parametrize("changes", [{"app": "till"}, {"root": "f" * 64}], ids=["app", "fleet"])
def test_a_replay_in_another_app_or_fleet_does_not_open(
    group: Group, changes: dict[str, object], ablation: Ablation
) -> None:
    forged = changed(group.sealed, **changes)
    with pytest.raises(Refused) as caught:
        open_sealed(forged, group.me(A))
    assert caught.value.reason == "no-open"
    with ablation("the head beside the payload") as attack:
        file_key = open_file_key(forged, group.me(A))
        attack.succeeded(open_payload(group.sealed, file_key) == PLAIN)


@pytest.mark.misuse
def test_a_stanza_of_another_epoch_does_not_open(group: Group, ablation: Ablation) -> None:
    with pytest.raises(Refused) as caught:
        open_sealed(group.sealed, group.me(A, epoch=2))
    assert caught.value.reason == "no-open"
    with ablation("the epoch in the stanza's context") as attack:
        attack.without("pki.sealing.info_of", lambda *_, **__: b"one for all")
        loose = Group()
        attack.without("embrasure.secret.sealed.info_of", lambda *_, **__: b"one for all")
        attack.succeeded(open_sealed(loose.sealed, loose.me(A, epoch=2)) == PLAIN)


@pytest.mark.misuse
def test_a_stanza_under_another_nodes_name_does_not_open(group: Group, ablation: Ablation) -> None:
    # A breached node that answers to two names must not be given what one of them may not have.
    mine = group.sealed.stanza(A)
    assert mine is not None
    moved = msgspec.structs.replace(mine, recipient=C)
    every = sorted([*group.sealed.stanzas, moved], key=lambda one: one.recipient)
    forged = changed(group.sealed, stanzas=tuple(every))
    with pytest.raises(Refused) as caught:
        open_sealed(forged, Me(C, group.keys[A], 1))
    assert caught.value.reason == "no-open"
    with ablation("the recipient in the stanza's context") as attack:
        attack.without("pki.sealing.info_of", lambda *_, **__: b"one for all")
        loose = Group()
        attack.without("embrasure.secret.sealed.info_of", lambda *_, **__: b"one for all")
        old = loose.sealed.stanza(A)
        assert old is not None
        forged = changed(loose.sealed, stanzas=(msgspec.structs.replace(old, recipient=C),))
        attack.succeeded(open_sealed(forged, Me(C, loose.keys[A], 1)) == PLAIN)


def test_swapped_and_cut_stanzas_do_not_open(group: Group) -> None:
    one, two = group.sealed.stanza(A), group.sealed.stanza(B)
    assert one is not None and two is not None
    swapped = {A: two.sealed, B: one.sealed}
    stanzas = tuple(
        msgspec.structs.replace(s, sealed=swapped.get(s.recipient, s.sealed))
        for s in group.sealed.stanzas
    )
    with pytest.raises(Refused, match="another"):
        open_sealed(changed(group.sealed, stanzas=stanzas), group.me(A))
    cut = tuple(msgspec.structs.replace(s, sealed=s.sealed[:-4]) for s in group.sealed.stanzas)
    with pytest.raises(Refused) as caught:
        changed(group.sealed, stanzas=cut)
    assert caught.value.reason == "bad-schema"


def test_a_changed_payload_does_not_open(group: Group) -> None:
    payload = group.sealed.payload
    flipped = payload[:60] + ("A" if payload[60] != "A" else "B") + payload[61:]
    with pytest.raises(Refused) as caught:
        open_sealed(changed(group.sealed, payload=flipped), group.me(A))
    assert caught.value.reason == "no-open"


@pytest.mark.misuse
def test_a_hybrid_key_is_not_talked_down_to_x25519(group: Group, ablation: Ablation) -> None:
    # The X25519 half alone is what a future quantum computer opens.
    hybrid = group.keys[A]
    half = OpeningKey("x25519", hybrid.raw[-32:])
    weak = Recipients(ROOT, "prod", "shop",
                      tuple(sorted([(A, half.public(epoch=1)), group.to.keys[-1]])))  # fmt: skip
    sealed = parse_sealed(seal(PLAIN, name="db", version=3, to=weak))
    with pytest.raises(Refused) as caught:
        open_sealed(sealed, group.me(A))
    assert caught.value.reason == "no-open"
    with ablation("the suite of the node's own key") as attack:
        attack.succeeded(open_sealed(sealed, Me(A, half, 1)) == PLAIN)


@pytest.mark.misuse
def test_no_recipient_is_given_another_file_key(group: Group, ablation: Ablation) -> None:
    other = parse_sealed(seal(b"evil", name="db", version=3, to=group.to))
    keys = {name: open_file_key(other, group.me(name)) for name in (A,)}

    payload = base64.b64decode(group.sealed.payload)
    info = info_of(group.sealed.head, recipient=A, epoch=1, payload=payload)
    sealed_to_a = base64.b64encode(seal_to(group.to.keys[0][1], keys[A], info=info)).decode()
    stanzas = tuple(
        msgspec.structs.replace(s, sealed=sealed_to_a) if s.recipient == A else s
        for s in group.sealed.stanzas
    )
    forged = changed(group.sealed, stanzas=stanzas)
    with pytest.raises(Refused) as caught:
        open_file_key(forged, group.me(A))
    assert caught.value.reason == "no-open"
    assert open_file_key(forged, group.me(B))
    with ablation("the commitment to the file key") as attack:
        attack.without("embrasure.secret.sealed.commit_of", lambda _: group.sealed.commit)
        attack.succeeded(open_file_key(forged, group.me(A)) == keys[A])


@pytest.mark.parametrize("raw", [bytes(32), b"\1" + bytes(31)], ids=["zero", "one"])
def test_nothing_is_sealed_to_a_key_of_low_order(raw: bytes) -> None:
    for suite, front in (("x25519", b""), ("mlkem768x25519", bytes(1184))):
        key = msgspec.convert({"suite": suite, "key": (front + raw).hex(), "epoch": 1}, SealKey)
        with pytest.raises(Refused) as caught:
            check_sound(key)
        assert caught.value.reason == "weak-key"


def test_a_key_that_is_no_lattice_point_is_refused() -> None:
    good = OpeningKey.generate().public(epoch=1)
    bad = msgspec.structs.replace(good, key="ff" * 1184 + good.key[-64:])
    with pytest.raises(Refused) as caught:
        check_sound(bad)
    assert caught.value.reason == "weak-key"


def test_a_sealing_key_has_the_length_of_its_suite() -> None:
    with pytest.raises(ValueError, match="1216"):
        SealKey(suite="mlkem768x25519", key="00" * 32, epoch=1)
    with pytest.raises(ValueError, match="32 or 96"):
        OpeningKey.from_hex("00" * 64)


def test_bounds(group: Group) -> None:
    for plain in (b"", bytes(limits.SECRET_PLAIN_BYTES + 1)):
        with pytest.raises(Misuse):
            seal(plain, name="db", version=1, to=group.to)
    largest = bytes(limits.SECRET_PLAIN_BYTES)
    most = [(f"n-{'a' * 23}{number:03d}".translate(str.maketrans("01", "yz")).translate(
        str.maketrans("89", "xw")), group.to.keys[0][1]) for number in range(256)]  # fmt: skip
    to = Recipients(ROOT, "prod", "shop", tuple(sorted([*most, group.to.keys[-1]])))
    raw = seal(largest, name="a" * 64, version=limits.MAX_INTEGER, to=to)
    print(f"figure: secret_file_of_256_recipients = {len(raw)} bytes")
    assert len(raw) <= limits.SECRET_BYTES
    with pytest.raises(Refused) as caught:
        parse_sealed(raw + bytes(limits.SECRET_BYTES))
    assert caught.value.reason == "limit"
    sealed = parse_sealed(raw)
    extra = msgspec.structs.replace(sealed.stanzas[0], recipient="n-" + "2" * 26)
    with pytest.raises(Refused):
        parse_sealed(write(msgspec.structs.replace(sealed, stanzas=(extra, *sealed.stanzas))))


@pytest.mark.parametrize("payload", ["AAAA", "A" * 53, "A" * 54 + "=="])
def test_a_payload_that_holds_nothing_or_is_no_base64_is_refused(
    group: Group, payload: str
) -> None:
    with pytest.raises(Refused) as caught:
        changed(group.sealed, payload=payload)
    assert caught.value.reason == "bad-schema"


def test_each_recipient_is_there_once(group: Group) -> None:
    twice = (*group.sealed.stanzas, group.sealed.stanzas[-1])
    with pytest.raises(Refused) as caught:
        changed(group.sealed, stanzas=twice)
    assert caught.value.reason == "bad-schema"


def test_the_context_that_a_release_asks_for_is_checked(group: Group) -> None:
    asked = {"root": ROOT, "env": "prod", "app": "shop", "name": "db", "min_version": 3}
    check_context(group.sealed, **asked)  # type: ignore[arg-type]  # a table of arguments
    for changes in ({"root": "f" * 64}, {"env": "dev"}, {"app": "till"}, {"name": "x"},
                    {"min_version": 4}):  # fmt: skip
        with pytest.raises(Refused) as caught:
            check_context(group.sealed, **{**asked, **changes})  # type: ignore[arg-type]  # as above
        assert caught.value.reason == "not-mine"


def test_a_rewrap_changes_recipients_and_nothing_else(group: Group) -> None:
    group.keys[C] = OpeningKey.generate()
    raw = rewrap(group.sealed, key=group.keys[RECOVERY], to=group.recipients(A, C))
    again = parse_sealed(raw)
    assert (again.head, again.payload) == (group.sealed.head, group.sealed.payload)
    assert [open_sealed(again, group.me(name)) for name in (A, C, RECOVERY)] == [PLAIN] * 3
    with pytest.raises(Refused):
        open_sealed(again, group.me(B))
    assert open_with_recovery(again, key=group.keys[RECOVERY]) == PLAIN
    assert group.recipients(A, B).differences(again) == ([B], [C])
    assert group.recipients(A, C).lost(group.sealed) == [B]
    assert group.recipients(A, B, C).lost(group.sealed) == []


def test_a_rewrap_needs_the_recovery_key_and_the_same_app(group: Group) -> None:
    with pytest.raises(Refused) as caught:
        rewrap(group.sealed, key=group.keys[A], to=group.to)
    assert caught.value.reason == "no-open"
    other = Recipients(ROOT, "prod", "till", group.to.keys)
    with pytest.raises(Refused) as caught:
        rewrap(group.sealed, key=group.keys[RECOVERY], to=other)
    assert caught.value.reason == "not-mine"


@pytest.mark.parametrize("number", range(2))
def test_files_of_earlier_days_still_open(number: int) -> None:
    vector = json.loads(VECTORS.read_text())[number]
    key = OpeningKey.from_hex(vector["key"])
    assert key.public(epoch=vector["epoch"]).key == vector["public"]
    sealed = parse_sealed(vector["file"].encode())
    assert sealed.sha256 == vector["sha256"]
    plain = open_sealed(sealed, Me(vector["to"], key, vector["epoch"]))
    assert plain.decode() == vector["plaintext"]
    # The same with the library alone: what the vector pins is the format, not our reader.
    payload = base64.b64decode(sealed.payload)
    file_key = bytes.fromhex(vector["file_key"])
    head = {k: v for k, v in json.loads(vector["file"]).items() if k not in ("payload", "stanzas")}
    aad = json.dumps(head, sort_keys=True, separators=(",", ":")).encode()
    assert decrypt(payload[24:], aad, payload[:24], file_key).decode() == vector["plaintext"]


def test_a_new_recovery_recipient_takes_over_by_a_rewrap_with_the_old_key(group: Group) -> None:
    new = OpeningKey.generate()
    keys = [pair for pair in group.to.keys if pair[0] != RECOVERY]
    to = Recipients(ROOT, "prod", "shop", (*keys, (RECOVERY, new.public(epoch=2))))
    again = parse_sealed(rewrap(group.sealed, key=group.keys[RECOVERY], to=to))
    assert to.lost(group.sealed) == [RECOVERY]
    assert open_with_recovery(again, key=new) == PLAIN
    with pytest.raises(Refused):
        open_with_recovery(again, key=group.keys[RECOVERY])


def test_a_node_opens_a_secret_in_a_moment(group: Group) -> None:
    began = time.process_time()
    for _ in range(64):
        open_sealed(group.sealed, group.me(A))
    took = (time.process_time() - began) * 1000
    print(f"figure: secrets_64_opened = {took:.0f} ms")
    assert took < 5_000
