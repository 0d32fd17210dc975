"""The sub-commands of `mambaic_full.py`, a file each: `NAME`, `HELP`, `arguments(parser)` and `run(options)`.

Nothing slow is imported before `run`, so that `--help` answers at once.
"""
