# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Flight delays: from raw data to a watched prediction
#
# Will a flight out of New York arrive 15 or more minutes late? This notebook walks the road that `make demo` drives:
# a contract, features without leakage, a model and its gates, a release, a served prediction, and the signal that says
# when to retrain. It runs on the same state folder as `plinth`, so what the demo has done already is not done again.
#
# To open it: `make install`, then `uv pip install -p .venv/bin/python jupyterlab`, then
# `.venv/bin/jupytext --to ipynb notebooks/01-flight-delays.py` and start Jupyter.

# %%
import json
import tempfile
import time
import urllib.request
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from plinth.wiring import Platform

platform = Platform.from_settings()
product = platform.products.get("flight-delays")
print(product.spec.title, "-", product.spec.owner.team, "- tier", product.spec.tier)
for level in product.spec.service_levels:
    print(f"  {level.name}: {level.objective:.1%} over {level.window}")

# %% [markdown]
# ## 1. A batch has to keep its contract
#
# The contract is an Open Data Contract Standard document. Let us cut the raw data into monthly batches, check one, and
# then break it the way upstream teams do: a column renamed, a few impossible values.

# %%
import duckdb

from flight_delays import data
from plinth.contracts.check import load_contracts
from plinth.contracts.duckdb import DuckDBEngine
from plinth.contracts.port import Window as BatchWindow

scratch = Path(tempfile.mkdtemp())
batches = data.prepare_raw(scratch)
flights, weather = load_contracts(product.spec, product.folder)
january = next(batch for batch in batches if (batch.dataset, batch.batch) == ("flights", "2013-01"))
result = DuckDBEngine().check(flights, january.path, BatchWindow.of_batch("2013-01"))
print(f"{january.rows:,} rows, {result.rules} rules, passed: {result.passed}")

broken = scratch / "2013-01.parquet"
duckdb.sql(
    f"""COPY (SELECT * REPLACE (CASE WHEN flight % 500 = 0 THEN -1 ELSE distance END
    AS distance) FROM read_parquet('{january.path}')) TO '{broken}'"""
)
result = DuckDBEngine().check(flights, broken, BatchWindow.of_batch("2013-01"))
print("passed:", result.passed)
for violation in result.violations:
    print(f"  {violation.rule} {violation.column or ''}: {violation.message} ({violation.count} rows)")
assert not result.passed

# %% [markdown]
# ## 2. The pipeline
#
# Contract, features, join, fit, evaluate, skew check, register, release. Each step is a plain function; a step whose
# inputs and code have not changed is skipped, so after the demo this takes seconds.

# %%
from plinth.runtime import pipelines

run = pipelines.run(
    platform,
    "flight-delays",
    "train",
    inline=True,
    on_step=lambda name, record: (
        record and print(f"{name:14} {'skipped' if record.cached else f'{record.seconds:.1f} s'}")
    ),
)
release = platform.ledger.release(run.output.release)
print("release", release.digest[:12], release.status)
for verdict in release.manifest.verdicts:
    print(f"  {'passed' if verdict.passed else 'FAILED':7} {verdict.gate}: {verdict.reason}")

# %% [markdown]
# ## 3. How good, and for whom
#
# Trained on January to April, iterations chosen on May, judged on June to December. The baseline is the historical late
# rate of carrier, origin and hour.

# %%
evidence = json.loads(platform.registry.document(release.manifest.model.run_id, "evaluation.json"))
months = evidence["months"]
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6))
left.plot([m["month"] for m in months], [m["auc"] for m in months], marker="o", label="model")
left.plot([m["month"] for m in months], [m["baseline_auc"] for m in months], marker="o", label="baseline")
left.set_title("AUC by month")
left.tick_params(axis="x", rotation=45)
left.legend()
curve = evidence["calibration"]
right.plot([0, 1], [0, 1], color="grey", linewidth=1)
right.plot([b["mean_prediction"] for b in curve], [b["outcome_rate"] for b in curve], marker="o")
right.set(title="Calibration", xlabel="predicted", ylabel="came true")
figure.tight_layout()

# %%
worst = sorted((s for s in evidence["slices"] if s["auc"] and s["rows"] >= 1000), key=lambda s: s["auc"])[:5]
print("the five worst slices of at least 1,000 flights:")
for row in worst:
    print(f"  {row['slice']}={row['value']}: AUC {row['auc']:.3f} on {row['rows']:,} flights")
assert evidence["auc"] >= 0.74

# %% [markdown]
# ## 4. Nothing from the future
#
# A prediction is made two hours before departure. Make every flight that had not landed at noon of 10 March 90 minutes
# later, rebuild the features, and every row stamped up to that noon has to stay as it was.

# %%
from flight_delays.feature_tables import KEYS, build_feature_tables
from plinth.features.leakage import changed_rows

noon = "2013-03-10 12:00:00+00"
state = platform.settings.product_dir("flight-delays")
lakes = {name: scratch / name for name in ("as it was", "altered")}
later = f"landed_at > '{noon}'"
changes = {
    "as it was": "",
    "altered": f"""REPLACE (CASE WHEN {later} THEN arr_delay + 90 ELSE arr_delay END AS arr_delay,
        CASE WHEN {later} THEN landed_at + INTERVAL 90 MINUTE ELSE landed_at END AS landed_at)""",
}
connection = duckdb.connect()
connection.execute("SET TimeZone = 'UTC'")
built = {}
for name, lake in lakes.items():
    for dataset in ("flights", "weather"):
        (lake / dataset).mkdir(parents=True)
        change = changes[name] if dataset == "flights" else ""
        connection.execute(
            f"""COPY (SELECT * {change} FROM read_parquet('{state}/lake/{dataset}/2013-0[1-4].parquet'))
            TO '{lake}/{dataset}/2013-01.parquet'"""
        )
    built[name] = {table.view: table for table in build_feature_tables(lake, scratch / f"features of {name}")}

for view, keys in KEYS.items():
    before, after = (connection.read_parquet(str(tables[view].path)).fetchnumpy() for tables in built.values())
    report = changed_rows(before, after, keys.split(", "), "event_timestamp", np.datetime64("2013-03-10T12:00:00"))
    print(f"{view:22} {report.checked:9,} rows up to noon, {report.leaked} changed")
    assert report.clean

# %% [markdown]
# ## 5. Serve a prediction
#
# `plinth up` starts the Prefect and MLflow servers and the product's service; here we call the same function. What is
# promoted is served within a second: the service polls the ledger, loads the release by digest and swaps.

# %%
from plinth.rollouts.release import promote
from plinth.runtime import embedded

ran_before = embedded.running(platform)
embedded.up(platform)
if platform.ledger.current("flight-delays") is None:
    promote(
        platform.ledger, platform.registry, "flight-delays", release.digest, actor=platform.actor, reason="notebook"
    )
serving = platform.ledger.current("flight-delays")
port = platform.settings.service_port("flight-delays", product.spec.serving.port)
base = f"http://{platform.settings.host}:{port}"

for _ in range(100):  # the service looks at the ledger twice a second
    try:
        if json.load(urllib.request.urlopen(f"{base}/readyz", timeout=10))["release"] == serving.digest:
            break
    except OSError:
        pass
    time.sleep(0.2)

flight = {
    "carrier": "UA", "flight": 1545, "origin": "EWR", "dest": "IAH", "tailnum": "N14228",
    "scheduled_departure": "2013-06-01T09:15:00Z",
}  # fmt: skip
request = urllib.request.Request(
    f"{base}/predict", json.dumps({"flights": [flight]}).encode(), {"content-type": "application/json"}
)
answer = json.load(urllib.request.urlopen(request, timeout=30))
print(json.dumps(answer, indent=2))
assert 0 < answer["predictions"][0]["probability"] < 1

# %% [markdown]
# ## 6. Watch
#
# The demo replays June to December through this service and keeps what it measured. The population stability index
# of weather and of slow rates is high in every month and says little; mean prediction against outcome over two weeks
# is the signal, and its bound was set from May alone.

# %%
told = platform.settings.state_dir / "demo" / "flight-delays" / "summary.json"
if told.is_file():
    summary = json.loads(told.read_text())
    figure, axis = plt.subplots(figsize=(11, 3.2))
    for entry in summary["drift"]:
        if entry["calibration_gap"] is not None:
            axis.bar(entry["month"], entry["calibration_gap"], color="tab:blue")
    bound = product.spec.monitoring.calibration_gap
    for side in (bound, -bound):
        axis.axhline(side, color="tab:red", linewidth=1)
    axis.set(title="Mean prediction minus outcome, last two weeks of each month", ylabel="gap")
    for entry in summary["retrained"]:
        failed = entry["failed_gates"]
        print(entry["day"], "retrained:", f"refused by {failed}" if failed else "passed its gates")
    for entry in summary["rollouts"]:
        print(entry["started"], "to", entry["ended"], "rolled out:", entry["phase"])
    if summary["gain"]:
        print("log loss had the first release stayed:", round(summary["gain"]["first_release"]["log_loss"], 4))
        print("log loss as served:                   ", round(summary["gain"]["served"]["log_loss"], 4))
else:
    print("`make demo` replays the year; this part shows what it found")

# %% [markdown]
# ## 7. Where it all came from
#
# A release walks back to its data, code and features, and every change is in a hash-chained audit log.

# %%
from plinth.governance.lineage import walk
from plinth.ledger.audit import first_broken

origin = walk(platform.ledger, platform.ledger.release(serving.digest))
for ref in origin["data"]:
    print(f"{ref['role']:9} {ref['start']} to {ref['end']}: {ref['rows']:,} flights, sha256 {ref['digest'][:12]}")
print("code", origin["code"]["commit"][:12], "features", origin["features"]["name"])
for entry in platform.ledger.audit(limit=5):
    print(entry.at[:19], entry.actor, entry.action, entry.subject[:24])
assert first_broken(platform.ledger.audit()) is None

# %%
if not ran_before:
    embedded.down(platform)
