"""Metrics, uncertainty, tables and figures."""
