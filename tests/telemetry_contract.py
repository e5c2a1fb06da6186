"""The telemetry contract: every query of every panel, alert and rule asks for what somebody emits.

Two halves. `unknown` reads queries (promql-parser) and looks every name and label up in plinth.telemetry. `unanswered`
asks a running Prometheus each query: nothing may come back empty, unless what it asks for says why it is empty in
health. The second works on any Prometheus that scrapes running services: that of a test, or of the compose stack.
"""

import base64
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import promql_parser as promql
import yaml

from patience import PATIENCE
from plinth.telemetry import foreign, metrics, recorded

VARIABLES = {"$__rate_interval": "5m", "$__range": "1h", "$__interval": "1m"}
ANY = ".*"
TARGET = set(foreign.TARGET)
RARE = {"code", "outcome", "state", "phase", "arm", "action", "result", "severity", "alertstate", "feature", "metric"}
"""Labels whose values come and go: that nothing has such a value now says nothing of the query."""


@dataclass(frozen=True)
class Known:
    """A series that somebody emits."""

    labels: frozenset
    empty: str = ""
    server: str = "own"


@dataclass(frozen=True)
class Asked:
    """A query, and where it stands."""

    where: str
    kind: str  # panel, variable, alert, rule
    source: str
    expression: str
    legend: str = ""


def vocabulary():
    """Every name of a series to what is known of it."""
    known = {}
    for metric in metrics.ALL:
        labels = frozenset(metric.labels) | TARGET
        known |= _suffixed(metric.name, metric.kind == "histogram", Known(labels, metric.empty_in_health))
    for metric in foreign.FOREIGN:
        labels = frozenset(metric.labels) | TARGET
        known |= _suffixed(metric.name, metric.histogram, Known(labels, metric.empty_in_health, metric.server))
    for record in recorded.RECORDED:
        known[record.name] = Known(frozenset(record.labels), record.empty_in_health)
    return known


def _suffixed(name, histogram, known):
    if not histogram:
        return {name: known}
    bucket = Known(known.labels | {"le"}, known.empty, known.server)
    return {f"{name}_bucket": bucket, f"{name}_sum": known, f"{name}_count": known}


def queries(infra):
    """Every query of the rendered files: panels and variables of boards, alerts, recording rules."""
    for path in sorted(Path(infra, "grafana", "dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        for variable in board["templating"].get("list", ()):
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]).groups()
            where = f"{path.name}: ${variable['name']}"
            yield Asked(where, "variable", "prometheus", selector, f"{{{{{label}}}}}")
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                where = f"{path.name}: {panel['title']}"
                text = target.get("expr") or target["query"]
                yield Asked(where, "panel", target["datasource"]["type"], text, target.get("legendFormat", ""))
    for path in sorted(Path(infra, "prometheus", "rules").glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                kind, name = ("alert", rule["alert"]) if "alert" in rule else ("rule", rule["record"])
                labels = ", ".join(f"{key}={value}" for key, value in rule.get("labels", {}).items())
                templates = " ".join(rule.get("annotations", {}).values())
                legend = " ".join(f"{{{{{label}}}}}" for label in re.findall(r"\$labels\.(\w+)", templates))
                yield Asked(f"{path.name}: {name} ({labels})", kind, "prometheus", rule["expr"], legend)


def substituted(expression, label=ANY):
    """A query with Grafana's variables filled in: its own by a window, the user's by all."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return re.sub(r"\$\{?\w+\}?", label, expression)


# The first half: names and labels.


def unknown(asked, known):
    """What a query names that nobody emits. Empty: it names nothing wrong."""
    if asked.source == "loki":
        return _unknown_log(asked.expression)
    if asked.source == "tempo":
        return _unknown_trace(asked.expression)
    try:
        tree = promql.parse(substituted(asked.expression))
    except Exception as error:  # noqa: BLE001  (the parser raises what its Rust says)
        return [f"is no PromQL: {error}"]
    problems = []
    labels = _labels(tree, known, problems)
    problems += [
        f"the legend names {label}, which its series have not"
        for label in re.findall(r"\{\{\s*(\w+)\s*\}\}", asked.legend)
        if label not in labels
    ]
    return problems


def _labels(node, known, problems):
    """Labels that the series of an expression have; adds what is wrong in it to `problems`."""
    if isinstance(node, promql.VectorSelector):
        return _of_selector(node, known, problems)
    if isinstance(node, promql.MatrixSelector):
        return _labels(node.vector_selector, known, problems)
    if isinstance(node, promql.Call):
        found = [_labels(arg, known, problems) for arg in node.args]
        labels = set().union(*found)
        return labels - {"le"} if node.func.name == "histogram_quantile" else labels
    if isinstance(node, promql.AggregateExpr):
        inner = _labels(node.expr, known, problems)
        if node.modifier is None:
            return set()
        named = set(node.modifier.labels)
        problems += [f"groups by {label}, which {node.expr} has not" for label in sorted(named - inner)]
        return named if node.modifier.type == promql.AggModifierType.By else inner - named
    if isinstance(node, promql.BinaryExpr):
        return _of_pair(node, known, problems)
    if isinstance(node, promql.ParenExpr | promql.UnaryExpr | promql.SubqueryExpr):
        return _labels(node.expr, known, problems)
    return set()


def _of_selector(node, known, problems):
    if node.name not in known:
        problems.append(f"nobody emits {node.name}")
        return set()
    has = set(known[node.name].labels)
    wanted = {matcher.name for matcher in node.matchers.matchers} - {"__name__"}
    problems += [f"{node.name} has no label {label}" for label in sorted(wanted - has)]
    return has


def _of_pair(node, known, problems):
    left, right = (_labels(side, known, problems) for side in (node.lhs, node.rhs))
    modifier = node.modifier
    if modifier is None or modifier.matching is None:
        if not _selectors(node.lhs):
            return right  # a number, or time()
        return left | (right if str(node.op) == "or" else set())
    named = set(modifier.matching.labels)
    problems += [f"matches on {label}, which both sides need" for label in sorted(named - (left & right))]
    grouped = set(modifier.group_labels or ())
    if "group_right" in str(modifier.card) or "OneToMany" in str(modifier.card):
        left, right = right, left
    problems += [f"takes {label} from the other side, which has it not" for label in sorted(grouped - right)]
    return left | grouped


def _unknown_log(text):
    stream, _, rest = text.partition("}")
    problems = [
        f"no stream has {label}" for label in re.findall(r"(\w+)\s*[=!]", stream) if label not in foreign.LOG_LABELS
    ]
    fields = re.findall(r"\|\s*(\w+)\s*[=!]", rest)
    return problems + [f"no line has {name}" for name in fields if name not in foreign.LOG_FIELDS]


def _unknown_trace(text):
    names = re.findall(r"([A-Za-z_][\w.]*)\s*(?:=|!=|>|<)", text)
    return [f"no span has {name}" for name in names if name not in foreign.SPAN_ATTRIBUTES]


# The second half: answers.


class Server:
    """A Prometheus server's HTTP API.

    Args:
        url: Its address.
        credentials: User and password, or None.
    """

    def __init__(self, url, credentials=None):
        self.url = url.rstrip("/")
        self.headers = {}
        if credentials:
            self.headers["Authorization"] = "Basic " + base64.b64encode(":".join(credentials).encode()).decode()

    def query(self, expression):
        """Samples of an instant query."""
        data = urllib.parse.urlencode({"query": expression}).encode()
        request = urllib.request.Request(f"{self.url}/api/v1/query", data, self.headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode(errors='replace')[:500]}") from None

    def jobs(self):
        """Jobs with a target that is up."""
        return {sample["metric"]["job"] for sample in self.query("up == 1")}


def unanswered(url, *, infra, jobs=None, credentials=None, unmade=None, own=("controller",)):
    """Queries that a running system leaves without an answer and should not.

    Args:
        url: Address of the Prometheus server.
        infra: The folder of rendered files.
        jobs: Jobs that are scraped, named as the compose services are; by default those that are up now.
        credentials: User and password of the server.
        unmade: Why a metric is not there in this system, by name: what was not done in it, such as a drift report.
        own: Jobs of the platform's own processes beside the products; none of them up: nothing of ours is expected.

    Returns:
        `where: what is missing`, one for each failure.
    """
    server, known, unmade = Server(url, credentials), vocabulary(), unmade or {}
    jobs = server.jobs() if jobs is None else set(jobs)
    products = {label for path in Path(infra).parent.glob("services/*/product.yaml") for label in [path.parent.name]}
    missing_products = products - jobs
    failures = []
    for asked in queries(infra):
        if asked.source != "prometheus":
            continue  # Loki and Tempo are asked where they run; their labels are looked up without them
        expression = substituted(asked.expression)
        if any(f'product="{name}"' in expression for name in missing_products):
            continue
        answered = asked.kind != "alert" and server.query(expression)  # an alert is empty in health: its parts are not
        if answered:
            continue
        failures += [f"{asked.where}: {what}" for what in _missing(server, expression, known, jobs, unmade, asked.kind)]
    return failures


def _missing(server, expression, known, jobs, unmade, kind):
    """What keeps a query from being answered, but for what is excused."""
    found, excused = [], False
    for selector in _selectors(promql.parse(expression)):
        metric = known.get(selector.name)
        if metric is None:
            found.append(f"nobody emits {selector.name}")
        elif metric.empty or selector.name in unmade or _elsewhere(metric, jobs) or _base(selector.name) in unmade:
            excused = True
        elif not server.query(_exact(selector)):
            if not server.query(_loose(selector)):
                found.append(f"no series of {_loose(selector)}")
            excused = True  # the metric is there, such a value of it is not, now
    if not found and not excused and kind != "alert":
        found.append(f"its parts have series and the whole is empty: {expression}")
    return found


def _base(name):
    return re.sub(r"_(bucket|sum|count)$", "", name)


def _elsewhere(metric, jobs):
    return metric.server not in {"own", "every"} and metric.server not in jobs


def _selectors(tree):
    found = []
    promql.walk(tree, pre_visit=lambda node: found.append(node) if isinstance(node, promql.VectorSelector) else None)
    return found


_SIGNS = {"Equal": "=", "NotEqual": "!=", "Re": "=~", "NotRe": "!~"}


def _exact(selector):
    return _written(selector, set())


def _loose(selector):
    """The selector without what it asks of labels that come and go."""
    return _written(selector, RARE)


def _written(selector, without):
    parts = [
        f"{one.name}{_SIGNS[str(one.op).rsplit('.', 1)[-1]]}{json.dumps(one.value)}"
        for one in selector.matchers.matchers
        if one.name not in without and one.name != "__name__"
    ]
    return f"{selector.name}{{{','.join(parts)}}}"


def settled(url, expression, seconds=PATIENCE):
    """Wait until a query has an answer; whether it came."""
    server, until = Server(url), time.monotonic() + seconds
    while time.monotonic() < until:
        if server.query(expression):
            return True
        time.sleep(0.5)
    return False
