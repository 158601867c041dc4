"""Parts of scripts/demo and scripts/verify-demo. Python's standard library only."""
