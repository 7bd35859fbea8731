"""Tracing: a network runs once and its structure is derived from what it did."""

from converters.trace.context import Context, Operand
from converters.trace.labels import Bundle, Labels
from converters.trace.rules import DEFAULT_RULES
from converters.trace.tracer import trace

__all__ = ["DEFAULT_RULES", "Bundle", "Context", "Labels", "Operand", "trace"]
