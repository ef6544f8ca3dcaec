"""import fkd, and opening a store of 1.28 million images.

What is compared with what: fkd.bench.startup. Writes startup.json and startup.png.
"""

from common import run_room

if __name__ == "__main__":
    run_room("startup", __doc__)
