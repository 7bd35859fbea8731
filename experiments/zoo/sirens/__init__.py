"""Zoos of implicit neural representations: SIRENs (Sitzmann et al. 2020, arXiv:2006.09661), one image each."""
