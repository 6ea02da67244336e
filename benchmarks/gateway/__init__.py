"""Benchmarks of the gateway, in front of real servers on the loopback."""
