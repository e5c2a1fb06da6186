"""Every alert fires when it should and is silent when it should: promtool plays series to the rendered rules."""

import re
import shutil
import subprocess

import pytest
import yaml

import alert_cases
from plinth.settings import find_home
from plinth.telemetry import metrics, recorded
from plinth.telemetry.alerts import levels, rules
from plinth.telemetry.alerts.schedule import longest_gap
from plinth.wiring.platform import Products

HOME = find_home()
PRODUCTS = [one.spec for one in Products(HOME / "services").all()]
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool on this machine (Debian: prometheus)")


def cases():
    """(alert, its case), of every product and the platform."""
    found = []
    for product in PRODUCTS:
        kind = alert_cases.model_cases if product.assistant is None else alert_cases.assistant_cases
        known = {**alert_cases.product_cases(product), **kind(product)}
        for alert in rules.of_product(product):
            if alert.name == "PipelineLate":
                pipeline = product.pipeline(dict(alert.labels)["pipeline"])
                found.append((alert, alert_cases.late_case(product, pipeline)))
            else:
                found.append((alert, known[alert.name]))
        for alert in levels.alerts(product):
            level = next(one for one in product.service_levels if one.name == dict(alert.labels)["level"])
            case = alert_cases.level_case(
                product, level, of_requests=recorded.is_of_requests(product, level), path=product.request_path,
                le=metrics.le((level.threshold_ms or 0) / 1000),
            )  # fmt: skip
            found.append((alert, case))
    known = alert_cases.platform_cases()
    return found + [(alert, known[alert.name]) for alert in rules.platform.alerts()]


def needed(alert):
    """The recording rules of the alert's own service level: promtool evaluates whatever it is given."""
    labels = dict(alert.labels)
    made = [rule for product in PRODUCTS for rule in recorded.rules(product)]
    return [
        rules._recorded(rule)
        for rule in made
        if "level" in labels and {"product", "level"} <= dict(rule.labels).keys()
        and all(dict(rule.labels)[name] == labels[name] for name in ("product", "level"))
    ]  # fmt: skip


def play(folder, plays):
    """Run promtool over (name, alert, series, at, expected count); gives its output, "" when all came as expected."""
    names = []
    for name, alert, series, at, count in plays:
        (folder / f"{name}.rules.yml").write_text(
            yaml.safe_dump({"groups": [rules._group("g", [rules._alert(alert)])]})
        )
        recording = folder / f"{name}.recording.yml"
        recording.write_text(yaml.safe_dump({"groups": [rules._group("r", needed(alert))]}))
        labels = ",".join(f'{key}="{value}"' for key, value in alert.labels)
        asked = f'count(ALERTS{{alertname="{alert.name}",alertstate="firing",severity="{alert.severity}",{labels}}})'
        expected = [{"labels": "{}", "value": count}] if count else []
        test = {
            "interval": "1m",
            "input_series": [{"series": key, "values": values} for key, values in series.items()],
            "promql_expr_test": [{"expr": asked, "eval_time": at, "exp_samples": expected}],
        }
        document = {
            "rule_files": [str(recording), str(folder / f"{name}.rules.yml")],
            "evaluation_interval": "1m",
            "tests": [test],
        }
        (folder / f"{name}.test.yml").write_text(yaml.safe_dump(document))
        names.append(str(folder / f"{name}.test.yml"))
    done = subprocess.run([PROMTOOL, "test", "rules", *names], capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    parts = (done.stdout + done.stderr).split("Unit Testing:")
    return "".join(part for part in parts if "SUCCESS" not in part)


def numbered(which):
    for i, (alert, case) in enumerate(cases()):
        if which == "fires":
            yield f"{i}-{alert.name}", alert, case.fires, case.at, 1
        else:
            for j, series in enumerate((case.silent, *case.also_silent)):
                yield f"{i}-{alert.name}-{j}", alert, series, case.at, 0


@needs_promtool
def test_every_alert_fires_when_it_should(tmp_path):
    assert play(tmp_path, numbered("fires")) == ""


@needs_promtool
def test_every_alert_is_silent_when_it_should(tmp_path):
    assert play(tmp_path, numbered("silent")) == ""


@needs_promtool
def test_a_play_that_goes_otherwise_is_seen(tmp_path):
    """Else the two above would prove nothing."""
    turned = [(name, alert, series, at, 1 - count) for name, alert, series, at, count in [*numbered("fires")][:3]]
    assert play(tmp_path, turned).count("FAILED") >= 3


@needs_promtool
def test_promtool_takes_the_rendered_files():
    files = sorted(map(str, (HOME / "infra" / "prometheus" / "rules").glob("*.yml")))
    done = subprocess.run([PROMTOOL, "check", "rules", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_alert_lacks_a_case_and_no_case_an_alert():
    alerts = {(alert.name, alert.labels) for alert in rules.every(PRODUCTS)}
    assert {(alert.name, alert.labels) for alert, _ in cases()} == alerts
    assert len(alerts) == len(rules.every(PRODUCTS)), "no two are called the same"
    known = {name for product in PRODUCTS for name in alert_cases.product_cases(product)}
    known |= {name for one in PRODUCTS if one.model for name in alert_cases.model_cases(one)}
    known |= {name for one in PRODUCTS if one.assistant for name in alert_cases.assistant_cases(one)}
    known |= alert_cases.platform_cases().keys()
    made = {alert.name for alert in rules.every(PRODUCTS)}
    assert known <= made


def test_every_alert_says_what_where_and_what_to_do_and_its_runbook_exists():
    for alert in rules.every(PRODUCTS):
        page, anchor = alert.runbook_url.split("#")
        headings = {
            line[3:].strip().lower() for line in (HOME / page).read_text().splitlines() if line.startswith("## ")
        }
        assert anchor in headings, alert.runbook_url
        assert len(alert.summary) < 120, alert.name
        assert len(alert.description) > 60, alert.name
        product = dict(alert.labels).get("product")
        assert product is None or product in alert.summary, alert.name


def test_commands_that_alerts_name_exist():
    from plinth.cli.overview import COMMANDS

    for alert in rules.every(PRODUCTS):
        for command in re.findall(r"`plinth ([a-z]+)", alert.description):
            assert command in COMMANDS, (alert.name, command)


def test_a_levels_alerts_stand_for_the_same_share_of_its_budget_whatever_its_window():
    model = next(one for one in PRODUCTS if one.model)
    level = model.service_levels[0]
    month = level.model_copy(update={"window": "30d"})
    assert [round(levels.burn_rate(pair, month), 3) for pair in levels.PAIRS] == [14.4, 6.0, 1.0]
    week = level.model_copy(update={"window": "7d"})
    assert [round(levels.burn_rate(pair, week), 2) for pair in levels.PAIRS] == [3.36, 1.4, 1.0]


def test_a_loose_objective_can_still_raise_an_alert():
    model = next(one for one in PRODUCTS if one.model)
    loose = model.model_copy(
        update={"service_levels": (model.service_levels[0].model_copy(update={"objective": 0.8}),)}
    )
    assert "> 0.75 and" in levels.alerts(loose)[0].expression


@pytest.mark.parametrize(
    ("cron", "hours"),
    [("*/10 * * * *", 1 / 6), ("0 4 * * 1", 168), ("0 0 1 * *", 744), ("30 2 * * 1-5", 72), ("0 0,12 * * *", 12)],
)
def test_the_longest_gap_of_a_schedule(cron, hours):
    assert longest_gap(cron) == pytest.approx(hours * 3600)
