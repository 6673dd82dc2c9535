"""What becomes of a draft: edited, dropped, shown as it is, put in force once and whole."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from embrasure.clock import Clock
from embrasure.errors import Denied, Misuse, NotSupported, Refused
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from pki import drafts, roles, signing
from pki.folder import TrustFolder
from tests.ablation import Ablation
from tests.simulate.ceremony import sign, sign_and_merge
from tests.simulate.denying import DIGEST, deny, revoke


@pytest.mark.misuse
def test_a_signed_draft_is_not_edited_under_its_signers(
    shop: TrustFolder, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    deny(shop, ticking)
    sign(shop, "alice", at=at)
    with pytest.raises(Denied) as told:
        deny(shop, ticking, "e" * 64)
    assert told.value.reason == "draft-open"
    with ablation("the look for signatures") as attack:
        attack.without("pki.drafts.check_unsigned")
        changed = deny(shop, ticking, "e" * 64)
        attack.succeeded(not changed.metadata.signatures)


def test_an_unsigned_draft_is_edited_further(shop: TrustFolder, ticking: Clock) -> None:
    first = deny(shop, ticking)
    second = deny(shop, ticking, "e" * 64)
    assert first.version == second.version
    denied = json.loads(second.documents["fleet/prod/policy.json"])["denied"]
    assert denied["plans"] == [DIGEST, "e" * 64]


def test_a_discarded_draft_leaves_what_is_in_force(
    shop: TrustFolder, ticking: Clock, at: datetime
) -> None:
    before = shop.verify(at)
    drafts.discard(deny(shop, ticking).folder)
    assert shop.verify(at) == before and not shop.drafts()


@pytest.mark.misuse
def test_an_expired_draft_is_not_put_in_force(
    shop: TrustFolder, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    draft = revoke(shop, ticking)
    sign(shop, "alice", at=at)
    with pytest.raises(Refused):
        signing.merge(shop, shop.drafts()[0], at=at + timedelta(days=31))
    with ablation("the check of the content") as attack:
        attack.without("pki.lint.check_content")
        signing.merge(shop, shop.drafts()[0], at=at + timedelta(days=31))
        attack.succeeded(shop.roles()["revocations"] == draft.version)


@pytest.mark.misuse
def test_a_base_that_does_not_verify_hides_no_change(
    shop: TrustFolder, ticking: Clock, at: datetime, tmp_path: Path, ablation: Ablation
) -> None:
    # The carrier plants the denial in the base, so that lifting nothing seems to happen.
    draft = deny(shop, ticking)
    planted = drafts.load(draft.folder, "fleet-prod").metadata
    planted.signed.version = draft.version - 1
    planted.signatures.clear()
    base = draft.folder / "base"
    name = layout.metadata_file("fleet-prod", draft.version - 1)
    (base / name).write_bytes(planted.to_bytes())
    shutil.copytree(draft.folder / "targets", base / "targets", dirs_exist_ok=True)
    text = signing.review(draft, pinned=shop.root_id, at=at).text
    assert "all is shown as new" in text
    assert f'denied.plans = ["{DIGEST}"]' in text
    with ablation("the signatures of the base") as attack:
        attack.without("pki.verify.check_signed")
        attack.succeeded(DIGEST not in signing.review(draft, pinned=shop.root_id, at=at).text)


@pytest.mark.misuse
def test_target_files_that_are_not_the_listed_ones_are_never_shown(
    shop: TrustFolder, ticking: Clock, ablation: Ablation
) -> None:
    draft = deny(shop, ticking)
    (file,) = draft.folder.glob("targets/fleet/prod/*.policy.json")
    file.write_bytes(file.read_bytes().replace(DIGEST.encode(), b"e" * 64))
    with pytest.raises(Refused):
        drafts.load(draft.folder, "fleet-prod")
    with ablation("the digest of each file") as attack:
        listed = file.name.partition(".")[0]
        attack.without(
            "pki.store.sha256_hex", lambda raw: listed if b"e" * 64 in raw else sha256_hex(raw)
        )
        shown = drafts.load(draft.folder, "fleet-prod").documents["fleet/prod/policy.json"]
        attack.succeeded(DIGEST.encode() not in shown)


def test_a_crash_between_the_last_file_and_the_end_of_the_draft_is_healed(
    shop: TrustFolder, ticking: Clock, at: datetime, tmp_path: Path
) -> None:
    draft = deny(shop, ticking)
    sign(shop, "alice", "bob", at=at)
    shutil.copytree(draft.folder, tmp_path / "again")
    signing.merge(shop, shop.drafts()[0], at=at)
    shutil.copytree(tmp_path / "again", draft.folder)
    assert signing.merge_ready(shop, at=at) == ([f"fleet-prod v{draft.version}"], [])
    assert not shop.drafts()


def test_an_older_version_is_not_put_in_force_again(
    shop: TrustFolder, ticking: Clock, at: datetime, tmp_path: Path
) -> None:
    draft = deny(shop, ticking)
    sign(shop, "alice", "bob", at=at)
    shutil.copytree(draft.folder, tmp_path / "again")
    signing.merge(shop, shop.drafts()[0], at=at)
    deny(shop, ticking, "e" * 64)
    sign_and_merge(shop, "alice", "bob", at=at)
    shutil.copytree(tmp_path / "again", draft.folder)
    with pytest.raises(Refused):
        signing.merge(shop, shop.drafts()[0], at=at)


@pytest.mark.parametrize("role", ["prod-shop", "gates-prod", "snapshot", "timestamp", "nonsense"])
def test_only_the_security_teams_roles_are_drafted_here(role: str) -> None:
    with pytest.raises((Misuse, NotSupported)):
        roles.check_drafted(role)


def test_a_folder_that_verifies_says_so_and_one_that_was_touched_does_not(
    shop: TrustFolder, at: datetime
) -> None:
    assert [one.role for one in shop.verify(at)] == [
        "root",
        "targets",
        "fleet-prod",
        "revocations",
    ]
    (file,) = (shop.path / "targets" / "fleet" / "prod").glob("*.tls.json")
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(Refused):
        shop.verify(at)
