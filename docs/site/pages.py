"""Pages of the site that stand elsewhere in the repository, and the formulas of all pages.

A hook of mkdocs. The notebooks of theory/ become pages with the outputs that are committed in them
(the tests execute every cell again); CONTRIBUTING.md, CHANGELOG.md and the log are read where they
are. Links between files of the repository become links between pages. Formulas become MathML when
the site is built, so that a page needs no script and nothing from outside to show them.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
from html import unescape
from pathlib import Path

from math_core import LatexToMathML
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]

# file of the repository -> page; whatever is not here and not in docs/ is no page
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "experiments/LOG.md": "log.md",
    "theory/README.md": "theory/index.md",
    **{
        f"theory/{path.name}": f"theory/{path.stem}.md"
        for path in sorted((ROOT / "theory").glob("*.ipynb"))
    },
}
STANDS_AT = {page: source for source, page in ELSEWHERE.items() if page != "index.md"}
TAKEN_IN = re.compile(r"^<!-- README: (?P<name>[\w-]+) -->$", re.M)
LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.M | re.S)
FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.S
)
MATHML = LatexToMathML()


def on_files(files, config):
    """Add the pages that are not in docs/."""
    for page, source in STANDS_AT.items():
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
    """Take in what stands in the README, and turn links between files into links between pages."""
    here = page.file.src_uri

    def taken_in(marker):
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        _, begin, rest = text.partition(f"<!-- begin: {marker['name']} -->\n")
        part, end, _ = rest.partition("<!-- end -->")
        if not (begin and end):
            raise PluginError(f"{here}: README.md marks no part {marker['name']!r}.")
        return page_links(part, "README.md", here)

    linked = page_links(markdown, STANDS_AT.get(here, f"docs/{here}"), here)
    return TAKEN_IN.sub(taken_in, linked)


def on_page_content(html, page, config, files):
    """Turn the formulas into MathML."""
    return FORMULA.sub(as_mathml, html)


def notebook_page(path):
    """A notebook as it was executed: its page in Markdown, and its pictures by name."""
    parts, pictures = [], {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"]).rstrip()
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                printed = "".join(output["text"]).rstrip()
                parts.append(f"``` {{ .text .output }}\n{printed}\n```")
            elif "image/png" in output.get("data", {}):
                name = f"{path.stem}_{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode("".join(output["data"]["image/png"]))
                parts.append(f"![What the cell above draws]({name})")
            else:
                raise ValueError(f"{path}: no way to show an output of {output['output_type']}.")
    title, *rest = parts
    heading, _, opening = title.partition("\n")
    note = (
        f'!!! note "This page is the notebook `theory/{path.name}`"\n'
        f"    with its outputs. The tests execute it again:\n"
        f"    `pytest --nbmake theory/{path.name}`"
    )
    return "\n\n".join([heading, note, opening, *rest]), pictures


def page_links(markdown, source, page):
    """A file's Markdown with its links to files of the repository as links of a page.

    Where a file is no page, its name stays, without a link.
    """

    def rewritten(link):
        target, hash_, anchor = link["target"].partition("#")
        if not target or ":" in target:
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path in ELSEWHERE:
            found = ELSEWHERE[path]
        elif path.startswith("docs/"):
            found = path.removeprefix("docs/")
        elif link["picture"]:
            return link[0]
        else:
            return f"`{path}`"
        found = posixpath.relpath(found, posixpath.dirname(page) or ".")
        return f"{link['picture']}[{link['text']}]({found}{hash_}{anchor})"

    code = [match[0] for match in CODE.finditer(markdown)]  # stays as it is, in links' text too
    places = iter(range(len(code)))
    markdown = LINK.sub(rewritten, CODE.sub(lambda _: f"\0{next(places)}\0", markdown))
    return re.sub(r"\0(\d+)\0", lambda place: code[int(place[1])], markdown)


def as_mathml(formula):
    """One formula's MathML; a formula that cannot be read stops the build."""
    display = formula["tag"] == "div"
    mathml = MATHML.convert_with_local_state(unescape(formula["latex"]), displaystyle=display)
    return f'<div class="formula">{mathml}</div>' if display else mathml
