"""What can stop training that is no fault of a single setting."""


class TrainingError(Exception):
    """Training or export cannot go on; the message says what to change."""
