"""The how-to of the kit runs as it stands, and finds what it says."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
from gallery.one_thread import one_thread  # noqa: F401 - applies to every test here

from ssmctx import testing
from ssmctx.testing import LawBroken, __main__

PAGE = (Path(__file__).parents[1] / "docs/how-to/prove-your-codec.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
FILES = [block for block in BLOCKS if block.startswith(("# refined.py", "# test_refined.py"))]
[SMALL_COMPRESSAI] = [block for block in BLOCKS if block.startswith("# small_compressai.py")]
SNIPPETS = [block for block in BLOCKS if not block.startswith("# ")]


def laws(folder, monkeypatch, blocks):
    """The test class of the page, with its codec as far as the blocks go."""
    folder.mkdir()
    for block in blocks:
        name = block.partition("\n")[0].removeprefix("# ").partition(",")[0]
        with open(folder / name, "a") as file:
            file.write(block + "\n")
    monkeypatch.syspath_prepend(folder)
    for name in ("refined", "test_refined"):
        sys.modules.pop(name, None)
    tests = importlib.import_module("test_refined").TestRefined
    return type("TestSmaller", (tests,), {"largest": 6})()


def test_the_worked_example_is_broken_first_and_sound_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setenv("SSMCTX_TESTING_PROFILE", "dev")
    model, tests, on_both_sides, image_by_image = FILES
    with pytest.raises(LawBroken, match=r"another y_hat than compress: element \[0, 0, 0, 0\]") as caught:
        laws(tmp_path / "first", monkeypatch, [model, tests]).test_round_trip()
    notes = "".join("\n".join(getattr(caught.value, "__notes__", [])).split())
    assert "Latent(channels=20,height=1,width=1" in notes
    assert caught.value.cause in " ".join(PAGE.split())
    laws(tmp_path / "last", monkeypatch, [model, on_both_sides, image_by_image, tests]).test_round_trip()


def test_the_snippets_run(capsys):
    names: dict[str, object] = {}
    for block in SNIPPETS:
        exec(block, names)
    assert "bpp_of reports 32 bits" in capsys.readouterr().out


@pytest.mark.parametrize("command", re.findall(r"\$ python -m ssmctx.testing (small_compressai.*)", PAGE))
def test_the_commands_on_compressai_find_their_codecs(tmp_path, monkeypatch, command):
    (tmp_path / "small_compressai.py").write_text(SMALL_COMPRESSAI)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("small_compressai", None)
    options = __main__._parser("").parse_args(command.split())
    assert callable(__main__._factory(options.factory)().decompress)


@pytest.mark.parametrize("law", re.findall(r"`(assert_\w+)`", PAGE))
def test_the_laws_that_it_names_exist(law):
    assert law in testing.__all__
