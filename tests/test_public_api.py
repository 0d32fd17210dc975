"""The public names and what they take are frozen: changing them is a decision, and users are told."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def api():
    spec = importlib.util.spec_from_file_location("public_api", ROOT / "tools" / "public_api.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_public_names_are_those_of_the_list(api):
    _, *frozen = api.LIST.read_text().splitlines()
    now = api.lines()
    gone, new = sorted(set(frozen) - set(now)), sorted(set(now) - set(frozen))
    assert now == frozen, (
        f"the public API changed; gone: {gone}; new: {new}. If that is meant, say so in CHANGELOG.md (and that it is "
        "breaking, if it is), then run `python tools/public_api.py --write`"
    )


def test_the_list_is_not_written_without_a_word_in_the_changelog(api, monkeypatch, tmp_path):
    changelog, frozen = tmp_path / "CHANGELOG.md", tmp_path / "public_api.txt"
    changelog.write_text("- one thing\n")
    for name, value in {"CHANGELOG": changelog, "LIST": frozen, "lines": lambda: ["ssmctx.one()"]}.items():
        monkeypatch.setattr(api, name, value)
    monkeypatch.setattr("sys.argv", ["public_api.py", "--write"])
    api.main()
    with pytest.raises(SystemExit, match="nothing to write"):
        api.main()
    monkeypatch.setattr(api, "lines", lambda: ["ssmctx.one(more)"])
    with pytest.raises(SystemExit, match=r"say in CHANGELOG.md what changes"):
        api.main()
    changelog.write_text("- one thing\n- breaking: one takes more\n")
    api.main()
    assert frozen.read_text().splitlines()[1:] == ["ssmctx.one(more)"]


def test_what_a_class_offers_is_in_the_list(api):
    class Thing:
        def __init__(self, a, b=2):
            pass

        def method(self, c=None):
            pass

        @property
        def size(self):
            return 1

        def _hidden(self):
            pass

    assert api.described("m.Thing", Thing) == ["m.Thing(a, b=2)", "m.Thing.method(self, c=None)", "m.Thing.size"]
