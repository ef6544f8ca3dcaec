"""The bytes of a store do not depend on where and when it was made."""

import os
import subprocess
import sys
from itertools import cycle, islice

import pytest

from fkd.labeling.run import label

# Sets what a shell cannot, then runs the command line as `fkd` does.
SCRIPT = """
import os, sys, time
mask, now, folder, *arguments = sys.argv[1:]
os.umask(int(mask, 8))
os.chdir(folder)
if now:
    time.time = lambda: float(now)
from fkd.cli import main
main(arguments)
"""

# umask, clock, working directory, variables
SURROUNDINGS = [
    ("022", "", ".", {"PYTHONHASHSEED": "1", "TZ": "Asia/Kathmandu", "LC_ALL": "C"}),
    ("077", "86400", "/", {"PYTHONHASHSEED": "77", "TZ": "UTC", "OMP_NUM_THREADS": "2"}),
    ("027", "4102444800", "..", {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}),
    ("000", "", "/", {"PYTHONOPTIMIZE": "1", "TZ": "America/St_Johns", "LANG": "POSIX"}),
    ("022", "1", ".", {"PYTHONHASHSEED": "4294967295", "PYTHONIOENCODING": "latin-1"}),
    ("022", "", "..", {"LC_ALL": "tr_TR.UTF-8", "COLUMNS": "20", "TERM": "dumb", "HOME": "/"}),
]


@pytest.mark.drill("G10", "surroundings that a store must not depend on", failing="silent")
def test_a_store_does_not_depend_on_its_surroundings(
    make_config, teacher, image_folder, tmp_path, files_of, drill
):
    label(make_config(tmp_path / "reference"))
    times = drill.times(2, goal=12)
    for number, (mask, now, folder, variables) in enumerate(islice(cycle(SURROUNDINGS), times)):
        out = tmp_path / str(number)
        options = {
            "images.root": image_folder,
            "teacher.name": teacher.name,
            "teacher.checkpoint": teacher.checkpoint,
            "teacher.input_size": teacher.input_size,
            "num_crops": 5,
            "codec": "ms:3",
            "images_per_shard": 4,
            "batch_size": 8,
            "accuracy_images": 0,
            "spot_checks": 16,
            "out": out,
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, mask, now, folder, "label", *flags],
            env={"OMP_NUM_THREADS": "1", **os.environ, **variables},
            cwd=tmp_path,
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert files_of(out) == files_of(tmp_path / "reference")
    drill.tried(times)
