"""`plinth pipeline`: a product's pipelines, listed and run."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from plinth.cli.command import Groups

if TYPE_CHECKING:
    from plinth.cli.output import Output
    from plinth.pipelines.port import RunResult, StepRecord


def register(groups: Groups) -> None:
    """Declare the commands."""
    group = groups.group("pipeline", help="Pipelines: run one, list them.")
    command = group.command(
        "run",
        run,
        help="Run a product's pipeline, through the Prefect server when it is up, else in this process.",
        example="plinth pipeline run flight-delays train --inline",
    )
    command.add_argument("product")
    command.add_argument("name", help="name of the pipeline, as product.yaml declares it")
    command.add_argument(
        "--param", action="append", default=[], metavar="KEY=VALUE", help="a parameter; VALUE is JSON or plain text"
    )
    command.add_argument("--inline", action="store_true", help="run in this process, whether the server is up or not")
    command = group.command("list", list_pipelines, help="The products' pipelines.", example="plinth pipeline list")
    command.add_argument("product", nargs="?", help="only this product's")


def run(args: Namespace, out: Output) -> None:
    """Handler of `pipeline run`."""
    from plinth.pipelines.entry import find
    from plinth.runtime import pipelines
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    product = platform.products.get(args.product).spec
    find(product, args.name)
    params = parse_params(args.param)
    inline = args.inline
    if not inline and pipelines.without_server(platform):
        out.note(f"no Prefect server at {platform.settings.prefect_api_url} (`plinth up`): running in this process")
        inline = True
    with out.progress() as progress:
        task = progress.add_task("starting", total=None)

        def show(name: str, record: StepRecord | None) -> None:
            if record is None:
                progress.update(task, description=name)
            else:
                progress.advance(task)
                out.note(_line(record))

        result = pipelines.run(platform, product.name, args.name, params, inline=inline, on_step=show)
    _report(out, result)


def list_pipelines(args: Namespace, out: Output) -> None:
    """Handler of `pipeline list`."""
    from plinth.wiring import Platform

    products = Platform.from_settings().products
    chosen = [products.get(args.product)] if args.product else products.all()
    rows = [
        {
            "product": loaded.spec.name,
            "name": pipeline.name,
            "schedule": pipeline.schedule,
            "timeout": pipeline.timeout,
            "concurrency": pipeline.concurrency,
            "entry": pipeline.entry,
            "description": pipeline.description,
        }
        for loaded in chosen
        for pipeline in loaded.spec.pipelines
    ]
    out.data({"pipelines": rows})
    out.table(
        ["product", "pipeline", "schedule (UTC)", "timeout", "description"],
        [
            [row["product"], row["name"], row["schedule"] or "by hand", row["timeout"], row["description"]]
            for row in rows
        ],
    )


def parse_params(given: list[str]) -> dict[str, object]:
    """`key=value` texts as a mapping; a value that is JSON is read as such.

    Raises:
        InvalidInput: A text has no `=`, no key, or a key that was given before.
    """
    import json

    from plinth.errors import InvalidInput

    params: dict[str, object] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier() or key in params:
            raise InvalidInput(f"--param {text!r} is not KEY=VALUE, or is given twice", hint="--param months=6")
        try:
            params[key] = json.loads(value)
        except ValueError:
            params[key] = value
    return params


def _line(record: StepRecord) -> str:
    how = "unchanged, skipped" if record.cached else f"{record.seconds:.1f} s"
    again = f", {record.attempts} attempts" if record.attempts > 1 else ""
    mark = "ok" if record.status == "completed" else "failed"
    return f"  {mark:6} {record.name} ({how}{again})"


def _report(out: Output, result: RunResult) -> None:
    out.data(
        {
            "run_id": result.run_id,
            "product": result.product,
            "pipeline": result.pipeline,
            "runner": result.runner,
            "status": result.status,
            "seconds": result.seconds,
            "url": result.url,
            "folder": str(result.folder),
            "steps": [
                {"name": step.name, "cached": step.cached, "seconds": step.seconds, "attempts": step.attempts}
                for step in result.steps
            ],
            "output": _plain(result.output),
        }
    )
    skipped = f", {result.cached_steps} skipped as unchanged" if result.cached_steps else ""
    done = f"{result.status} in {result.seconds:.1f} s, {len(result.steps)} steps{skipped}"
    out.text(f"{result.product}/{result.pipeline}: {done}")
    out.text(f"run {result.run_id}: {result.url or result.folder}")


def _plain(value: object) -> object:
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value, fallback=str)
