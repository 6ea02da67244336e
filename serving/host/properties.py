"""Read a config.properties: the part of Java's format that people write."""


def read(text: str) -> dict[str, str]:
    """Return its settings; the last line of a key wins."""
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if not line.startswith(("#", "!")))
    return {key.strip(): value.strip() for key, separator, value in pairs if separator}
