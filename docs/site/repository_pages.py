"""Files of the repository as Markdown for the site: notebooks, parts of the README, links.

Nothing here needs more than Python, so that the tests can ask it without building the site.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]

# file outside docs/ -> its page; whatever else is outside docs/ is no page
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
# index.md is a page of its own, and takes in parts of the README
SOURCE = {page: file for file, page in ELSEWHERE.items() if page != "index.md"}

_TAKEN_IN = re.compile(r"^<!-- README: (?P<name>[\w-]+) -->$", re.M)
_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
# a list that follows its sentence without a blank line, as GitHub reads it and mkdocs does not
_LIST = re.compile(r"^(?![-*] |\d+\. |[ |#>]|$)(?P<sentence>.*)\n(?=[-*] |\d+\. )", re.M)
_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.M | re.S)


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as it was executed: its page in Markdown, and its pictures by name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
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
                raise ValueError(f"{path}: an output that is neither text nor a picture.")
    opening, *rest = parts
    heading, _, opening = opening.partition("\n")
    note = (
        f'!!! note "The notebook `theory/{path.name}`, with its outputs"\n'
        f"    The tests execute it: `pytest --nbmake theory/{path.name}`"
    )
    return "\n\n".join([heading, note, opening, *rest]), pictures


def readme_part(name: str) -> str:
    """What README.md has between the markers of a part."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    _, begin, rest = text.partition(f"<!-- begin: {name} -->\n")
    part, end, _ = rest.partition("<!-- end -->")
    if not (begin and end):
        raise ValueError(f"README.md marks no part {name!r}.")
    return part


def page_markdown(markdown: str, page: str) -> str:
    """A page's Markdown with the README's parts in their places, and links that lead to pages."""
    linked = _page_links(markdown, SOURCE.get(page, f"docs/{page}"), page)
    return _TAKEN_IN.sub(
        lambda marker: _page_links(readme_part(marker["name"]), "README.md", page), linked
    )


def _page_links(markdown: str, source: str, page: str) -> str:
    """Links to files as links to their pages; the name of a file that has none stays as code.

    Lists get the blank line before them that mkdocs asks for.
    """

    def rewritten(link: re.Match[str]) -> str:
        target, hash_, anchor = link["target"].partition("#")
        if not target or ":" in target:
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path in ELSEWHERE:
            found = ELSEWHERE[path]
        elif path.startswith("docs/"):
            found = path.removeprefix("docs/")
        elif link["picture"]:  # of a notebook
            return link[0]
        else:
            return f"`{path}`"
        found = posixpath.relpath(found, posixpath.dirname(page) or ".")
        return f"{link['picture']}[{link['text']}]({found}{hash_}{anchor})"

    code = [match[0] for match in _CODE.finditer(markdown)]  # stays as it is, in links' text too
    places = iter(range(len(code)))
    markdown = _LINK.sub(rewritten, _CODE.sub(lambda _: f"\0{next(places)}\0", markdown))
    markdown = _LIST.sub(r"\g<sentence>\n\n", markdown)
    return re.sub(r"\0(\d+)\0", lambda place: code[int(place[1])], markdown)
