"""Prompt templates: typed, sandboxed, and checked before anybody relies on them.

A template is Jinja2 in a small part: text, `{{ variable }}`, the filters of `FILTERS`, `{% if %}`, and `{% for %}` over
a variable. Nothing is called, assigned, included or imported, and loops do not nest, so what a template takes and makes
grows with its variables only (Jinja2's sandbox alone holds neither `{{ "x" * 10 ** 9 }}` nor endless loops back).

An assistant has two of them. `source` renders one retrieved text, of the variables `number`, `title`, `headings` and
`text`. `answer` renders the messages, of `question` and `sources` (the rendered sources, in order); each message begins
with a line of its own:

    --- system ---
    Answer from the sources alone. Cite them as [1].
    --- user ---
    {{ sources }}
    <question>{{ question }}</question>

The lines are looked for in the template and never in what is rendered: no text can begin a message, and no text is
looked at for `{{`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast

from plinth.errors import InvalidInput, MissingExtra, RefusedByPolicy
from plinth.generation.port import Message
from plinth.generation.prompts import MAX_TEMPLATE_CHARS

if TYPE_CHECKING:
    from jinja2 import Environment, Template
    from jinja2.nodes import Node

    from plinth.core.assistants import Prompt

FILTERS = frozenset({"join", "length", "lower", "trim", "upper"})
VARIABLES = {"answer": ("question", "sources"), "source": ("number", "title", "headings", "text")}
"""What the prompts that an assistant is made of may use, and have to."""

MAX_RENDERED_CHARS = 400_000
_MARKER = re.compile(r"^--- (system|user|assistant) ---[ \t]*$", re.MULTILINE)
_TAG = re.compile(r"</?(?:source|question|title)\b", re.IGNORECASE)
_NODES = frozenset((
    "Template", "Output", "TemplateData", "Name", "Const", "Filter", "If", "For", "CondExpr", "Test", "Compare",
    "Operand", "And", "Or", "Not", "Getattr",
))  # fmt: skip
_LOOP = frozenset({"first", "index", "last", "length"})


@dataclass(frozen=True, slots=True)
class SourceText:
    """A retrieved text as a template sees it: its number in the prompt, from 1, and where it stands."""

    number: int
    title: str
    headings: tuple[str, ...]
    text: str


class Templates:
    """The prompts of a release, ready to render. Thread-safe.

    Args:
        prompts: Those of the release; `answer` and `source` are used.

    Raises:
        InvalidInput, RefusedByPolicy: As `check_prompts`.
    """

    def __init__(self, prompts: Iterable[Prompt]) -> None:
        texts = {prompt.name: prompt.template for prompt in prompts}
        for name, variables in VARIABLES.items():
            if name not in texts:
                raise InvalidInput(f"there is no prompt {name!r}", where="prompts", hint="every assistant has one")
            check_prompt(name, texts[name], variables)
        self._messages = [(role, _compile(text)) for role, text, _ in _sections(texts["answer"], "answer")]
        self._source = _compile(texts["source"])

    def messages(self, question: str, sources: Sequence[SourceText]) -> tuple[Message, ...]:
        """The rendered prompt.

        Args:
            question: As the guardrails let it through.
            sources: Texts made safe by the guardrails (`Guard.as_data`), best first. What they left that looks like
                a tag of the prompt is shown as `&lt;source`, here and in the question.

        Raises:
            InvalidInput: What is rendered is too long, or cannot be rendered.
        """
        rendered = "\n".join(_render(self._source, "source", _values(source)).strip("\n") for source in sources)
        values = {"question": _untagged(question), "sources": rendered}
        return tuple(Message(role, _render(template, "answer", values).strip()) for role, template in self._messages)


def check_template(template: str, variables: Sequence[str], *, name: str = "prompt") -> None:
    """Hold a template to the language that prompts are written in, and to its declared variables.

    Raises:
        InvalidInput: It is no Jinja2 (the line is named), or too long.
        RefusedByPolicy: It does something that templates may not, or its variables are not exactly those declared.
    """
    if len(template) > MAX_TEMPLATE_CHARS:
        raise InvalidInput(
            f"the template has {len(template):,} characters", where=name, hint=f"at most {MAX_TEMPLATE_CHARS:,}"
        )
    _environment()
    from jinja2.exceptions import TemplateSyntaxError
    from jinja2.meta import find_undeclared_variables

    try:
        tree = _environment().parse(template)
        _check_nodes(tree, name)  # before it is compiled: compiling works out what is constant, however large
        _compile(template)
    except TemplateSyntaxError as error:
        raise InvalidInput(
            f"the template is no Jinja2: {error.message}", where=f"{name}, line {error.lineno}", hint="correct the line"
        ) from None
    except RecursionError:
        raise InvalidInput("the template is nested too deeply", where=name, hint="write it flat") from None
    used, declared = find_undeclared_variables(tree), set(variables)
    if used != declared:
        raise RefusedByPolicy(
            f"the template uses the variables {_names(used)}, declared are {_names(declared)}", where=name,
            hint="use exactly those that product.yaml declares",
        )  # fmt: skip


def check_prompt(name: str, template: str, variables: Sequence[str]) -> None:
    """Check a prompt as it is registered: its variables, and that what a generator needs stands in what it renders.

    Raises:
        InvalidInput: It is no Jinja2, or its rendering of an example lacks `<source id="N">…</source>`,
            `<question>…</question>` or a message; names prompt, line and what is missing.
        RefusedByPolicy: As `check_template`; or the variables are not those that this prompt is given.
    """
    given = VARIABLES.get(name, tuple(variables))
    if set(given) != set(variables):
        raise RefusedByPolicy(
            f"declared are the variables {_names(variables)}, it is given {_names(given)}", where=name,
            hint="declare exactly those that it is given, in product.yaml",
        )  # fmt: skip
    check_template(template, given, name=name)
    if name == "source":
        _check_source(template)
    if name == "answer":
        _check_answer(template)


def _check_source(template: str) -> None:
    text = "Example text of a source."
    for headings in ((), ("Example", "heading")):
        rendered = _render(_compile(template), "source", _values(SourceText(7, "Example", headings, text))).strip()
        if not re.fullmatch(r'<source id="7">.*' + re.escape(text) + r".*</source>", rendered, re.DOTALL):
            raise InvalidInput(
                'what it renders is not <source id="N">…</source> around the text',
                where=f"source, line {_line_of(template, 'text')}",
                hint='write <source id="{{ number }}">, then {{ text }}, then </source>, and nothing around them',
            )


def _check_answer(template: str) -> None:
    sections = _sections(template, "answer")
    values = {"question": "Is this an example?", "sources": '<source id="1">\nExample.\n</source>'}
    user = [_render(_compile(text), "answer", values) for role, text, _ in sections if role == "user"]
    if not user or sections[-1][0] != "user":
        raise InvalidInput(
            "the last message is not the user's", where=f"answer, line {sections[-1][2]}", hint="end with --- user ---"
        )
    if f"<question>{values['question']}</question>" not in user[-1]:
        raise InvalidInput(
            "the last message does not hold <question>…</question>",
            where=f"answer, line {_line_of(template, 'question')}",
            hint="write <question>{{ question }}</question>, without spaces inside",
        )
    if values["sources"] not in "".join(user):
        raise InvalidInput(
            'no message of the user holds <source id="N">…</source>',
            where=f"answer, line {_line_of(template, 'sources')}",
            hint="write {{ sources }} below --- user ---",
        )


def _sections(template: str, name: str) -> list[tuple[Literal["system", "user", "assistant"], str, int]]:
    """Role, text and first line of each message."""
    from jinja2.exceptions import TemplateSyntaxError

    marks = list(_MARKER.finditer(template))
    if not marks or template[: marks[0].start()].strip():
        raise InvalidInput(
            "the template does not begin with a message", where=f"{name}, line 1", hint="begin with --- system ---"
        )
    ends = [mark.start() for mark in marks[1:]] + [len(template)]
    found = []
    for mark, end in zip(marks, ends, strict=True):
        line = template.count("\n", 0, mark.start()) + 1
        text = template[mark.end() : end]
        try:  # a block that begins in one message and ends in the next
            _compile(text)
        except TemplateSyntaxError as error:
            raise InvalidInput(
                f"a message is no template by itself: {error.message}",
                where=f"{name}, line {line - 1 + error.lineno}",
                hint="close its blocks before the next message begins",
            ) from None
        found.append((cast("Literal['system', 'user', 'assistant']", mark[1]), text, line))
    return found


def _check_nodes(tree: Node, name: str) -> None:
    from jinja2 import nodes

    for node in tree.find_all(nodes.Node):
        what = _refusal(node)
        if what:
            raise RefusedByPolicy(
                f"the template {what}", where=f"{name}, line {node.lineno}",
                hint="text, {{ variable }}, {% if %}, one {% for %} over a variable, and the filters "
                + ", ".join(sorted(FILTERS)),
            )  # fmt: skip


def _refusal(node: Node) -> str:
    """What a template may not do, or ""."""
    from jinja2 import nodes

    kind = type(node).__name__
    if kind not in _NODES:
        return f"uses {kind}, which prompts have no need of"
    if isinstance(node, nodes.Filter) and node.name not in FILTERS:
        return f"uses the filter {node.name!r}"
    if isinstance(node, nodes.Getattr) and not (
        isinstance(node.node, nodes.Name) and node.node.name == "loop" and node.attr in _LOOP
    ):
        return f"reads the attribute {node.attr!r}"
    if isinstance(node, nodes.For):
        if not isinstance(node.iter, nodes.Name) or node.recursive:
            return "loops over something else than a variable"
        if any(True for _ in node.find_all(nodes.For)):
            return "has a loop in a loop"
    return ""


@lru_cache(maxsize=1)
def _environment() -> Environment:
    try:
        from jinja2 import StrictUndefined
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "jinja2", "generation") from error
    # What is rendered is a prompt and no HTML: escaping would change the texts that are quoted.
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
    environment.globals.clear()
    return environment


def _compile(text: str) -> Template:
    return _environment().from_string(text)


def _render(template: Template, name: str, values: Mapping[str, Any]) -> str:
    parts, size = [], 0
    try:
        for part in template.generate(values):
            parts.append(part)
            size += len(part)
            if size > MAX_RENDERED_CHARS:
                break
    except Exception as error:  # noqa: BLE001  (whatever a template does to a value that it does not fit, such as the length of 7)
        raise InvalidInput(f"the prompt cannot be rendered: {error}", where=name, hint="correct the template") from None
    if size > MAX_RENDERED_CHARS:
        raise InvalidInput(
            f"the prompt has more than {MAX_RENDERED_CHARS:,} characters", where=name, hint="give it less to read"
        )
    return "".join(parts)


def _values(source: SourceText) -> dict[str, Any]:
    return {
        "number": source.number,
        "title": _untagged(source.title),
        "headings": tuple(_untagged(heading) for heading in source.headings),
        "text": _untagged(source.text),
    }


def _untagged(text: str) -> str:
    return _TAG.sub(lambda tag: "&lt;" + tag[0][1:], text)


def _line_of(template: str, variable: str) -> int:
    """The first line that a variable stands on."""
    found = re.search(rf"\{{[{{%].*\b{variable}\b", template)
    return template.count("\n", 0, found.start()) + 1 if found else 1


def _names(variables: Iterable[str]) -> str:
    return ", ".join(sorted(variables)) or "none"
