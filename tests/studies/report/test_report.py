"""What a report says of runs whose numbers are known, in all three formats."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from stratatune.studies.grid.recipe import recipe_of
from stratatune.studies.report import FORMATS, text_of, write
from stratatune.studies.report.charts import costs, depth
from stratatune.studies.report.comparison import many
from stratatune.studies.report.latex import escaped
from stratatune.studies.report.measured import Measured
from stratatune.studies.report.parts import Cell, Column, Finding, Folded, Report, ReportTable, Section, Text
from stratatune.studies.report.plain import plain
from stratatune.studies.report.single import single
from stratatune.studies.report.tables import scores
from stratatune.studies.report.wording import size


@pytest.fixture
def report(recipe, records):
    return many(recipe, records, "grid")


def section(report, title):
    return next(one for one in report.sections if one.title == title)


def table(report, title) -> ReportTable:
    return next(part for part in section(report, title).parts if isinstance(part, ReportTable))


def rows(one: ReportTable) -> dict[str, list[str]]:
    return {row[0].text: [cell.text for cell in row[1:]] for row in one.rows}


def test_scores(report):
    found = table(report, "Results")
    assert [one.title for one in found.columns] == ["plan", "trec", "rte", "mean"]
    assert rows(found) == {
        "bft@1/2": ["92.0 ± 2.0", "63.0 ± 3.0", "77.5 ± 2.2"],
        "lpt@1/2": ["82.0 ± 2.6", "62.0 ± 2.6", "72.0 ± 2.6"],
    }
    assert [cell.strong for cell in found.rows[0]] == [False, True, True, True]
    assert found.rows[0][1].below == ("[90.0, 94.0]", f"paper 92.5 ({'−'}0.5)")
    assert found.rows[1][1].below[1] == "paper 94.7 ↓12.7"
    assert Text("The paper's model is larger.") in section(report, "Results").parts


def test_claims(report):
    found = {one.claim: one for one in section(report, "Claims").parts if isinstance(one, Finding)}
    assert {claim: one.verdict for claim, one in found.items()} == {
        "BFT is better on TREC": "holds",
        "LPT is better on TREC": "does not hold",
        "BFT is better on RTE": "cannot tell",
    }
    said = found["BFT is better on TREC"].numbers
    assert said.startswith("+10.00 [+7.52, +12.48] points over 3 pairs")
    assert said.endswith("; 1,893,593 parameters train against 791,680.")


def test_a_side_of_several_runs_is_their_mean_only_where_none_is_missing(unfinished):
    both = {"task": ["trec", "rte"]}
    claim = {"text": "c", "better": {"plan": "bft@1/2", **both}, "worse": {"plan": "lpt@1/2", **both}, "on": "seed"}
    recipe = recipe_of({"title": "t", "claims": [claim]}, "by hand")
    (found,) = section(many(recipe, unfinished, "grid"), "Claims").parts
    assert found.numbers.startswith("+4.50 points over one pair")  # of seed 0; the others have no LPT on RTE yet


def test_comparisons(report):
    found = rows(table(report, "Comparisons"))
    assert list(found) == ["lpt@1/2"]
    difference, pairs, p, holm, least = found["lpt@1/2"]
    assert difference.startswith("−5.50 [") and (pairs, least) == ("6", "0.031")
    assert p == holm


def test_costs_and_the_trunk_that_did_not_run(report):
    found = rows(table(report, "Cost"))
    assert found["lpt@1/2"][:6] == ["791,680", "12 of 24", "2.0 s", "6.0 s", "1,000", "800 MB"]
    # Six runs of three epochs: two passes of two seconds each were not needed.
    assert table(report, "Cost").rows[0][-1].below == ("24 s saved",)


def test_what_the_grid_left_out_is_said(recipe, records):
    found = section(many(recipe, records[:6], "grid"), "Results").parts[-1]
    assert found == Text("Not in this grid, though in the recipe: task rte.")


def test_caches_that_the_grid_built(recipe, records):
    sets = [{"bytes": 3_000_000, "examples": 10, "computed": 10}, {}]
    built = [{"depth": 12, "seconds": 1.5, "caches": sets}, {"depth": 12, "seconds": 2.5, "caches": sets}]
    found = [
        part for part in section(many(recipe, records, "grid", built), "Cost").parts if isinstance(part, ReportTable)
    ]
    assert rows(found[1]) == {"depth 12": ["2", "6 MB", "4.0 s", "12", "36"]}


def test_runs_that_failed_or_wait_are_shown_and_in_no_mean(recipe, unfinished):
    report = many(recipe, unfinished, "grid")
    assert rows(table(report, "Results"))["lpt@1/2"][1:] == ["61.0", "70.5"]
    failed = next(part for part in section(report, "Failed").parts if isinstance(part, Folded))
    assert failed.title == "lpt@1/2 · rte · seed 2: ResourceError: out of <memory>"
    assert next(fact.note for fact in report.facts if fact.label == "runs") == "1 failed, 1 to do"
    listed = next(part for part in section(report, "Runs").parts if "lpt" in part.title)
    assert [row[3].text for row in listed.parts[0].rows] == ["80.00", "81.00", "85.00", "61.00", "waiting", "failed"]


def test_nothing_done_yet(recipe, records):
    waiting = [replace(one, status="waiting", result=None, history=[], environment={}) for one in records]
    report = many(recipe, waiting, "grid")
    assert Text("No run is done yet.") in section(report, "Results").parts
    assert {one.verdict for one in section(report, "Claims").parts if isinstance(one, Finding)} == {"cannot tell"}
    for format in FORMATS:
        assert report.title.split()[0] in text_of(report, format)


def test_without_a_recipe_the_varied_axes_are_rows(records):
    runs = [replace(one, coordinates={**one.coordinates, "lr": lr}) for one in records for lr in (0.1, 0.2)]
    assert set(rows(table(many(None, runs, "grid"), "Results"))) == {
        f"{plan} · lr {lr}" for plan in ("bft@1/2", "lpt@1/2") for lr in (0.1, 0.2)
    }


def test_curves_are_means_with_bands(report):
    panels = {panel.name: panel for figure in report.figures for panel in figure.panels}
    bft, lpt = panels["curve-0-eval_accuracy"].series
    assert bft.x == (10.0, 20.0, 30.0)
    assert bft.y[-1] == pytest.approx(92.0)
    assert (bft.low[-1], bft.high[-1]) == pytest.approx((90.0, 94.0))
    assert bft.style != lpt.style
    assert panels["curve-0-train_loss"].series[0].y == pytest.approx((3.0, 1.5, 1.0))


def drawn(records, format="html", **asked):
    """The learning curves and depth curves of a recipe's report that asks so, and what is written of them."""
    report = many(recipe_of({"title": "t", "settings": {"depth": [6, 12]}, "report": asked}, "by hand"), records, "g")
    return [panel for figure in report.figures for panel in figure.panels], text_of(report, format)


def test_curves_along_what_a_recipe_asks_for(records):
    timed = [
        replace(one, result={**one.result, "elapsed": [second + one.coordinates["seed"] for second in (2.0, 4.0, 6.0)]})
        for one in records
    ]
    places = {"step": (10.0, 20.0, 30.0), "epoch": (1.0, 2.0, 3.0), "seconds": (3.0, 5.0, 7.0)}
    pages = {}
    for x, label in {"step": "optimiser step", "epoch": "epoch", "seconds": "seconds of training"}.items():
        panels, pages[x] = drawn(timed, x=x, figures="curves")
        assert {panel.x_label for panel in panels} == {label}
        assert panels[0].series[0].x == places[x]
        assert f"against {label}." in pages[x]
    svgs = {re.search(r'<svg class="panel".*?</svg>', page, re.DOTALL)[0] for page in pages.values()}
    assert len(svgs) == 3
    assert drawn(records, x="seconds", figures="curves")[0] == []  # runs that do not know theirs


def test_curves_of_what_a_recipe_asks_for(records):
    assert {panel.title for panel in drawn(records, y="train_loss", figures="curves")[0]} == {
        "Trec: training loss",
        "Rte: training loss",
    }
    assert {panel.name for panel in drawn(records, y="accuracy", figures="curves")[0]} == {
        "curve-0-eval_accuracy",
        "curve-1-eval_accuracy",
    }
    assert drawn(records, y="f1", figures="curves")[0] == []
    deep = [replace(one, coordinates={**one.coordinates, "depth": at}) for one in records for at in (6, 12)]
    (panel, *_), _ = drawn(deep, x="depth", y="train_loss", figures="depth")
    assert (panel.x_label, panel.title, panel.series[0].y) == ("depth", "Trec: training loss", (1.0, 1.0))


def test_depth_is_the_frozen_depth_that_was_found(recipe, records):
    def at(one, depth):
        place = {"plan": f"bft@{depth}"}
        changed = replace(one, coordinates={**one.coordinates, **place})
        return replace(changed, result={**one.result, "frozen_depth": depth, "best": {"accuracy": depth / 24}})

    runs = [at(one, depth) for one in records[:3] for depth in (6, 12, 18)]
    panels = {panel.name: panel for figure in many(None, runs, "grid").figures for panel in figure.panels}
    (series,) = panels["depth-0"].series
    assert (series.name, series.x) == ("bft", (6.0, 12.0, 18.0))
    assert series.y == pytest.approx((25.0, 50.0, 75.0))
    assert "75.0 at 18" in panels["depth-0"].description


def test_depth_along_an_axis_of_the_recipe(records):
    recipe = recipe_of(
        {
            "title": "t",
            "settings": {"depth": [6, 12]},
            "report": {"rows": "depth", "columns": ["task", "plan"], "x": "depth"},
        },
        "by hand",
    )
    runs = [
        replace(one, coordinates={**one.coordinates, "plan": one.coordinates["plan"][:3], "depth": depth})
        for one in records
        for depth in (6, 12)
    ]
    report = many(recipe, runs, "grid")
    assert list(rows(table(report, "Results"))) == ["depth 6", "depth 12"]
    panels = {panel.name: panel for figure in report.figures for panel in figure.panels}
    assert [series.name for series in panels["depth-0"].series] == ["bft", "lpt"]
    assert (panels["depth-0"].title, panels["depth-1"].title) == ("Trec: accuracy, %", "Rte: accuracy, %")


def test_the_metric_of_a_run_is_the_one_that_selected_its_epoch(records):
    """Not the first that it reports; only results of 0.1 do not name it."""
    best = {"f1": 0.5, "accuracy": 0.9}
    plain = {**records[0].config, "task": None}
    for named, metric in (({"metric": "accuracy"}, "accuracy"), ({}, "f1"), ({"metric": "gone"}, "f1")):
        run = replace(records[0], config=plain, result={**records[0].result, "best": best, **named})
        assert Measured.of([run]).metric_of(run) == metric


def test_tasks_with_metrics_of_their_own_are_named_by_them(recipe, records):
    def by(one, metric):
        return replace(one, config={**one.config, "metric": metric}, result={**one.result, "best": {metric: 0.5}})

    runs = [by(one, {"trec": "accuracy", "rte": "matthews"}[one.coordinates["task"]]) for one in records]
    deep = [replace(one, coordinates={**one.coordinates, "depth": at}) for one in runs for at in (6, 12)]
    titles = {panel.name: panel.title for figure in many(recipe, runs, "grid").figures for panel in figure.panels}
    assert titles["cost-time"] == "Mean of the columns' scores"
    panels, _ = drawn(deep, x="depth", figures="depth")
    assert [panel.title for panel in panels] == ["Trec: accuracy, %", "Rte: matthews, %"]


def test_published_costs_stand_beside_measured_ones(records):
    published = [
        {"plan": plan, "metric": metric, "value": value}
        for plan, trained, speed, memory in (("bft@1/2", 1_900_000, 11.6, 23.3), ("lpt@1/2", 792_000, 23.2, 10.3))
        for metric, value in (("trained", trained), ("tokens_per_ms", speed), ("memory_gb", memory))
    ]
    recipe = recipe_of(
        {"title": "t", "plans": ["bft@1/2", "lpt@1/2"], "published": published, "report": {"figures": "cost"}},
        "by hand",
    )
    faster = [
        one
        if one.coordinates["plan"] == "bft@1/2"
        else replace(one, result={**one.result, "tokens_per_second": 1500.0})
        for one in records
    ]
    report = many(recipe, faster, "grid")
    assert [one.title for one in report.sections][0] == "Cost"
    row = table(report, "Cost").rows[1]
    assert [(row[at].text, row[at].below) for at in (1, 5, 6)] == [
        ("791,680", ("paper 792,000",)),
        ("1,500", ("± 0", "paper 23,200")),
        ("800 MB", ("paper 10.3 GB",)),
    ]
    assert [(cell.text, cell.below) for cell in row[7:9]] == [("1.50×", ("paper 2.00×",)), ("0.0 %", ("paper 55.8 %",))]


def test_a_report_on_costs_says_how_they_were_measured(records):
    recipe = recipe_of({"title": "t", "report": {"figures": "cost"}}, "by hand")
    found = replace(records[0], config={**records[0].config, "batch_size": 32, "cache": "off"})
    (said,) = (part.text for part in section(many(recipe, [found], "grid"), "Cost").parts if isinstance(part, Text))
    assert "on the CPU; the same for all: batches of 32 and trunk cache off; 1 round." in said
    other = replace(records[1], config={**found.config, "batch_size": 16}, environment={"gpu": "H200"})
    (said,) = (
        part.text for part in section(many(recipe, [found, other], "grid"), "Cost").parts if isinstance(part, Text)
    )
    assert "on H200 and the CPU" in said and "Not the same in all runs: batch_size." in said


def test_the_environment_names_no_folder_of_a_machine(recipe, records):
    places = [replace(one, environment={"python": "3.11", "directory": f"/home/{n}"}) for n, one in enumerate(records)]
    (said,) = section(many(recipe, places, "grid"), "Environment").parts
    assert isinstance(said, Text) and said.text == "python 3.11."


def test_in_a_terminal(report, recipe, records):
    lines = plain(report).splitlines()
    assert lines[:4] == [
        "Accuracy",
        "plan           trec         rte        mean",
        "bft@1/2  92.0 ± 2.0  63.0 ± 3.0  77.5 ± 2.2",
        "lpt@1/2  82.0 ± 2.6  62.0 ± 2.6  72.0 ± 2.6",
    ]
    assert "does not hold  LPT is better on TREC" in lines
    costs = recipe.model_copy(update={"report": recipe.report.model_copy(update={"figures": ("cost",)})})
    assert plain(many(costs, records, "grid")).startswith("Cost of a run.")


def test_a_single_run(records):
    report = single(records[0])
    assert report.title == "bft@1/2 on trec"
    assert [(fact.label, fact.value) for fact in report.facts][:2] == [
        ("accuracy, % (evaluation)", "90.00"),
        ("trained parameters", "1,893,593"),
    ]
    parts = [row[1].text for row in table(report, "Cost").rows]
    whole = next(fact.value for fact in report.facts if fact.label == "time")
    assert float(whole.split()[0]) == pytest.approx(sum(float(part.split()[0]) for part in parts), abs=0.2)
    assert r"accuracy, \% (evaluation) & 90.00" in text_of(report, "latex")
    assert Text("The 12 frozen blocks ran once for each example, which saved about 4.0 s over 3 epochs.") in (
        section(report, "Cost").parts
    )
    assert [row[0].text for row in table(report, "Settings").rows][:3] == ["model", "plan", "task"]


class _Page(HTMLParser):
    """Collects what the tests below ask of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.closed_wrong = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.closed_wrong.append(tag)

    def all(self, *names):
        return [value for _, attributes in self.tags for name, value in attributes.items() if name in names]


@pytest.fixture
def page(recipe, unfinished):
    return text_of(many(recipe, unfinished, "grid"), "html")


def test_page_stands_alone(page):
    found = _Page(page)
    assert not found.open and not found.closed_wrong
    assert {"script", "img", "iframe"}.isdisjoint(tag for tag, _ in found.tags)
    links = found.all("href", "src", "xlink:href")
    assert links and all(link.startswith(("#", "data:,")) for link in links)
    assert re.findall(r"url\((?!#)", page) == [] and "@import" not in page
    assert "<b>for</b>" not in page and "out of <memory>" not in page


def test_page_can_be_read_by_those_who_do_not_see_it(page):
    found = _Page(page)
    names = found.all("id")
    assert len(names) == len(set(names))
    pointed = [one for value in found.all("aria-labelledby") for one in value.split()]
    pointed += [link[1:] for link in found.all("href", "xlink:href") if link.startswith("#")]
    assert set(pointed) <= set(names)
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in found.tags if tag == "th")
    tags = [tag for tag, _ in found.tags]
    assert tags.count("table") == tags.count("caption") and tags.count("h1") == 1
    pictures = [attributes for tag, attributes in found.tags if tag == "svg"]
    assert all(one.get("role") == "img" or one.get("aria-hidden") == "true" for one in pictures)
    assert all("<desc" in text for text in re.findall(r'<svg class="panel".*?</svg>', page, re.DOTALL))


def test_the_same_runs_give_the_same_page(recipe, unfinished, page):
    assert text_of(many(recipe, unfinished, "grid"), "html") == page


def test_published_numbers_and_deviations_stand_in_every_format(records):
    published = [{"plan": "bft@1/2", "task": "trec", "value": 96.5, "deviation": 0.42}]
    report = many(recipe_of({"title": "t", "published": published}, "by hand"), records, "grid")
    assert "<br>paper 96.5 ± 0.4 ↓4.5 |" in text_of(report, "md")
    assert "paper 96.5 ± 0.4 ↓4.5</" in text_of(report, "html")
    latex = text_of(report, "latex")
    assert r"{\scriptsize paper 96.5 $\pm$ 0.4 $\downarrow$4.5}" in latex
    assert "measured above or below what was published" in latex


def test_markdown_is_one_line_a_row(report, tmp_path):
    text, *figures = write(report, "md", tmp_path / "table.md")
    said = text.read_text()
    assert "| bft@1/2 | **92.0 ± 2.0**<br>[90.0, 94.0]<br>paper 92.5 (−0.5) |" in said
    assert "**does not hold**: LPT is better on TREC" in said
    assert {path.relative_to(tmp_path).as_posix() for path in figures} == set(re.findall(r"\((\S+\.svg)\)", said))
    assert all(path.read_text().startswith("<svg xmlns") for path in figures)


def test_latex(report, tmp_path):
    text, *figures = write(report, "latex", tmp_path / "table.tex")
    said = text.read_text()
    assert r"bft@1/2 & \textbf{92.0 $\pm$ 2.0} & \textbf{63.0 $\pm$ 3.0}" in said
    assert said.count(r"\begin{table}") == said.count(r"\end{table}") > 1
    assert said.isascii()
    assert all(path.read_bytes().startswith(b"%PDF") for path in figures)
    assert escaped("50 % of a_b & {c}") == r"50 \% of a\_b \& \{c\}"
    assert escaped('"2: lora | head" --out') == r"''2: lora \textbar{} head'' -{}-out"


def test_latex_takes_no_row_for_an_argument_of_the_one_above():
    """`\\\\`, `\\midrule` and `\\toprule` look for `[` or `*` on the next line too."""
    rows = ((Cell("[a]"), Cell("1")), (Cell("*"), Cell("2")), (Cell("b", ("[1, 2]",)), Cell("3")))
    found = ReportTable("t", (Column("[x]"), Column("y")), rows)
    said = text_of(Report("two\nlines", "", (), (Section("s", (found,)),)), "latex")
    assert r"{}[a] & 1 \\" in said and r"{}* & 2 \\" in said and r"{}[x] & y \\" in said
    assert not re.findall(r"^[\[*]", said, re.MULTILINE) and said.startswith("% two lines.")


def test_columns_in_which_smaller_is_better(recipe, records):
    """Each column has its own best; a difference means the same in all of them, and there is no mean over both."""

    def as_error(one):
        if one.coordinates["task"] != "rte":
            return one
        error = 2.0 - one.result["best"]["accuracy"]  # the better run has the smaller one
        return replace(one, config={**one.config, "metric": "mse"}, result={**one.result, "best": {"mse": error}})

    runs = [as_error(one) for one in records]
    plain, mixed = (Measured.of(some) for some in (records, runs))
    assert mixed.mixed and not plain.mixed and mixed.smaller_in("rte") and not mixed.smaller_in("trec")
    found = scores(mixed, {})
    assert [column.title for column in found.columns[1:]] == ["trec", "rte"]
    bold = [[cell.strong for cell in row[1:3]] for row in found.rows]
    assert bold == [[cell.strong for cell in row[1:3]] for row in scores(plain, {}).rows]
    assert costs(plain) is not None and costs(mixed) is None
    first, second = mixed.rows[:2]
    theirs, ours = mixed.against(second, first), plain.against(second, first)
    assert (theirs.difference.mean > 0) == (ours.difference.mean > 0)


def test_runs_that_differ_in_a_folder_alone_are_shown_apart(records, tmp_path):
    from stratatune.studies.grid.records import compared

    def run(name, **config):
        one = records[0]
        return replace(one, folder=tmp_path / name, config={**one.config, **config})

    places = [run("a", model="x/base"), run("b", model="y/base")]
    assert len(Measured.of(compared(places)).rows) == 2
    data = [run("a", train="d1/train.csv"), run("b", train="d2/train.csv")]
    assert len(Measured.of(compared(data)).rows) == 2
    again = Measured.of(compared([run("a"), run("b", cache="off")]))
    (row,), (column,) = again.rows, again.columns
    assert len(again.scores(row, column)) == 2


def test_seeds_of_other_numbers_of_steps_are_one_line(records):
    def with_steps(one, steps):
        history = [{"epoch": n, "step": steps * n, "train_loss": 1.0, "eval_accuracy": steps / 20} for n in (1, 2)]
        return replace(one, history=history)

    runs = [with_steps(one, steps) for one, steps in zip(records[:2], (10, 12), strict=True)]
    for x, places in (("epoch", (1.0, 2.0)), ("step", (11.0, 22.0))):
        panels, _ = drawn(runs, x=x, figures="curves")
        (series,) = next(panel for panel in panels if "eval" in panel.name).series
        assert series.x == places and series.y == pytest.approx((55.0, 55.0))
        assert (series.low[0], series.high[0]) == pytest.approx((50.0, 60.0))


def scored(records, metric, worth):
    """The runs with another metric, whose value ``worth`` makes of the accuracy."""
    return [
        replace(
            one,
            config={**one.config, "metric": metric},
            result={**one.result, "best": {metric: worth(one.result["best"]["accuracy"])}},
            history=[{**line, f"eval_{metric}": worth(line["eval_accuracy"])} for line in one.history],
        )
        for one in records
    ]


def test_rankings_and_shares_are_in_percent_and_a_margin_in_points(records):
    claim = {"text": "c", "better": {"plan": "lpt@1/2", "task": "rte"}, "worse": {"plan": "bft@1/2", "task": "rte"}}
    recipe = recipe_of({"title": "t", "claims": [{**claim, "margin": 1}]}, "by hand")
    for metric in ("ndcg@10", "recall@1", "token_accuracy", "reward_accuracy", "has_answer_f1", "topic.mrr@10"):
        report = many(recipe, scored(records, metric, lambda score: score), "grid")
        assert rows(table(report, "Results"))["bft@1/2"][0] == "92.0 ± 2.0"
        (found,) = section(report, "Claims").parts
        assert "−1.00 [" in found.numbers and " points over 3 pairs" in found.numbers
        assert found.verdict == "cannot tell"  # an interval of several points, not of hundredths


def test_scores_that_are_no_shares_have_three_decimals_or_more(recipe, records):
    losses = scored(records, "loss", lambda score: 2 - 2 * score)
    report = many(recipe, losses, "grid")
    assert rows(table(report, "Results"))["bft@1/2"] == ["0.160 ± 0.040", "0.740 ± 0.060", "0.450 ± 0.044"]
    assert table(report, "Results").rows[0][1].below[0] == "[0.120, 0.200]"
    assert rows(table(report, "Comparisons"))["lpt@1/2"][0].startswith("−0.1100 [")
    found = next(one for one in section(report, "Claims").parts if isinstance(one, Finding))
    assert found.numbers.startswith("+0.2000 [") and "points" not in found.numbers
    assert "0.160 ± 0.040" in plain(report)
    assert "0.160 at 30" in next(
        one.description for figure in report.figures for one in figure.panels if one.name == "curve-0-eval_loss"
    )
    assert single(losses[0]).facts[0].value == "0.2000"
    listed = next(part for part in section(report, "Runs").parts if "bft" in part.title)
    assert listed.parts[0].rows[0][3].text == "0.2000"
    small = many(recipe, scored(records, "mse", lambda score: (1 - score) / 1000), "grid")
    assert rows(table(small, "Results"))["bft@1/2"][1] == "0.000370 ± 0.000030"


def test_a_line_of_a_depth_curve_is_one_plan_of_one_model(records):
    """Seeds alone are averaged: another model or rate is another line, and so is another plan along another axis."""

    def at(one, depth, model, lr):
        place = {"plan": f"bft@{depth}", "model": model, "lr": lr}
        best = {"accuracy": depth / 24 + (model == "large") / 10 + (lr > 0.1) / 100}
        changed = replace(one, coordinates={**one.coordinates, **place})
        return replace(changed, result={**one.result, "frozen_depth": depth, "best": best})

    runs = [
        at(one, depth, model, lr)
        for one in records[:3]
        for depth in (6, 12)
        for model in ("base", "large")
        for lr in (0.1, 0.2)
    ]
    figure = next(one for one in many(None, runs, "grid").figures if one.name == "depth")
    lines = {series.name: series for series in figure.panels[0].series}
    assert set(lines) == {f"{model} · bft · lr {lr}" for model in ("base", "large") for lr in (0.1, 0.2)}
    assert lines["large · bft · lr 0.2"].y == pytest.approx((36.0, 61.0)) and "means over seeds" in figure.note
    assert len({series.style for series in lines.values()}) == 4
    along = depth(Measured.of(runs), "lr")
    assert {series.name for series in along.panels[0].series} == {
        f"{model} · bft@{depth}" for model in ("base", "large") for depth in (6, 12)
    }


def test_means_over_more_than_seeds_say_so(records):
    recipe = recipe_of({"title": "t", "report": {"rows": "plan"}}, "by hand")
    runs = [replace(one, coordinates={**one.coordinates, "lr": lr}) for one in records for lr in (0.1, 0.2)]
    report = many(recipe, runs, "grid")
    assert "standard deviation over seeds and lr, below" in table(report, "Results").caption
    assert "means over seeds and lr, bands" in next(one for one in report.figures if one.name == "curves").note


def test_seeds_may_have_names(records):
    runs = [
        replace(one, coordinates={**one.coordinates, "seed": "second" if one.coordinates["seed"] == 1 else 0})
        for one in records
    ]
    report = many(None, runs, "grid")
    assert next((one.value, one.note) for one in report.facts if one.label == "seeds") == ("2", "0 and second")


def test_a_run_without_a_cache_built_none(records):
    run = replace(records[0], config={**records[0].config, "cache": "off"})
    for one, said in ((records[0], "built"), (run, "none")):
        (listed,) = section(many(None, [one], "grid"), "Runs").parts
        assert listed.parts[0].rows[0][-1].text == said


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (999.4, "999 B"),
        (999.6, "1 kB"),
        (999.6e6, "1 GB"),
        (1.25e9, "1.25 GB"),
        (999.9e9, "1 TB"),
        (2.5e15, "2,500 TB"),
    ],
)
def test_sizes_that_round_to_the_next_unit(count, said):
    assert size(count) == said
