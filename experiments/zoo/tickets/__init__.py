"""Zoos of initialisations with the sparse networks that magnitude pruning finds in them."""
