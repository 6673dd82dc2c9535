"""The verbs of ceremonies as they are typed: keyholders, online keys, rounds, transcripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from embrasure.clock import now
from pki import people, transcript
from pki.folder import TrustFolder
from pki.signers import open_key
from tests.ablation import Ablation
from tests.simulate import ceremony
from tests.simulate.ceremony import PASSPHRASE
from tests.simulate.ceremony_keys import new_keyholder, seated
from tests.simulate.office import Answer, verb


@pytest.fixture
def trust(tmp_path: Path) -> TrustFolder:
    """A trust folder of today: the verbs use the real clock."""
    return ceremony.hold(tmp_path / "trust", now)


@pytest.fixture
def run(tmp_path: Path) -> object:
    secret = tmp_path / "passphrase"
    secret.write_bytes(PASSPHRASE + b"\n")
    secret.chmod(0o600)
    return secret


def typed(secret: object, *words: object) -> Answer:
    return verb(*words, "--passphrase-file", secret)


def signs(trust: TrustFolder, *names: str) -> list[object]:
    return [word for name in names for word in ("--sign", trust.path / "keys" / f"{name}.key")]


def test_a_keyholder_proves_joins_is_replaced_and_leaves(
    trust: TrustFolder, run: object, tmp_path: Path
) -> None:
    new = tmp_path / "new"
    for name in ("dave", "erin"):
        new_keyholder(new, name)
        proved = typed(run, "pki", "keyholder", "prove", "--key", new / f"{name}.key", "--anchor",
                       trust.path / "anchor.json", "--out", new / f"{name}.proof")  # fmt: skip
        assert (proved.code, proved.body["person"]) == (0, name), proved.told
    pubs = {name: public(new, name) for name in ("dave", "erin")}
    both = ("--role", "root", "--role", "targets")
    added = typed(run, "pki", "keyholder", "add", pubs["dave"], trust.path, *both,
                  "--proof", new / "dave.proof", *signs(trust, "alice", "bob"))  # fmt: skip
    assert added.body["merged"] == ["root v2"], added.told
    bare = typed(run, "pki", "keyholder", "add", pubs["erin"], trust.path, *both)
    assert (bare.code, bare.error["reason"]) == (2, "E_POSSESSION")
    replaced = typed(run, "pki", "keyholder", "replace", f"dave={pubs['erin']}", trust.path, *both,
                     "--proof", new / "erin.proof", "--threshold", "root=3",
                     *signs(trust, "alice", "bob", "carl"))  # fmt: skip
    assert replaced.code == 0, replaced.told
    # Root v3 asks for three of its own: alice, bob and carl are three.
    assert replaced.body["merged"] == ["root v3"]
    assert seated(trust, "root") == ["alice", "bob", "carl", "erin"]
    gone = typed(run, "pki", "keyholder", "remove", "erin", trust.path, *both, "--threshold",
                 "root=2", *signs(trust, "alice", "bob", "carl"))  # fmt: skip
    assert gone.body["merged"] == ["root v4"], gone.told
    raised = typed(run, "pki", "keyholder", "threshold", "targets=3", trust.path)
    assert (raised.code, raised.error["reason"]) == (3, "E_ALL_NEEDED")


def public(folder: Path, name: str) -> Path:
    from pki import keyfile, people

    raw = people.public_file(keyfile.header_of((folder / f"{name}.key").read_bytes()))
    (folder / f"{name}.pub").write_bytes(raw)
    return folder / f"{name}.pub"


def test_online_keys_pending_a_no_and_the_closed_record(trust: TrustFolder, run: object) -> None:
    rotated = typed(run, "pki", "online", "rotate", "snapshot", trust.path, "--kdf", "moderate")
    assert rotated.code == 0, rotated.told
    (file,) = rotated.body["keys"]
    assert (trust.path / file).exists() and (trust.path / "online" / "snapshot.key").exists()
    waits = verb("trust", "pending", trust.path)
    (draft,) = waits.body["drafts"]
    assert [need["missing"] for need in draft["needs"]] == [2, 2]
    no = typed(run, "trust", "refuse", trust.path, "--key", trust.path / "keys" / "carl.key",
               "--reason", "not before the audit")  # fmt: skip
    assert no.code == 0, no.told
    digest = draft["digest"].removeprefix("sha256:")
    for name in ("alice", "bob"):
        signed = typed(run, "trust", "sign", trust.path, "--key",
                       trust.path / "keys" / f"{name}.key", "--confirm-digest", digest)  # fmt: skip
        assert signed.code == 0, signed.told
    stopped = verb("trust", "merge", trust.path, "--role", "root")
    assert (stopped.code, stopped.error["reason"]) == (3, "E_REFUSED_DRAFT")
    assert verb("trust", "pending", trust.path).body["drafts"][0]["refused"][0]["person"] == "carl"
    assert verb("trust", "discard", trust.path, "--role", "root").code == 0
    closed = typed(run, "pki", "transcript", "close", trust.path, *signs(trust, "alice", "carl"))
    assert closed.body["signers"] == ["alice", "carl"], closed.told
    # What is signed was shown: each act, and what it left.
    assert "embrasure trust refuse: done" in closed.told and "    refused/" in closed.told
    again = typed(run, "pki", "transcript", "close", trust.path, *signs(trust, "alice"))
    assert again.code == 2
    held = verb("pki", "verify-transcript", closed.body["file"], "--trust", trust.path)
    assert held.body["signers"] == ["alice", "carl"], held.told
    raw = Path(closed.body["file"]).read_text()
    for command in ("pki online rotate", "trust refuse", "trust sign", "trust discard"):
        assert f'"command":"embrasure {command}"' in raw
    assert str(run) not in raw and PASSPHRASE.decode() not in raw


def test_an_operator_made_here_proves_itself_and_one_from_elsewhere_is_asked_for(
    trust: TrustFolder, run: object, tmp_path: Path
) -> None:
    both = signs(trust, "alice", "bob")
    made = typed(run, "trust", "env", "add", "prod", trust.path, "--kdf", "moderate", *both)
    assert made.code == 0, made.told
    new_keyholder(tmp_path / "new", "gus", purpose="operator")
    gus = public(tmp_path / "new", "gus")
    words = ("trust", "app", "add", "shop", trust.path, "--env", "prod", "--threshold", "2",
             "--operator", "anna", "--operator", "bea", "--operator", f"gus={gus}", "--generate",
             "--kdf", "moderate", *both)  # fmt: skip
    drafted = typed(run, *words)
    assert drafted.code == 0, drafted.told
    assert "nothing proves that gus has the new key" in drafted.told
    assert "nothing proves that anna" not in drafted.told


@pytest.mark.misuse
def test_a_transcript_that_somebody_has_edited_is_not_signed(
    trust: TrustFolder, run: object, ablation: Ablation
) -> None:
    """Nothing of it is keyed before it is closed: whoever carried the folder may have edited it."""
    assert typed(run, "pki", "online", "rotate", "snapshot", trust.path, "--kdf",
                 "moderate").code == 0  # fmt: skip
    assert verb("trust", "discard", trust.path, "--role", "root").code == 0
    file = transcript.file_of(trust.path, 1)
    lines = file.read_bytes()
    file.write_bytes(lines.replace(b'"ended":"done"', b'"ended":"well"', 1))
    refused = typed(run, "pki", "transcript", "close", trust.path, *signs(trust, "alice"))
    assert (refused.code, refused.error["reason"]) == (4, "E_CHAIN"), refused.told
    with ablation("the look before the signature") as attack:
        opened = open_key(f"keyfile:{trust.path}/keys/alice.key", lambda _: PASSPHRASE)
        pub = people.parse_public(people.public_file(opened.header))
        closed = transcript.close(trust.path, trust.root_id, opened, pub)
        attack.succeeded(b'"ended":"well"' in closed.read_bytes())
