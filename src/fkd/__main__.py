"""`python -m fkd`, also under torchrun: `torchrun --nproc_per_node 2 -m fkd label ...`."""

from fkd.cli import main

if __name__ == "__main__":
    main()
