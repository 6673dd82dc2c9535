"""A small web application: a catalogue page, and a health page that says which release answers."""

from __future__ import annotations

import html
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

RELEASE = Path(__file__).resolve().parent.parent
SETTINGS = json.loads((RELEASE / "config" / "shop.json").read_text())


class Shop(BaseHTTPRequestHandler):
    """Answers / and /health."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer one request."""
        if self.path == "/health":
            status = 200 if SETTINGS["healthy"] else 500
            body = json.dumps({"version": SETTINGS["version"], "ok": SETTINGS["healthy"]})
            kind = "application/json"
        else:
            items = "".join(f"<li>{html.escape(item)}</li>" for item in SETTINGS["items"])
            status, kind = 200, "text/html; charset=utf-8"
            body = f"<title>Shop {SETTINGS['version']}</title><ul>{items}</ul>"
        raw = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw)))
        self.send_header("Embrasure-Release", os.environ.get("EMBRASURE_RELEASE", ""))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: the demo's own output is the story."""


def note_start() -> None:
    """Write down that this release started once more; the folder outlives releases."""
    shared = os.environ.get("EMBRASURE_SHARED")
    if shared:
        with Path(shared, "starts.log").open("a") as log:
            log.write(f"{SETTINGS['version']}\n")


if __name__ == "__main__":
    note_start()
    port = int(os.environ["EMBRASURE_PORT_WEB"])
    ThreadingHTTPServer(("127.0.0.1", port), Shop).serve_forever()
