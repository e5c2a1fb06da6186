"""One suite for the prompt registry's port, run against every adapter."""

import threading

import pytest

from plinth.errors import Conflict, InvalidInput, NotFound
from plinth.generation.memory import MemoryPrompts
from plinth.generation.mlflow import MlflowPrompts
from plinth.generation.prompts import MAX_MESSAGE_CHARS, MAX_TEMPLATE_CHARS, check_registration
from plinth.models.mlflow_connection import MlflowConnection

TEXT = "--- user ---\n{% for word in headings %}{{ word }} > {% endfor %}{{ text }} {# é \u2028 #}\r\n\n"
VARIABLES = ("text", "headings")


@pytest.fixture(scope="module", params=["memory", "mlflow", "mlflow-server"])
def registry(request, tmp_path_factory):
    if request.param == "memory":
        return MemoryPrompts()
    if request.param == "mlflow-server":
        server = request.getfixturevalue("mlflow_server")
        return MlflowPrompts(MlflowConnection(server.url, server.user, server.password))
    folder = tmp_path_factory.mktemp("state") / "my state 5%" / "mlflow"
    return MlflowPrompts(MlflowConnection(f"sqlite:///{folder / 'mlflow.db'}"))


def test_a_prompt_is_kept_as_it_is_with_who_made_it_and_why(registry):
    made = registry.register("kept.answer", TEXT, VARIABLES, message="the first", actor="ana")
    assert (made.name, made.version, made.template, made.variables) == ("kept.answer", "1", TEXT, VARIABLES)
    assert (made.message, made.actor) == ("the first", "ana")
    assert made.created_at.endswith("+00:00")
    assert registry.get("kept.answer", "1") == made
    assert made.prompt.name == "answer"
    assert made.prompt.template == TEXT


def test_the_same_text_again_is_the_same_version_even_after_another_one(registry):
    first = registry.register("again.answer", TEXT, VARIABLES)
    second = registry.register("again.answer", TEXT + ".", VARIABLES)
    assert (first.version, second.version) == ("1", "2")
    assert registry.register("again.answer", TEXT, VARIABLES, message="tried again") == first
    assert registry.register("again.answer", TEXT, ("text",)).version == "3"
    assert len({version.digest for version in registry.versions("again")}) == 3


def test_the_list_has_one_product_only_by_name_newest_first(registry):
    for name in ("listed.source", "listed.answer", "listed-too.answer"):
        registry.register(name, "a {{ text }}", ("text",))
        registry.register(name, "b {{ text }}", ("text",))
    found = [(version.name, version.version) for version in registry.versions("listed")]
    assert found == [("listed.answer", "2"), ("listed.answer", "1"), ("listed.source", "2"), ("listed.source", "1")]
    assert registry.versions("nobody") == []
    assert registry.versions("%") == []
    assert registry.versions("' OR name LIKE '%") == []


def test_what_is_not_there_is_not_found(registry):
    registry.register("there.answer", "{{ text }}", ("text",))
    registry.set_alias("there.answer", "serving", "1")
    for name, version in [
        ("there.answer", "2"),
        ("there.answer", "x"),
        ("there.answer", "serving"),
        ("no.answer", "1"),
    ]:
        with pytest.raises(NotFound, match="no version"):
            registry.get(name, version)


def test_an_alias_points_at_one_version_at_a_time(registry):
    registry.register("alias.answer", "a {{ text }}", ("text",))
    registry.register("alias.answer", "b {{ text }}", ("text",))
    assert registry.alias("alias.answer", "serving") is None
    registry.set_alias("alias.answer", "serving", "2")
    assert registry.alias("alias.answer", "serving") == "2"
    registry.set_alias("alias.answer", "serving", "1")
    assert registry.alias("alias.answer", "serving") == "1"
    assert registry.alias("nobody.answer", "serving") is None
    with pytest.raises(NotFound):
        registry.set_alias("alias.answer", "serving", "3")
    for bad in ("latest", "1", "Serving", ""):
        with pytest.raises(InvalidInput):
            registry.set_alias("alias.answer", bad, "1")


@pytest.mark.parametrize(
    "name", ["answer", "a/b.answer", "docs..answer", "Docs.answer", "docs.answer ", "d'.answer", ""]
)
def test_a_name_that_is_not_product_and_prompt_is_refused(registry, name):
    with pytest.raises(InvalidInput, match="no name of a prompt"):
        registry.register(name, "{{ text }}", ("text",))


@pytest.mark.parametrize("template", ["", " \n", "x" * (MAX_TEMPLATE_CHARS + 1), "a\x00b", "a\ud800b"])
def test_a_text_that_no_store_keeps_is_refused(registry, template):
    with pytest.raises(InvalidInput):
        registry.register("text.answer", template, ("text",))
    with pytest.raises(InvalidInput):
        registry.register("text.answer", "fine", ("text",), message="m" * (MAX_MESSAGE_CHARS + 1))
    assert registry.versions("text") == []


def test_the_largest_text_that_is_allowed_is_kept(registry):
    text = "é" * MAX_TEMPLATE_CHARS
    check_registration("large.answer", text, "m" * MAX_MESSAGE_CHARS)
    registry.register("large.answer", text, ("text",), message="m" * MAX_MESSAGE_CHARS)
    assert registry.get("large.answer", "1").template == text


def test_the_same_text_registered_at_once_is_used_as_one_version(registry):
    registry.versions("racing")  # the database is there before they start
    barrier, versions = threading.Barrier(4), []

    def register():
        barrier.wait()
        versions.append(registry.register("racing.answer", TEXT, VARIABLES).version)

    threads = [threading.Thread(target=register) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(versions) == 4
    assert registry.register("racing.answer", TEXT, VARIABLES).version == "1"


def test_a_prompt_is_no_model_and_a_model_no_prompt(tmp_path):
    from plinth.models.mlflow import MlflowRegistry

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    connection = MlflowConnection(store)
    prompts, models = MlflowPrompts(connection), MlflowRegistry(connection, tmp_path / "artifacts")
    prompts.register("docs.answer", TEXT, VARIABLES)
    assert models.versions() == []
    prompts._client.create_registered_model("docs.model")
    with pytest.raises(Conflict, match=r"docs\.model"):
        prompts.register("docs.model", TEXT, VARIABLES)
    assert prompts.versions("docs")[0].name == "docs.answer"


def test_an_unreachable_store_is_unavailable(tmp_path):
    (tmp_path / "file").write_text("no folder")
    from plinth.errors import Unavailable

    with pytest.raises(Unavailable):
        MlflowPrompts(MlflowConnection(f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}")).versions("docs")
