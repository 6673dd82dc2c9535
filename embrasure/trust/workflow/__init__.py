"""The TUF client workflow: python-tuf, our floors around it, and what it leaves on disk."""
