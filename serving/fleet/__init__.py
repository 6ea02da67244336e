"""Several servers that serve the same versions: what they should serve stands at one address."""
