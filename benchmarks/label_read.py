"""Read labels: our store against one torch.load per image.

What is compared with what: fkd.bench.reading. Writes read.json and read.png.
"""

from common import run_room

if __name__ == "__main__":
    run_room("read", __doc__)
