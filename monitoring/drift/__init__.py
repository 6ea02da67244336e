"""Drift of served images against the validation images of their model."""
