"""The demo's releases and what operators do with them: build, propose, approve, start, watch."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from demo.fleet import ENV, Fleet, each
from demo.processes import Result
from embrasure.errors import Failed

SHOP = Path(__file__).resolve().parent / "shop"


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a roll-out goes: seconds of soak of every wave, numbers of nodes."""

    soak_s: int
    push: int
    pull: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposal and the digest of its plan (64 hex digits)."""

    id: str
    plan: str
    version: str


def shop_release(fleet: Fleet, version: str, *, healthy: bool = True) -> Path:
    """Return the bundle of one version of the shop; an unhealthy one fails its probe."""
    source = fleet.folder / "releases" / version
    shutil.copytree(SHOP, source, ignore=shutil.ignore_patterns("__pycache__"))
    settings = source / "config" / "shop.json"
    body = {**json.loads(settings.read_text()), "version": version, "healthy": healthy}
    settings.write_text(json.dumps(body) + "\n")
    return build(fleet, source, version)


def build(fleet: Fleet, source: Path, version: str) -> Path:
    """Return the bundle that `release build` made of a release folder."""
    bundle = fleet.folder / "bundles" / version
    bundle.parent.mkdir(exist_ok=True)
    fleet.processes.must("release", "build", source, "--version", version, "--out", bundle)
    return bundle


def plan_file(fleet: Fleet, version: str, pace: Pace) -> Path:
    """Return a plan: the first push node is the canary, then half, then all."""
    path = fleet.folder / "plans" / f"{version}.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f'app = "{fleet.app}"\nenv = "{ENV}"\ntitle = "{fleet.app} {version}"\n'
        f'canary = ["{fleet.nodes[0].id}"]\nsoak_s = {pace.soak_s}\ndeadline_s = 120\n'
        f"canary_soak_s = {pace.soak_s}\nmax_parallel = 10\nmax_attempts = 1\n"
        '[[waves]]\nname = "half"\npercent = 50\n[[waves]]\nname = "all"\npercent = 100\n'
    )
    return path


def propose(fleet: Fleet, person: str, bundle: Path, plan: Path) -> Proposal:
    """`person` uploads a bundle and opens its approval."""
    done = fleet.processes.must(
        "release", "propose", bundle, "--plan", plan, "--json", *fleet.passphrase,
        context=fleet.context(person),
    ).json()  # fmt: skip
    return Proposal(str(done["id"]), str(done["plan"]).removeprefix("sha256:"), bundle.name)


def approve(fleet: Fleet, person: str, proposal: Proposal) -> Result:
    """`person` looks at the whole difference and signs, or is refused."""
    return fleet.processes.run(
        "approve", proposal.id, "--confirm-digest", proposal.plan, "--json", *fleet.passphrase,
        context=fleet.context(person),
    )  # fmt: skip


def approve_all(fleet: Fleet, proposal: Proposal, people: tuple[str, ...]) -> None:
    """All of `people` approve; raises Failed when one of them could not."""
    for person, done in zip(
        people, each(lambda person: approve(fleet, person, proposal), people), strict=True
    ):
        if done.code:
            raise Failed(f"approval of {person}", expected="exit 0", got=done.err[-600:])


def start(fleet: Fleet, person: str, proposal: Proposal) -> str:
    """Return the id of the roll-out that `person` started; it goes on by itself."""
    done = fleet.processes.must(
        "rollout", "start", "--plan", f"sha256:{proposal.plan}", "--detach", "--json",
        context=fleet.context(person),
    ).json()  # fmt: skip
    return str(done["id"])


def status(fleet: Fleet, person: str, rollout: str) -> dict[str, object]:
    """Return where a roll-out stands."""
    return fleet.processes.must(
        "rollout", "status", rollout, "--json", context=fleet.context(person)
    ).json()


def wait(fleet: Fleet, person: str, rollout: str, seconds: float = 90) -> Result:
    """Return how `rollout wait` ended: its exit code is the verdict of the roll-out."""
    return fleet.processes.run(
        "rollout", "wait", rollout, "--json", "--timeout", f"{int(seconds)}s",
        context=fleet.context(person), timeout=seconds + 20,
    )  # fmt: skip


def version_at(port: int) -> str:
    """Return the version that an application reports over HTTP, or why there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return str(json.loads(answer.read())["version"])
    except (OSError, ValueError, KeyError) as problem:
        return f"none ({problem})"


def wait_versions(fleet: Fleet, version: str, seconds: float = 20) -> int:
    """Return how many nodes' applications say `version`, asked until all do or time is up."""
    end = time.monotonic() + seconds
    while True:
        count = sum(version_at(node.app_port) == version for node in fleet.nodes)
        if count == len(fleet.nodes) or time.monotonic() > end:
            return count
        time.sleep(0.2)
