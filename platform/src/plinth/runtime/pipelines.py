"""Running a product's pipeline as it is meant to be run: as declared, and with its lineage kept."""

from __future__ import annotations

from collections.abc import Mapping

from plinth.governance.code import code_ref
from plinth.governance.lineage import record_run
from plinth.pipelines.entry import run_pipeline
from plinth.pipelines.port import RunResult, StepListener
from plinth.wiring import Platform


def run(
    platform: Platform,
    product: str,
    pipeline: str,
    params: Mapping[str, object] | None = None,
    *,
    inline: bool = False,
    wait: float = 60.0,
    on_step: StepListener | None = None,
) -> RunResult:
    """Run a pipeline and record what it read and wrote in the ledger.

    Args:
        platform: Where it runs.
        product: The product's name.
        pipeline: The pipeline's name in product.yaml.
        params: Parameters of its entry function.
        inline: In this process alone, without the Prefect server.
        wait: Seconds to wait for a slot under the pipeline's concurrency.
        on_step: Told of each step's start and end.

    Raises:
        NotFound: No such product or pipeline.
        PlinthError: As `plinth.pipelines.port.Runner.run` says.
    """
    spec = platform.products.get(product).spec
    result = run_pipeline(platform.runner(product, inline=inline), spec, pipeline, params, wait=wait, on_step=on_step)
    commit = code_ref(platform.settings.home).commit
    record_run(platform.ledger, result, platform.settings.product_dir(product), commit=commit)
    return result
