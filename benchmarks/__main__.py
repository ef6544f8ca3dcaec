"""`python -m benchmarks`: what is promised about speed, measured where it is read."""

import time

from fkd.cli.process import prepare_process


def main(argv: list[str] | None = None) -> None:
    """Measure, and print one table; missed goals are figures like others: the exit code is 0."""
    prepare_process()  # before torch is imported
    from jsonargparse import auto_cli
    from rich.console import Console

    from benchmarks.machine import describe_machine, summary
    from benchmarks.suite import BenchConfig, run_benchmarks
    from benchmarks.table import print_report
    from fkd.errors import FKDError

    console = Console(highlight=False)
    started = time.monotonic()

    def announce(text: str) -> None:
        console.print(f"{time.monotonic() - started:5.0f} s  {text}", soft_wrap=True)

    try:
        config = auto_cli(BenchConfig, args=argv, prog="python -m benchmarks")
        console.print(summary(describe_machine()), soft_wrap=True)
        print_report(run_benchmarks(config, announce), console)
    except FKDError as error:
        raise SystemExit(f"benchmarks: error: {error}") from None


if __name__ == "__main__":
    main()
