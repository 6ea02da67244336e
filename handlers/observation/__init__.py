"""Measurements of a worker: the images and answers that pass through it."""
