"""Training step with data from disk against the bare student step.

What is compared with what: fkd.bench.step. Writes step.json and step.png.
"""

from common import run_room

if __name__ == "__main__":
    run_room("step", __doc__)
