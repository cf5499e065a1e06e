"""Docstrings as plain text: what HTML and Markdown would take out of a formula stays in it.

`<g_down, g_pre>` is no tag, and the star of `theta*` opens no emphasis. Code stays as it is.
"""

from __future__ import annotations

import re

from griffe import Extension

KEPT = re.compile(  # code, and words in *emphasis*
    r"(```.*?```|``[^`]+``|`[^`]+`|^ *>>> .*$|(?<![\w*)\]])\*[^*\s][^*]*\*(?!\w))", re.M | re.S
)


class PlainDocstrings(Extension):
    """Escapes the signs of formulas in every docstring."""

    def on_instance(self, *, obj, **_):
        """Called by griffe for each object that it has read."""
        if obj.docstring:
            pieces = KEPT.split(obj.docstring.value)
            pieces[::2] = [as_text(piece) for piece in pieces[::2]]
            obj.docstring.value = "".join(pieces)


def as_text(words):
    """Words with a formula's < and * escaped; a link's < and an argument's * are none."""
    words = re.sub(r"<(?!https?://)", "&lt;", words)
    return re.sub(r"(?<=[\w)}])\*", r"\*", words)
