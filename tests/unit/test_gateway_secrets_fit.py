"""What a role may list as secrets, and who they may be sealed to: told without opening any."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import msgspec
import pytest
from tuf.api.metadata import Metadata, TargetFile, Targets

from embrasure import limits
from embrasure.bundle.manifest import Manifest, SecretName
from embrasure.errors import Denied, Refused
from embrasure.secret.keys import OpeningKey
from embrasure.secret.sealed import parse_sealed
from embrasure.trust import layout
from gateway.secrets import (
    by_digest,
    check_fit,
    check_secrets,
    fit,
    listed_secrets,
    targets_of,
)
from pki.recipients import Recipients
from pki.sealing import seal
from tests.simulate.releases import make_release

ROOT = "1" * 64
NODES = tuple(f"n-{'a' * 25}{letter}" for letter in "abc")
KEYS = {name: OpeningKey.generate("x25519") for name in (*NODES, "recovery")}
HERE = {"root": ROOT, "env": "prod", "app": "shop"}


def to(*names: str, epoch: int = 1) -> Recipients:
    keys = [(name, KEYS[name].public(epoch=epoch)) for name in (*names, "recovery")]
    return Recipients(ROOT, "prod", "shop", tuple(keys))


def manifest(**names: int) -> Manifest:
    named = tuple(SecretName(name=n, min_version=v, mode="0400") for n, v in names.items())
    return msgspec.structs.replace(make_release("shop").manifest, secrets=named)


def role(**files: TargetFile) -> bytes:
    expires = datetime(2030, 1, 1, tzinfo=UTC)
    listed = {f"prod/shop/{name}.json": file for name, file in files.items()}
    return Metadata(Targets(version=1, expires=expires, targets=listed)).to_bytes()


DB = seal(b"one", name="db", version=2, to=to(*NODES))
API = seal(b"two", name="api", version=1, to=to(*NODES))


def test_the_secrets_of_a_release_are_exactly_those_it_names() -> None:
    found = check_secrets([DB, API], manifest(api=1, db=2), **HERE)
    assert [one.name for one in found] == ["api", "db"]
    assert check_secrets([], manifest(), **HERE) == ()
    listed = targets_of([DB], env="prod", app="shop")
    digest = hashlib.sha256(DB).hexdigest()
    assert list(listed) == [layout.secret_path("prod", "shop", digest)]


@pytest.mark.parametrize(
    ("files", "names", "reason"),
    [
        ([], {"db": 1}, "secrets"),
        ([DB], {}, "secrets"),
        ([DB, DB], {"db": 1}, "secrets"),
        ([DB, API], {"db": 1}, "secrets"),
        ([DB], {"db": 3}, "not-mine"),
        ([b"{}"], {"db": 1}, "bad-schema"),
    ],
    ids=["lacking", "unnamed", "twice", "one too many", "too old", "no sealed file"],
)
def test_other_secrets_are_refused(files: list[bytes], names: dict[str, int], reason: str) -> None:
    with pytest.raises(Refused) as caught:
        check_secrets(files, manifest(**names), **HERE)
    assert caught.value.reason == reason


@pytest.mark.parametrize("place", [{"env": "dev"}, {"app": "till"}, {"root": "2" * 64}])
def test_a_file_of_elsewhere_is_refused(place: dict[str, str]) -> None:
    with pytest.raises(Refused) as caught:
        check_secrets([DB], manifest(db=1), **{**HERE, **place})
    assert caught.value.reason == "not-mine"


def test_only_uploaded_bytes_of_the_listed_digest_count() -> None:
    digest = hashlib.sha256(DB).hexdigest()
    assert by_digest({digest: len(DB)}, {digest: DB}) == [DB]
    for held in ({}, {digest: API}, {digest: DB[:-1]}):
        with pytest.raises(Refused) as caught:
            by_digest({digest: len(DB)}, held)
        assert caught.value.reason == "missing-blobs"


def test_a_role_lists_a_bounded_number_of_bounded_files() -> None:
    file = TargetFile(100, {"sha256": "a" * 64}, "x")
    assert listed_secrets(role(**{"s-" + "a" * 64: file, "plan": file}), "prod-shop") == {
        "a" * 64: 100
    }
    large = TargetFile(limits.SECRET_BYTES + 1, {"sha256": "a" * 64}, "x")
    many = {f"s-{n:064x}": TargetFile(1, {"sha256": f"{n:064x}"}, "x") for n in range(65)}
    for raw in (role(**{"s-" + "a" * 64: large}), role(**many)):
        with pytest.raises(Refused) as caught:
            listed_secrets(raw, "prod-shop")
        assert caught.value.reason == "limit"


def test_what_an_approver_reads_names_every_difference() -> None:
    sealed = parse_sealed(DB)
    good = fit([sealed], to(*NODES), kept=())
    assert (good.warnings, good.faults) == ((), ())
    assert good.lines[0].startswith("db v2: 4 recipients, new, sha256:")
    assert len(good.lines) == 5
    path = layout.secret_path("prod", "shop", sealed.sha256)
    assert "as it runs now" in fit([sealed], to(*NODES), kept={path}).lines[0]
    check_fit(good)

    wider = fit([sealed], to(*NODES[:2]), kept=())
    assert wider.faults == (f"db v2 is sealed to {NODES[2]}, who may not have it",)
    old = fit([sealed], to(*NODES, epoch=2), kept=())
    assert len(old.faults) == 4
    for bad in (wider, old):
        with pytest.raises(Denied) as caught:
            check_fit(bad)
        assert caught.value.reason == "recipients"

    lacking = parse_sealed(seal(b"x", name="db", version=2, to=to(NODES[0])))
    some = fit([lacking], to(*NODES[:2]), kept=())
    assert some.warnings == (f"{NODES[1]} cannot open db v2 and will refuse the release",)
    check_fit(some)
    alone = Recipients(ROOT, "prod", "shop", to(NODES[0]).keys[:1])
    unsafe = parse_sealed(seal(b"x", name="db", version=2, to=alone))
    assert fit([unsafe], to(NODES[0]), kept=()).faults == (
        "db v2 is not sealed to the recovery recipient",
    )
