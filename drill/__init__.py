"""The tests of reliability at full size: the same tests, run as often as `docs/reliability.md` wants."""
