"""A Markdown extension: formulas become MathML when the site is built, so that pages need no script and no network.

`mkdocs.yml` lists it after `pymdownx.arithmatex`, which finds the formulas. A formula that cannot be converted fails
the build.
"""

from __future__ import annotations

import html
from typing import Any
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert_to_element
from markdown import Extension, Markdown
from markdown.treeprocessors import Treeprocessor


def mathml(tex: str, display: str) -> Element:
    """A formula as a <math> element; display is "inline" or "block"."""
    try:
        math = convert_to_element(tex, display=display)
    except Exception as error:
        raise ValueError(f"formula {tex!r} is not valid TeX: {error or type(error).__name__}") from error
    for element in math.iter():
        element.text = html.unescape(element.text or "")
    # latex2mathml copies what it does not know
    unknown = [text for text in math.itertext() if "\\" in text or "$" in text]
    if unknown:
        raise ValueError(f"formula {tex!r} has {', '.join(unknown)}, which latex2mathml does not know")
    return math


class FormulaProcessor(Treeprocessor):
    r"""Replaces the text of arithmatex's elements, \(...\) or \[...\], by MathML."""

    def run(self, root: Element) -> None:
        for element in root.iter():
            if element.get("class") == "arithmatex":
                tex = html.unescape(element.text or "")[2:-2].strip()
                element.text = None
                element.append(mathml(tex, "block" if element.tag == "div" else "inline"))
            elif element.tag != "code" and "$$" in (element.text or "") + (element.tail or ""):
                raise ValueError(f"a formula is not closed, or not alone in its paragraph: {element.text!r}")


class FormulaExtension(Extension):
    """Registers the processor."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - the name is Markdown's
        md.treeprocessors.register(FormulaProcessor(md), "formulas", 15)  # after "inline", 20


def makeExtension(**options: Any) -> FormulaExtension:  # noqa: N802 - the name is Markdown's
    """What Markdown calls to load the extension."""
    return FormulaExtension(**options)
