"""The full MambaIC codec, built from ssmctx: training, evaluation and files. Run it through `mambaic_full.py`."""

import os

# torch then asks Linux for huge pages, which saves a quarter of a large image's time on a CPU: page faults
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
