"""What other packages would write, with public names only; `tests/test_plugins.py` runs the kit on each."""
