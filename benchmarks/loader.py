"""Crops per second of loaders: ours, torchvision, timm, official.

What is compared with what: fkd.bench.loading. Writes loader.json and loader.png.
"""

from common import run_room

if __name__ == "__main__":
    run_room("loader", __doc__)
