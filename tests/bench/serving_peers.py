"""The peers of the serving benchmark, each one process: `serving_peers.py MODE PORT [MODEL]`.

bentoml: the model behind BentoML's own service and API as its documentation shows them, without features. floor: the
least work that gives the same answer, Starlette and ONNX Runtime. sink: takes OTLP like MLflow's server, keeps nothing.
All run under one uvicorn worker, as ours does.
"""

import os
import sys


def session(path):
    """The model, with one thread as in ours."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def bentoml_app(model):
    """What one writes after BentoML's quick start: a class, an `@bentoml.api` method, arrays in and out."""
    import bentoml
    import numpy as np

    @bentoml.service()
    class Bare:
        def __init__(self):
            self.session = session(model)

        @bentoml.api(route="/predict")
        def predict(self, rows: np.ndarray) -> np.ndarray:
            matrix = np.asarray(rows, dtype=np.float32)
            return self.session.run(["probabilities"], {"input": matrix})[0][:, 1]

    return Bare.to_asgi()


def floor_app(model):
    """Starlette, the json module's faster twin, ONNX Runtime; no checks, no features, no log."""
    import numpy as np
    import orjson
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    run = session(model).run

    async def predict(request):
        rows = np.array(orjson.loads(await request.body())["rows"], dtype=np.float32)
        scores = run(["probabilities"], {"input": rows})[0][:, 1]
        return Response(orjson.dumps(scores.tolist()), media_type="application/json")

    return Starlette(routes=[Route("/predict", predict, methods=["POST"])])


async def sink_app(scope, receive, send):
    """Answers what the trace exporter asks of MLflow."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    body = b'{"experiment": {"experiment_id": "1"}}'
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main():
    """Serve."""
    import uvicorn

    mode, port, *model = sys.argv[1:]
    app = sink_app if mode == "sink" else {"bentoml": bentoml_app, "floor": floor_app}[mode](model[0])
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_config=None, access_log=False, lifespan="auto")


if __name__ == "__main__":
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")
    main()
