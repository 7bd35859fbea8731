"""What operations do to labels. One file per family of operators; the table is in ``table``."""

from converters.trace.rules.table import DEFAULT_RULES

__all__ = ["DEFAULT_RULES"]
