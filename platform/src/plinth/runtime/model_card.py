"""A release's model card, put together from the product, the ledger, the registry and the contracts."""

from __future__ import annotations

from pathlib import Path

from plinth.contracts import odcs
from plinth.errors import NotFound
from plinth.governance import cards, document
from plinth.governance.document import Section
from plinth.wiring import Platform


def sections(platform: Platform, product: str, digest: str | None = None) -> tuple[list[Section], str]:
    """The card's sections, and the digest of the release they are about.

    Args:
        platform: Where the release is kept.
        product: The product's name.
        digest: The release, or its first characters; default the serving one, else the newest.

    Raises:
        NotFound: No such product or release.
    """
    loaded = platform.products.get(product)
    spec, ledger = loaded.spec, platform.ledger
    serving = ledger.current(spec.name)
    wanted = digest or (serving.digest if serving else None)
    release = ledger.release(wanted) if wanted else next(iter(ledger.releases(spec.name)), None)
    if release is None:
        raise NotFound(f"{product} has no release yet", where=product, hint=f"plinth pipeline run {product} train")
    if release.product != spec.name:
        raise NotFound(
            f"release {digest} is of product {release.product!r}", where=product, hint=f"plinth release list {product}"
        )
    facts = cards.gather(
        spec,
        release,
        platform.registry,
        serving=serving is not None and serving.digest == release.digest,
        statement=cards.Statement.load(loaded.folder),
        contracts=[odcs.load(loaded.folder / path) for path in spec.contracts],
    )
    return cards.model_card(facts), release.digest


def leave(platform: Platform, product: str, run_id: str, folder: Path) -> list[Path]:
    """Write the cards of the releases that a run made into its folder, as Markdown and as HTML; returns the files.

    Raises:
        OSError: The folder cannot be written.
    """
    written = []
    for record in platform.ledger.releases(product):
        if record.manifest.pipeline_run != run_id:
            continue
        found, digest = sections(platform, product, record.digest)
        for suffix, text in (
            ("md", document.to_markdown(found)),
            ("html", document.to_html(found, found[0].title)),
        ):
            path = folder / f"model-card-{digest[:12]}.{suffix}"
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written
