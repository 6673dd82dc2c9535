"""A real node of an office's fleet, made and enrolled as people type it, in its own processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from embrasure.net.certificates import load_certificates
from embrasure.net.deliver import Caller, deliver
from embrasure.net.denials import key_digest
from embrasure.net.door import Outcome
from gateway.init import trust_files
from node.paths import Paths
from tests.simulate.office import ENV, Office, Running, verb
from tests.simulate.running import PROGRAM, until


@contextmanager
def node_of(mine: Office, web: int) -> Iterator[tuple[str, Paths]]:
    """A real node of the office's fleet that runs; yields its id and paths."""
    paths = Paths(mine.folder / "node")
    made = verb("node", "init", "--root", paths.prefix, "--env", ENV, "--mode", "push",
                "--domain", "office.test", "--anchor", mine.trust / "anchor.json",
                "--app", f"shop:web={web}",
                "--interpreter", f"python3={sys.executable}")  # fmt: skip
    assert made.code == 0, made.told
    mine.pki("pki", "enrol", paths.config / "statement.json", mine.trust,
             "--out", paths.enrolled, *mine.signs())  # fmt: skip
    log = (mine.folder / "node.log").open("wb")
    process = subprocess.Popen([*PROGRAM, "node", "run", "--root", str(paths.prefix)],
                               stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # fmt: skip
    try:
        until(lambda: (paths.run / "ports.json").exists(), what="node run")
        yield str(made.body["node"]), paths
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def ports(paths: Paths) -> dict[str, int]:
    """Return where the node listens: `push`, `door`."""
    found: dict[str, int] = json.loads((paths.run / "ports.json").read_text())
    return found


def bring(mine: Office, node: str, paths: Paths) -> Outcome:
    """The security team takes its trust files to the node's door, past the gateway."""
    out = mine.folder / "courier"
    mine.pki("pki", "issue", "operator/anna", mine.trust, "--out", out)
    caller = Caller(
        "office.test",
        (mine.trust / "ca" / "root.crt").read_bytes(),
        (out / "tls.key").read_bytes(),
        (out / "tls.crt").read_bytes(),
    )
    door = f"127.0.0.1:{ports(paths)['door']}"
    files = dict(trust_files(mine.trust))
    return asyncio.run(deliver(door, role="node", name=node, caller=caller, files=files))


def leaf_key(gateway: Running) -> str:
    """The digest of the key by which this gateway dials now."""
    _, chain = gateway.held.certificates.client()
    return key_digest(load_certificates(chain, what="own")[0])
