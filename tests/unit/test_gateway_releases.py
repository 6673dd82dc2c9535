"""The next version of an approval role is exactly its plan and its manifests, or it is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, TargetFile, Targets

from embrasure.bundle.manifest import parse_manifest
from embrasure.errors import Refused
from embrasure.trust.documents import write
from embrasure.trust.plan import parse_plan
from gateway.grounds import Grounds
from gateway.releases import Release, build_role, check_release
from tests.ablation import Ablation
from tests.simulate.gateway import SimGateway
from tests.simulate.metadata import sign_metadata
from tests.simulate.releases import make_release
from tests.simulate.repository import SimRepository

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimGateway]:
    sim = SimRepository(clock=lambda: AT)
    sim.add_app("shop")
    sim.add_node()
    sim.publish()
    opened = SimGateway(tmp_path_factory.mktemp("gateway"), sim)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def release(gateway: SimGateway) -> Release:
    return gateway.draft().release


def check(
    found: Release,
    grounds: Grounds,
    *,
    role: bytes | None = None,
    plan: bytes | None = None,
    manifest: bytes | None = None,
) -> Release:
    return check_release(
        role if role is not None else found.role_raw,
        plan if plan is not None else found.plan_raw,
        manifest if manifest is not None else found.manifest_raw,
        root=grounds.root,
        env="dev",
        app="shop",
        kept=grounds.kept,
        now=AT,
    )


def test_what_was_built_is_worked_out_again_to_the_same_digests(
    gateway: SimGateway, release: Release
) -> None:
    assert check(release, gateway.grounds()) == release


Edit = Callable[[Metadata[Targets]], None]


def another_target(metadata: Metadata[Targets]) -> None:
    path = "gates/dev/shop.json"
    metadata.signed.targets[path] = TargetFile.from_data(path, b"{}", ["sha256"])


def another_manifest(metadata: Metadata[Targets]) -> None:
    path = f"dev/shop/m-{'a' * 64}.json"
    metadata.signed.targets[path] = TargetFile(1, {"sha256": "a" * 64}, path)


def a_delegation(metadata: Metadata[Targets]) -> None:
    key = CryptoSigner.generate_ed25519().public_key
    inner = DelegatedRole("inner", [key.keyid], 1, True, ["dev/shop/*"])
    metadata.signed.delegations = Delegations({key.keyid: key}, {"inner": inner})


def a_custom_field(metadata: Metadata[Targets]) -> None:
    metadata.signed.unrecognized_fields["note"] = "nobody sees me"


def a_custom_target(metadata: Metadata[Targets]) -> None:
    target = next(iter(metadata.signed.targets.values()))
    target.unrecognized_fields["custom"] = {"note": "nobody sees me"}


def a_second_hash(metadata: Metadata[Targets]) -> None:
    next(iter(metadata.signed.targets.values())).hashes["md5"] = "0" * 32


def for_ever(metadata: Metadata[Targets]) -> None:
    metadata.signed.expires = AT + timedelta(days=3650)


def short(metadata: Metadata[Targets]) -> None:
    metadata.signed.expires = AT + timedelta(hours=1)


def another_version(metadata: Metadata[Targets]) -> None:
    metadata.signed.version += 1


def a_signature(metadata: Metadata[Targets]) -> None:
    metadata.sign(CryptoSigner.generate_ed25519())


@pytest.mark.misuse
@pytest.mark.parametrize(
    "edit",
    [
        another_target,
        another_manifest,
        a_delegation,
        a_custom_field,
        a_custom_target,
        a_second_hash,
        for_ever,
        short,
        another_version,
    ],
)
def test_a_role_that_says_anything_more_is_refused(
    edit: Edit, gateway: SimGateway, release: Release, ablation: Ablation
) -> None:
    metadata = Metadata[Targets].from_bytes(release.role_raw)
    edit(metadata)
    with pytest.raises(Refused):
        check(release, gateway.grounds(), role=metadata.to_bytes())
    with ablation("the role, worked out again from the release") as attack:
        # Once two have signed it, every TUF client takes it.
        signed = sign_metadata(metadata.signed, gateway.sim.signers["dev-shop"][:2])
        held = Metadata[Targets].from_bytes(signed)
        targets = gateway.grounds().targets
        attack.succeeded(
            targets.get_verification_result("dev-shop", held.signed_bytes, held.signatures).verified
        )


def test_a_role_with_a_signature_inside_is_refused(gateway: SimGateway, release: Release) -> None:
    metadata = Metadata[Targets].from_bytes(release.role_raw)
    a_signature(metadata)
    with pytest.raises(Refused):
        check(release, gateway.grounds(), role=metadata.to_bytes())


@pytest.mark.misuse
@pytest.mark.parametrize("part", ["plan", "manifest", "both", "seq", "fleet"])
def test_plan_manifest_and_role_are_one_thing(
    part: str, gateway: SimGateway, release: Release, ablation: Ablation
) -> None:
    other = make_release("shop", {"code/main": b"#!/bin/sh\nother\n"}, version="2.0")
    plan = release.plan
    if part in ("plan", "both"):
        plan = msgspec.structs.replace(plan, manifest=other.content)
    elif part == "seq":
        plan = msgspec.structs.replace(plan, seq=plan.seq + 1)
    elif part == "fleet":
        plan = msgspec.structs.replace(plan, root="a" * 64)
    manifest = other.raw if part in ("manifest", "both") else release.manifest_raw
    with pytest.raises(Refused):
        check(release, gateway.grounds(), plan=write(plan), manifest=manifest)
    with ablation("that they belong together") as attack:
        # Each is whole by itself.
        attack.succeeded(parse_plan(write(plan)).seq and parse_manifest(manifest).files)


def test_json_with_spaces_or_another_order_is_not_the_role_that_people_signed(
    gateway: SimGateway, release: Release
) -> None:
    with pytest.raises(Refused):
        check(release, gateway.grounds(), role=release.role_raw + b" ")
    with pytest.raises(Refused):
        check(release, gateway.grounds(), role=release.role_raw.replace(b":", b": ", 1))


def test_the_running_manifest_stays_listed_and_older_ones_go(gateway: SimGateway) -> None:
    first, second, third = (make_release("shop", version=f"{n}.0") for n in (1, 2, 3))
    kept: dict[str, TargetFile] = {}
    for number, found in enumerate((first, second, third), start=1):
        plan = write(gateway.plan_for(found, by="anna", seq=number))
        role = build_role(plan, found.raw, env="dev", app="shop", version=number, kept=kept, at=AT)
        listed = Metadata[Targets].from_bytes(role).signed.targets
        path = f"dev/shop/m-{found.digest}.json"
        kept = {path: listed[path]}
    assert set(listed) == {
        "dev/shop/plan.json",
        f"dev/shop/m-{second.digest}.json",
        f"dev/shop/m-{third.digest}.json",
    }
