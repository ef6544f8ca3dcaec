"""`fkd analyze NAME`: one function per analysis; the analyses themselves are in `fkd.analysis`."""
