"""Run the claims; see the package."""

from fkd.cli.process import prepare_process


def main() -> None:
    prepare_process()  # before torch is imported
    from jsonargparse import auto_cli

    from benchmarks.claims.config import ClaimsConfig
    from benchmarks.claims.run_all import run_claims
    from fkd.errors import FKDError

    config = auto_cli(ClaimsConfig, prog="python -m benchmarks.claims")
    try:
        print(run_claims(config, lambda line: print(line, flush=True)))
    except FKDError as error:
        raise SystemExit(f"claims: error: {error}") from None


main()
