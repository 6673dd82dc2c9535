"""Verify, describe and move releases: everything that a machine which may be breached needs."""

__version__ = "0.1.0"
