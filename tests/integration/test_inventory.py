"""What ends when, seen before it does: in the inventory, by doctor, in the log, in the metrics."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client.parser import text_string_to_metric_families

from embrasure.cli import root
from embrasure.clock import now
from gateway import certificate_rows
from pki import ca, issue, rotation
from pki.ca import issue_leaf
from pki.folder import TrustFolder
from pki.passphrase import PassphraseSource
from pki.signers import SignerKey, open_signer
from tests.simulate.office import PASSPHRASE, Answer, Office, verb
from tests.source import TOP


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    made = Office.make(tmp_path_factory.mktemp("office") / "first", nodes=1)
    assert made.init().code == 0
    return made


@pytest.fixture
def mine(office: Office, tmp_path: Path) -> Office:
    return office.copy(tmp_path / "office")


def source() -> PassphraseSource:
    return PassphraseSource(lambda _: PASSPHRASE.encode(), tries=1)


def inventory(*folders: object) -> Answer:
    return verb("pki", "inventory", *folders)


def rows(answer: Answer, **wanted: str) -> list[dict[str, Any]]:
    return [
        row
        for row in answer.body["items"]
        if all(row[name] == value for name, value in wanted.items())
    ]


def ends_tomorrow(mine: Office) -> None:
    """The admin issuer of trust folder and gateway ends in 24 hours, and so does what it signs."""
    trust = TrustFolder.open(mine.trust)

    def key(name: str) -> SignerKey:
        uri = f"keyfile:{mine.trust}/ca/{name}.key"
        return SignerKey(open_signer(uri, source(), purpose="ca", root=trust.root_id))

    old = ca.make_issuer(
        "admin",
        key("admin").public_key(),
        root=trust.certificate("root"),
        root_key=key("root"),
        domain=trust.domain,
        at=now() - timedelta(days=364),
    )
    for file in (mine.trust / "ca" / "admin.crt", mine.gateway_folder / "keys" / "admin-ca.crt"):
        file.write_bytes(ca.pem(old))


def test_a_fresh_fleet_is_quiet_and_every_row_says_what_to_run(mine: Office) -> None:
    found = inventory(mine.trust, mine.gateway_folder)
    assert (found.code, found.body["quiet"]) == (0, True)
    kinds = {row["kind"] for row in found.body["items"]}
    assert {"ca-root", "issuer", "root", "targets", "fleet", "revocations", "key"} <= kinds
    (root_role,) = rows(inventory(mine.trust), kind="root")
    assert root_role["holder"] == "2 of alice, bob, cora"
    assert {row["holder"] for row in rows(found, kind="issuer")} >= {"admin-ca", "operator-ca"}
    assert all(row["command"].startswith("embrasure ") for row in found.body["items"])


def test_a_rotation_shows_in_the_inventory(mine: Office) -> None:
    before = inventory(mine.trust)
    mine.pki("trust", "renew", mine.trust, "--role", "targets", *mine.signs())
    mine.pki("pki", "issue", "mirror/m1", mine.trust, "--out", mine.folder / "m1")
    after = inventory(mine.trust)
    old, new = rows(before, kind="targets"), rows(after, kind="targets")
    assert int(new[0]["serial"]) == int(old[0]["serial"]) + 1
    assert rows(before, kind="mirror") == []
    (leaf,) = rows(after, kind="mirror")
    assert (leaf["holder"], leaf["state"]) == ("mirror/m1", "quiet")
    mine.pki("pki", "issue", "mirror/m1", mine.trust, "--out", mine.folder / "m1")
    assert len(rows(inventory(mine.trust), kind="mirror")) == 2  # both are still good


def test_an_issuers_rotation_shows_step_by_step(mine: Office) -> None:
    def issuers() -> list[str]:
        return sorted(row["what"] for row in rows(inventory(mine.trust), holder="mirror-ca"))

    step = ("pki", "issuer")
    assert issuers() == ["certificate issuer (active)"]
    mine.pki(*step, "create", "mirror", mine.trust, "--kdf", "moderate", *mine.signs())
    assert issuers() == ["certificate issuer (active)", "certificate issuer (prepared)"]
    later = now() + timedelta(days=15)  # nobody reports, so force waits for 14 days
    rotation.activate(TrustFolder.open(mine.trust), "mirror", [], force=True, clock=lambda: later)
    assert issuers() == ["certificate issuer (active)", "certificate issuer (retiring)"]


def test_who_may_sign_elsewhere_and_who_may_still_join_is_listed(mine: Office) -> None:
    made = verb("pki", "token", mine.trust, "--env", "prod", "--out", mine.folder / "n.token")
    assert made.code == 0, made.told
    found = inventory(mine.trust)
    assert (found.code, rows(found, kind="token")[0]["state"]) == (0, "quiet")
    (approval,) = rows(found, kind="approval")
    assert (approval["name"], approval["holder"]) == ("prod-shop", "2 of anna, ben, carl")
    names = {row["name"] for row in found.body["items"]}
    assert {"snapshot", "timestamp", "gates-prod"} <= names
    secret = (mine.folder / "n.token").read_text().strip()
    assert secret not in json.dumps(found.body)


def test_a_leaf_that_ends_tomorrow_is_in_inventory_doctor_log_and_metric(
    mine: Office, caplog: pytest.LogCaptureFixture
) -> None:
    ends_tomorrow(mine)
    caplog.set_level(logging.WARNING)
    with mine.gateway() as running:
        mine.as_person("anna", running.port)
        asked = mine.verb("pki", "inventory", person="anna")
        (leaf,) = rows(asked, kind="gateway-admin")
        assert (asked.code, leaf["state"]) == (1, "expiring")
        assert 23 * 3600 < leaf["left_s"] <= 24 * 3600
        (top,) = rows(asked, kind="root")
        assert (top["what"], top["serial"], top["holder"]) == (
            "role root", "1", "2 of alice, bob, cora",
        )  # fmt: skip
        who = mine.verb("whoami", person="anna")
        assert "gateway-admin" in {row["kind"] for row in who.body["expiring"]}
        held = running.held.paths.folder
    assert any(
        "certificate gateway-admin of gateway-admin/g1 expires" in line for line in caplog.messages
    )
    doctor = verb("doctor", held)
    assert doctor.code == 1
    ends = [row for row in doctor.body["findings"] if row["check"] == "expiry"]
    assert {"gateway-admin/g1", "admin-ca"} <= {row["thing"] for row in ends}
    left = dict(expiry_series((held / "metrics.prom").read_text()))
    assert 23 * 3600 < left["gateway-admin/g1"] <= 24 * 3600
    assert inventory(held).code == inventory(mine.trust).code == 1


def test_a_node_that_was_not_dialled_for_days_is_told_by_the_gateway(
    mine: Office, caplog: pytest.LogCaptureFixture
) -> None:
    trust = TrustFolder.open(mine.trust)
    begun = now() - timedelta(days=6)
    (known,) = rows(inventory(mine.trust), kind="key")
    name = known["name"].removeprefix("node/")
    issuer = trust.issuer("node", source())
    leaf = issue_leaf(f"node/{name}", key().public_key(), issuer, lambda: begun)
    with mine.gateway() as running:
        mine.as_person("anna", running.port)
        told = mine.verb("fleet", "address", "node", name, "127.0.0.1:9", "--env", "prod",
                         person="anna")  # fmt: skip
        assert told.code == 0, told.told
        held = certificate_rows.seen(("node", name, "prod"), leaf, at=begun)
        certificate_rows.save(running.held.database, held)
    caplog.set_level(logging.WARNING)
    with mine.gateway() as running:
        mine.as_person("anna", running.port)
        asked = mine.verb("pki", "inventory", person="anna")
        (row,) = rows(asked, kind="node")
        assert (asked.code, row["state"], row["holder"]) == (1, "expiring", f"node/{name}")
        assert row["command"] == f"embrasure fleet recover {name} --env ENV"
    assert any(f"embrasure fleet recover {name} --env prod" in line for line in caplog.messages)
    text = (mine.gateway_folder / "metrics.prom").read_text()
    assert dict(expiry_series(text))["*"] <= 24 * 3600


def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def expiry_series(text: str) -> Iterator[tuple[str, float]]:
    for family in text_string_to_metric_families(text):
        if family.name == "embrasure_expiry_seconds":
            for sample in family.samples:
                yield sample.labels["holder"], sample.value


def test_the_metrics_are_what_a_collector_reads_and_say_when_they_were_written(
    mine: Office,
) -> None:
    with mine.gateway() as running:
        running.held.certificates.client()
        mine.as_person("anna", running.port)
        assert mine.verb("whoami", person="anna").code == 0
    text = (mine.gateway_folder / "metrics.prom").read_text()
    found = {family.name: family for family in text_string_to_metric_families(text)}
    (written,) = found["embrasure_metrics_written_seconds"].samples
    assert abs(written.value - now().timestamp()) < 60
    for sample in found["embrasure_expiry_seconds"].samples:
        assert sample.value > 0, sample.labels
    whats = {sample.labels["what"] for sample in found["embrasure_expiry_seconds"].samples}
    # No version in a label: each would be a series of its own.
    assert {"certificate issuer", "certificate gateway-admin", "role timestamp"} <= whats


def test_a_mirror_and_a_node_folder_are_looked_at_too(mine: Office) -> None:
    trust = TrustFolder.open(mine.trust)
    made = mine.folder / "m1-tls"
    week_ago = now() - timedelta(days=6)
    issue.issue(trust, "mirror/m1", made, csr=None, source=source(), clock=lambda: week_ago)
    folder = mine.folder / "mirror"
    done = verb("mirror", "init", folder, "--name", "m1", "--domain", "office.test", "--env",
                "prod", "--trust-anchor", mine.trust / "anchor.json", "--tls", made,
                "--gateway-issuer", mine.trust / "ca" / "gateway.crt")  # fmt: skip
    assert done.code == 0, done.told
    found = inventory(folder)
    assert (found.code, rows(found, kind="mirror")[0]["state"]) == (1, "expiring")
    (folder / "tls.key").chmod(0o644)
    doctor = verb("doctor", folder)
    assert {row["check"] for row in doctor.body["findings"]} == {"expiry", "permissions"}
    node = mine.folder / "node"
    made_node = verb("node", "init", "--root", node, "--env", "prod", "--mode", "push", "--domain",
                     "office.test", "--anchor", mine.trust / "anchor.json")  # fmt: skip
    assert made_node.code == 0, made_node.told
    assert {row["kind"] for row in inventory(node).body["items"]} == {"boot", "key"}
    wrong = verb("doctor", node)
    assert [row["what"] for row in wrong.body["findings"]] == ["is not enrolled"]


def test_every_command_that_a_row_or_a_finding_names_exists(mine: Office) -> None:
    (mine.gateway_folder / "incoming").mkdir()
    shutil.rmtree(mine.gateway_folder / "repository")
    commands = [row["command"] for row in inventory(mine.trust).body["items"]]
    for folder in (mine.trust, mine.gateway_folder):
        commands += [row["fix"] for row in verb("doctor", folder).body["findings"]]
    for words in {tuple(command.split()) for command in commands}:
        if words[0] == "embrasure":
            shown = CliRunner().invoke(root, [*verb_of(words[1:4]), "--help"])
            assert shown.exit_code == 0 and "Usage:" in shown.output, words


def test_every_command_of_the_page_exists() -> None:
    page = (TOP / "docs" / "inventory.md").read_text()
    commands = [line for line in page.splitlines() if line.startswith("embrasure ")]
    assert len(commands) > 8
    for command in commands:
        assert verb_of(tuple(command.split()[1:5])), command


def verb_of(words: tuple[str, ...]) -> list[str]:
    """Return those of `words` that name a verb or a group whose help is asked for."""
    group: Any = root
    for number, word in enumerate(words):
        if word == "--help":
            return list(words[:number])
        group = group.get_command(None, word)
        assert group is not None, words
        if not hasattr(group, "table"):
            return list(words[: number + 1])
    raise AssertionError(words)


def test_a_gateway_that_cannot_write_its_metrics_works_on_and_says_so(
    mine: Office, caplog: pytest.LogCaptureFixture
) -> None:
    (mine.gateway_folder / "metrics.prom").mkdir()
    caplog.set_level(logging.WARNING)
    with mine.gateway() as running:
        mine.as_person("anna", running.port)
        assert mine.verb("whoami", person="anna").code == 0
    assert any("no new metrics" in line for line in caplog.messages)
