"""Architectures of the paper that no library has; built by name through `fkd.models`."""
