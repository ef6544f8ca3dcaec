"""Soft labels: how they are compressed, compared, pooled, and what a student loses by them."""
