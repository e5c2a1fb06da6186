"""The product's service: its parts wired together, and the BentoML service they run in.

`python -m docs_assistant.service --host 127.0.0.1 --port 3002` serves in one process, as the supervisor wants it;
`bentoml serve docs_assistant.service:DocsAssistant` serves the same under BentoML's own process manager.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

import bentoml

from plinth.serving.bentoml import CONFIG, Front
from plinth.serving.service import LazyService

if TYPE_CHECKING:
    from plinth.assistants.service import AnswerService
    from plinth.serving.asgi import App

PRODUCT = "docs-assistant"


def build() -> AnswerService:
    """The service of the profile that the environment describes.

    Raises:
        NotFound, InvalidInput: The product's manifest is missing or does not fit.
        Unavailable: The ledger cannot be opened.
    """
    from plinth.assistants.entry import make_service
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    spec = platform.products.get(PRODUCT).spec
    return make_service(spec, platform.settings, platform.artifacts, platform.assistants)


running = LazyService(build)


@bentoml.service(name="DocsAssistant", **CONFIG)
class DocsAssistant:
    """Answers questions about a folder of documents, with quotations and citations."""

    def __init__(self) -> None:
        running.start()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def stop(self) -> None:
        """Write what is left of the logs."""
        running.stop()


# The decorator makes a bentoml.Service of the class, but is typed as returning the class.
cast(Any, DocsAssistant).add_asgi_middleware(Front, serve=running)


def front() -> App:
    """Outermost, so that a request passes none of the framework's layers; BentoML keeps the lifespan."""
    return Front(cast(Any, DocsAssistant).to_asgi(), running)


if __name__ == "__main__":
    from plinth.assistants.entry import serve
    from plinth.wiring import Platform

    sys.exit(serve(front, "docs_assistant.service", 3002, lambda: Platform.from_settings().settings))
