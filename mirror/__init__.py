"""Read-only mirror and write-only letterbox: no keys that sign, no way out."""
