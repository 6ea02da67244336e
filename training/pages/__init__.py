"""HTML pages for people: one file each, with their pictures inside, which opens from disk and loads nothing."""
