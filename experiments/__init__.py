"""Zoos, tasks, training, evaluation and the command line."""
