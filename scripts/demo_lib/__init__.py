"""Modules of scripts/demo and scripts/verify-demo. They use only Python's standard library."""
