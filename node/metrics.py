"""The node's figures for Prometheus, as a file for a textfile collector: no listener, no library.

Apply writes it every few seconds, whole or not at all. A node that stopped shows by the age of
`embrasure_node_written_seconds`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from logging import getLogger
from pathlib import Path

from embrasure import __version__, limits
from embrasure.clock import Clock
from embrasure.errors import EmbrasureError, Failed
from embrasure.fs import Folder, read_file
from embrasure.net.certificates import load_certificates
from embrasure.trust.floors import Floors, FloorStore
from node.messages import AppState, StateNote
from node.paths import Paths
from node.receipts import Outbox
from node.records import NodeRecords

LOG = getLogger(__name__)
FILE = "embrasure.prom"
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_HELP = {
    "node_info": "Which node this is; always 1.",
    "node_written_seconds": "When this was written, Unix time.",
    "node_timestamp_version": "Version of the newest timestamp that was verified.",
    "node_floor_age_seconds": "Age of the newest signed time that was seen.",
    "node_order_number": "Number of the last order that was used up.",
    "node_receipt_number": "Number of the last receipt.",
    "node_receipts_waiting": "Receipts that nobody has taken yet.",
    "node_maintenance": "1 while no order is taken.",
    "node_serve_only": "1 while something is damaged, so that a start only serves.",
    "node_network_trouble": "1 while the network side cannot work, by its own word.",
    "node_certificate_expiry_seconds": "Seconds to the end of the TLS certificate.",
    "app_state": "Where the last install stands; always 1.",
    "app_seq": "Sequence number of the committed release, 0 without one.",
    "app_tries": "Tries that the newest plan has burnt here.",
    "app_held": "1 while the owner holds the app.",
}


class Metrics:
    """Writes the figures of one node. Its caller says when."""

    def __init__(self, paths: Paths, records: NodeRecords, *, clock: Clock) -> None:
        self._paths, self._records, self._clock = paths, records, clock
        self._failed = ""

    def write(self) -> None:
        """The file has the figures of now; what keeps it from being written is logged once."""
        try:
            text = self.text().encode("utf-8")
            if len(text) > limits.NODE_METRICS_BYTES:
                raise Failed(
                    "metrics", expected=f"{limits.NODE_METRICS_BYTES} bytes", got=len(text)
                )
            with (
                Folder.open(self._paths.run) as run,
                run.ensure(self._paths.metrics.name, mode=0o755) as folder,
            ):
                folder.remove_unfinished()  # nobody else writes here
                folder.replace(FILE, text, mode=0o644)
        except Exception as problem:  # whatever it is: a figure never ends a node
            if str(problem) != self._failed:
                LOG.warning("no figures: %s", problem)
            self._failed = str(problem)
        else:
            self._failed = ""

    def text(self) -> str:
        """Return the text exposition; each figure stands once with its kind and its help."""
        lines, seen = [], set[str]()
        for name, labels, value in sorted(self._samples(), key=lambda one: one[0]):
            if name not in seen:
                seen.add(name)
                lines += [
                    f"# HELP embrasure_{name} {_HELP[name]}",
                    f"# TYPE embrasure_{name} gauge",
                ]
            lines.append(f"embrasure_{name}{labels} {value}")
        return "\n".join([*lines, ""])

    def _samples(self) -> Iterator[tuple[str, str, int]]:
        state, now = self._records.state(), self._clock()
        at = int(now.timestamp())
        floors = _floors(self._paths)
        about = {"node": state.node, "env": state.env, "mode": state.mode, "version": __version__}
        yield "node_info", labelled(**about), 1
        yield "node_written_seconds", "", at
        yield "node_timestamp_version", "", state.timestamp
        if floors is not None and floors.time:
            yield "node_floor_age_seconds", "", at - floors.time
        yield "node_order_number", "", state.oseq
        yield "node_receipt_number", "", state.rseq
        yield "node_receipts_waiting", "", Outbox(self._paths).waiting()
        yield "node_maintenance", "", int(bool(state.maintenance))
        yield "node_serve_only", "", int(bool(state.trouble))
        yield "node_network_trouble", "", int(bool(state.network))
        ends = self._records.certificate_end or certificate_end(self._paths)
        if ends:
            yield "node_certificate_expiry_seconds", "", ends - at
        yield from _of_apps(state, floors)


def _of_apps(state: StateNote, floors: Floors | None) -> Iterator[tuple[str, str, int]]:
    for app in state.apps:
        labels = labelled(app=app.app)
        yield "app_state", labelled(app=app.app, state=app.state), 1
        yield "app_seq", labels, app.seq
        yield "app_tries", labels, _tries(app, floors)
        yield "app_held", labels, int(bool(app.hold))


def _tries(app: AppState, floors: Floors | None) -> int:
    if floors is None:
        return 0
    floor = floors.app(app.app)
    return floor.tries.get(floor.seen_plan, 0)


def _floors(paths: Paths) -> Floors | None:
    try:
        return FloorStore(paths.floors).load(repair=False)
    except EmbrasureError:
        return None  # lost: `node status` and every refused install say so


def certificate_end(paths: Paths) -> int:
    """Return when the TLS certificate that ends last expires (Unix seconds), 0 without one.

    In production a renewed one is fetch's alone: it says itself when that ends.
    """
    found = []
    for path in (paths.renewed, paths.tls_chain) if _is_ours(paths.tls) else (paths.tls_chain,):
        try:
            raw = read_file(path, limit=limits.TLS_BUNDLE_BYTES)
            chain = raw[max(0, raw.find(_CERTIFICATE)) :]  # the key before it is not looked at
            found.append(load_certificates(chain, what=path.name)[0].not_valid_after_utc)
        except EmbrasureError:
            continue
    return max((int(end.timestamp()) for end in found), default=0)


def _is_ours(folder: Path) -> bool:
    """Whether nobody else, as fetch in production, writes there: what he wrote is not parsed here,
    even if he lets it be read.
    """
    try:
        return folder.lstat().st_uid == os.geteuid()
    except OSError:
        return False


def labelled(**labels: str) -> str:
    """Return the labels as Prometheus reads them, whatever stands in a value."""
    pairs = (f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{','.join(pairs)}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
