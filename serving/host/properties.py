"""What a config.properties says, of Java's format as much as people write."""


def read(text: str) -> dict[str, str]:
    """Return its settings; of one that stands twice, the last."""
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if not line.startswith(("#", "!")))
    return {key.strip(): value.strip() for key, separator, value in pairs if separator}
