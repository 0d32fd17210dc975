"""What an installed ssmctx has to do. Run it by the interpreter of the environment: `python tests/installed/smoke.py`.

It needs nothing but the package and what it depends on, and fails where it finds a checkout instead.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import ssmctx
from ssmctx.files import write_whole
from ssmctx.scan import selective_scan


def main() -> None:
    """Raise unless everything works."""
    package = Path(ssmctx.__file__).parent
    if (package.parent / "pyproject.toml").exists():
        raise SystemExit(f"{package} is a checkout: install the wheel and run this from elsewhere")
    if not (package / "py.typed").is_file():
        raise SystemExit(f"{package} has no py.typed: type checkers will not look at it")
    ssmctx.backends()

    g_a, g_s = torch.nn.Conv2d(3, 20, 16, stride=16), torch.nn.ConvTranspose2d(20, 3, 16, stride=16)
    codec = ssmctx.ImageCodec(g_a, g_s, ssmctx.MambaICEntropyModel(M=20, hyper_channels=12, N=8)).eval()
    codec.update()
    image = torch.randint(256, (3, 80, 112), dtype=torch.uint8)
    data, y_hat = codec.encode_with_latent(image)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.sic"
        write_whole(path, data)
        decoded = codec.decode(path.read_bytes())
    if not torch.equal(decoded, codec.image_of(y_hat, (80, 112))):
        raise SystemExit("the file does not decode to what the encoder has")
    tiny = ssmctx.load("tiny")
    if tiny.decode(tiny.encode(image, effort=1)).shape != image.shape:
        raise SystemExit("the bundled checkpoint does not code")
    if "compressai" in sys.modules:
        raise SystemExit("coding has imported compressai")

    u, weights = torch.randn(1, 8, 30), torch.randn(1, 4, 30)
    scans = [
        selective_scan(u, torch.rand(1, 8, 30), -torch.ones(8, 4), weights, weights, backend=name)
        for name in ("cpu", "torch")
    ]
    if not all(bool(scan.isfinite().all()) for scan in scans):
        raise SystemExit("a scan is not finite")

    arguments = ["--M", "20", "--N", "4", "--hyper-channels", "8", "--latent", "4x6"]
    subprocess.run([sys.executable, "-m", "ssmctx", "profile", *arguments], check=True)
    subprocess.run([sys.executable, "-m", "ssmctx", "compress", "--help"], check=True, stdout=subprocess.DEVNULL)
    print(f"ssmctx {ssmctx.__version__} works on Python {sys.version.split()[0]} with torch {torch.__version__}")


if __name__ == "__main__":
    main()
