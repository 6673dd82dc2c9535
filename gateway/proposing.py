"""The proposer's machine: uploads what is missing, builds plan and role itself, signs its word."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

from securesystemslib.signer import Signer

from embrasure import limits
from embrasure.bundle.folder import Bundle
from embrasure.errors import Denied, Misuse, Refused
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.documents import Content, write
from embrasure.trust.plan import Plan
from embrasure.wire import admin_pb2 as wire
from gateway.client import AdminClient
from gateway.grounds import Grounds
from gateway.memory import Memory
from gateway.planfile import PlanFile
from gateway.planner import draft_plan
from gateway.preview import Preview
from gateway.recipients import chosen, fit_of
from gateway.releases import Release, build_role, check_release
from gateway.secrets import check_fit
from gateway.statements import make_statement

_PIECE = limits.FRAME_BODY_BYTES
Say = Callable[[str], None]


def propose(
    client: AdminClient,
    bundle: Bundle,
    request: PlanFile,
    signer: Signer,
    *,
    supersede: bool,
    at: datetime,
    say: Say,
    sealed: Sequence[bytes] = (),
) -> tuple[Release, Preview, dict[str, object]]:
    """Return what was proposed, who is in which wave, and the gateway's answer.

    sealed: secrets of this release; those of the running one that it names stay
    """
    if bundle.manifest.app != request.app:
        raise Misuse("plan file", expected=f"app {bundle.manifest.app}", got=request.app)
    grounds = client.grounds(request.env, request.app)
    check_person(client, grounds, signer)
    secrets = chosen(client, grounds, bundle.manifest, sealed)
    upload(client, bundle, say, {sha256_hex(raw): raw for raw in secrets})
    plan, preview = _plan(client, bundle, request, grounds, signer, at)
    plan_raw = write(plan)
    role = build_role(
        plan_raw,
        bundle.raw,
        env=request.env,
        app=request.app,
        version=plan.seq,
        kept=grounds.kept,
        at=at,
        secrets=secrets,
    )
    release = check_release(
        role,
        plan_raw,
        bundle.raw,
        root=grounds.root,
        env=request.env,
        app=request.app,
        kept=grounds.kept,
        now=at,
        secrets=secrets,
    )
    check_fit(fit_of(client, grounds, release.secrets))
    Memory(client.context.state, root=grounds.root).remember(
        release.role, release.version, release.sha256
    )
    statement = make_statement(
        release,
        grounds,
        signer,
        decision="propose",
        comment="",
        shown=sha256_hex(plan_raw),
        at=at,
    )
    answer = client.json(
        "Propose",
        wire.ProposeRequest(
            env=request.env,
            app=request.app,
            role=role,
            plan=plan_raw,
            statement=statement,
            supersede=supersede,
        ),
    )
    return release, preview, answer


def check_person(client: AdminClient, grounds: Grounds, signer: Signer) -> str:
    """Return the person of the key when the TLS identity is his too; raises Denied."""
    person = grounds.person_of(signer.public_key.keyid)
    if person != client.context.person:
        raise Denied(
            "signing key",
            expected=f"a key of {client.context.person}, who is logged in",
            got=f"one of {person}",
            reason="caller",
        )
    return person


def _plan(
    client: AdminClient,
    bundle: Bundle,
    request: PlanFile,
    grounds: Grounds,
    signer: Signer,
    at: datetime,
) -> tuple[Plan, Preview]:
    found = client.json("Reserve", wire.ReserveRequest(env=request.env, app=request.app))
    seq = found.get("seq")
    running = grounds.running.version if grounds.running else 0
    # A number far ahead would use up the room below the policy's ceiling.
    if not isinstance(seq, int) or not running < seq <= running + limits.SEQ_AHEAD:
        raise Refused("gateway", expected=f"a number above {running}", got=seq, reason="number")
    plan, preview = draft_plan(
        request,
        policy=grounds.policy,
        entries=client.entries(request.env),
        seq=seq,
        root_id=grounds.root,
        content=Content(sha256=bundle.digest, length=len(bundle.raw)),
        proposer=grounds.person_of(signer.public_key.keyid),
        now=at,
    )
    return plan, preview


def upload(client: AdminClient, bundle: Bundle, say: Say, sealed: Mapping[str, bytes]) -> None:
    """The gateway holds the manifest, every blob of the bundle and the sealed files (by digest),
    each hashed there.
    """
    small = {**sealed, bundle.digest: bundle.raw}
    wanted = {**bundle.manifest.blobs(), **{digest: len(raw) for digest, raw in small.items()}}
    names = list(wanted)
    for start in range(0, len(names), 1000):
        part = names[start : start + 1000]
        asked = wire.BlobList(blobs=[wire.Blob(sha256=n, length=wanted[n]) for n in part])
        lacking = client.call("MissingBlobs", asked).blobs
        if lacking:
            say(f"uploading {len(lacking)} blobs, {sum(b.length - b.held for b in lacking)} bytes")
        for blob in lacking:
            if blob.sha256 not in wanted:
                raise Refused("gateway", expected="a blob of the bundle", got=blob.sha256)
            pieces = _pieces(bundle, small, blob.sha256, wanted[blob.sha256], blob.held)
            client.upload("PutBlob", pieces)


def _pieces(
    bundle: Bundle, small: Mapping[str, bytes], digest: str, length: int, offset: int
) -> Iterator[object]:
    """The blob from `offset` on: where a broken upload goes on. small: what is in memory."""
    if digest in small:
        raw = small[digest][offset:]
        parts: Iterator[bytes] = (raw[i : i + _PIECE] for i in range(0, len(raw), _PIECE))
    else:
        parts = _read(bundle, digest, offset)
    yield wire.Upload(sha256=digest, length=length, offset=offset, body=next(parts, b""))
    for part in parts:
        yield wire.Upload(body=part)


def _read(bundle: Bundle, digest: str, offset: int) -> Iterator[bytes]:
    with bundle.blob_path(digest).open("rb") as file:
        file.seek(offset)
        while part := file.read(_PIECE):
            yield part
