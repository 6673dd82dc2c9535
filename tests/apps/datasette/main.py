"""Start datasette from this release's own folder, and from nothing else on the host."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "site"))

from datasette.cli import cli

cli(["serve", "--memory", "--host", "127.0.0.1", "--port", os.environ["EMBRASURE_PORT_WEB"]])
