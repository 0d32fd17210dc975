"""The docs run as they stand: every block of Python, every command, every table, and the pages that scripts write."""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
from pathlib import Path

import pytest
import torch

from ssmctx import registry

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if "reference" not in page.parts]
RUN_ELSEWHERE = {"prove-your-codec.md": "test_kit_docs.py"}  # its blocks are files


def blocks(page: Path) -> list[tuple[int, str, bool]]:
    """Line, code and whether to run it, of every block of Python; a comment before a block may say `not run: why`."""
    text = page.read_text()
    fences = re.finditer(r"^(<!-- not run: .+ -->\n)?```python([^\n]*)\n(.*?)^```", text, flags=re.S | re.M)
    return [(text[: m.start(3)].count("\n"), m[3], not m[1] and m[2] != " no-run") for m in fences]


def compiled(page: Path, line: int, code: str):
    return compile("\n" * line + code, str(page), "exec")  # an error names the line of the page


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """What pages register, and how they log, ends with their test."""
    for kind in ("blocks", "coders", "codecs", "contexts", "distributions", "entropy_models", "scan_backends"):
        of_kind = getattr(registry, kind)
        monkeypatch.setattr(of_kind, "_targets", dict(of_kind._targets))
    ours, root = logging.getLogger("ssmctx"), logging.getLogger()
    level, handlers = ours.level, root.handlers[:]
    yield
    ours.setLevel(level)
    root.handlers[:] = handlers


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p) and p.name not in RUN_ELSEWHERE], ids=lambda p: p.stem)
def test_the_blocks_of_a_page_run_one_after_the_other(page):
    names = {"__name__": "__main__"}
    for line, code, run in blocks(page):
        program = compiled(page, line, code)
        if run:
            exec(program, names)


def test_every_recipe_of_compressai_trains_and_decodes_exactly():
    page = DOCS / "how-to" / "plug-into-compressai.md"
    *recipes, ending = [compiled(page, line, code) for line, code, _ in blocks(page)]
    for recipe in recipes:
        names = {}
        exec(recipe, names)
        exec(ending, names)
        assert torch.equal(names["decoded"]["x_hat"], names["expected"])
        estimate = -sum(p.log2().sum() for p in names["codec"](names["x"])["likelihoods"].values())
        assert abs(names["bits"] - estimate) < 0.02 * estimate + 8 * 64 + 8 * 40


@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("*.md")], ids=lambda p: p.stem)
def test_links_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    for target in re.findall(r"\]\((?!http)([^)#\s]+)", prose):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def commands() -> list[str]:
    """Lines of the shell blocks of docs and README, comments and prompts removed."""
    text = "\n".join(page.read_text() for page in [*PAGES, *ROOT.glob("*.md")])
    lines = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, flags=re.S | re.M)).replace("\\\n", " ").splitlines()
    return sorted({line.partition("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")})


def test_the_targets_of_make_exist():
    targets = {target for line in commands() if line.startswith("make ") for target in line.split()[1:]}
    makefile = (ROOT / "Makefile").read_text()
    assert {"demo", "test"} <= targets
    assert not [target for target in targets if f"\n{target}:" not in makefile]


def test_the_commands_of_the_example_parse():
    from mambaic.__main__ import _parser

    lines = [line.partition("mambaic_full.py ")[2].split() for line in commands() if "mambaic_full.py " in line]
    assert lines
    for line in lines:
        _parser("mambaic_full.py").parse_args(line)


def test_the_programs_that_are_named_exist():
    text = "\n".join(page.read_text() for page in [*PAGES, *ROOT.glob("*.md")])
    for path in re.findall(r"python ((?:benchmarks|tools|tests)/[\w/]+\.py)", text):
        assert (ROOT / path).is_file(), path
    for module in re.findall(r"python -m (ssmctx[\w.]*)", text):
        assert importlib.util.find_spec(module), module


def load(path: str):
    """A script outside the package, as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_what_the_figures_say():
    tables = load("benchmarks/tables.py")
    for page in tables.PAGES:
        assert tables.filled(page.read_text()) == page.read_text(), f"{page.name}: run `python benchmarks/tables.py`"


def test_every_table_of_figures_is_shown():
    tables = load("benchmarks/tables.py")
    shown = {name for page in tables.PAGES for _, name, _ in tables.PLACE.findall(page.read_text())}
    assert shown == {*tables.TABLES, "summary"}


def test_the_reference_has_a_page_for_each_public_name(monkeypatch):
    pytest.importorskip("griffe", reason="needs griffe: pip install 'ssmctx[docs]'")
    monkeypatch.syspath_prepend(ROOT / "tools")
    reference = load("tools/reference.py")
    on_disk = {path.relative_to(ROOT): path.read_text() for path in (DOCS / "reference").rglob("*.md")}
    assert on_disk == reference.pages(), "run `make pages`"
    assert reference.CONFIGURATION.read_text() == reference.configuration(), "run `make pages`"
    sys.modules.pop("public_api", None)


@pytest.mark.parametrize("word", ["pretrained", "DDP", "channels_last", "ONNX", "quantization", "variable rate"])
def test_search_finds(word):
    text = "\n".join(page.read_text() for page in PAGES).lower().replace("-", " ")  # as search splits words
    assert word.lower() in " ".join(text.split())


def test_formulas_become_mathml():
    markdown = pytest.importorskip("markdown")
    pytest.importorskip("latex2mathml", reason="needs latex2mathml: pip install 'ssmctx[docs]'")
    extensions = [load("tools/formulas.py").makeExtension(), "pymdownx.arithmatex"]
    options = {"pymdownx.arithmatex": {"generic": True}}

    def convert(text):
        return markdown.markdown(text, extensions=extensions, extension_configs=options)

    html = convert("A gain $g < 1$ and\n\n$$ \\hat y = q / g + \\mu $$")
    assert html.count("<math ") == 2
    assert "&lt;" in html
    assert "\\" not in html
    with pytest.raises(ValueError, match=r"has \\wrong, which latex2mathml does not know"):
        convert(r"$$ \wrong{x} $$")
    with pytest.raises(ValueError, match="is not valid TeX"):
        convert(r"$$ \left( x $$")
    with pytest.raises(ValueError, match="not alone in its paragraph"):
        convert("text\n$$ x $$ and more")


def test_signatures_show_values_of_defaults():
    griffe = pytest.importorskip("griffe", reason="needs griffe: pip install 'ssmctx[docs]'")
    package = griffe.load("ssmctx", search_paths=[str(ROOT)])
    scan, image = package["scan.images.cross_selective_scan"], package["entropy.bitstream.CodedImage.version"]
    assert str(scan.parameters["directions"].default) == "DIRECTIONS"
    load("tools/defaults.py").show(package)
    assert str(scan.parameters["directions"].default).startswith("('row', 'column', ")
    assert str(image.value) == "4"


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.M))
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert pages == listed, "the navigation of mkdocs.yml lists every page"


@pytest.mark.parametrize("drawing", sorted(DOCS.rglob("*.svg")), ids=lambda p: p.stem)
def test_drawings_can_be_read_by_everyone(drawing):
    text = drawing.read_text()
    assert "<title" in text
    assert "prefers-color-scheme: dark" in text
    sizes = [int(size) for size in re.findall(r"(?:font: |font-size: )(\d+)px", text)]
    width = float(re.search(r'viewBox="0 0 (\d+)', text)[1])
    assert min(sizes) * min(1, 358 / width) > 10, "too small on a phone, whose text is 358 pixels wide"
