"""Modules of scripts/first-cluster-test and scripts/day-two-test, which run pages of docs/operate."""
