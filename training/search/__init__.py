"""Parts of `make tune`; Optuna is imported where a search runs."""
