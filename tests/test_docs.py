"""The code of the docs runs as it stands; a block marked "continued" runs after every other block of its page."""

import re
import warnings
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"```python( continued)?\n(.*?)```", page.read_text(), flags=re.S)


PAGES = [page for page in sorted(DOCS.rglob("*.md")) if page.stem != "prove-your-codec"]  # test_kit_docs has that one


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_every_block_runs(page):
    found = blocks(page)
    endings = [code for mark, code in found if mark]
    for mark, code in found:
        if mark:
            continue
        names = {}
        exec(code, names)
        for ending in endings:
            exec(ending, names)
        if page.stem == "plug-into-compressai":
            assert torch.equal(names["decoded"]["x_hat"], names["expected"])
            estimate = -sum(p.log2().sum() for p in names["codec"](names["x"])["likelihoods"].values())
            assert abs(names["bits"] - estimate) < 0.02 * estimate + 8 * 64 + 8 * 40


def test_links_between_pages_lead_somewhere():
    for page in [*DOCS.rglob("*.md"), DOCS.parent / "README.md"]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_compressai_knows_our_modules():
    from compressai.registry import MODELS, MODULES

    import ssmctx
    import ssmctx.compat.compressai as compat

    assert MODULES["VSSBlock"] is ssmctx.VSSBlock
    assert {f"ssmctx.context.{name}" for name in ssmctx.registry.contexts.names()} <= set(MODULES)
    assert MODELS["mambaic"](N=4, M=20, depths=(0, 0, 0, 0), hyper_channels=6, d_state=2).latent_codec.M == 20
    compat.register()  # a second time changes nothing
    MODULES["VSSBlock"] = object
    try:
        with pytest.raises(ssmctx.errors.DuplicateNameError, match="another module called 'VSSBlock'"):
            compat.register()
    finally:
        MODULES["VSSBlock"] = ssmctx.VSSBlock


@pytest.mark.parametrize("version", ["1.2.5", "1.3.0", "2.0.0b1"])
def test_an_untested_compressai_draws_a_warning(version):
    from ssmctx.compat.compressai import _check_version

    with pytest.warns(UserWarning, match=rf"compressai {version} is not among .* 1.2.6 to 1.2.8"):
        _check_version(version)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for tested in ("1.2.6", "1.2.7", "1.2.8"):
            _check_version(tested)
