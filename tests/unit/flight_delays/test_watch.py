"""The scheduled look at what serves."""

from types import SimpleNamespace

from flight_delays import pipeline


def test_before_anything_has_answered_there_is_nothing_to_watch(tmp_path):
    product = SimpleNamespace(name="flight-delays")
    ports = SimpleNamespace(
        products=SimpleNamespace(get=lambda name: SimpleNamespace(spec=product)),
        settings=SimpleNamespace(product_dir=lambda name: tmp_path / name),
        ledger=SimpleNamespace(current=lambda name: None),
    )
    context = SimpleNamespace(product="flight-delays", ports=ports)
    assert pipeline.watch(context) is None
    ports.ledger.current = lambda name: SimpleNamespace(digest="d" * 64)
    assert pipeline.watch(context) is None  # promoted, and no request came yet
