"""`python -m drill`: the tests of reliability at a share of their goals, and a table."""

import argparse
import subprocess
import sys
from pathlib import Path

from drill.plugin import drop_torn_line, read_results
from drill.table import markdown, replace_table, totals

_RESULTS = Path("drill-output")
_PAGE = Path("docs/reliability.md")


def main() -> int:
    """Run the drill; the exit code is 0 if nothing was found."""
    given = _arguments()
    _RESULTS.mkdir(exist_ok=True)
    results = _RESULTS / f"results-{given.scale:g}.jsonl"
    if given.anew:
        results.unlink(missing_ok=True)
    drop_torn_line(results)
    command = [sys.executable, "-m", "pytest", "-p", "drill.plugin"]
    command += ["--numprocesses", given.processes]
    command += ["--dist", "worksteal", "--drill-scale", str(given.scale)]
    command += ["--drill-results", str(results)]
    if given.select:
        command += ["-k", given.select]
    code = subprocess.run(command, check=False).returncode
    lines = [line for line in read_results(results) if line["scale"] == given.scale]
    print(markdown(lines))
    if given.write:
        _write(markdown(lines), given.scale)
    nothing_left = 5  # pytest's exit code where every test has passed before
    if code not in (0, nothing_left):
        return code
    return 0 if totals(lines).endswith("0 lost, 0 silent, 0 untyped") else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m drill", description=__doc__)
    parser.add_argument("--scale", type=float, default=0.1, help="share of the goals (default 0.1)")
    parser.add_argument("--select", help="only tests that match, as pytest -k")
    parser.add_argument("--processes", default="auto", help="test processes (default: all cores)")
    parser.add_argument("--anew", action="store_true", help="forget what was tried before")
    parser.add_argument("--write", action="store_true", help=f"put the table into {_PAGE}")
    return parser.parse_args()


def _write(table: str, scale: float) -> None:
    page = _PAGE.read_text(encoding="utf-8")
    heading = f"At {scale:g} of the goals (`make drill SCALE={scale:g}`):\n\n"
    _PAGE.write_text(replace_table(page, heading + table), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
