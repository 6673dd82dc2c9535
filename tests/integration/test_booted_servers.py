"""Gateway, mirror and letterbox under a real systemd, each by its unit of deploy/."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_node_pull import OK, Site
from tests.simulate.authority import Authority
from tests.simulate.booted import Machine, machine, missing_need
from tests.simulate.bootednode import NAME, Made, booted_node, patiently, prepare, put
from tests.simulate.box import bundle_of
from tests.simulate.office import Office
from tests.simulate.repository import SimRepository
from tests.simulate.running import until
from tests.simulate.uploader import make_service

# CI is root on a Debian machine with systemd and dbus.
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(120),
    pytest.mark.skipif(missing_need() != "", reason=f"needs {missing_need()} to boot systemd"),
]
SERVERS = ("gateway", "mirror", "letterbox")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine(on=False) as found:
        data = found.folder / "upper" / "var" / "lib"
        data.mkdir(parents=True)
        office = Office.make(tmp_path_factory.mktemp("office") / "first", nodes=1)
        assert office.init().code == 0
        shutil.copytree(office.gateway_folder, data / "embrasure-gateway")
        repository, authority = SimRepository("dev"), Authority()
        repository.set_bundle(bundle_of(authority, repository))
        repository.publish()
        for kind, name in (("mirror", "m1"), ("letterbox", "l1")):
            make_service(
                data / f"embrasure-{kind}", authority, repository.anchor, kind=kind, name=name
            )
        found.on()
        prepare(found)
        phrase = "/etc/credstore/embrasure-gateway.passphrase"
        found.must("install", "-D", "-m", "0600", "/dev/null", phrase)
        found.must("sh", "-c", f"printf %s '{office.passphrase.read_text().strip()}' > {phrase}")
        for kind in SERVERS:
            put(found, f"embrasure-{kind}.service", f"/etc/systemd/system/embrasure-{kind}.service")
            user = f"embrasure-{kind}"
            found.must("chown", "-R", f"{user}:{user}", f"/var/lib/{user}")
        found.must("systemctl", "daemon-reload")
        yield found


def ports(here: Machine, kind: str) -> dict[str, int]:
    """Return where it listens."""
    said: dict[str, int] = json.loads(here.must("cat", f"/var/lib/embrasure-{kind}/ports.json"))
    return said


def speaks_tls(port: int) -> bool:
    """Return whether a server is there that shows a certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        try:
            with context.wrap_socket(plain) as secure:
                return bool(secure.getpeercert(binary_form=True))
        except ssl.SSLError:
            return False


def test_a_pull_node_installs_and_tells_by_its_units(tmp_path: Path) -> None:
    sites: list[Site] = []

    def make(folder: Path) -> Made:
        sites.append(Site(folder, NAME))
        sites[0].mirror.upload()
        sites[0].box.upload()
        return sites[0].fleet, sites[0].node, sites[0].web, 0

    try:
        with booted_node(make) as booted:
            (site,) = sites
            site.release("1.0", change=patiently)
            booted.serves("1.0")
            until(lambda: site.ends() == OK, what="two receipts")
            booted.machine.must("systemctl", "stop", "embrasure-fetch", "embrasure-apply")
            for unit in ("embrasure-fetch", "embrasure-apply"):
                assert booted.machine.show(unit, "Result")["Result"] == "success"
    finally:
        for one in sites:
            one.mirror.stop()
            one.box.stop()


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_runs_is_killed_and_stops_by_its_unit(here: Machine, kind: str) -> None:
    unit = f"embrasure-{kind}"
    started = here.run("systemctl", "start", unit)
    assert started.returncode == 0, here.journal(unit)
    shown = here.show(unit, "ActiveState", "MainPID")
    assert shown["ActiveState"] == "active"
    status = Path(f"/proc/{here.pid}/root/proc/{shown['MainPID']}/status").read_text()
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["Uid"].split()[1] != "0" and int(facts["CapEff"], 16) == 0
    assert (facts["Seccomp"].strip(), facts["NoNewPrivs"].strip()) == ("2", "1")
    assert all(speaks_tls(port) for port in ports(here, kind).values())
    here.must("systemctl", "kill", "--signal=KILL", unit)

    def is_new() -> bool:
        now = here.show(unit, "ActiveState", "MainPID")
        return now["ActiveState"] == "active" and now["MainPID"] != shown["MainPID"]

    until(is_new, seconds=40, what="a new start")
    assert all(speaks_tls(port) for port in ports(here, kind).values())
    here.must("systemctl", "stop", unit)
    ended = here.show(unit, "Result", "ExecMainStatus")
    assert (ended["Result"], ended["ExecMainStatus"]) == ("success", "0"), here.journal(unit)
