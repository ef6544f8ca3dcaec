"""Run the comparison of stored embeddings with an online teacher; see `self_supervised`."""

from collections.abc import Sequence

from fkd.cli.process import prepare_process


def main(words: Sequence[str] | None = None) -> None:
    prepare_process()  # before torch is imported
    from jsonargparse import auto_cli

    from benchmarks.claims.self_supervised import SslClaimsConfig, run_comparison
    from fkd.errors import FKDError

    prog = "python -m benchmarks.claims.run_self_supervised"
    config = auto_cli(SslClaimsConfig, args=words, prog=prog)
    try:
        print(run_comparison(config, lambda line: print(line, flush=True)))
    except FKDError as error:
        raise SystemExit(f"self-supervised: error: {error}") from None


if __name__ == "__main__":
    main()
