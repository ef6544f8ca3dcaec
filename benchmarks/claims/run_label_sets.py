"""Run the comparison of sampled and pruned label sets with others; see `label_sets`."""

from collections.abc import Sequence

from fkd.cli.process import prepare_process


def main(words: Sequence[str] | None = None) -> None:
    prepare_process()  # before torch is imported
    from jsonargparse import auto_cli

    from benchmarks.claims.label_sets import LabelSetsConfig, run_comparison
    from fkd.errors import FKDError

    prog = "python -m benchmarks.claims.run_label_sets"
    config = auto_cli(LabelSetsConfig, args=words, prog=prog)
    try:
        print(run_comparison(config, lambda line: print(line, flush=True)))
    except FKDError as error:
        raise SystemExit(f"label sets: error: {error}") from None


if __name__ == "__main__":
    main()
