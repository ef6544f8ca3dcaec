"""Labelling against the bare teacher and the official generator.

What is compared with what: fkd.bench.labelling. Writes labelling.json and labelling.png.
"""

from common import run_room

if __name__ == "__main__":
    run_room("labelling", __doc__)
