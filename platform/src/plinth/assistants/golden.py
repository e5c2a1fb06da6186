"""Golden questions: what an assistant is asked before it is released, and what the right answer holds."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from plinth.core.assistants import RelativePath
from plinth.core.digests import digest_json
from plinth.core.documents import Problem, problems_error, read_text
from plinth.errors import InvalidInput

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]
Split = Literal["dev", "test"]


class GoldenQuestion(BaseModel):
    """A question, and what is known of its right answer. One JSON object a line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,60}$")]
    question: Text
    kind: Literal["answerable", "unanswerable", "adversarial"] = Field(
        description="answerable: the documents say it; unanswerable: they do not, however much it sounds like them; "
        "adversarial: it asks for what nobody may get. The last two are to be refused."
    )
    documents: tuple[RelativePath, ...] = Field((), description="Paths of the documents that say it, in their source.")
    must_contain: tuple[Annotated[tuple[Text, ...], Field(min_length=1)], ...] = Field(
        (), description="Facts of the right answer, each a list of spellings of which one is enough."
    )
    must_not_contain: tuple[Text, ...] = Field((), description="What an attack asks for, and no answer may hold.")
    split: Split = Field(description="dev: thresholds may be chosen on it; test: only what is reported.")

    @model_validator(mode="after")
    def _fits(self) -> GoldenQuestion:
        answerable = self.kind == "answerable"
        if answerable != bool(self.documents) or answerable != bool(self.must_contain):
            raise ValueError("an answerable question has documents and must_contain, and no other one has")
        return self

    def is_answered_by(self, text: str) -> bool:
        """Whether a text holds every fact of the right answer."""
        plain = squeezed(text)
        return all(any(holds(plain, fact) for fact in spellings) for spellings in self.must_contain)

    def asks_for(self, text: str) -> bool:
        """Whether a text holds something that the attack asked for."""
        plain = squeezed(text)
        return any(squeezed(part) in plain for part in self.must_not_contain)

    def needs(self, document: str) -> bool:
        """Whether a document, by its id (source and path), is one that says it."""
        return document.partition("/")[2] in self.documents


def load_golden(path: Path) -> tuple[GoldenQuestion, ...]:
    """Read golden questions, one JSON object a line; empty lines and lines that begin with # are skipped.

    Raises:
        NotFound: The file is not there.
        InvalidInput: A line is no golden question, an id or a question stands twice, or there is none; every problem
            is named with its file and line.
    """
    questions: list[GoldenQuestion] = []
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for number, line in _lines(read_text(path)):
        try:
            question = GoldenQuestion.model_validate(json.loads(line))
        except ValidationError as error:
            problems += [
                Problem(number, ".".join(map(str, part["loc"])), part["msg"])
                for part in error.errors(include_url=False)
            ]
            continue
        except (ValueError, RecursionError) as error:
            problems.append(Problem(number, "", f"is no JSON object: {error}"))
            continue
        for value in (question.id, squeezed(question.question)):
            if value in seen:
                problems.append(Problem(number, "", f"{value!r} stands in line {seen[value]} already"))
            seen[value] = number
        questions.append(question)
    if not questions and not problems:
        problems.append(Problem(1, "", "there is no question in it"))
    if problems:
        raise problems_error(
            InvalidInput, "the golden questions do not fit", problems, source=str(path), hint="correct the lines named"
        )
    return tuple(questions)


def golden_digest(questions: Sequence[GoldenQuestion]) -> str:
    """sha256 of what is asked, whatever the file's layout."""
    return digest_json([question.model_dump(mode="json") for question in questions])


def squeezed(text: str) -> str:
    """For looking up facts: NFKC, one case, single spaces, no Markdown emphasis or back-ticks, no citations."""
    plain = re.sub(r" ?\[\d{1,3}(?:, ?\d{1,3})*\]", "", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(re.sub(r"[`*_\\]", "", plain).split())


def holds(plain: str, fact: str) -> bool:
    """Whether a squeezed text holds a fact as words of its own: 5 is not in 50, nor in 5.2."""
    wanted = re.escape(squeezed(fact))
    return re.search(rf"(?<!\w)(?<!\d[.,:]){wanted}(?!\w|[.,:]\d)", plain) is not None if wanted else False


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.startswith("#"):
            yield number, line
