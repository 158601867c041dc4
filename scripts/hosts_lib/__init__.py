"""Modules of scripts/test-hosts and scripts/test-deploy."""
