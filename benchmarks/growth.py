"""How cost grows with stored crops, images, crops per batch and worker processes.

What is compared with what: fkd.bench.growth. Writes growth.json and one picture a question. The
store of a million images takes 700 MB of the temporary folder for a while.
"""

import json
import tempfile
from pathlib import Path

from common import options

TITLES = {
    "crops": ("crops stored per image", "us / image with 4 crops read"),
    "images": ("images in the store, 20 crops each", "cost"),
    "m": ("crops of an image in a batch", "crops / s, one thread"),
    "workers": ("worker processes", "crops / s"),
}


def main() -> None:
    chosen = options(__doc__)
    from fkd.bench import describe_machine, growth, summary
    from fkd.bench.plot import plot_growth
    from fkd.bench.scale import FULL, QUICK
    from fkd.bench.workbench import Workbench
    from fkd.data import ImagesConfig

    machine = describe_machine()
    images = ImagesConfig(root=chosen.images) if chosen.images else None
    scale = {"quick": QUICK, "full": FULL}[chosen.scale]
    found = {}
    with tempfile.TemporaryDirectory(prefix="fkd-bench-") as folder:
        bench = Workbench(Path(folder), scale, images, print)
        for name, (across, up) in TITLES.items():
            print(f"growth with {across}")
            found[name] = getattr(growth, f"grow_{name}")(bench)
            print(json.dumps(found[name]))
            file = chosen.out / f"growth-{name}.png"
            plot_growth(found[name], file, summary(machine), across, up)
    text = json.dumps({"machine": machine, "scale": chosen.scale, "growth": found}, indent=1)
    (chosen.out / "growth.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
