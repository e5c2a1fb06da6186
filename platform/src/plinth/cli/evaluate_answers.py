"""`plinth eval answers`: the golden questions asked of a release, and what its gates say."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from plinth.cli.command import Commands

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plinth.assistants.evaluation import Evaluation
    from plinth.assistants.golden import GoldenQuestion
    from plinth.cli.output import Output
    from plinth.core.bootstrap import Difference
    from plinth.core.gates import Verdict
    from plinth.wiring import Platform


def add(group: Commands) -> None:
    """Declare the command."""
    command = group.command(
        "answers",
        answers,
        help="Ask a release the product's golden questions and judge the answers; 3 where a gate says no.",
        example="plinth eval answers docs-assistant",
    )
    command.add_argument("product")
    command.add_argument("--release", metavar="DIGEST", help="release; default the one that serves")
    command.add_argument(
        "--against", metavar="DIGEST", help="release to compare with; default the serving one where another is judged"
    )
    command.add_argument("--wrong", action="store_true", help="list the questions that went wrong")
    command.add_argument("--no-log", action="store_true", help="do not keep the result in MLflow")


def answers(args: Namespace, out: Output) -> int:
    """Handler. 0: every gate passed; 3: one said no."""
    from plinth.assistants.golden import golden_digest, load_golden
    from plinth.assistants.judging import judge_evaluation
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    product = platform.products.get(args.product)
    golden = load_golden(product.folder / product.spec.answers().golden)
    digest, against = _releases(platform, product.spec.name, args.release, args.against)
    ours = _evaluated(platform, product.spec.name, digest, golden, out)
    theirs = _evaluated(platform, product.spec.name, against, golden, out) if against else None
    verdicts = judge_evaluation(product.spec.gates, ours, theirs)
    differences = ours.differences(theirs) if theirs else {}
    summary = ours.summary()
    run = None
    if not args.no_log:
        out.note("keeping the result in MLflow")
        run = platform.evaluations.log_evaluation(
            product.spec.name, digest, ours.rows(), summary, {"golden": golden_digest(golden), "against": against or ""}
        )
    out.data(
        {
            "product": product.spec.name,
            "release": digest,
            "against": against,
            "golden": golden_digest(golden),
            **summary,
            "differences": {name: difference.as_dict() for name, difference in differences.items()},
            "verdicts": [verdict.model_dump() for verdict in verdicts],
            "mlflow_run": run,
            "rows": ours.rows(),
        }
    )
    _show(out, digest, against, summary, differences, verdicts)
    if args.wrong:
        _show_wrong(out, ours)
    return 0 if all(verdict.passed for verdict in verdicts) else 3


def _releases(platform: Platform, product: str, release: str | None, against: str | None) -> tuple[str, str | None]:
    """Whole digests of what is judged, and of what it is compared with.

    Raises:
        NotFound: Nothing serves, or there is no such release of the product.
    """
    from plinth.errors import NotFound

    def found(digest: str) -> str:
        record = platform.ledger.release(digest)
        if record.manifest.product != product:
            raise NotFound(
                f"release {record.digest[:12]} is not of {product}", where=product, hint="plinth release list"
            )
        return record.digest

    serving = platform.ledger.current(product)
    if release is None and serving is None:
        raise NotFound(
            "no release serves yet", where=product, hint=f"plinth index build {product}, or name one with --release"
        )
    digest = found(release) if release is not None else str(serving.digest if serving else "")
    if against is not None:
        return digest, found(against)
    return digest, serving.digest if serving is not None and serving.digest != digest else None


def _evaluated(
    platform: Platform, product: str, digest: str, golden: Sequence[GoldenQuestion], out: Output
) -> Evaluation:
    from plinth.assistants.judging import evaluate_assistant
    from plinth.assistants.loading import load_assistant

    manifest = platform.ledger.release(digest).manifest
    artifacts = {name: (platform.artifacts.path(sha256), sha256) for name, sha256 in manifest.artifacts.items()}
    out.note(f"asking {digest[:12]} {len(golden)} questions")
    assistant = load_assistant(
        digest, artifacts, platform.assistants, product, without=_deleted(platform, product, manifest)
    )
    try:
        return evaluate_assistant(assistant, golden)
    finally:
        assistant.index.close()


def _deleted(platform: Platform, product: str, manifest: Any) -> tuple[str, ...]:
    """Tenants that were deleted from the release's build after it was made."""
    from plinth.assistants.records import build_folder, read_build

    if manifest.assistant is None:
        return ()
    return read_build(build_folder(platform.settings.product_dir(product), manifest.assistant.index.build)).without


def _show(
    out: Output,
    digest: str,
    against: str | None,
    summary: dict[str, Any],
    differences: dict[str, Difference],
    verdicts: list[Verdict],
) -> None:
    kinds = ", ".join(f"{count} {kind}" for kind, count in summary["kinds"].items())
    out.text(f"release {digest[:12]}: {summary['questions']} golden questions ({kinds})")
    test, everything = summary["splits"]["test"], summary["splits"]["all"]
    columns = ["metric", "test", "95%", "questions", "all"] + (["against " + against[:12], "95%"] if against else [])
    rows = []
    for name, value in test.items():
        if value is None:
            continue
        row = [name, f"{value['value']:.3f}", f"{value['low']:.3f} to {value['high']:.3f}", value["questions"]]
        row.append(f"{everything[name]['value']:.3f}")
        if against and name in differences:
            row += [f"{differences[name].mean:+.3f}", f"{differences[name].low:+.3f} to {differences[name].high:+.3f}"]
        rows.append(row)
    out.table(columns, rows)
    harmful = summary["harmful"]
    out.text("harmful answers: " + (", ".join(f"{name} ({why})" for name, why in harmful.items()) or "none"))
    out.table(
        ["gate", "verdict", "reason"],
        [[verdict.gate, "pass" if verdict.passed else "fail", verdict.reason] for verdict in verdicts],
    )


def _show_wrong(out: Output, evaluation: Evaluation) -> None:
    wrong = [
        row
        for row in evaluation.results
        if row.harmful or any(row.metrics.get(name) == 0 for name in ("correctness", "refusal", "groundedness"))
    ]
    out.table(
        ["question", "kind", "split", "wrong", "answer"],
        [
            [
                row.question.id,
                row.question.kind,
                row.question.split,
                ", ".join(name for name, value in row.metrics.items() if value == 0),
                " ".join(row.answer.text.split())[:160],
            ]
            for row in wrong
        ],
    )
