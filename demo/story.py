"""The demo's story, step by step; each claim of the product ends as a verdict."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from demo import releases, sockets, stolen_mirror
from demo.fleet import DemoNode, Fleet, each
from demo.releases import Pace, Proposal
from demo.report import Report
from embrasure.errors import Failed

ANNA, BEA, CARL = "anna", "bea", "carl"


@dataclass(slots=True)
class Story:
    """One run: a fleet, its pace, what was said and what is still needed later."""

    fleet: Fleet
    pace: Pace
    report: Report
    keep: bool = False
    old_mirror: Path = Path()

    def run(self) -> None:
        """Tell the whole story; raises Failed where it cannot go on."""
        self.set_up()
        self.first_release()
        self.bad_release()
        self.third_release()
        self.last_checks()

    # --- 1 and 2 ---------------------------------------------------------------------------------

    def set_up(self) -> None:
        """Root of trust, services, nodes."""
        fleet, say = self.fleet, self.report.say
        self.report.step("root ceremony: 2 of 3 keyholders; an app that 2 of 3 operators approve")
        root = fleet.ceremony(min_soak_s=self.pace.soak_s)
        self.report.facts["root"] = root[:16]
        say(f"fleet {root[:16]}..., five CA issuers, online keys for the gateway alone")
        self.report.step(
            f"mirror, letterbox, {self.pace.push} push and {self.pace.pull} pull nodes"
        )
        read, post = fleet.start_mirrors()
        fleet.make_nodes(push=self.pace.push, pull=self.pace.pull, mirror=read, letterbox=post)
        say("each node made its own keys; two keyholders signed the directory")
        for node in fleet.nodes:
            fleet.start_node(node)
        self.report.step("gateway: it dials nodes, mirror and letterbox; only operators dial it")
        each(lambda act: act(), (fleet.start_gateway, fleet.make_operators))
        fleet.tell_addresses(ANNA)
        say(f"operators {', '.join(fleet.operators)} have keys and 10 h certificates of their own")

    # --- 3 to 6 ----------------------------------------------------------------------------------

    def first_release(self) -> None:
        """Build, propose, refuse the proposer's own approval, approve twice, roll out."""
        self.report.step("release 1.0: build, propose, approve")
        proposal = self._propose("1.0")
        own = releases.approve(self.fleet, ANNA, proposal)
        self.report.judge("self-approval refused", expected="exit 3", got=f"exit {own.code}")
        self._approve(proposal)
        self.report.step("release 1.0: canary, soak, evidence, half, all; pull nodes follow")
        done = self._roll_out(proposal)
        self.report.say(f"roll-out ended with exit {done}")
        count = releases.wait_versions(self.fleet, "1.0")
        self.report.judge(
            "release 1.0 answers on every node", expected=len(self.fleet.nodes), got=count
        )
        self.old_mirror = stolen_mirror.copy_mirror(self.fleet, "release-1")

    # --- 7 ---------------------------------------------------------------------------------------

    def bad_release(self) -> None:
        """A release whose probe fails costs the canary a roll-back, and nobody else anything."""
        self.report.step("release 2.0 is bad: its health check answers 500")
        before = {node.name: node.current(self.fleet.app) for node in self.fleet.nodes}
        proposal = self._propose("2.0", healthy=False)
        self._approve(proposal)
        rollout = releases.start(self.fleet, BEA, proposal)
        code = releases.wait(self.fleet, BEA, rollout).code
        self.report.judge("bad release: verdict of the roll-out", expected="exit 1",
                          got=f"exit {code}")  # fmt: skip
        others = self.fleet.nodes[1:]
        on_it = len(self.fleet.nodes) - releases.wait_versions(self.fleet, "1.0")
        self.report.judge("bad release: nodes left on it", expected=0, got=on_it)
        # Others may have fetched and built it meanwhile, for their turn; none has switched to it.
        touched = [n for n in others if n.current(self.fleet.app) != before[n.name]]
        self.report.judge("bad release: nodes touched beyond the canary", expected=0,
                          got=len(touched))  # fmt: skip
        self._act("abort", rollout, "it is bad")

    # --- 8 to 10 ---------------------------------------------------------------------------------

    def third_release(self) -> None:
        """Two thieves and a crash around a good release."""
        self.report.step("release 3.0: approved by two, not started")
        proposal = self._propose("3.0")
        self._approve(proposal)
        self._drill_gateway(proposal)
        absent = self.fleet.of_mode("pull")[-1]
        if absent.service is not None:
            absent.service.stop()
        self.report.step(f"release 3.0 starts; {absent.name} is switched off")
        rollout = releases.start(self.fleet, BEA, proposal)
        self._crash(rollout, absent)
        self._drill_mirror(absent)
        self.report.step("the honest mirror again, and the last node")
        self.fleet.start_node(absent)
        done = releases.wait(self.fleet, BEA, rollout)
        self.report.judge("release 3.0 after all that", expected="exit 0", got=f"exit {done.code}")
        count = releases.wait_versions(self.fleet, "3.0")
        self.report.judge(
            "release 3.0 answers on every node", expected=len(self.fleet.nodes), got=count
        )
        started = [self._starts(node, "3.0") for node in self.fleet.nodes]
        self.report.judge("gateway killed: nodes that installed twice", expected=0,
                          got=sum(count > 1 for count in started))  # fmt: skip

    def _drill_gateway(self, proposal: Proposal) -> None:
        from demo.dial import order_node  # gRPC, only here
        from demo.thief import Thief

        self.report.step("drill A: a thief has the gateway, all its keys, its TLS identity")
        thief = Thief(self.fleet, proposal.plan)
        victims = self.fleet.of_mode("push")[1:4]
        victims = [victims[number % len(victims)] for number in range(3)]
        attacks = (
            ("an invented release", thief.invent()),
            ("the canary skipped", thief.skip_canary()),
            ("another canary named", thief.retarget(victims[2])),
        )
        accepted = 0
        for (name, forgery), victim in zip(attacks, victims, strict=True):
            port = self.fleet.wait_node(victim)
            answer = order_node(self.fleet, victim, port, forgery)
            accepted += answer.obeyed
            self.report.say(f"{name}: {victim.name} answers {answer.words}")
        self.report.judge("stolen gateway: forged acts accepted", expected="0 of 3",
                          got=f"{accepted} of 3")  # fmt: skip

    def _crash(self, rollout: str, absent: DemoNode) -> None:
        self.report.step("the gateway is killed with SIGKILL in the middle, and started again")
        self._until(rollout, lambda found: _healthy(found) >= 1, "the canary to be healthy")
        if self.fleet.gateway is not None:
            self.fleet.gateway.kill()
        self.fleet.start_gateway()
        self._until(
            rollout, lambda found: _is_open(found, absent.id), f"the wave of {absent.name} to open"
        )

    def _drill_mirror(self, victim: DemoNode) -> None:
        self.report.step(f"drill B: a thief has the mirror; {victim.name} was off until now")
        swapped = stolen_mirror.copy_mirror(self.fleet, "swapped")
        stolen_mirror.swap_blobs(swapped)
        mixed = stolen_mirror.copy_mirror(self.fleet, "mixed")
        stolen_mirror.mix(mixed, self.old_mirror)
        accepted = 0
        for name, folder in (
            ("old metadata", self.old_mirror), ("a mix", mixed), ("swapped blobs", swapped),
        ):  # fmt: skip
            before = victim.current(self.fleet.app)
            done = self.fleet.processes.run("node", "apply", "--root", victim.prefix, folder)
            # Whatever it said: only a switched release, or a claim of success, is an accepted one.
            accepted += done.code == 0 or victim.current(self.fleet.app) != before
            why = (done.err.strip() or done.out.strip()).splitlines()
            self.report.say(f"{name}: exit {done.code}, {why[0] if why else ''}")
        self.report.judge("stolen mirror: forged files accepted", expected="0 of 3",
                          got=f"{accepted} of 3")  # fmt: skip

    # --- 11 --------------------------------------------------------------------------------------

    def last_checks(self) -> None:
        """The journal is whole; only operators can reach the gateway; boot needs no server."""
        self.report.step("the journal, the sockets, and a boot with every server down")
        audit = self.fleet.processes.run(
            "audit", "verify", "--json", context=self.fleet.context(CARL)
        )
        self.report.judge("audit chain", expected="intact",
                          got="intact" if audit.code == 0 else f"exit {audit.code}")  # fmt: skip
        if audit.code == 0:
            self.report.facts["audit_head"] = str(audit.json().get("head", ""))
        gateway = self.fleet.gateway
        held = sockets.listeners(gateway.pid) if gateway else frozenset()
        self.report.judge("gateway listeners open to nodes", expected=0,
                          got=len(held - {self.fleet.ports[0]}))  # fmt: skip
        self._boot()

    def _boot(self) -> None:
        servers = (self.fleet.gateway, self.fleet.mirror, self.fleet.letterbox)
        for service in servers:
            if service is not None:
                service.stop()
        node = self.fleet.nodes[-1]
        if node.service is not None:
            node.service.kill()
        booted = self.fleet.processes.start(
            f"{node.name}-boot", "node", "boot", "--foreground", "--root", node.prefix
        )
        end = time.monotonic() + 15
        while time.monotonic() < end and releases.version_at(node.app_port) != "3.0":
            time.sleep(0.2)
        self.report.judge("boot with every server down", expected="3.0",
                          got=releases.version_at(node.app_port))  # fmt: skip
        booted.stop()
        if self.keep:
            self.fleet.start_servers()
            self.fleet.start_node(node)

    # --- pieces ----------------------------------------------------------------------------------

    def _propose(self, version: str, *, healthy: bool = True) -> Proposal:
        bundle = releases.shop_release(self.fleet, version, healthy=healthy)
        plan = releases.plan_file(self.fleet, version, self.pace)
        proposal = releases.propose(self.fleet, ANNA, bundle, plan)
        self.report.say(f"{ANNA} proposed {proposal.id}, plan {proposal.plan[:12]}...")
        return proposal

    def _approve(self, proposal: Proposal) -> None:
        releases.approve_all(self.fleet, proposal, (BEA, CARL))
        self.report.say(f"{BEA} and {CARL} approved: 2 of 2")

    def _roll_out(self, proposal: Proposal) -> int:
        rollout = releases.start(self.fleet, BEA, proposal)
        return releases.wait(self.fleet, BEA, rollout).code

    def _act(self, verb: str, rollout: str, reason: str = "") -> None:
        why = ["--reason", reason] if reason else []
        self.fleet.processes.must("rollout", verb, rollout, *why, context=self.fleet.context(BEA))
        self.report.say(f"{BEA}: rollout {verb}")

    def _until(self, rollout: str, holds: object, what: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        found: dict[str, object] = {}
        while time.monotonic() < end:
            found = releases.status(self.fleet, BEA, rollout)
            if callable(holds) and holds(found):
                return
            if found.get("settled"):
                break
            time.sleep(0.3)
        why = f"{found.get('state')} {found.get('reason')}"
        raise Failed("roll-out", expected=what, got=why, hint=str(found.get("nodes")))

    def _starts(self, node: DemoNode, version: str) -> int:
        log = node.installed / self.fleet.app / "shared" / "starts.log"
        return log.read_text().split().count(version) if log.exists() else 0


def _is_open(status: dict[str, object], node: str) -> bool:
    """Whether the gate of this node's wave is open."""
    nodes, opened = status.get("nodes"), status.get("open_wave")
    if not isinstance(nodes, list) or not isinstance(opened, int):
        return False
    waves = [n.get("wave") for n in nodes if isinstance(n, dict) and n.get("node") == node]
    return any(isinstance(wave, int) and wave <= opened for wave in waves)


def _healthy(status: dict[str, object]) -> int:
    nodes = status.get("nodes")
    if not isinstance(nodes, list):
        return 0
    return sum(isinstance(node, dict) and node.get("state") == "healthy" for node in nodes)
