"""A release's card, put together from the product, the ledger, the registry or the index build, and the contracts."""

from __future__ import annotations

from pathlib import Path

from plinth.contracts import odcs
from plinth.core.releases import AssistantRef
from plinth.errors import NotFound
from plinth.governance import cards, document, system_card
from plinth.governance.document import Section
from plinth.ledger.store import ReleaseRecord
from plinth.wiring import LoadedProduct, Platform


def sections(platform: Platform, product: str, digest: str | None = None) -> tuple[list[Section], str]:
    """The card's sections, and the digest of the release they are about: a model card, or an assistant's system card.

    Args:
        platform: Where the release is kept.
        product: The product's name.
        digest: The release, or its first characters; default the serving one, else the newest.

    Raises:
        NotFound: No such product or release.
    """
    loaded = platform.products.get(product)
    spec, ledger = loaded.spec, platform.ledger
    current = ledger.current(spec.name)
    wanted = digest or (current.digest if current else None)
    release = ledger.release(wanted) if wanted else next(iter(ledger.releases(spec.name)), None)
    if release is None:
        raise NotFound(
            f"{product} has no release yet",
            where=product,
            hint=f"plinth pipeline run {product} {spec.pipelines[0].name}",
        )
    if release.product != spec.name:
        raise NotFound(
            f"release {digest} is of product {release.product!r}", where=product, hint=f"plinth release list {product}"
        )
    serving = current is not None and current.digest == release.digest
    pinned = release.manifest.assistant
    if pinned is not None:
        return system_card.system_card(_assistant(platform, loaded, release, pinned, serving=serving)), release.digest
    facts = cards.gather(
        spec,
        release,
        platform.registry,
        serving=serving,
        statement=cards.Statement.load(loaded.folder),
        contracts=[odcs.load(loaded.folder / path) for path in spec.contracts],
    )
    return cards.model_card(facts), release.digest


def _assistant(
    platform: Platform, loaded: LoadedProduct, release: ReleaseRecord, pinned: AssistantRef, *, serving: bool
) -> system_card.Facts:
    """What is gone, configuration or build, is left out, and the card says so."""
    from plinth.assistants.records import build_folder, read_build
    from plinth.assistants.releases import config_of

    try:
        config = config_of(platform.artifacts, release.manifest)
    except NotFound:
        config = None
    try:
        build = read_build(build_folder(platform.settings.product_dir(release.product), pinned.index.build))
        sources = {
            name: system_card.SourceFacts(source.documents, source.chunks, source.refused, source.as_of)
            for name, source in build.sources.items()
        }
    except NotFound:
        sources = {}
    return system_card.Facts(
        loaded.spec,
        release,
        serving,
        cards.Statement.load(loaded.folder, cards.SYSTEM_CARD),
        pinned,
        config,
        sources,
        [odcs.load(loaded.folder / path) for path in loaded.spec.contracts],
    )


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
        kind = "system-card" if record.manifest.assistant is not None else "model-card"
        for suffix, text in (
            ("md", document.to_markdown(found)),
            ("html", document.to_html(found, found[0].title)),
        ):
            path = folder / f"{kind}-{digest[:12]}.{suffix}"
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written
