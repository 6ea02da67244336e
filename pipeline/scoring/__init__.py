"""Parts of `make score`."""
