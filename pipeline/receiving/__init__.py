"""The parts of `pipeline.receive`: the bare repository, one push, and the servers that it changes."""
