"""Stores and runs in buckets, on web servers and on the Hugging Face hub: push, pull."""
