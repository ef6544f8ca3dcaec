"""Labeling and training in miniature, on real images that ship inside packages."""
