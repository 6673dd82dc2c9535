"""The node's verbs as a script calls them: output and exit codes, with and without an agent."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from embrasure.fingerprint import words
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.client import TrustClient
from embrasure.trust.folder import FolderSource
from node.paths import Paths
from tests.ablation import Ablation
from tests.simulate.fleet import APP, ENV, RealNode, SimFleet
from tests.simulate.installer import free_port
from tests.simulate.running import PROGRAM, answers, embrasure, running, until


class Site:
    """A fleet of one node, and a stick that holds its repository."""

    def __init__(self, folder: Path) -> None:
        self.fleet = SimFleet(folder)
        self.stick = folder / "stick"
        self.web = free_port()
        self.node: RealNode = self.fleet.make("n1", mode="pull", port=self.web, mirrors=())
        self.root = self.node.paths.prefix

    def release(self, version: str, **how: object) -> None:
        """The stick holds an approved release."""
        self.fleet.publish(self.node, version, **how)  # type: ignore[arg-type]  # passed through
        self.fleet.repository.write(self.stick)

    def call(self, verb: str, *more: object) -> subprocess.CompletedProcess[str]:
        """Return how `embrasure node VERB` on this node ended."""
        return embrasure("node", verb, "--root", self.root, *more)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def push_site(tmp_path: Path) -> Site:
    found = Site(tmp_path)
    found.node = found.fleet.make("n2", mode="push", port=found.web)
    found.root = found.node.paths.prefix
    return found


def test_a_stick_installs_through_the_running_agent(push_site: Site) -> None:
    push_site.release("1.0")
    shutil.rmtree(push_site.node.paths.run)  # as a boot does
    with running(push_site.node):
        done = push_site.call("apply", push_site.stick)
        assert (done.returncode, done.stdout) == (0, f"{APP}: committed\n")
        assert "committed" in done.stderr
        assert answers(push_site.web) == "1.0"
        again = push_site.call("apply", push_site.stick, "--json")
        assert json.loads(again.stdout)["apps"][0]["kind"] == "none"


def test_a_stick_installs_without_an_agent_and_boot_starts_it_again(site: Site) -> None:
    site.release("1.0")
    done = site.call("apply", site.stick)
    assert (done.returncode, done.stdout) == (0, f"{APP}: committed\n")
    assert "embrasure node run" in done.stderr
    assert answers(site.web) == ""
    boot = subprocess.Popen(
        [*PROGRAM, "node", "boot", "--root", str(site.root), "--foreground"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: answers(site.web) == "1.0", what="the app")
        assert codes(site, site.stick) == (31, 5)
    finally:
        boot.terminate()
        assert boot.wait(20) == 0
    assert answers(site.web) == ""
    assert site.call("boot").returncode == 0


def codes(site: Site, *arguments: object) -> tuple[int, int]:
    """Return the exit code of `node apply`, and the plain one of a second call."""
    fine = site.call("apply", *arguments)
    return fine.returncode, site.call("apply", *arguments, "--plain-exit").returncode


def test_a_release_that_rolls_back_is_no_success_for_a_script(site: Site) -> None:
    site.release("1.0", mode="bad")
    done = site.call("apply", site.stick)
    assert (done.returncode, done.stdout) == (20, f"{APP}: rolled_back (probe)\n")


def test_a_closed_gate_is_waiting(site: Site) -> None:
    site.release("1.0")
    repository = site.fleet.repository
    repository.set_gate(repository.plans[f"{ENV}-{APP}"], state="paused")
    repository.publish()
    repository.write(site.stick)
    assert codes(site, site.stick) == (32, 3)


@pytest.mark.misuse
def test_an_older_stick_is_refused_as_such(site: Site, ablation: Ablation) -> None:
    site.release("1.0")
    assert site.call("apply", site.stick).returncode == 0
    old = site.stick.rename(site.stick.with_name("old"))
    site.release("2.0")
    assert site.call("apply", site.stick).returncode == 0
    assert codes(site, old) == (11, 4)
    with ablation("the memory of what was seen") as attack:
        fresh = TrustClient(site.stick.with_name("fresh"), site.fleet.repository.anchor)
        view = fresh.refresh(FolderSource(old), roles=None)
        attack.succeeded(view.roles["timestamp"].version)


def test_a_folder_that_is_no_repository_is_misuse(site: Site, tmp_path: Path) -> None:
    assert codes(site, tmp_path) == (2, 2)


def test_verify_finds_drift_to_the_file(site: Site) -> None:
    site.release("1.0")
    site.call("apply", site.stick)
    done = site.call("verify")
    assert (done.returncode, done.stdout.endswith(": ok\n")) == (0, True)
    (release,) = site.node.paths.releases(APP).iterdir()
    changed = release / "config" / "version"
    changed.chmod(0o644)
    changed.write_bytes(b"9.9")
    changed.chmod(0o444)
    found = site.call("verify", APP, "--json")
    (shop,) = json.loads(found.stdout)["apps"]
    assert (found.returncode, [one["path"] for one in shop["drift"]]) == (40, ["config/version"])
    assert site.call("verify", "--plain-exit").returncode == 1


def test_a_damaged_release_is_never_replaced_in_silence(site: Site) -> None:
    for version in ("1.0", "2.0"):
        site.release(version)
        assert site.call("apply", site.stick).returncode == 0
    assert site.call("boot").returncode == 0  # the honest twin says nothing
    assert "instead of" not in site.call("status").stdout
    release = site.node.paths.current(APP).resolve()
    changed = release / "config" / "version"
    changed.chmod(0o644)
    changed.write_bytes(b"2.0 and more")
    changed.chmod(0o444)
    boot = site.call("boot")
    assert boot.returncode == 40
    assert "embrasure node verify" in boot.stderr
    assert site.node.paths.current(APP).resolve() != release
    status = site.call("status").stdout
    assert f"runs instead of {release.name}: embrasure node verify" in status
    assert site.call("verify").returncode == 40


def test_status_tells_what_runs_and_whether_an_agent_does(site: Site) -> None:
    site.release("1.0")
    site.call("apply", site.stick)
    done = site.call("status")
    assert done.returncode == 51
    assert "agent not running" in done.stdout
    assert f"{APP}: idle, release 2 " in done.stdout
    assert site.call("status", "--plain-exit").returncode == 5


def test_a_verb_on_a_folder_without_a_node_says_what_to_do(tmp_path: Path) -> None:
    for verb in ("run", "status", "boot"):
        done = embrasure("node", verb, "--root", tmp_path / "nothing")
        assert (done.returncode, "embrasure: " in done.stderr) == (2, True), verb
    assert not (tmp_path / "nothing").exists()


def init(root: Path, anchor: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Return how `node init` ended."""
    known = ["--env", ENV, "--mode", "push", "--domain", "fleet.example", "--anchor", str(anchor)]
    return embrasure("node", "init", "--root", root, *known, *more)


def test_init_makes_a_node_once_and_prints_its_statement(site: Site, tmp_path: Path) -> None:
    root, anchor = tmp_path / "fresh", tmp_path / "anchor.json"
    done = init(root, anchor, "--json")
    made = json.loads(done.stdout)
    assert made["statement"] == Path(made["path"]).read_text()
    payload = base64.b64decode(json.loads(made["statement"])["payload"])
    assert made["fingerprint"] == f"sha256:{sha256_hex(payload)}"
    assert words(sha256_hex(payload)) in done.stderr  # as `pki enrol` shows them
    before = {path: path.read_bytes() for path in Paths(root).keys.rglob("*.*")}
    again = init(root, anchor)
    assert (again.returncode, "[E_EXISTS]" in again.stderr) == (2, True)
    assert before == {path: path.read_bytes() for path in Paths(root).keys.rglob("*.*")}
    assert all(path.stat().st_mode & 0o077 == 0 for path in before)


@pytest.mark.parametrize(
    "wrong", [["--id", "web1"], ["--mirror", "m1"], ["--listen", "nowhere"], ["--domain", "-x"]]
)
def test_init_refuses_a_bad_value_and_makes_nothing(
    site: Site, tmp_path: Path, wrong: list[str]
) -> None:
    root = tmp_path / "fresh"
    assert init(root, tmp_path / "anchor.json", *wrong).returncode == 2
    assert not root.exists()


@pytest.mark.misuse
def test_an_enrolment_answer_for_another_node_is_refused(
    site: Site, tmp_path: Path, ablation: Ablation
) -> None:
    before = site.node.paths.enrolled.read_bytes()
    other = site.fleet.make("n2", port=free_port())
    answer = tmp_path / "n2.enrolled.json"
    done = site.call("enrol", answer)
    assert (done.returncode, "[E_NOT_MINE]" in done.stderr) == (4, True)
    assert site.node.paths.enrolled.read_bytes() == before
    with ablation("the node in the answer") as attack:
        attack.succeeded(
            embrasure("node", "enrol", "--root", other.paths.prefix, answer).returncode == 0
        )


@pytest.mark.misuse
def test_an_answer_that_no_fleet_key_signed_installs_nothing(
    site: Site, ablation: Ablation
) -> None:
    answer = site.fleet.folder / "forged.json"
    honest, site.fleet.repository.holders = (
        site.fleet.repository.holders,
        [site.fleet.repository.person("mallory").signer],
    )
    answer.write_bytes(site.fleet.enrolled(site.node))
    site.fleet.repository.holders = honest
    with ablation("the key of the fleet role, known only with its metadata") as attack:
        attack.succeeded(site.call("enrol", answer).returncode == 0)
    site.release("1.0")
    done = site.call("apply", site.stick)
    assert (done.returncode, "[E_BAD_SIGNATURE]" in done.stderr) == (10, True)
    answer.write_bytes(site.fleet.enrolled(site.node))
    site.call("enrol", answer)
    assert site.call("apply", site.stick).returncode == 0


def test_a_hold_by_verb_outlives_the_agent_and_stops_only_installs(site: Site) -> None:
    site.release("1.0")
    done = site.call("hold", APP, "--for", "4h", "--reason", "end of the quarter")
    assert done.returncode == 0 and "held until" in done.stdout
    assert site.call("apply", site.stick).returncode == 32
    assert "end of the quarter" in site.call("status").stdout
    assert site.call("hold", APP, "--for", "8d", "--reason", "x").returncode == 2
    assert site.call("unhold", APP).stdout == f"{APP}: held no longer\n"
    assert site.call("maintenance", "on").returncode == 2
    assert site.call("maintenance", "on", "--for", "1h").returncode == 0
    assert site.call("apply", site.stick).returncode == 32
    assert site.call("maintenance", "off").stdout == "no maintenance\n"
    assert site.call("apply", site.stick).returncode == 0
