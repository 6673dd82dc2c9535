"""Measure the branch coverage of the decision code, and fail below 100 percent.

Every module of embrasure/trust and embrasure/net is listed, but for those of PLUMBING.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parent.parent

DECISIONS = (
    "embrasure/net/anonymous.py",
    "embrasure/net/authorize.py",
    "embrasure/net/certificates.py",
    "embrasure/net/credentials.py",
    "embrasure/net/cutoff.py",
    "embrasure/net/deliver.py",
    "embrasure/net/denials.py",
    "embrasure/net/dial.py",
    "embrasure/net/door.py",
    "embrasure/net/door_dial.py",
    "embrasure/net/heldkey.py",
    "embrasure/net/https.py",
    "embrasure/net/identity.py",
    "embrasure/net/pace.py",
    "embrasure/net/pairfile.py",
    "embrasure/net/post.py",
    "embrasure/net/profile.py",
    "embrasure/net/renewal.py",
    "embrasure/net/seen.py",
    "embrasure/net/server.py",
    "embrasure/net/source.py",
    "embrasure/net/standing.py",
    "embrasure/net/status.py",
    "embrasure/net/trustbundle.py",
    "embrasure/trust/anchor.py",
    "embrasure/trust/cache.py",
    "embrasure/trust/canonical.py",
    "embrasure/trust/carry.py",
    "embrasure/trust/client.py",
    "embrasure/trust/decide.py",
    "embrasure/trust/denied.py",
    "embrasure/trust/directory.py",
    "embrasure/trust/documents.py",
    "embrasure/trust/door.py",
    "embrasure/trust/dsse.py",
    "embrasure/trust/evidence.py",
    "embrasure/trust/fetcher.py",
    "embrasure/trust/floors.py",
    "embrasure/trust/folder.py",
    "embrasure/trust/foretold.py",
    "embrasure/trust/gate.py",
    "embrasure/trust/generation.py",
    "embrasure/trust/held.py",
    "embrasure/trust/joining.py",
    "embrasure/trust/keymaterial.py",
    "embrasure/trust/layout.py",
    "embrasure/trust/listing.py",
    "embrasure/trust/load.py",
    "embrasure/trust/login.py",
    "embrasure/trust/offline.py",
    "embrasure/trust/order.py",
    "embrasure/trust/pace.py",
    "embrasure/trust/plain.py",
    "embrasure/trust/plan.py",
    "embrasure/trust/policy.py",
    "embrasure/trust/proven.py",
    "embrasure/trust/quota.py",
    "embrasure/trust/receipt.py",
    "embrasure/trust/trust_document.py",
    "embrasure/trust/view.py",
    "embrasure/trust/waves.py",
    "embrasure/trust/within.py",
    "embrasure/trust/workflow/session.py",
    "embrasure/trust/workflow/updater.py",
    "embrasure/trust/workflow/verified.py",
    "embrasure/trust/workflow/versions.py",
    "embrasure/trust/workflow/vouching.py",
)
TESTS = (
    "tests/integration/test_net_calls.py",
    "tests/integration/test_net_deliveries.py",
    "tests/integration/test_net_door.py",
    "tests/integration/test_net_grpc.py",
    "tests/integration/test_net_handshakes.py",
    "tests/integration/test_net_https.py",
    "tests/integration/test_root_word.py",
    "tests/properties/test_decide.py",
    "tests/properties/test_floor_properties.py",
    "tests/properties/test_metadata_properties.py",
    "tests/properties/test_net_forms.py",
    "tests/properties/test_plain_documents.py",
    "tests/properties/test_receipt.py",
    "tests/properties/test_waves.py",
    "tests/unit/node/test_first_trust.py",
    "tests/unit/node/test_foretold.py",
    "tests/unit/node/test_joining.py",
    "tests/unit/test_anchor.py",
    "tests/unit/test_canonical.py",
    "tests/unit/test_cutoff.py",
    "tests/unit/test_decide.py",
    "tests/unit/test_denied.py",
    "tests/unit/test_fetcher.py",
    "tests/unit/test_floors.py",
    "tests/unit/test_folder_source.py",
    "tests/unit/test_generation.py",
    "tests/unit/test_mixed_keys.py",
    "tests/unit/test_net_anonymous.py",
    "tests/unit/test_net_decisions.py",
    "tests/unit/test_net_denials.py",
    "tests/unit/test_net_edges.py",
    "tests/unit/test_net_identities.py",
    "tests/unit/test_net_keys.py",
    "tests/unit/test_net_shown.py",
    "tests/unit/test_pack.py",
    "tests/unit/test_quota.py",
    "tests/unit/test_renewal.py",
    "tests/unit/test_statements.py",
    "tests/unit/test_trust_client.py",
    "tests/unit/test_trust_delay.py",
    "tests/unit/test_trust_door.py",
    "tests/unit/test_trust_door_forms.py",
    "tests/unit/test_trust_edges.py",
    "tests/unit/test_trust_held.py",
    "tests/unit/test_trust_quick_look.py",
    "tests/unit/test_trust_rollback.py",
    "tests/unit/test_trust_signatures.py",
    "tests/unit/test_trust_vouching.py",
)


# What decides nothing, and why it does not.
PLUMBING = {
    "embrasure/net/threads.py": "waits for threads; what runs in them is its callers'",
    "embrasure/trust/source.py": "one protocol, without a body",
}


def unlisted() -> list[str]:
    """Return the modules of both packages that are in neither list, and what is listed and gone."""
    known = {*DECISIONS, *PLUMBING}
    found = {
        str(path.relative_to(TOP))
        for package in ("embrasure/trust", "embrasure/net")
        for path in (TOP / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    return sorted(known ^ found)


# Half of a test's time is waiting.
PROCESSES = 2


def measure(folder: Path) -> dict[str, Any]:
    """Return what coverage found in DECISIONS while TESTS ran; raises CalledProcessError."""
    coverage = [sys.executable, "-m", "coverage"]
    source = "--source=embrasure/trust,embrasure/net"
    pytest = ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    files = [str(folder / f"data.{number}") for number in range(PROCESSES)]
    shares = [
        [*coverage, "run", f"--data-file={file}", "--branch", source, *pytest, *TESTS[n::PROCESSES]]
        for n, file in enumerate(files)
    ]
    running = [subprocess.Popen(share, cwd=TOP) for share in shares]  # noqa: S603 - our own words
    for share, ended in zip(shares, [process.wait() for process in running], strict=True):
        if ended:
            raise subprocess.CalledProcessError(ended, share)
    data, found = f"--data-file={folder / 'data'}", folder / "found.json"
    only = f"--include={','.join(DECISIONS)}"
    for last in (["combine", data, "-q", *files], ["json", data, only, "-q", "-o", str(found)]):
        subprocess.run([*coverage, *last], cwd=TOP, check=True)  # noqa: S603 - our own words
    report: dict[str, Any] = json.loads(found.read_text())
    return report


def gaps(report: dict[str, Any]) -> list[str]:
    """Return each file of DECISIONS with a line or branch that no test takes."""
    files, lacking = report["files"], []
    for name in DECISIONS:
        if name not in files:
            lacking.append(f"{name}: never imported")
            continue
        lines, branches = files[name]["missing_lines"], files[name]["missing_branches"]
        if lines or branches:
            ways = ", ".join(f"{start}->{end}" for start, end in branches)
            lacking.append(f"{name}: lines {lines}; branches {ways or 'none'}")
    return lacking


def main() -> int:
    """Print the figure; return 1 when a line or a branch is not covered."""
    if odd := unlisted():
        print(f"neither a decision nor plumbing, or gone: {', '.join(odd)}")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        report = measure(Path(folder))
    lacking = gaps(report)
    print("\n".join(lacking))
    percent = report["totals"]["percent_covered"]
    print(f"figure: decision_branch_coverage = {int(percent * 100) / 100:g} percent")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
