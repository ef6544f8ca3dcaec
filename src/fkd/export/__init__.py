"""A finished network as one file that runs without fkd, compared and timed."""
