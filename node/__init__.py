"""The node: verify, install, prove, roll back."""
