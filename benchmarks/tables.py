"""The benchmark tables of the docs and the README, from the figures in benchmarks/results.

    python benchmarks/tables.py    # rewrites them in place

A page says where a table goes by the comments `<!-- table: NAME -->` and `<!-- end of table -->`.
`tests/test_docs.py` fails where a table is not what the figures say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from frozen import claims
from frozen.report import HEAD, cells

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PAGES = (ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "how-to" / "which-context.md", ROOT / "README.md")
PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", flags=re.S)

Report = dict[str, Any]


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown, numbers to the right."""
    head, rows = list(head), [list(map(str, row)) for row in rows]
    lines = [head, ["---", *["--:" for _ in head[1:]]], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def where(reports: dict[str, Report]) -> str:
    """The machine of each report, in a sentence; those that were measured alike share one."""
    said: dict[str, list[str]] = {}
    for name, report in reports.items():
        said.setdefault(described(report["machine"]), []).append(name)
    lines = [f"Machine of {'; '.join(names)}" if len(said) > 1 else "Machine" for names in said.values()]
    return "".join(f"\n{line}: {text}.\n" for line, text in zip(lines, said, strict=True))


def described(machine: Report) -> str:
    """Hardware, threads, versions and commit."""
    versions = {name: version for name, version in machine["versions"].items() if version}
    parts = [
        machine["gpu"] or machine["cpu"],
        f"{machine['threads']} thread{'s' if machine['threads'] != 1 else ''}",
        f"Python {machine['python']}",
        *(f"{name} {version}" for name, version in {**versions, **machine.get("peers", {})}.items()),
        f"commit {machine['commit']}",
        *([machine["date"]] if "date" in machine else []),
    ]
    return ", ".join(parts)


def machines(stem: str) -> dict[str, Report]:
    """The reports of a file that have a machine of their own, by name: all of it, or each entry."""
    report = read(stem)
    return {stem: report} if "machine" in report else report


def unclean() -> list[str]:
    """Figures that were measured with changes that no commit holds, so that nobody can repeat them."""
    stems = {stem for stem, _ in TABLES.values()}
    return [
        f"{stem} ({name}: {entry['machine']['commit']})"
        for stem in sorted(stems)
        for name, entry in machines(stem).items()
        if entry["machine"]["commit"].endswith("-dirty")
    ]


def scan_sequence(report: Report) -> str:
    """Our scan and its peers on a sequence."""
    timed = [row for row in report["sequence"] if "not_timed" not in row]
    rows = [
        [
            row["name"],
            f"{1e3 * row['forward_s']:.1f}",
            f"{row['forward_ratio']:.1f}",
            f"{row['steps_per_s'] / 1e9:.2f}",
            f"{1e3 * row['forward_backward_s']:.0f}",
            f"{row['forward_backward_ratio']:.1f}",
            f"{row['peak_over_inputs']:.1f}",
        ]
        for row in timed
    ]
    head = ["scan", "forward ms", "times ours", "G steps/s", "fwd+bwd ms", "times ours", "peak / inputs"]
    left_out = [f"{row['name']} ({row['not_timed']})" for row in report["sequence"] if "not_timed" in row]
    return table(head, rows) + (f"\nNot timed: {', '.join(left_out)}.\n" if left_out else "")


def scan_image(report: Report) -> str:
    """Our backends on an image."""
    rows = [
        [
            row["name"],
            f"{1e3 * row['forward_s']:.1f}",
            f"{row['steps_per_s'] / 1e9:.2f}",
            f"{1e3 * row['forward_backward_s']:.0f}",
        ]
        for row in report["picture"]
    ]
    return table(["scan", "forward ms", "G steps/s", "fwd+bwd ms"], rows)


def coder(report: Report) -> str:
    """Coders, in ns a symbol, at three rates."""
    rates = [key for key in report if key.endswith(" rate")]
    names = [row["name"] for row in report[rates[0]]["rows"]]
    head = ["coder", *(f"{report[rate]['bits_per_symbol']:.1f} bits" for rate in rates)]
    by_name = {rate: {row["name"]: row for row in report[rate]["rows"]} for rate in rates}
    rows = [
        [name, *(f"{by_name[r][name]['encode_ns']:.1f} / {by_name[r][name]['decode_ns']:.1f}" for r in rates)]
        for name in names
    ]
    return table(head, rows)


def decode_anywhere(report: Report) -> str:
    """What became of files that were decoded another way than they were encoded."""
    rows = [
        [
            name.replace("->", "to"),
            f"{value['symbols_exact']} of {report['pictures']}",
            value["pixel_values_that_differ"],
        ]
        for name, value in report.items()
        if "->" in name and "symbols_exact" in value
    ]
    drift = [
        [
            name.removeprefix("drift, ").replace("->", "to"),
            f"{value['largest_relative_drift']:.1e}",
            f"{report['guard_band'] / value['largest_relative_drift']:.0f}",
            value["rows_that_would_differ"],
        ]
        for name, value in report.items()
        if name.startswith("drift")
    ]
    guard, whole = report["guard_bytes"], report["bytes"]
    return (
        table(["encoded, then decoded", "symbols exact", "pixel values one level off"], rows)
        + "\n"
        + table(["drift of scales", "largest, relative", "band / drift", "rows that would differ"], drift)
        + f"\nThe guard, checksums included, is {guard:,} of {whole:,} bytes, {100 * guard / whole:.1f} %.\n"
    )


def import_time(report: Report) -> str:
    """Seconds to import."""
    rows = [[row["name"], f"{row['seconds']:.2f}"] for row in report["rows"]]
    extra = f"{report['extra_s']:.2f}" if report["extra_s"] > 0.02 else "below 0.02"
    return table(["import", "seconds"], [*rows, ["ssmctx on top of torch, median of pairs", extra]])


def codec(report: Report) -> str:
    """The whole codec, from pixels to bytes and back, and where its time goes."""
    rows = [
        [
            name,
            direction,
            f"{figures['seconds']:.2f}",
            f"{figures['resident_bytes'] / 1e9:.1f}",
            *(f"{100 * part:.0f} %" for part in _shares(figures["parts"])),
        ]
        for name, entry in report.items()
        for direction, figures in entry.items()
        if direction in ("encode", "decode")
    ]
    training = [
        f"{name}: {entry['seconds']:.2f} s, {entry['peak_bytes'] / 1e9:.2f} GB on top"
        for name, entry in report.items()
        if "crop" in entry
    ]
    head = ["codec", "", "s", "resident GB", *_CODEC_PARTS, "guard, rest"]
    return table(head, rows) + "".join(f"\n{note}.\n" for note in training)


_CODEC_PARTS = {"g_a, g_s": ("g_a", "g_s"), "h_a, h_s": ("h_a", "h_s"), "steps": ("step",), "coder": ("coder",)}


def _shares(parts: Report) -> list[float]:
    """What each column of `_CODEC_PARTS` takes of the whole, and everything else."""
    shares = [share(parts, *names) for names in _CODEC_PARTS.values()]
    return [*shares, 1 - sum(shares)]


def share(parts: Report, *names: str) -> float:
    """What the parts of these names, numbers left out, take of the whole."""
    return sum(part["share"] for name, part in parts.items() if name.split()[0] in names)


def contexts(report: Report) -> str:
    """Bits and time of every context, a table for each training budget, the longest first."""
    budgets = {row["budget"]: float(row["budget"].split()[0].replace(",", "")) for row in report["rows"]}
    parts = []
    for budget in sorted(budgets, key=budgets.__getitem__, reverse=True):
        own = [row for row in report["rows"] if row["budget"] == budget]
        parts.append(table(HEAD, map(cells, own)))
    commits = sorted({commit for row in report["rows"] for commit in row["commits"]})
    return "\n".join(parts) + f"\nTrained at commit{'s' * (len(commits) > 1)} {', '.join(commits)}.\n"


def parts(report: Report) -> str:
    """What each part of a context brings, from the rows of 3,000 steps."""
    return table(claims.HEAD, claims.claims(report["rows"], "3,000 steps"))


def joint(report: Report) -> str:
    """Codecs that were trained as a whole, rated by real files."""
    rows = [
        [
            row["context"],
            row["budget"],
            f"{row['steps']:,}",
            *(f"{bpp:.3f} bpp, {psnr:.2f} dB" for bpp, psnr in (points[0], points[-1])),
            f"{row['bd_rate']:+.1f} %",
            "" if row["decode_s"] is None else f"{1e3 * row['decode_s']:.0f}",
        ]
        for row in report["rows"]
        for points in [sorted(zip(row["bpp"], row["psnr"], strict=True))]
    ]
    return table(["context", "training", "steps", "lowest rate", "highest rate", "BD-rate", "decode ms"], rows)


def gpu(part: str) -> Callable[[Report], str]:
    """The table of a part of `benchmarks/gpu.py`."""

    def render(report: Report) -> str:
        from on_gpu.report import RENDERED  # which takes `table` from here

        return RENDERED[part](report["parts"][part]["results"])

    return render


_SUMMARY = {"the scan": "scan-cpu", "the coder": "coder", "decoding": "decode-anywhere"}


def summary() -> str:
    """The README's few figures."""
    scan, code, drift = (read(stem) for stem in _SUMMARY.values())
    ours, *peers = [row for row in scan["sequence"] if "not_timed" not in row]
    by_peer = {row["name"]: row for row in peers}
    middle = {row["name"]: row for row in code["middle rate"]["rows"]}
    rans, theirs = middle["ssmctx rans"], middle["compressai, its model"]
    exact = [value for name, value in drift.items() if "->" in name and "symbols_exact" in value]
    rows = [
        [
            "selective scan on the CPU, forward",
            f"{1e3 * ours['forward_s']:.1f} ms",
            *(f"{by_peer[n]['forward_ratio']:.0f} x as long" for n in ("mambapy", "selective_scan_ref")),
        ],
        [
            "the same, forward and backward",
            f"{1e3 * ours['forward_backward_s']:.0f} ms",
            *(f"{by_peer[n]['forward_backward_ratio']:.0f} x as long" for n in ("mambapy", "selective_scan_ref")),
        ],
    ]
    coding = [
        ["encode", f"{rans['encode_ns']:.1f} ns", f"{theirs['encode_ns']:.0f} ns"],
        ["decode", f"{rans['decode_ns']:.1f} ns", f"{theirs['decode_ns']:.0f} ns"],
    ]
    return (
        table(["1024 channels, 1536 positions, 16 states", "ssmctx", "mambapy", "selective_scan_ref"], rows)
        + "\n"
        + table(["per symbol, at 1.6 bits per symbol", "ssmctx", "CompressAI's entropy model"], coding)
        + f"\nDecoded with another scan backend and thread count: {min(v['symbols_exact'] for v in exact)} of "
        f"{drift['pictures']} Kodak files exact.\n" + where({name: read(stem) for name, stem in _SUMMARY.items()})
    )


_GPU_PARTS = ("scan", "blocks", "codec", "across", "training step")

TABLES: dict[str, tuple[str, Callable[[Report], str]]] = {
    "scan-sequence": ("scan-cpu", scan_sequence),
    "scan-image": ("scan-cpu", scan_image),
    "coder": ("coder", coder),
    "decode-anywhere": ("decode-anywhere", decode_anywhere),
    "codec": ("codec-cpu", codec),
    "import": ("import", import_time),
    "contexts": ("contexts", contexts),
    "context-parts": ("contexts", parts),
    "contexts-base": ("contexts-base", contexts),
    "joint": ("joint", joint),
    **{f"gpu-{part.replace(' ', '-')}": ("gpu", gpu(part)) for part in _GPU_PARTS},
}


def read(stem: str) -> Report:
    """A file of benchmarks/results."""
    report: Report = json.loads((RESULTS / f"{stem}.json").read_text())
    return report


def filled(text: str) -> str:
    """A page with all its tables as the figures have them."""

    def fill(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        if name == "summary":
            return begin + summary() + end
        stem, render = TABLES[name]
        return begin + render(read(stem)) + where(machines(stem)) + end

    return PLACE.sub(fill, text)


def main() -> None:
    """Rewrite the pages; refuse figures that cannot be repeated."""
    if unclean():
        raise SystemExit(f"measure again after a commit: {', '.join(unclean())}")
    for page in PAGES:
        page.write_text(filled(page.read_text()))


if __name__ == "__main__":
    main()
