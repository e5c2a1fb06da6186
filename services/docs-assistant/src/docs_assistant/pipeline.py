"""The product's pipelines: index -> contract -> checks -> configuration -> evaluation -> release, and keeping it fresh.

What every assistant does the same way stands in `plinth.assistants.pipelines`; here is the place for what only this
product does.
"""

from __future__ import annotations

from plinth.assistants import pipelines
from plinth.assistants.steps import Context, Outcome


def build(
    context: Context,
    *,
    sources: dict[str, str] | None = None,
    prompts: dict[str, str] | None = None,
    index: str | None = None,
) -> Outcome:
    """Make a release. It is rejected when a gate fails, and is never promoted by itself.

    Args:
        context: The run.
        sources: Name of a source to a folder or a file of URLs, in place of those of product.yaml or beside them.
        prompts: Name of a prompt to a file, in place of the product's.
        index: Release this index build, with everything else as the serving release has it; nothing is read.
    """
    if index is not None:
        return pipelines.release_build(context, index)
    return pipelines.build(context, sources, prompts)


def refresh(context: Context) -> Outcome:
    """Look for changed and deleted documents; build, release and promote what changed."""
    return pipelines.refresh(context)
