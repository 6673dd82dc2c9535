"""What waits for whom, a signed no, and the record of every act."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from embrasure import fs
from embrasure.clock import Clock
from embrasure.errors import Denied, EmbrasureError, Refused
from embrasure.trust import canonical
from pki import keyfile, keyholders, pending, people, refusals, replay, signers, signing, transcript
from pki.desk import Desk
from pki.folder import TrustFolder
from pki.keyholders import Seats
from tests.ablation import Ablation
from tests.simulate import ceremony
from tests.simulate.ceremony import sign, sign_and_merge
from tests.simulate.ceremony_keys import joining, new_keyholder

REASON = "the threshold must not fall"


def drafted(shop: TrustFolder, ticking: Clock) -> None:
    with shop.lock():
        work = Desk(shop, ticking)
        work.targets()
        work.write()


def no(shop: TrustFolder, folder: Path, name: str, at: datetime, *, keys: Path) -> Path:
    """`folder` has the refusal of `name`."""
    draft = shop.drafts()[0]
    opened = signers.open_key(f"keyfile:{keys}/{name}.key", ceremony.source())
    raw = refusals.refuse(draft, opened, REASON, root=shop.root_id, at=at)
    return refusals.keep(folder, draft, opened.header.keyid, raw)


def close(trust: TrustFolder, *names: str) -> Path:
    file = trust.path
    for name in names:
        opened = ceremony.opened(trust, name)
        pub = people.parse_public(people.public_file(opened.header))
        with trust.lock():
            file = transcript.close(trust.path, trust.root_id, opened, pub)
    return file


# --- pending -------------------------------------------------------------------------------------


def test_pending_names_each_key_that_is_still_needed(
    shop: TrustFolder, tmp_path: Path, ticking: Clock, at: datetime
) -> None:
    join, proofs = joining(shop, tmp_path / "new", "dave", "erin", at=at)
    what = Seats(leave=("bob", "carl"), join=join, proofs=proofs)
    keyholders.change(shop, ["root", "targets"], what, force=False, clock=ticking)
    sign(shop, "alice", at=at)
    root = shop.draft("root")
    assert root is not None
    old, new = pending.needs(shop, root)
    assert (old.by, old.missing, old.signed) == ("root v1", 1, ("alice",))
    assert [key.person for key in old.wanted] == ["bob", "carl"]
    assert (new.by, new.missing) == ("root v2", 1)
    assert [key.person for key in new.wanted] == ["dave", "erin"]
    text = pending.as_text(shop)
    keyid = join[0].keyid
    assert f"dave ({keyid[:4]} {keyid[4:8]}, ed25519): a key file of that person" in text
    assert f"key file {shop.path}/keys/bob.key" in text
    assert json.dumps(pending.as_json(shop, root))


def test_pending_says_which_token_to_insert(
    shop: TrustFolder, tmp_path: Path, ticking: Clock, at: datetime
) -> None:
    (pub,), proofs = joining(shop, tmp_path / "new", "dave", at=at)
    device = people.Device(token="root 2", serial="15835999", model="YubiKey", slot=0)  # noqa: S106 - its label
    held = msgspec.structs.replace(pub, device=device)
    what = Seats(join=(held,), proofs=proofs)
    keyholders.change(shop, ["root"], what, force=False, clock=ticking)
    assert "insert token 'root 2' (YubiKey, serial 15835999, slot 0)" in pending.as_text(shop)


# --- a signed no ---------------------------------------------------------------------------------


@pytest.mark.misuse
def test_a_refused_draft_is_never_in_force_whoever_signs_it(
    shop: TrustFolder, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    drafted(shop, ticking)
    no(shop, shop.path, "carl", at, keys=shop.path / "keys")
    sign(shop, "alice", "bob", at=at)
    draft = shop.drafts()[0]
    with pytest.raises(Denied, match=REASON) as caught:
        signing.merge(shop, draft, at=at)
    assert caught.value.reason == "refused-draft"
    assert f"refused by carl at 2026-11-23T04:00:00Z: {REASON}" in pending.as_text(shop)
    with ablation("the signed no") as attack:
        attack.without("pki.refusals.check_not_refused")
        signing.merge(shop, draft, at=at)
        attack.succeeded(shop.roles()["targets"] == draft.version)


@pytest.mark.misuse
def test_a_strangers_no_stops_nobody(
    shop: TrustFolder, tmp_path: Path, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    drafted(shop, ticking)
    new_keyholder(tmp_path / "new", "mallory")
    no(shop, shop.path, "mallory", at, keys=tmp_path / "new")
    draft = shop.drafts()[0]
    assert refusals.valid(shop, draft) == []
    with ablation("only keys that count for the draft") as attack:
        opened = signers.open_key(f"keyfile:{tmp_path}/new/mallory.key", ceremony.source())
        key = people.named_key(people.parse_public(people.public_file(opened.header)))
        file = shop.path / "refused" / f"{draft.digest}.{key.keyid}.json"
        attack.succeeded(refusals.check(file.read_bytes(), draft, {key.keyid: key}))
    sign_and_merge(shop, "alice", "bob", at=at)


def test_a_no_is_carried_back_and_holds_for_that_draft_only(
    shop: TrustFolder, tmp_path: Path, ticking: Clock, at: datetime
) -> None:
    drafted(shop, ticking)
    no(shop, tmp_path / "usb", "bob", at, keys=shop.path / "keys")
    assert refusals.collect(shop, tmp_path / "usb") == 1
    assert refusals.collect(shop, tmp_path / "usb") == 0
    first = shop.drafts()[0]
    from pki import drafts

    drafts.discard(first.folder)
    work = Desk(shop, ticking)
    work.targets().unrecognized_fields["x-note"] = "another draft"
    work.write()
    assert shop.drafts()[0].digest != first.digest
    sign_and_merge(shop, "alice", "carl", at=at)


# --- the transcript ------------------------------------------------------------------------------


def test_every_act_is_a_line_and_a_closed_transcript_holds(
    trust: TrustFolder, ticking: Clock, at: datetime
) -> None:
    drafted(trust, ticking)
    with trust.lock():
        sign(trust, "alice", "bob", at=at)
    with trust.lock():
        assert signing.merge_ready(trust, at=at)[1] == []
    file = close(trust, "alice", "bob")
    found = replay.verify(file, trust, may_be_open=False)
    assert found.signers == ("alice", "bob")
    assert found.checked == 4  # root, targets twice, revocations
    assert "drafts/targets" in found.acts[-1].gone
    assert "metadata/2.targets.json" in {output.place for output in found.acts[-1].outputs}
    # The next act begins a file that names the last line of this one.
    drafted(trust, ticking)
    after = replay.verify(transcript.file_of(trust.path, 2), trust, may_be_open=True)
    assert after.first == found.head
    with pytest.raises(Refused) as caught:
        replay.verify(transcript.file_of(trust.path, 2), trust, may_be_open=False)
    assert caught.value.reason == "not-closed"


def test_a_failed_act_that_changed_something_is_told(trust: TrustFolder, ticking: Clock) -> None:
    with pytest.raises(Denied), trust.lock():
        Desk(trust, ticking).write()
        fs.create_file(trust.path / "public", "zoe.pub", b"{}")
        raise Denied("ceremony", expected="two keyholders", got="one")
    lines = transcript.last(trust.path).lines
    assert b'"ended":"failed: ceremony: expected two keyholders, got one"' in lines[-1]


@pytest.mark.misuse
@pytest.mark.parametrize("attack_name", ["changed", "removed", "swapped", "cut", "resigned"])
def test_a_transcript_with_a_changed_line_is_refused(
    attack_name: str, trust: TrustFolder, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    drafted(trust, ticking)
    with trust.lock():
        sign(trust, "alice", "bob", at=at)
    file = close(trust, "alice")
    assert replay.verify(file, trust, may_be_open=False).signers == ("alice",)
    lines = list(transcript.read_lines(file))
    if attack_name == "changed":
        lines[1] = lines[1].replace(b'"ended":"done"', b'"ended":"none"')
    elif attack_name == "removed":
        del lines[1]
    elif attack_name == "swapped":
        lines[1], lines[2] = lines[2], lines[1]
    elif attack_name == "cut":
        del lines[-2]
    else:
        # Whoever has the file, and no key, writes the whole chain anew.
        lines = rewritten(lines)
    file.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(EmbrasureError):
        replay.verify(file, trust, may_be_open=False)
    with ablation("chain and signatures") as attack:
        # Each line for itself is as good as before.
        attack.succeeded(all(replay._parse(line) for line in lines))


def rewritten(lines: list[bytes]) -> list[bytes]:
    found: list[bytes] = []
    for line in lines:
        one = json.loads(line)
        one["prev"] = canonical.sha256_hex(found[-1]) if found else one["prev"]
        if one["type"] == "act":
            one["who"] = "somebody-else"
        found.append(canonical.canonical(one))
    return found


@pytest.mark.misuse
def test_a_stranger_cannot_close_a_transcript(
    trust: TrustFolder, tmp_path: Path, ticking: Clock, ablation: Ablation
) -> None:
    drafted(trust, ticking)
    pub = new_keyholder(tmp_path / "new", "alice")
    opened = signers.open_key(f"keyfile:{tmp_path}/new/alice.key", ceremony.source())
    file = transcript.close(trust.path, trust.root_id, opened, pub)
    with pytest.raises(Refused) as caught:
        replay.verify(file, trust, may_be_open=False)
    assert caught.value.reason == "not-a-signer"
    with ablation("the keys of the fleet") as attack:
        attack.succeeded(replay.verify(file, None, may_be_open=False).signers == ("alice",))


@pytest.mark.misuse
def test_a_transcript_of_other_files_in_force_is_refused(
    trust: TrustFolder, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    drafted(trust, ticking)
    with trust.lock():
        sign_and_merge(trust, "alice", "bob", at=at)
    file = close(trust, "alice")
    assert replay.verify(file, trust, may_be_open=False).checked == 4
    (trust.path / "metadata" / "2.targets.json").write_bytes(
        (trust.path / "metadata" / "1.targets.json").read_bytes()
    )
    with pytest.raises(Refused) as caught:
        replay.verify(file, trust, may_be_open=False)
    assert caught.value.reason == "outputs"
    with ablation("the comparison with the folder") as attack:
        attack.succeeded(replay.verify(file, None, may_be_open=False).checked == 0)


def test_no_secret_is_in_a_transcript(trust: TrustFolder, ticking: Clock, at: datetime) -> None:
    drafted(trust, ticking)
    with trust.lock():
        sign_and_merge(trust, "alice", "bob", at=at)
    raw = close(trust, "alice").read_bytes()
    assert ceremony.PASSPHRASE not in raw
    for name in ("alice", "bob"):
        private = keyfile.open_bytes(
            (trust.path / "keys" / f"{name}.key").read_bytes(), ceremony.PASSPHRASE
        ).private
        assert isinstance(private, Ed25519PrivateKey)
        assert private.private_bytes_raw().hex().encode() not in raw
    box = json.loads((trust.path / "keys" / "alice.key").read_bytes())["box"]
    assert box.encode() not in raw
