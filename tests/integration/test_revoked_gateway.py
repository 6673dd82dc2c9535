"""A gateway key revoked in the middle of a push: real gateway, real node, a slow line between.

The running stream ends within 10 s, nothing of the release is installed, and the gateway finishes
the roll-out once it has another key; a gateway of another id does so too.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from embrasure.net.deliver import Caller, deliver
from embrasure.net.denials import key_digest
from embrasure.trust.directory import TlsBundle
from node.paths import Paths
from tests.simulate.doors import newest_files
from tests.simulate.fleet import APP, SimFleet
from tests.simulate.installer import SERVER, free_port
from tests.simulate.office import ENV, Office, verb
from tests.simulate.officenode import bring, leaf_key, node_of, ports
from tests.simulate.push import SimGateway, pieces
from tests.simulate.running import answers, running, until
from tests.simulate.slowline import SlowLine

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]
BIG = 24 * 1024 * 1024
SLOW, FAST = 1_500_000.0, 1e9
PLAN = "canary_soak_s = 1\nsoak_s = 1\n[[waves]]\nname = 'all'\npercent = 100\n"


def bundle(mine: Office) -> Path:
    """A small server with one large file of its own."""
    source, out = mine.folder / "src", mine.folder / "big.bundle"
    for path, raw in (("code/main.py", SERVER), ("config/mode", b"good"),
                      ("config/version", b"1.0"), ("code/data", os.urandom(BIG))):  # fmt: skip
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(raw)
    (source / "app.toml").write_text(
        'app = "shop"\nversion = "1.0"\n[run]\nargv = ["python3", "code/main.py"]\n'
        'ports = ["web"]\n[[probes]]\nkind = "http"\nport = "web"\npath = "/health"\nstatus = 200\n'
    )
    built = verb("release", "build", source, "--out", out)
    assert built.code == 0, built.told
    return out


def quiet_since(line: SlowLine, *, seconds: float, quiet: float = 2.5) -> float:
    """Return when the line last carried a byte, once it has been quiet for a while."""
    end, last, at = time.monotonic() + seconds, line.carried, time.monotonic()
    while time.monotonic() < end:
        if line.carried > last + 8192:  # less is a hand-shake that was refused
            last, at = line.carried, time.monotonic()
        elif time.monotonic() - at > quiet:
            return at
        time.sleep(0.02)
    raise AssertionError(f"bytes still flow after {seconds} s")


def installed(paths: Paths) -> list[str]:
    """What a half-done install would have left where releases are."""
    app = paths.app("shop")
    return [path.name for path in app.rglob("*")] if (app / "current").exists() else []


def test_a_gateway_key_revoked_during_a_push(tmp_path: Path) -> None:
    mine, web = Office.make(tmp_path / "office", nodes=0), free_port()
    mine.pki("trust", "app", "set", "shop", mine.trust, "--env", ENV, "--min-soak", 1,
             "--max-second-percent", 100, *mine.signs())  # fmt: skip
    with node_of(mine, web) as (node, paths), mine.gateway() as gateway:
        for person in ("anna", "ben", "carl"):
            mine.as_person(person, gateway.port)
        line = SlowLine(ports(paths)["push"], rate=SLOW)
        try:
            addressed = mine.verb("fleet", "address", "node", node, f"127.0.0.1:{line.port}",
                                  "--env", ENV, person="anna")  # fmt: skip
            assert addressed.code == 0, addressed.told
            proposed = mine.verb("release", "propose", bundle(mine), "--plan",
                                 mine.plan_file(PLAN), person="anna", signs=True)  # fmt: skip
            assert proposed.code == 0, proposed.told
            plan = str(proposed.body["plan"])
            for person in ("ben", "carl"):
                assert mine.approve(plan, person=person).code == 0
            started = mine.verb("rollout", "start", "--plan", plan, "--detach", person="anna")
            assert started.code == 0, started.told
            rollout = str(started.body["id"])
            until(lambda: line.carried > 4_000_000, seconds=30, what="the transfer")

            # The thief's gateway goes on as it was: only the node is told.
            stolen = leaf_key(gateway)
            mine.pki("trust", "revoke", mine.trust, "--env", ENV, "--gateway-cert", stolen,
                     "--reason", "stolen", *mine.signs()[:2])  # fmt: skip
            told = bring(mine, node, paths)
            began = time.monotonic()
            assert "revocations" in told.taken, told
            took = quiet_since(line, seconds=20) - began
            print(f"figure: revoked_stream_ended_after = {max(took, 0):.1f} s")
            assert took < 10
            assert line.carried < BIG and installed(paths) == []
            assert answers(web) == ""

            # The honest gateway learns of it, and dials with a new key.
            submitted = mine.verb("trust", "submit", mine.trust, person="anna")
            assert submitted.code == 0, submitted.told
            assert leaf_key(gateway) != stolen
            line.rate = FAST
            ended = mine.verb("rollout", "wait", rollout, "--timeout", "90s", person="anna")
            assert (ended.code, ended.body["state"]) == (0, "succeeded"), ended
            assert answers(web) == "1.0"
        finally:
            line.close()


# --- another gateway of the fleet ---


class SlowGateway(SimGateway):
    """A thief with the key of a gateway, who is slow."""

    async def _answer(self, call: Any, message: Any, said: Any, **_: Any) -> None:
        if message.WhichOneof("kind") != "want":
            return await super()._answer(call, message, said, cut=None, serve=None)
        said.wants.append(message.want)
        for answer in pieces(self.files, message.want):
            await call.write(answer)
            await asyncio.sleep(0.25 if len(answer.data.body) > 100_000 else 0)
        return None


def test_a_gateway_of_another_id_finishes_what_a_denied_one_began(tmp_path: Path) -> None:
    fleet, web = SimFleet(tmp_path), free_port()
    node = fleet.make("push", port=web)
    authority, sim = fleet.authority, fleet.repository
    plan, gate = fleet.publish(node, "1.0", extra=os.urandom(BIG))
    with running(node):
        door = json.loads((node.paths.run / "ports.json").read_text())["door"]
        stolen = authority.leaf("gateway", "g1")
        thief = SlowGateway(authority, dict(sim.files), port=node.port, node=node.id, leaf=stolen)

        async def course() -> float:
            stream = asyncio.create_task(thief.order(fleet.order(node, plan, gate)))
            await asyncio.sleep(3)
            assert not stream.done()
            sim.revoke(gateway_certs=[key_digest(stolen.certificate)])
            members: dict[str, Any] = authority.tls_members()
            sim.set_bundle(TlsBundle(v=1, type="tls", root=sim.root_id, env=sim.env,
                                     gateways=("g2",), **members))  # fmt: skip
            sim.publish()
            courier = authority.leaf("operator", "anna")
            # This node shows its leaf alone, so the caller believes its issuer.
            caller = Caller(authority.domain, authority.issuer_pem("node"), courier.key_pem,
                            courier.chain_pem + authority.issuer_pem("operator"))  # fmt: skip
            told = await deliver(f"127.0.0.1:{door}", role="node", name=node.id, caller=caller,
                                 files=newest_files(sim))  # fmt: skip
            began = asyncio.get_running_loop().time()
            assert {"revocations", "fleet-dev"} <= set(told.taken)
            said = await asyncio.wait_for(stream, 12)
            assert said.code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INTERNAL)
            return asyncio.get_running_loop().time() - began

        took = asyncio.run(course())
        print(f"figure: denied_stream_ended_after = {took:.1f} s")
        assert took < 10
        assert not (node.paths.current(APP)).exists() and answers(web) == ""
        # Neither the old key nor the old id gets in again; the new id finishes.
        for leaf in (stolen, authority.leaf("gateway", "g1")):
            late = SimGateway(authority, sim.files, port=node.port, node=node.id, leaf=leaf)
            with pytest.raises(grpc.aio.AioRpcError):
                asyncio.run(late.status())
        other = SimGateway(authority, sim.files, port=node.port, node=node.id,
                           leaf=authority.leaf("gateway", "g2"))  # fmt: skip

        def finished() -> bool:
            said = asyncio.run(other.order(fleet.order(node, plan, gate)))
            return bool(said.receipts)

        until(finished, seconds=40, what="the install")
        until(lambda: answers(web) == "1.0", what="the app")
