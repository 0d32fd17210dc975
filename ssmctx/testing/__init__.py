"""The conformance kit: the laws of entropy models, for any codec with CompressAI's interface.

Plain functions raise `LawBroken`, which says which law, which element, by how much and what usually causes it. They
need nothing but torch; `ssmctx.testing.strategies` and `ssmctx.testing.suite` need hypothesis, and are imported by
name. `python -m ssmctx.testing --help` prints a report on a codec of yours.
"""

from __future__ import annotations

from ssmctx.testing.broken import LawBroken
from ssmctx.testing.cases import CORRUPTIONS, LATENTS, Corruption, Image, Latent, ScanCase, corruptions_of
from ssmctx.testing.contract import count_bits, update_tables
from ssmctx.testing.laws.block import assert_block
from ssmctx.testing.laws.causal import assert_causal, assert_causal_steps, assert_partition
from ssmctx.testing.laws.coder import assert_coder
from ssmctx.testing.laws.corruption import assert_rejects_corruption
from ssmctx.testing.laws.distribution import assert_distribution
from ssmctx.testing.laws.drift import DRIFTS, assert_agrees_under_drift, drifting, largest_drift
from ssmctx.testing.laws.rate import assert_real_bits
from ssmctx.testing.laws.round_trip import SIZES, assert_any_size, assert_deterministic, assert_round_trip
from ssmctx.testing.laws.scan import assert_scan_equal, poisoned_memory
from ssmctx.testing.laws.state import assert_state_dict
from ssmctx.testing.report import Verdict, print_report, run_laws

__all__ = [
    "CORRUPTIONS",
    "DRIFTS",
    "LATENTS",
    "SIZES",
    "Corruption",
    "Image",
    "Latent",
    "LawBroken",
    "ScanCase",
    "Verdict",
    "assert_agrees_under_drift",
    "assert_any_size",
    "assert_block",
    "assert_causal",
    "assert_causal_steps",
    "assert_coder",
    "assert_deterministic",
    "assert_distribution",
    "assert_partition",
    "assert_real_bits",
    "assert_rejects_corruption",
    "assert_round_trip",
    "assert_scan_equal",
    "assert_state_dict",
    "corruptions_of",
    "count_bits",
    "drifting",
    "largest_drift",
    "poisoned_memory",
    "print_report",
    "run_laws",
    "update_tables",
]
