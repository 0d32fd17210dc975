"""Image files, and coding them: reading, writing, quality and effort, many at a time."""
