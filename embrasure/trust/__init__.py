"""The trust decision: bytes in, verdict out."""
