"""Small application folders to build releases from: `app.toml`, `code/`, `config/`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

APP_TOML = """\
app = "shop"
version = "1.0"

[run]
argv = ["python3", "code/main.py"]
ports = ["web"]

[run.env]
GREETING = "hello"

[[probes]]
kind = "http"
port = "web"
path = "/health"
"""
FILES = {
    "code/main.py": b"print('hello')\n",
    "code/lib/shop.py": b"PRICE = 1\n",
    "code/bin/migrate": b"#!/bin/sh\nexit 0\n",
    "config/shop.toml": b"colour = 'red'\n",
}


def make_app(folder: Path, *, files: Mapping[str, bytes] = FILES, app_toml: str = APP_TOML) -> Path:
    """Return the folder, which holds the app; what lies in a `bin` folder is executable."""
    folder.mkdir(parents=True)
    (folder / "app.toml").write_text(app_toml, encoding="utf-8")
    for path, data in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        if place.parent.name == "bin":
            place.chmod(0o755)
    return folder
