"""Watching a served model from outside its workers: metrics, drift, logs, a page to look at it."""
