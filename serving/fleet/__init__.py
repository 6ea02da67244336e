"""Several servers that serve the same versions, which are named at one address."""
