"""Zoos that others have published, converted once to this project's own format."""
