"""The servers that ours is measured against, each started as a process on a given port by `benchmarks.servers`.

They run in an environment of their own (`benchmarks.peers.environment`), from the root of the repository.
"""
