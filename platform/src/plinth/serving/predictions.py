"""The HTTP face of a predictor: `POST /predict`."""

from __future__ import annotations

from typing import Any

from plinth.serving.asgi import Application, Handler, Request, Response
from plinth.serving.health import Health
from plinth.serving.predictor import Predictor


class ServingApp(Application):
    """The ASGI application of one product's service.

    Args:
        predictor: Answers predictions.
        health: Answers /healthz and /readyz.
        pages: Path to body and content type of what never changes.
        options: Passed on to Application (`max_body`, `body_timeout`, `allowed_hosts`, `access`).
    """

    def __init__(
        self, predictor: Predictor, health: Health, pages: dict[str, tuple[bytes, str]], **options: Any
    ) -> None:
        self._predictor = predictor
        routes: dict[str, dict[str, Handler]] = {
            "/predict": {"POST": self._predict},
            "/inference-log/flush": {"POST": self.flush},
        }
        super().__init__(routes, predictor.observer, health, (predictor.log, predictor.requests), pages, **options)

    async def _predict(self, request: Request) -> Response:
        body = await self.body(request)
        answer = await self._predictor.predict(body, request.request_id, request.marks)
        request.rows, request.release = answer.rows, answer.release
        return Response(answer.body)
