"""Benchmarks: fkd and its peers, measured in turns in one process on this machine.

    python -m benchmarks                          all rows but growth and places, four minutes
    python -m benchmarks --rows read,loader       some of them
    python -m benchmarks --rows growth            how cost grows with crops, images, m and workers
    python -m benchmarks.compare OLD_SRC NEW_SRC  two checkouts side by side
    python -m benchmarks.claims                   the paper's comparisons in small, see there

    suite    the list of rows, the report        harness  turns, medians, spread
    rows     a line of the table, its goal       machine  where the figures come from
    inputs   photographs and stores, shared      peers    other loaders, the authors' structure

The other modules measure one part each; their docstrings say what is compared with what.
"""
