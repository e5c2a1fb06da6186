"""Release manifests to fill a ledger with, for processes that have no pytest fixtures."""

from plinth.core.gates import Verdict
from plinth.core.releases import CodeRef, FeatureServiceRef, ModelRef, ReleaseManifest

PRODUCT = "flight-delays"


def make_manifest(number=1, *, product=PRODUCT, artifacts=None):
    """An accepted release; `number` makes them differ."""
    return ReleaseManifest(
        product=product,
        model=ModelRef(name=product, version=str(number), run_id=f"run{number}", format="onnx"),
        feature_service=FeatureServiceRef(name="flight_delays_v1", digest="f" * 64),
        contracts=(),
        data=(),
        code=CodeRef(commit="0" * 40, dirty=False),
        artifacts=artifacts or {"model.onnx": "a" * 64},
        verdicts=(Verdict(gate="synthetic", passed=True, observed=None, bound=None, reason="made for a test"),),
        created_at="2013-06-01T00:00:00+00:00",
        pipeline_run=f"pipeline{number}",
    )
