"""The servers that are compared with ours, each started as a process on a given port by `benchmarks.harness.servers`.

They run in a separate environment (`benchmarks.peers.environment`), from the root of the repository.
"""
