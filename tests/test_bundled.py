"""The bundled checkpoints: found by name, whole, and registered for `ssmctx.load`."""

from __future__ import annotations

import inspect
import shutil
from importlib import metadata

import pytest
import torch
from mambaic import bundled
from mambaic.bundled import BUNDLED, DEFAULT, bundled_path, load_bundled
from test_packaging import configuration

import ssmctx
from ssmctx.codec import loading
from ssmctx.errors import ArgumentError, CheckpointError, UnknownNameError
from ssmctx.registry import Registry


@pytest.mark.parametrize("name", BUNDLED)
def test_each_is_whole_and_ready_to_code(name):
    codec = load_bundled(name)
    assert not codec.training
    assert codec.lmbda is not None
    image = torch.full((3, 20, 30), 77, dtype=torch.uint8)
    assert codec.decode(codec.encode(image)).shape == image.shape


def test_the_default_is_the_first():
    assert next(iter(BUNDLED)) == DEFAULT


def test_every_one_has_an_entry_point():
    points = configuration()["project"]["entry-points"]["ssmctx.codecs"]
    assert points == {name: f"mambaic.bundled:{name}" for name in BUNDLED}


@pytest.fixture
def installed(monkeypatch):
    """The registry as it is where this package is installed."""
    points = [metadata.EntryPoint(name, f"mambaic.bundled:{name}", "ssmctx.codecs") for name in BUNDLED]
    monkeypatch.setattr(metadata, "entry_points", lambda group: points if group == "ssmctx.codecs" else [])
    monkeypatch.setattr(loading, "codecs", Registry("codec"))


@pytest.mark.usefixtures("installed")
def test_python_loads_them_by_name():
    codec = ssmctx.load("tiny")
    assert isinstance(codec, ssmctx.ImageCodec)
    assert inspect.getmodule(type(codec)).__name__ == "mambaic.codec"
    with pytest.raises(UnknownNameError, match=r"unknown codec 'tin' \(did you mean 'tiny'\?\); known: .*tiny"):
        ssmctx.load("tin")


def test_one_that_was_changed_is_refused(monkeypatch, tmp_path):
    path = shutil.copy(bundled_path("tiny"), tmp_path)
    with open(path, "r+b") as file:
        file.seek(5000)
        file.write(b"x")
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match=r"is not what was published: it is damaged or replaced; reinstall"):
        load_bundled("tiny")
    with pytest.raises(ArgumentError, match=r"no bundled checkpoint 'huge'; there are .*tiny"):
        load_bundled("huge")
