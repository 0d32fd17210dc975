"""`python -m ssmctx`: the commands of an installed user."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from mambaic.bundled import DEFAULT, load_bundled
from mambaic.images.image_files import read_image, write_png
from sample_images import sample_image

from ssmctx import __main__
from ssmctx.__main__ import _COMMANDS, main

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _installed(monkeypatch):
    """The example is found as after an install, also where the tests run from a checkout alone."""
    command = EntryPoint("mambaic", "mambaic.__main__:main", "console_scripts")
    monkeypatch.setattr(__main__, "entry_points", lambda **_: (command,))


def test_an_image_becomes_a_file_and_comes_back(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_png("a.png", sample_image(20, 30, 0))
    assert main(["compress", "a.png", "a.sic", "--quality", "30"]) == 0
    assert main(["decompress", "a.sic", "b.png"]) == 0
    assert "wrote b.png: 30 x 20" in capsys.readouterr().out
    assert torch.equal(read_image("b.png"), load_bundled(DEFAULT).decode(Path("a.sic").read_bytes()))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", [*_COMMANDS, "MODULE:FACTORY", "ssmctx[examples]"]),
        ("backends", ["why not"]),
        ("profile", ["--variants", "python -m ssmctx profile --context uneven"]),
        ("test", ["the laws:", "1 % + 64 bytes", "python -m ssmctx test mycodecs:make_model", "exit code: 0"]),
        ("compress", ["--effort", "python -m ssmctx compress photo.png --target-bpp 0.25"]),
        ("decompress", ["--out", "python -m ssmctx decompress photo.sic decoded.png"]),
    ],
)
def test_help_teaches(capsys, command, words):
    with pytest.raises(SystemExit, match="0"):
        main([*command.split(), "--help"])
    told = capsys.readouterr().out
    for word in words:
        assert word in told


def test_costs_and_backends(capsys):
    assert main(["backends"]) == 0
    assert re.search(r"^torch +yes", capsys.readouterr().out, flags=re.M)
    assert (
        main(["profile", "--context", "none", "--M", "20", "--N", "4", "--hyper-channels", "8", "--latent", "4x6"]) == 0
    )
    assert re.search(r"^context ", capsys.readouterr().out, flags=re.M)


def test_the_laws(capsys):
    assert main(["test", "gallery.sound:SoundCodec", "--latent-channels", "6", "--size", "5x7", "--sizes", "1x1"]) == 0
    assert "round trip" in capsys.readouterr().out


def test_errors_are_one_line(capsys, monkeypatch):
    assert main(["test", "nothing"]) == 2
    assert main(["compress", "nothing.png"]) == 2
    assert main(["profile", "--context", "nothing"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "DataError: no file nothing.png" in lines[1]
    assert lines[2].startswith("python -m ssmctx profile: UnknownNameError: unknown context 'nothing'")
    monkeypatch.setattr(__main__, "entry_points", lambda **_: ())
    assert main(["compress", "a.png"]) == 2
    assert re.search(r"UnknownNameError: compress is .* pip install 'ssmctx\[examples\]'", capsys.readouterr().err)
    with pytest.raises(SystemExit, match="2"):
        main(["nothing"])


# --- with what `pip install ssmctx` brings, and nothing else

WITHOUT_EXTRAS = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {extras}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""
EXTRAS = {
    *["PIL", "accelerate", "bjontegaard", "compressai", "constriction", "matplotlib", "pytorch_msssim", "scipy"],
    *["skimage", "tensorboard", "torchvision", "tqdm"],
}


def without_extras(code: str) -> subprocess.CompletedProcess[str]:
    path = f"sys.path[:0] = {[str(ROOT), str(ROOT / 'examples')]!r}\n"
    program = WITHOUT_EXTRAS.format(extras=EXTRAS) + path + code
    return subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False)


def test_a_bundled_checkpoint_codes_without_extras():
    """`ssmctx.load` is of the library: what it needs must not be of an extra."""
    done = without_extras("""
import torch
from mambaic.bundled import tiny
codec, image = tiny(), torch.zeros(3, 20, 30, dtype=torch.uint8)
print(codec.decode(codec.encode(image, effort=1)).shape)
""")
    assert done.stdout == "torch.Size([3, 20, 30])\n", done.stderr


def test_what_needs_the_extra_says_so():
    done = without_extras("from mambaic.__main__ import main; sys.exit(main(['compress', 'a.png', 'a.sic']))")
    assert done.returncode == 2
    assert done.stderr == "mambaic: MissingPackageError: PIL is not installed: pip install 'ssmctx[examples]'\n"
