"""The results as the tables of the docs have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tables import described, share, table

Results = dict[str, Any]
Row = list[object]


def rendered(content: Results) -> str:
    """Tables of all parts that have results, in Markdown, and what went wrong."""
    parts = content["parts"]
    texts = []
    for name, render in RENDERED.items():
        results = parts.get(name, {}).get("results", {})
        if results:
            texts.append(f"### {name.capitalize()}\n\n{_shown(render, results)}")
    if content["machine"]:
        texts.append(f"Machine: {described(content['machine'])}.\n")
    if content["dry_run"]:
        texts.append("A dry run on the CPU at tiny sizes: these figures mean nothing.\n")
    texts += [f"{trouble}\n" for trouble in troubles(parts)]
    return "\n".join(texts)


def _shown(render: Callable[[Results], str], results: Results) -> str:
    try:
        return render(results)
    except Exception as error:  # whatever a part has left half done, the others go on
        return f"Cannot be shown: {error!r}.\n"


def troubles(parts: Results) -> list[str]:
    """What failed, was left out or ran out of time, in a sentence each."""
    found = []
    for name, part in parts.items():
        if part["state"] != "done":
            found.append(f"{name}: {part['state']}; {part.get('reason', '')}")
        found += [f"{name}, {where}: {reason}" for where, reason in _not_timed(part["results"])]
    return found


def _not_timed(results: Results, above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in results.items():
        if isinstance(value, dict) and "not_timed" in value:
            yield above + name, value["not_timed"]
        elif isinstance(value, dict):
            yield from _not_timed(value, f"{above}{name}, ")


def _timed(results: Results) -> Iterator[tuple[str, Any]]:
    for name, row in results.items():
        if isinstance(row, dict) and not {"not_timed", "left_out"} & set(row):
            yield name, row


def scans(results: Results) -> str:
    """The scan of an image, by size and backend."""
    copy = results["copy_bytes_per_s"]

    def row(size: str, name: str, figures: Results) -> Row:
        both = figures.get("forward_backward_s")
        return [
            f"{size}, {name}",
            f"{1e3 * figures['forward_s']:.3f}",
            f"{figures['bytes_per_s'] / 1e9:.0f}",
            f"{100 * figures['bytes_per_s'] / copy:.0f} %",
            f"{figures['steps_per_s'] / 1e9:.0f}",
            "" if both is None else f"{1e3 * both:.2f}",
            "" if both is None else _giga(figures["peak_backward_bytes"]),
        ]

    rows = [row(size, name, figures) for size, result in _timed(results) for name, figures in _timed(result)]
    head = ["channels x height x width", "forward ms", "GB/s", "of a copy's", "G steps/s", "fwd+bwd ms", "peak GB"]
    left_out = {f"{n}: {row['left_out']}" for _, r in _timed(results) for n, row in r.items() if "left_out" in row}
    return table(head, rows) + "".join(f"\nNot timed: {line}.\n" for line in sorted(left_out))


def constants(results: Results) -> str:
    """Launch constants: those that stand, and those to set."""
    rows = []
    for name, result in _timed(results):
        times, best = result["seconds"], ", ".join(f"{key} = {value}" for key, value in result["set"].items())
        fastest = min(times.values())
        rows.append([name, f"{1e3 * times['as it stands']:.3f}", f"{1e3 * fastest:.3f}", best or "as they stand"])
    return table(["direction and size", "ms", "fastest ms", "to set"], rows)


def blocks(results: Results) -> str:
    """SS2D and the VSS block."""
    rows = [
        [f"{size}, {name}", f"{1e3 * figures['seconds']:.2f}", _giga(figures["peak_bytes"])]
        for size, result in _timed(results)
        for name, figures in result.items()
    ]
    return table(["dim x height x width", "ms", "peak GB"], rows)


def codecs(results: Results) -> str:
    """The codec, from pixels to bytes and back."""
    rows, asked = [], []
    for size, result in _timed(results):
        for direction in ("encode", "decode"):
            if direction in result and "parts" in result[direction]:
                figures = result[direction]
                shares = [share(figures["parts"], *names) for names in (("g_a", "g_s"), ("h_a", "h_s"), ("step",))]
                coder = share(figures["parts"], "coder", "guard", "transfer")
                cells = [f"{100 * part:.0f} %" for part in [*shares, coder]]
                peak = _giga(figures["peak_bytes"])
                rows.append([f"{size}, {direction}", f"{1e3 * figures['seconds']:.1f}", peak, *cells])
    text = table(["", "ms", "peak GB", "g_a, g_s", "h_a, h_s", "steps", "coder, guard"], rows) if rows else ""
    kinds = ("operators", "kernels", "busy_us", "launches", "waits", "reads")
    for name, counts in results.items():
        if name.startswith("launches"):
            more = name.removeprefix("launches")
            asked += [[d + more, *(counts[d].get(k, 0) for k in kinds)] for d in ("encode", "decode") if d in counts]
    head = ["asked of the device", *(kind.replace("_us", ", us") for kind in kinds)]
    return text + ("\n" + table(head, asked) if asked else "")


def across(results: Results) -> str:
    """Files that cross devices."""
    rows = []
    for preset, result in _timed(results):
        for name, value in result.items():
            if name.startswith("drift"):
                far, largest = value["band_over_drift"], value["largest_relative_drift"]
                rows.append([f"{preset}, {name}", f"{largest:.1e}", "" if far is None else f"{far:.0f}"])
            elif "->" in name:
                exact = f"{value['symbols_exact']} of {result['pictures']} exact"
                rows.append([f"{preset}, {name}", exact, f"{value['pixel_values_that_differ']} pixel values differ"])
    return table(["encoded -> decoded", "symbols, or drift of scales", "pixels, or band / drift"], rows)


def steps(results: Results) -> str:
    """A training step."""
    rows = [
        [f"{name}, {r['batch']} x {r['crop']} x {r['crop']}", f"{1e3 * r['seconds']:.0f}", _giga(r["peak_bytes"])]
        for name, r in _timed(results)
        if "seconds" in r
    ]
    return table(["training step", "ms", "peak GB"], rows)


def training(results: Results) -> str:
    """The training at the end."""
    if "log" not in results:
        return f"Not trained: {results.get('skipped', 'it failed')}.\n"
    return f"`{results['command']}`\n\n{results['log']['columns']}: {results['log']['last']}\n"


def tests(results: Results) -> str:
    """The tests on the device."""
    return ", ".join(f"{n} {what}" for what, n in results.get("counts", {}).items()) + "\n"


def walk(results: Results) -> str:
    """The registered components on the device."""
    broken = results.get("broken", {})
    shown = "".join(f"\n{name}: {reason}\n" for name, reason in broken.items())
    return f"{results.get('walked', 0) - len(broken)} of {results.get('walked', 0)} components hold\n{shown}"


RENDERED: dict[str, Callable[[Results], str]] = {
    "tests": tests,
    "walk": walk,
    "scan": scans,
    "constants": constants,
    "blocks": blocks,
    "codec": codecs,
    "across": across,
    "training step": steps,
    "training": training,
}


def _giga(number: float | None) -> str:
    return "-" if number is None else f"{number / 1e9:.2f}"
