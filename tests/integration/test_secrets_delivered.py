"""A secret from an operator's file to real processes on two nodes, and nowhere else."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import releases
from demo.fleet import ENV, DemoNode, Fleet, free_ports
from demo.processes import Processes
from demo.releases import Pace, Proposal

PLAIN, APP = "hunter2-of-the-whole-fleet", "vault"
# A web server that says what it was given; a bad one never passes its probe.
CODE = """\
import json, os
from http.server import BaseHTTPRequestHandler, HTTPServer
class Reader(BaseHTTPRequestHandler):
    def do_GET(self):
        folder = os.environ["CREDENTIALS_DIRECTORY"]
        found = {name: open(os.path.join(folder, name)).read() for name in os.listdir(folder)}
        body = json.dumps({"version": VERSION, "secrets": found}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
HTTPServer(("127.0.0.1", int(os.environ["EMBRASURE_PORT_WEB"])), Reader).serve_forever()
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """One push node, one pull node, mirror, letterbox and gateway, each its own process."""
    made = Fleet(Processes(tmp_path), APP, ports=free_ports())
    try:
        made.ceremony(min_soak_s=1)
        key = tmp_path / "recovery.key"
        run = made.processes.must
        run("secret", "recovery", "generate", key, "--trust", made.trust, "--kdf", "moderate",
            *made.passphrase)  # fmt: skip
        run("secret", "recovery", "adopt", made.trust, "--env", ENV, "--public", f"{key}.pub",
            *made.signing, *made.passphrase)  # fmt: skip
        read, post = made.start_mirrors()
        made.make_nodes(push=1, pull=1, mirror=read, letterbox=post)
        (tmp_path / "servers").write_text(f"{read} {post}")
        for node in made.nodes:
            made.start_node(node)
        made.start_gateway()
        made.make_operators()
        made.tell_addresses("anna")
        yield made
    finally:
        made.processes.stop_all()


def seal(fleet: Fleet, name: str, plain: str, version: int) -> Path:
    """Return the sealed file that anna made on her own machine."""
    value, out = fleet.folder.parent / "value", fleet.folder / f"{name}-v{version}.json"
    value.touch(mode=0o600)
    value.write_text(plain)
    fleet.processes.must(
        "secret", "seal", name, "--env", ENV, "--app", APP, "--version", str(version), "--from",
        value, "--out", out, context=fleet.context("anna"),
    )  # fmt: skip
    value.unlink()
    return out


def deploy(fleet: Fleet, version: str, lowest: int, *sealed: Path) -> int:
    """Return how the roll-out of a version with one secret ended."""
    source = fleet.folder / f"src-{version}"
    (source / "code").mkdir(parents=True)
    (source / "code" / "main.py").write_text(CODE.replace("VERSION", repr(version)))
    (source / "app.toml").write_text(
        f'app = "{APP}"\n[run]\nargv = ["python3", "code/main.py"]\nports = ["web"]\n'
        f'[[probes]]\nkind = "http"\nport = "web"\npath = "/"\ninterval_ms = 100\npasses = 1\n'
        f'[[secrets]]\nname = "db"\nmin_version = {lowest}\n'
    )
    return roll(fleet, releases.build(fleet, source, version), *sealed)


def roll(fleet: Fleet, bundle: Path, *sealed: Path) -> int:
    """Return how the roll-out of a bundle ended."""
    version = bundle.name
    plan = releases.plan_file(fleet, version, Pace(soak_s=1, push=1, pull=1))
    words = [word for file in sealed for word in ("--secret", str(file))]
    done = fleet.processes.must(
        "release", "propose", bundle, "--plan", plan, "--json", *words, *fleet.passphrase,
        context=fleet.context("anna"),
    ).json()  # fmt: skip
    made = Proposal(str(done["id"]), str(done["plan"]).removeprefix("sha256:"), version)
    releases.approve_all(fleet, made, ("bea", "carl"))
    rollout = releases.start(fleet, "bea", made)
    return releases.wait(fleet, "bea", rollout, seconds=90).code


def join(fleet: Fleet, name: str, port: int) -> DemoNode:
    """Return a new pull node, enrolled while the fleet runs."""
    read, post = (fleet.folder / "servers").read_text().split()
    node = DemoNode(name, "pull", fleet.folder / "nodes" / name, port)
    statement = fleet._make_node(node, read, post)
    run = fleet.processes.must
    enrolled = run("pki", "enrol", statement, fleet.trust, "--out", fleet.folder / "answers",
                   *fleet.signing, *fleet.passphrase, "--json").json()  # fmt: skip
    answers = enrolled["answers"]
    assert isinstance(answers, dict)
    run("node", "enrol", "--root", node.prefix, str(answers[node.id]))
    run("trust", "submit", fleet.trust, context=fleet.context("anna"))
    fleet.nodes.append(node)
    fleet.start_node(node)
    return node


def said(node: DemoNode) -> dict[str, object]:
    """Return what the app on a node answers."""
    until = time.monotonic() + 15
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{node.app_port}/", timeout=5) as answer:
                found: dict[str, object] = json.loads(answer.read())
                return found
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def holding(folder: Path, needle: str) -> list[Path]:
    """Return every file below `folder` that holds the text."""
    raw, found = needle.encode(), []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and raw in path.read_bytes():
            found.append(path)
    return found


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_push_and_a_pull_node_are_given_what_nobody_between_can_read(fleet: Fleet) -> None:
    began = time.monotonic()
    first = seal(fleet, "db", PLAIN, 1)
    assert deploy(fleet, "1.0", 1, first) == 0
    for node in fleet.nodes:
        assert said(node) == {"version": "1.0", "secrets": {"db": PLAIN}}
    # The gateway with its database, the mirror, the letterbox, the operators: not one plaintext.
    run = {node.prefix / "run" / "embrasure" for node in fleet.nodes}
    found = holding(fleet.folder, PLAIN)
    assert found and all(any(path.is_relative_to(one) for one in run) for path in found), found
    assert len(found) == len(fleet.nodes)
    payload = json.loads(first.read_bytes())["payload"][:64]
    assert holding(fleet.folder / "gateway", payload), "the gateway has the sealed file"
    assert holding(fleet.folder / "m1", payload), "and so has the mirror"

    for node in fleet.nodes:
        _check_processes(node)

    # A new value goes out with the next release; the old one is open nowhere.
    new = "hunter3-of-the-whole-fleet" + "x" * 65_000  # nearly as much as a secret may be
    assert deploy(fleet, "2.0", 2, seal(fleet, "db", new, 2)) == 0
    for node in fleet.nodes:
        assert said(node) == {"version": "2.0", "secrets": {"db": new}}
    assert holding(fleet.folder, PLAIN) == []

    # A node that came later is given it by a rewrap and a new plan for the same bundle.
    late = join(fleet, "pull-2", fleet.ports[3])
    fleet.processes.must(
        "secret", "rewrap", fleet.folder / "db-v2.json", "--recovery-key",
        fleet.folder / "recovery.key", "--out", fleet.folder / "new", "--trust", fleet.trust,
        *fleet.passphrase,
    )  # fmt: skip
    again = fleet.folder / "new" / "db-v2.sealed.json"
    assert roll(fleet, fleet.folder / "bundles" / "2.0", again) == 0
    assert late in fleet.nodes
    for node in fleet.nodes:
        assert said(node) == {"version": "2.0", "secrets": {"db": new}}
    assert len(holding(fleet.folder, new)) == len(fleet.nodes)

    # Nodes boot with every server down, and leave nothing behind when they end.
    for service in (fleet.gateway, fleet.mirror, fleet.letterbox):
        assert service is not None
        service.stop()
    for node in fleet.nodes:
        assert node.service is not None
        node.service.stop()
    assert holding(fleet.folder, new) == []
    for node in fleet.nodes:
        fleet.start_node(node)
    for node in fleet.nodes:
        assert said(node) == {"version": "2.0", "secrets": {"db": new}}
    print(f"figure: secrets_end_to_end = {time.monotonic() - began:.0f} s")


def _check_processes(node: DemoNode) -> None:
    """Apply writes no core; no command line or environment of the node has the value."""
    assert node.service is not None
    pids = [node.service.pid, *_below(node.service.pid)]
    for pid in pids:
        for name in ("cmdline", "environ"):
            try:
                raw = Path(f"/proc/{pid}/{name}").read_bytes()
            except OSError:
                continue
            assert PLAIN.encode() not in raw
            if name == "cmdline" and b"apply_main" in raw:
                limits = Path(f"/proc/{pid}/limits").read_text()
                core = next(n for n in limits.splitlines() if n.startswith("Max core file size"))
                assert core.split()[4] == "0"


def _below(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found += [child, *_below(child)]
    return found
