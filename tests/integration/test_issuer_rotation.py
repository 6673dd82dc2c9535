"""The gateway issuer of a living fleet is rotated by verbs; the node is dialled all the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embrasure.net.certificates import load_certificates
from tests.simulate.installer import free_port
from tests.simulate.office import ENV, Office, Running, verb
from tests.simulate.officenode import node_of, ports
from tests.simulate.running import until

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]


def report(mine: Office) -> tuple[Path, list[dict[str, str]]]:
    """What the gateway says of who holds what, and the file that a person carries."""
    found = mine.verb("fleet", "trust", "--env", ENV, person="anna")
    assert found.code == 0, found.told
    file = mine.folder / f"report-{len(list(mine.folder.glob('report-*')))}.json"
    file.write_text(json.dumps(found.body))
    return file, found.body["holders"]


def issuer_of(gateway: Running) -> int:
    """The serial number of the issuer that the gateway's own leaf comes with."""
    _, chain = gateway.held.certificates.client()
    return load_certificates(chain, what="own")[1].serial_number


def connect(mine: Office, gateway: Running, node: str, port: int) -> None:
    for person in ("anna",):
        mine.as_person(person, gateway.port)
    done = mine.verb("fleet", "address", "node", node, f"127.0.0.1:{port}", "--env", ENV,
                     person="anna")  # fmt: skip
    assert done.code == 0, done.told


def test_a_gateway_issuer_is_rotated_and_the_node_answers_all_the_way(tmp_path: Path) -> None:
    mine, signs = Office.make(tmp_path / "office", nodes=0), Office.signs
    with node_of(mine, free_port()) as (node, paths):
        with mine.gateway() as gateway:
            connect(mine, gateway, node, ports(paths)["push"])
            # A node takes its enrolment answer with the first files that it is shown.
            stick = mine.gateway_folder / "repository"
            assert verb("node", "apply", stick, "--root", paths.prefix).code == 0
            first = issuer_of(gateway)
            before, (row,) = report(mine)
            assert (row["kind"], row["name"], len(row["tls"])) == ("push", node, 64)
            # 1. The next issuer is in force; what was told before that is too old to go on by.
            mine.pki("pki", "issuer", "create", "gateway", mine.trust, "--kdf", "moderate",
                     *signs(mine))  # fmt: skip
            assert mine.verb("trust", "submit", mine.trust, person="anna").code == 0
            early = verb("pki", "issuer", "activate", "gateway", mine.trust,
                         "--report", before, "--passphrase-file", mine.passphrase)  # fmt: skip
            assert (early.code, early.error["reason"]) == (3, "E_NOT_READY")
            assert node in early.told
            # 2. The gateway has brought the node the files by itself, and the node says so.
            until(lambda: report(mine)[1][0]["tls"] != row["tls"], what="the new bundle")
            file, (fresh,) = report(mine)
            done = mine.pki("pki", "issuer", "activate", "gateway", mine.trust, "--report", file)
            assert done.body["state"] == "active"
        # 3. The gateway takes the new issuer, and the node lets it in.
        assert mine.init().code == 0
        with mine.gateway() as gateway:
            connect(mine, gateway, node, ports(paths)["push"])
            assert issuer_of(gateway) != first
            _, (row,) = report(mine)
            assert row["tls"] == fresh["tls"]
            # 4. The old one goes, and the node still answers.
            mine.pki("pki", "issuer", "retire", "gateway", mine.trust, "--force", *signs(mine))
            assert mine.verb("trust", "submit", mine.trust, person="anna").code == 0
            until(lambda: report(mine)[1][0]["tls"] not in ("", fresh["tls"]), what="the last")
            shown = verb("pki", "issuer", "status", mine.trust, "--report", file)
            states = {one["authority"]: one["state"] for one in shown.body["authorities"]}
            assert (states["gateway"], states["gateway-2"]) == ("retired", "active")
