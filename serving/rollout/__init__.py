"""Trials of a new version before it goes live: it answers logged, mirrored or some live requests."""
