"""A plain HTTP server over files in memory, for clients that are run as commands."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Served:
    """What the server answers with. `asked`: the raw paths; `forced`: path -> (status, headers)."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files
        self.asked: list[str] = []
        self.forced: dict[str, tuple[int, dict[str, str]]] = {}
        self.url = ""


@contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[Served]:
    """Serve `files` (path without leading slash -> bytes) on loopback until the block ends."""
    served = Served(files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            served.asked.append(path)
            status, headers = served.forced.get(path, (200, {}))
            data = served.files.get(unquote(path))
            if data is None:
                status, data = 404, b""
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            """Nothing is logged."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
