"""The forms of a network, and the names of their files, in a run as in an archive. Imports nothing."""

ARTIFACTS = {"torchscript": "model.pt", "pt2": "model.pt2"}
INT8 = "model.int8.pt"  # beside model.pt
