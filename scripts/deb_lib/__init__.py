"""Modules of scripts/deb-test. They use only Python's standard library."""
