"""Pieces of HTML."""

import html
import re

from tables import WORDS

MARKS = ("ok", "missed", "better", "worse", "failed")


def text(words):
    return html.escape(words)


def anchor(method):
    """The id of a method's page."""
    return "method-" + re.sub(r"[^A-Za-z0-9_-]", "-", method)


def slug(words):
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def table(heads, lines, known=()):
    """A table; words are told from numbers, verdicts get their colour, and methods in `known` link to their page."""
    kinds = ["words" if head in WORDS else "" for head in heads]

    def cell(head, kind, content):
        mark = content if content in MARKS else kind
        attribute = f' class="{mark}"' if mark else ""
        inner = html.escape(content)
        if head == "method":
            name, _, rest = content.partition(" ")
            if name in known:
                inner = f'<a href="#{anchor(name)}">{html.escape(name)}</a>' + html.escape(rest and " " + rest)
        return f"<td{attribute}>{inner}</td>"

    head = "".join(f'<th{f" class={chr(34)}{k}{chr(34)}" if k else ""}>{text(h)}</th>' for h, k in zip(heads, kinds))
    body = "\n".join(f"<tr>{''.join(map(cell, heads, kinds, line))}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def figure(svg):
    return f'<div class="scroll picture">{svg}</div>' if svg else ""


def papers(words):
    """Escaped, with arXiv numbers as links."""
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', html.escape(words))


def inline(markdown):
    """A cell of a table in Markdown: code in backticks, nothing else."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", papers(markdown))


def facts(pairs):
    return "".join(f"<div><span>{text(what)}</span><span>{text(value)}</span></div>" for what, value in pairs)
