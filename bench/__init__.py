"""Measurements that fail above a limit; not part of the wheel."""
