"""The full MambaIC codec, built from ssmctx: training, evaluation and files. Run it through `mambaic_full.py`."""
