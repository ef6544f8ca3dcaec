"""Bytes per crop: plain and compact form against the official files.

What is compared with what: fkd.bench.size. Writes bytes.json and bytes.png.
"""

from common import run_room

if __name__ == "__main__":
    run_room("bytes", __doc__)
