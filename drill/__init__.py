"""The tests of reliability at the size of the goals of `docs/reliability.md`."""
