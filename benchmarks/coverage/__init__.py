"""Which architectures the converters take, and how much of their symmetry is found: ``python -m benchmarks.coverage``.

The rows are kept in ``docs/coverage.json``, so that runs in different environments add up; ``docs/coverage.md`` is
written from them.
"""
