"""One suite for every parser: the same little document in five formats, and what none of them may let through.

Each is tried as it is, and in the process with limits that ingestion runs it in.
"""

import io
import textwrap

import pytest

from plinth.errors import InvalidInput
from plinth.ingestion.kinds import MODULES, parser_of
from plinth.ingestion.sandbox import Sandbox

BODY = "The index is built beside the live one. It is checked, and then it is promoted by the rollout."


def markdown():
    return f"""# Safe builds

{BODY}

## Steps

- build it
- check it

| name | value |
|--|--|
| chunks | 12 |

```
make demo
  indented
```
"""


def html():
    return f"""<!doctype html><html><head><title>Safe builds - Acme</title></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/blog">Blog of ours</a></li></ul></nav>
<main><h1>Safe builds</h1><p>{BODY}</p><h2>Steps</h2><ul><li>build it</li><li>check it</li></ul>
<table><tr><th>name</th><th>value</th></tr><tr><td>chunks</td><td>12</td></tr></table>
<pre><code>make demo
  indented</code></pre></main>
<footer><p>Copyright Acme. <a href="/privacy">Privacy policy</a></p></footer><script>track()</script></body></html>"""


def docx():
    import docx

    document = docx.Document()
    document.add_heading("Safe builds", 0)
    document.add_paragraph(BODY)
    document.add_heading("Steps", 1)
    for item in ("build it", "check it"):
        document.add_paragraph(item, style="List Bullet")
    table = document.add_table(2, 2)
    for cell, text in zip(table._cells, ("name", "value", "chunks", "12"), strict=True):
        cell.text = text
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def pdf(pages=1, encrypt=False):
    import matplotlib as mpl

    mpl.use("pdf")
    import matplotlib.pyplot as plt
    from matplotlib.backends.backend_pdf import PdfPages

    file = io.BytesIO()
    with PdfPages(file) as book:
        for number in range(pages):
            page = plt.figure(figsize=(8.3, 11.7))
            page.text(0.1, 0.97, "Running head", fontsize=8)
            page.text(0.1, 0.9, "Safe builds" if number == 0 else f"Part {number}", fontsize=22)
            for line, text in enumerate(textwrap.wrap(BODY, 60)):
                page.text(0.1, 0.85 - line * 0.017, text, fontsize=10)
            page.text(0.1, 0.75, "Steps", fontsize=15)
            page.text(0.1, 0.72, "build it", fontsize=10)
            page.text(0.5, 0.03, f"page {number + 1}", fontsize=8)
            book.savefig(page)
            plt.close(page)
    return file.getvalue()


FILES = {".md": markdown, ".html": html, ".docx": docx, ".pdf": pdf, ".txt": lambda: f"Safe builds\n\n{BODY}\n"}


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="module")
def files():
    made = {suffix: make() for suffix, make in FILES.items()}
    return {suffix: data.encode() if isinstance(data, str) else data for suffix, data in made.items()}


@pytest.fixture(params=["here", "in a process"])
def read(request, sandbox):
    def read(suffix, data):
        parser = sandbox if request.param == "in a process" else parser_of(suffix)
        return parser.parse(data, f"folder/file{suffix}")

    return read


@pytest.mark.parametrize("suffix", FILES)
def test_the_text_comes_whole_and_in_order(read, files, suffix):
    parsed = read(suffix, files[suffix])
    assert BODY in [block.text for block in parsed.blocks]
    texts = "\n".join(block.text for block in parsed.blocks)
    assert "Home" not in texts
    assert "Privacy" not in texts
    assert "track()" not in texts


@pytest.mark.parametrize("suffix", [".md", ".html", ".docx", ".pdf"])
def test_headings_are_known_as_headings(read, files, suffix):
    parsed = read(suffix, files[suffix])
    assert parsed.title == "Safe builds"
    headings = {block.text: block.headings for block in parsed.blocks}
    assert headings[BODY] == ()
    (steps,) = {path for text, path in headings.items() if "build it" in text}
    assert steps == ("Steps",)


@pytest.mark.parametrize("suffix", [".md", ".html", ".docx"])
def test_lists_and_tables_keep_their_form(read, files, suffix):
    blocks = {block.kind: block.text for block in read(suffix, files[suffix]).blocks}
    assert blocks["list"] == "- build it\n- check it"
    assert blocks["table"] == "| name | value |\n| --- | --- |\n| chunks | 12 |"


@pytest.mark.parametrize("suffix", [".md", ".html"])
def test_code_keeps_its_lines(read, files, suffix):
    blocks = {block.kind: block.text for block in read(suffix, files[suffix]).blocks}
    assert blocks["code"] == "make demo\n  indented"


@pytest.mark.parametrize("suffix", MODULES)
@pytest.mark.parametrize("data", [b"", b" \n", b"\x00\x01\x02\x00" * 50], ids=["empty", "blank", "binary"])
def test_a_file_without_text_is_refused_with_a_reason(read, suffix, data):
    with pytest.raises(InvalidInput) as raised:
        read(suffix, data)
    assert raised.value.what


@pytest.mark.parametrize("suffix", [".docx", ".pdf"])
def test_a_truncated_file_is_refused(read, files, suffix):
    with pytest.raises(InvalidInput):
        read(suffix, files[suffix][: len(files[suffix]) // 2])


@pytest.mark.parametrize(
    ("suffix", "content"), [(".pdf", ".docx"), (".docx", ".pdf"), (".pdf", ".md"), (".txt", ".docx")]
)
def test_a_file_of_another_kind_than_its_name_says_is_refused(read, files, suffix, content):
    with pytest.raises(InvalidInput):
        read(suffix, files[content])


@pytest.mark.parametrize("suffix", FILES)
def test_reading_twice_gives_the_same(read, files, suffix):
    assert read(suffix, files[suffix]) == read(suffix, files[suffix])


def test_a_head_that_runs_over_the_pages_of_a_pdf_is_left_out(read):
    texts = "\n".join(block.text for block in read(".pdf", pdf(pages=4)).blocks)
    assert texts.count(BODY) == 4
    assert "Running head" not in texts
    assert "page 2" not in texts


def test_the_suffixes_of_the_parsers_are_those_they_are_found_by():
    assert {suffix: suffix in parser_of(suffix).suffixes for suffix in MODULES} == dict.fromkeys(MODULES, True)
