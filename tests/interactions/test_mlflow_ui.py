"""MLflow's own pages, in a browser: they show what the SQL writer wrote as they show what MLflow's client wrote."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from llmops.interactions.record import Interaction, new_id
from llmops.interactions.sink import Delivered
from llmops.settings import Settings
from tests.browser import SIZE, Window, chromium
from tests.interactions.deliveries import all_runs, leased, opened
from tests.interactions.records import abandoned, failed, fallback, plain, streamed
from tests.tracking import MlflowServer

KINDS = ("plain", "streamed", "failed", "fallback", "abandoned")
#: Closes what MLflow 3.17.2 opens at a first visit.
VISITED = {
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.detectIssues.guidanceShown_v1": "true",
}
#: Read from the page's clock; a colour, which follows from a run's id; and the one tag of a trace the table shows, the
#: first of a protobuf map, which is any.
_PASSING = re.compile(
    r"\b\d+ (?:second|minute|hour)s? ago|\d+/\d+/\d{4}, [\d:]+ [AP]M|#[0-9a-f]{6}|^[\w.]+: .*(?=\n\+\d$)", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Half:
    """What one writer wrote: an experiment of its own.

    Attributes:
        runs: Run ids, by kind of interaction; the session's is `talk`.
        traces: Trace ids, by kind of interaction.
        names: What differs from the other half, and what stands for it.
    """

    experiment: str
    runs: Mapping[str, str]
    traces: Mapping[str, str]
    names: Mapping[str, str]

    def told(self, text: str) -> str:
        """A page's text as the other half should have it."""
        for one, other in self.names.items():
            text = text.replace(one, other)
        text = re.sub(r"(?<=Experiment ID\n)\d+", "NUMBER", text)
        return _PASSING.sub("PASSING", text)


@dataclass(frozen=True, slots=True)
class Site:
    """A tracking server with both halves in its database."""

    url: str
    by_sql: Half
    by_client: Half


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with MlflowServer(folder, mlflow_template) as server:
        settings = Settings(data_dir=folder)
        drafts = conversation()
        yield Site(
            server.url,
            written(settings, drafts, "by-sql", sql=True),
            written(settings, drafts, "by-client", sql=False),
        )


@pytest.fixture(scope="module")
def window(site: Site) -> Iterator[Window]:
    with chromium(site.url, VISITED) as opened_window:
        yield opened_window


@pytest.fixture(scope="module")
def usual(window: Window) -> set[str]:
    """What MLflow's pages complain of with nothing in the experiment."""
    complaints: set[str] = set()
    for page, awaited in {"overview/usage": "Token Usage", "runs": "No runs", "traces": "traces"}.items():
        window.open(f"/#/experiments/0/{page}?workflowType=genai", awaited)
        complaints |= window.complaints
    return complaints


def conversation() -> dict[str, Interaction]:
    """One interaction of each kind, a second apart, the first outside of the session; each took another time."""
    drafts = dict(zip(KINDS, (plain(), streamed(), failed(), fallback(), abandoned()), strict=True))
    begun_ns = drafts["plain"].received_ns // 10**9 * 10**9 - 600 * 10**9
    return {
        kind: replace(
            draft,
            received_ns=begun_ns + number * 10**9,
            latency_ms=100.0 * number + 42.5,
            session="talk" if number else None,
            cost_usd=0.0021 if draft.usage else None,
        )
        for number, (kind, draft) in enumerate(drafts.items())
    }


def written(settings: Settings, drafts: Mapping[str, Interaction], endpoint: str, *, sql: bool) -> Half:
    interactions = {kind: replace(draft, interaction_id=new_id(), endpoint=endpoint) for kind, draft in drafts.items()}
    sink = opened(settings) if sql else opened(settings, frozenset())
    assert sink.chooses_run_ids is sql
    assert sink.deliver(leased(list(interactions.values()))) == [Delivered()] * len(drafts)
    experiment = MlflowClient(settings.tracking_uri).get_experiment_by_name(f"llmops/{endpoint}")
    assert experiment is not None
    kinds = {one.interaction_id: kind for kind, one in interactions.items()}
    runs = {
        kinds.get(run.data.tags.get("llmops.interaction_id", ""), "talk"): run.info.run_id
        for run in all_runs(settings)
        if run.info.experiment_id == experiment.experiment_id
    }
    assert runs.keys() == {*KINDS, "talk"}
    names = {
        endpoint: "ENDPOINT",
        **{run_id: kind for kind, run_id in runs.items()},
        **kinds,
        # The end of an id in a run's name, and its beginning in a trace's title.
        **{interaction_id[-8:]: kind for interaction_id, kind in kinds.items()},
        **{f"\n{interaction_id[:8]}\n": "\nBEGINNING\n" for interaction_id in kinds},
    }
    traces = {kind: one.trace_id for kind, one in interactions.items()}
    return Half(str(experiment.experiment_id), runs, traces, names)


#: Opens a page of a half; returns its text.
View = Callable[[Window, Half], str]


def runs(window: Window, half: Half) -> str:
    """The table of runs: the session unfolded, and a column for each metric, param and tag."""
    # The table holds only the columns it has room for.
    window.page.set_viewport_size({"width": 6400, "height": 800})
    window.open(f"/#/experiments/{half.experiment}/runs", "6 matching runs")
    window.page.locator(".ag-row button").first.click()
    window.page.get_by_role("button", name="Columns", exact=True).click()
    tree = window.page.locator("[class*=tree-list]").first
    for group in ("Metrics", "Parameters", "Tags"):
        tree.get_by_text(f"{group} (").click()
    window.page.keyboard.press("Escape")
    return window.text("total_tokens")


def run(kind: str, tab: str = "", awaited: str = "About this run") -> View:
    return lambda window, half: window.open(f"/#/experiments/{half.experiment}/runs/{half.runs[kind]}{tab}", awaited)


def traces(window: Window, half: Half) -> str:
    """The table of traces, with columns for the user, the cost and a tag."""
    window.open(f"/#/experiments/{half.experiment}/traces", "5 of 5")
    window.page.get_by_role("button", name="Display").click()
    window.page.get_by_text("Columns", exact=True).last.click()
    for column in ("User", "Cost", "status"):
        window.page.get_by_text(column, exact=True).last.click()
    for _ in range(2):
        window.page.keyboard.press("Escape")
    return window.text("ada@example.com")


def trace(kind: str, span: str | None = None) -> View:
    """A trace's spans; the inputs and outputs of its root, or the attributes of another of its spans."""

    def view(window: Window, half: Half) -> str:
        text = window.open(f"/#/experiments/{half.experiment}/traces?traceId={half.traces[kind]}", "Inputs / Outputs")
        if span is None:
            return text
        window.page.get_by_text(span, exact=True).first.click()
        return window.text("llmops.attempt")

    return view


def attributes(window: Window, half: Half) -> str:
    """The attributes of a trace's root span."""
    trace("streamed")(window, half)
    window.page.get_by_text("Attributes", exact=True).first.click()
    return window.text("llmops.interaction_id")


def sessions(window: Window, half: Half) -> str:
    return window.open(f"/#/experiments/{half.experiment}/traces?groupBy=session", "talk")


def session(window: Window, half: Half) -> str:
    return window.open(f"/#/experiments/{half.experiment}/chat-sessions/talk", "Turn 4")


#: Every page, and some of what it has to show.
VIEWS: Mapping[str, tuple[View, Sequence[str]]] = {
    "runs": (runs, ("latency_ms", "342.5", "0.0021", "served_entity", "abandoned", "ada@example.com", "talk")),
    "answered run": (run("streamed"), ("time_to_first_token_ms\n17.25", "max_tokens\n64", "ada@example.com")),
    "failed run": (run("failed"), ("INTERNAL_ERROR", "nobody listens at 127.0.0.1:9", "Failed")),
    "run of a session": (run("talk"), ("llmops.session", "Finished")),
    "artifacts of a run": (run("plain", "/artifacts", "No artifacts"), ()),
    "traces of a run": (run("plain", "/traces", "1 of 1"), ("What is a spool?", "A reel for thread.")),
    "traces": (traces, ("What is a spool?", "A reel for thread.", "talk", "Error\n18", "342ms", "$0.0021", "499")),
    "trace": (trace("plain"), ("Success", "42.50ms", "18 tokens", "User\nWhat is", "Assistant\nA reel for")),
    "trace of a failure": (trace("failed"), ("Error", "INTERNAL_ERROR", "nobody listens at 127.0.0.1:9")),
    "trace of a fallback": (trace("fallback", "down"), ("down\n20.50ms\ngpt\n20.50ms", "connect", "next")),
    "attributes": (attributes, ("llmops.served_entity", "session.id", "talk", "ada@example.com")),
    "sessions": (sessions, ("talk", "54")),
    "session": (session, ("Turn 1", "What is a spool?", "A reel for thread.")),
}  # fmt: skip


@pytest.mark.parametrize("name", VIEWS)
def test_a_page_shows_what_either_writer_wrote_alike(
    name: str, window: Window, site: Site, usual: set[str], tmp_path: Path
) -> None:
    view, expected = VIEWS[name]
    texts = []
    for half in (site.by_sql, site.by_client):
        window.page.set_viewport_size(SIZE)
        texts.append(half.told(view(window, half)))
        window.page.screenshot(path=tmp_path / f"{name.replace(' ', '-')}-{half.experiment}.png")

        assert window.complaints <= usual

    assert texts[0] == texts[1]
    assert [text for text in expected if text not in texts[0]] == []


def test_the_list_of_experiments_shows_both_alike(window: Window, site: Site, usual: set[str], tmp_path: Path) -> None:
    window.open("/#/experiments", "llmops/by-sql")
    window.page.screenshot(path=tmp_path / "experiments.png")
    rows = [
        half.told(window.page.get_by_role("row").filter(has_text=name).inner_text())
        for half, name in ((site.by_sql, "by-sql"), (site.by_client, "by-client"))
    ]

    assert rows[0] == rows[1]
    assert "llmops/ENDPOINT" in rows[0]
    assert window.complaints <= usual


def test_the_charts_count_the_same_from_either_writer(
    window: Window, site: Site, usual: set[str], tmp_path: Path
) -> None:
    """Percentiles are drawn, not written: what the page was answered is compared, too."""
    texts, answers = [], []
    for half in (site.by_sql, site.by_client):
        path = f"/#/experiments/{half.experiment}/overview/usage?workflowType=genai"
        window.page.set_viewport_size(SIZE)
        texts.append(half.told(window.open(path, "(48 input")))
        # One is not answered in the order it was asked in; a map of theirs has none.
        answers.append(sorted(json.dumps(one, sort_keys=True) for one in window.answers("/traces/metrics")))
        window.page.screenshot(path=tmp_path / f"overview-{half.experiment}.png")

        assert window.complaints <= usual

    assert (texts[0], answers[0]) == (texts[1], answers[1])
    points = [point for one in answers[0] for point in json.loads(one).get("data_points", [])]
    assert {"trace_count", "latency", "total_tokens", "total_cost"} <= {point["metric_name"] for point in points}
    shown = ("72 (48 input, 24 output, 16 cache read)", "2 (Overall error rate: 40.0%)", "$0.0084", "gpt-4o-mini")
    assert [text for text in shown if text not in texts[0]] == []


def test_the_browser_reaches_nothing_but_the_server(window: Window) -> None:
    for elsewhere in ("http://localhost/", "http://192.0.2.1/"):
        with pytest.raises(Exception, match="ERR_NAME_NOT_RESOLVED"):
            window.page.goto(elsewhere)
