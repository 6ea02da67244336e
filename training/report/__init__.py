"""The report of a run: one HTML page with its data, curves, mistakes, calibration, scores, sizes and provenance."""
