"""Training speed against plain training and online distillation.

What is compared with what: fkd.bench.epoch. Writes epoch.json and epoch.png.
"""

from common import run_room

if __name__ == "__main__":
    run_room("epoch", __doc__)
