"""Pages of the site that stand elsewhere in the repository, and the formulas of all pages.

A hook of mkdocs. The notebooks of theory/ become pages with the outputs that are committed in them;
CONTRIBUTING.md, CHANGELOG.md and the log are read where they are. Formulas become MathML when the
site is built, so that a page needs no script and nothing from outside to show them.
"""

from __future__ import annotations

import re
from html import unescape

from math_core import LatexToMathML
from mkdocs.structure.files import File
from repository_pages import ROOT, SOURCE, notebook_page, page_markdown

FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.S
)
MATHML = LatexToMathML()


def on_files(files, config):
    """Adds the pages that are not in docs/."""
    for page, source in SOURCE.items():
        path = ROOT / source
        if path.suffix == ".ipynb":
            text, pictures = notebook_page(path)
            for name, content in pictures.items():
                files.append(File.generated(config, f"theory/{name}", content=content))
        else:
            text = path.read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Takes in what stands in the README, and makes links between files links between pages."""
    return page_markdown(markdown, page.file.src_uri)


def on_page_content(html, page, config, files):
    """Makes the formulas MathML; one that cannot be read stops the build."""
    return FORMULA.sub(as_mathml, html)


def as_mathml(formula):
    """One formula's MathML, in a box of its own where it stands by itself."""
    display = formula["tag"] == "div"
    mathml = MATHML.convert_with_local_state(unescape(formula["latex"]), displaystyle=display)
    return f'<div class="formula">{mathml}</div>' if display else mathml
