"""Markdown by markdown-it-py: CommonMark with tables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from plinth.errors import MissingExtra
from plinth.ingestion.outline import Outline, table
from plinth.ingestion.port import Parsed
from plinth.ingestion.text import decode, front_matter

if TYPE_CHECKING:
    from markdown_it.tree import SyntaxTreeNode

_TAG = re.compile(r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1>|\Z)|</?[a-zA-Z][^<>]*>", re.DOTALL | re.IGNORECASE)


class MarkdownParser:
    """Headings, paragraphs, lists, tables and code of Markdown. A link keeps its text, not its address.

    Tags of HTML inside it are left out, their text stays. Front matter (`---`) may name the title.
    """

    suffixes = (".md", ".markdown")

    def parse(self, data: bytes, path: str) -> Parsed:
        """Read one file; see the port."""
        try:
            from markdown_it import MarkdownIt
            from markdown_it.tree import SyntaxTreeNode
        except ModuleNotFoundError as error:
            raise MissingExtra(error.name or "markdown_it", "ingestion") from error
        text, title = front_matter(decode(data, path))
        outline = Outline(title)
        for node in SyntaxTreeNode(MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)).children:
            if node.type == "heading":
                outline.heading(int(node.tag[1:]), _text(node))
            else:
                kind = {"fence": "code", "code_block": "code", "table": "table"}.get(node.type)
                kind = kind or ("list" if node.type.endswith("_list") else "text")
                outline.block(node.content if kind == "code" else _text(node), kind)
        return outline.parsed(path)


def _text(node: SyntaxTreeNode) -> str:
    """The text of a node, lists with their marks, code between fences, tables as Markdown."""
    match node.type:
        case "text" | "text_special" | "html_block" | "html_inline":
            return _TAG.sub("", node.content) if node.type.startswith("html") else node.content
        case "code_inline":
            mark = "``" if "`" in node.content else "`"
            return f"{mark}{node.content}{mark}"
        case "fence" | "code_block":
            return f"```\n{node.content.rstrip()}\n```"
        case "softbreak":
            return " "
        case "hardbreak":
            return "\n"
        case "image":
            return node.content
        case "table":
            return table([[_text(cell) for cell in row.children] for part in node.children for row in part.children])
        case "bullet_list" | "ordered_list":
            first = int(node.attrs.get("start", 1))
            marks = ("-" if node.type == "bullet_list" else f"{first + index}." for index in range(len(node.children)))
            return "\n".join(_item(mark, item) for mark, item in zip(marks, node.children, strict=False))
        case "hr":
            return ""
        case "blockquote" | "list_item":
            return "\n\n".join(filter(None, map(_text, node.children)))
        case _:
            return "".join(map(_text, node.children))


def _item(mark: str, item: SyntaxTreeNode) -> str:
    tight = "\n".join(filter(None, map(_text, item.children)))
    return f"{mark} " + tight.replace("\n", "\n" + " " * (len(mark) + 1))
