"""Time and peak memory of the loss: sparse, densified, given.

What is compared with what: fkd.bench.loss. Writes loss.json and loss.png.
"""

from common import run_room

if __name__ == "__main__":
    run_room("loss", __doc__)
