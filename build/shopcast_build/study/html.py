"""A study as a page: sentences first, then figures and tables that bear them out."""

from datetime import datetime

from shopcast_build.reporting.page import (
    Paragraph,
    Plot,
    Section,
    Sentence,
    Table,
    Tone,
    render_page,
)
from shopcast_build.study import plots
from shopcast_build.study.assessment import ALL, LEAST_EXPOSURES, LEAST_OF_A_KIND, LEAST_PEOPLE
from shopcast_build.study.contenders import TREES
from shopcast_build.study.estimates import Estimate
from shopcast_build.study.identities import ARMS
from shopcast_build.study.resampling import PURCHASE
from shopcast_build.study.schema import Claim, ContenderResult, Difference, StudyReport

_TONES: dict[Claim, Tone] = {
    "better": "good",
    "worse": "bad",
    "none": "plain",
    "too small": "muted",
}
_CLAIMS: dict[Claim, str] = {
    "better": "better",
    "worse": "worse",
    "none": "no gain",
    "too small": "too few",
}
_TARGETS = (PURCHASE, "buy", "return")
_METRICS = {"auc": "AUC", "pr_auc": "PR-AUC", "log_loss": "log loss"}
_NO_BREAK, _NO_BREAK_HYPHEN = "\N{NO-BREAK SPACE}", "\N{NON-BREAKING HYPHEN}"


def render(report: StudyReport) -> str:
    """The whole page; the same report gives the same bytes."""
    page = _Page(report)
    sections = [
        page.data(),
        page.overall(),
        page.comparisons(),
        page.fusion(),
        page.slices(),
        page.shape(),
        page.learning(),
        page.method(),
    ]
    return render_page(
        report.title,
        [Sentence(doubt, "bad") for doubt in report.data.doubts]
        + [Sentence(one.text, _TONES[one.claim]) for one in report.verdicts],
        [section for section in sections if section is not None],
        footer=f"Shopcast {report.shopcast_version}; base model {report.base_model}",
    )


class _Page:
    def __init__(self, report: StudyReport) -> None:
        self._report = report
        self._names = {one.key: one.name for one in report.contenders}
        self._metric = f"{report.headline}_auc"
        purchase = report.headline == PURCHASE
        self._what = "purchases from mere views" if purchase else "returns from keeps"

    def data(self) -> Section:
        """What the study was made on."""
        data = self._report.data
        counts = data.exposures
        rows = [
            ("training", _span(data.train), f"{counts['train']:,}"),
            ("validation", _span(data.validation), f"{counts['validation']:,}"),
            ("test", _span(data.test), f"{counts['test']:,}"),
        ]
        return Section(
            "What it was tried on",
            [
                Paragraph(
                    f"A log from {data.log_start:%Y-%m-%d} to {data.log_end:%Y-%m-%d} of"
                    f" {data.people:,} people and {data.items:,} items. Everything below is from"
                    f" the test period: {data.test_people:,} people,"
                    f" {data.multi_platform_people:,} of them with accounts on several platforms."
                    f" Between the parts lie {data.gap_days:g} days, so that every label was known"
                    " before the next part began."
                ),
                Table("Exposures", ("part", "days", "exposures"), rows, left=2),
                Plot(
                    plots.outcome_shares(data),
                    "What became of the test exposures, by platform.",
                    "; ".join(
                        f"{platform}: " + ", ".join(f"{n:,} {kind}" for kind, n in kinds.items())
                        for platform, kinds in data.outcomes.items()
                    ),
                ),
            ],
        )

    def overall(self) -> Section:
        """Every contender by every metric."""
        targets = [t for t in _TARGETS if any(f"{t}_auc" in c.metrics for c in self._contenders())]
        general = [
            (
                _unbroken(f"{one.name}*" if one.key == self._report.subject else one.name),
                *(
                    _cell(one.metrics.get(metric))
                    for metric in (self._metric, "log_loss", "macro_f1", "ece", "accuracy")
                ),
            )
            for one in self._contenders()
        ]
        parts: list[Paragraph | Table | Plot] = [
            Paragraph(
                "Means over the trainings of each, with 95 % intervals. * is what this report is"
                f" about. AUC is that of telling {self._what}: the share of pairs in the right"
                " order. Log loss and ECE are better when lower."
            ),
            Table(
                "Contenders",
                ("", "AUC", "log loss", "macro-F1", "ECE", "accuracy"),
                general,
            ),
        ]
        for kind, title in (("auc", "AUC by outcome"), ("pr_auc", "PR-AUC by outcome")):
            rows = [
                (
                    _unbroken(one.name),
                    *(_cell(one.metrics.get(f"{target}_{kind}")) for target in targets),
                )
                for one in self._contenders()
            ]
            parts.append(Table(title, ("", *targets), rows))
        parts.append(
            Table(
                "Who is who",
                ("", "what it is", "trainings", "judged on"),
                [
                    (
                        _unbroken(one.name),
                        one.note,
                        str(len(one.metrics["log_loss"].seeds)),
                        f"{one.exposures:,}",
                    )
                    for one in self._report.contenders
                ],
                left=2,
            )
        )
        return Section("How good it is", parts)

    def comparisons(self) -> Section:
        """Differences with intervals."""
        shown = [
            d
            for d in self._report.differences
            if d.where == ALL and d.metric == self._metric and d.of not in ARMS
        ]
        others = [
            d
            for d in self._report.differences
            if d.where == ALL and d.metric != self._metric and d.of not in ARMS
        ]
        return Section(
            "Against its rivals",
            [
                self._forest(shown, "Differences in AUC; right of zero is better."),
                self._table("Differences; above zero is better, also of a loss", shown + others),
            ],
        )

    def fusion(self) -> Section | None:
        """The three arms."""
        arms = [d for d in self._report.differences if d.of in ARMS]
        fusion = self._report.fusion
        if not arms or fusion is None:
            return None
        shown = [d for d in arms if d.metric == self._metric and d.claim != "too small"]
        return Section(
            "Does fusing platforms help",
            [
                Paragraph(
                    "Three models of the same seeds, trained and judged on the same exposures. One"
                    " sees what the person did on the platform of the exposure; one sees the"
                    " person's other platforms as well; one sees strangers' histories in place of"
                    " the person's on other platforms. Own events are the same in all three."
                    " Fusing helps only if it beats both others."
                ),
                self._forest(shown, "Differences in AUC between histories."),
                self._table("Differences between histories", arms),
                Paragraph(
                    f"A stranger stood for {fusion.replaced:,} accounts;"
                    f" {fusion.without_stranger:,} had none. {fusion.own_first_share:.1%} of the"
                    " test exposures of people with several platforms have more events than a"
                    " window holds: there own events are kept first, which serving does not do."
                ),
            ],
        )

    def slices(self) -> Section:
        """Parts of the test."""
        report = self._report
        subject, metric = report.subject, self._metric
        gains = {
            d.where: d
            for d in report.differences
            if d.of == subject and d.against == TREES and d.metric == metric
        }
        rows = []
        for one in report.slices:
            found, gain = one.metrics.get(subject, {}), gains.get(one.key)
            rows.append(
                (
                    one.name,
                    f"{one.exposures:,}",
                    f"{one.people:,}",
                    _cell(found.get(metric)),
                    _cell(found.get("log_loss")),
                    _cell(found.get("accuracy")),
                    _signed(gain.gain) if gain else "",
                    _CLAIMS[gain.claim] if gain else "",
                )
            )
        columns = (
            "",
            "exposures",
            "people",
            "AUC",
            "log loss",
            "accuracy",
            "AUC against trees",
            "may be said",
        )
        return Section(
            "Where it is good and where not",
            [
                Paragraph(
                    f"Nothing is claimed of fewer than {LEAST_EXPOSURES} exposures,"
                    f" {LEAST_PEOPLE} people or {LEAST_OF_A_KIND} of a kind."
                ),
                Table(f"The {self._names[subject]} by part of the test", columns, rows),
            ],
        )

    def shape(self) -> Section:
        """Curves."""
        report = self._report
        own = report.curves[0]
        totals = [sum(kinds.values()) for kinds in report.data.outcomes.values()]
        hits = [_hits(kinds, report.headline) for kinds in report.data.outcomes.values()]
        share = sum(hits) / max(1, sum(totals))
        gaps = ", ".join(f"{p.x:.3f} predicted and {p.y:.3f} observed" for p in own.reliability)
        return Section(
            "Calibration and ranking",
            [
                Plot(
                    plots.reliability(own),
                    "Predicted against observed shares, in ten groups of equal size.",
                    f"Reliability diagram: {gaps}.",
                ),
                Plot(
                    plots.ranking(report.curves, self._names, share),
                    "First training of each; dotted is chance.",
                    "ROC and precision-recall curves of "
                    + ", ".join(self._names[one.contender] for one in report.curves),
                ),
            ],
        )

    def learning(self) -> Section | None:
        """Learning curves."""
        report = self._report
        if not report.learning and not report.steps:
            return None
        parts: list[Paragraph | Table | Plot] = []
        if report.learning:
            rows = [
                (self._names.get(p.contender, p.contender), f"{p.exposures:,}", _cell(p.estimate))
                for p in report.learning
            ]
            parts += [
                Paragraph(
                    "Trained on the exposures of some of the people and judged on the whole test:"
                    " a curve that still rises says that more data would help."
                ),
                Plot(
                    plots.learning(report.learning, self._names, "AUC"),
                    "AUC against training exposures, with 95 % intervals.",
                    "Learning curves; the table below has the numbers.",
                ),
                Table("Learning curves", ("", "training exposures", "AUC"), rows),
            ]
        if report.steps:
            parts.append(
                Plot(
                    plots.steps(report.steps),
                    "Validation log loss over the steps of each stage of training.",
                    "; ".join(f"{p.stage}, step {p.step}: {p.loss:.4f}" for p in report.steps),
                )
            )
        return Section("Would more data or more training help", parts)

    def method(self) -> Section:
        """How it was done."""
        report = self._report
        return Section(
            "How this was measured",
            [
                Paragraph(
                    "Intervals are the middle 95 % over"
                    f" {report.draws:,} resamplings of whole people, paired between contenders, and"
                    f" widened for the spread over up to {report.seeds} trainings of different"
                    " seeds. A difference is claimed only if its interval excludes zero and every"
                    " seed agrees. Otherwise the sentence says no gain: that is not a proof of"
                    " equality. ECE is the mean gap between predicted and observed shares."
                ),
                Paragraph(
                    "Everything was chosen and calibrated on the validation period. Who builds"
                    " otherwise after reading this has chosen by the test, and needs a later one."
                ),
            ],
        )

    def _contenders(self) -> list[ContenderResult]:
        return [one for one in self._report.contenders if one.key not in ARMS]

    def _forest(self, differences: list[Difference], caption: str) -> Plot:
        labels = [self._label(d) for d in differences]
        told = "; ".join(
            f"{label}: {_signed(d.gain)}" for label, d in zip(labels, differences, strict=True)
        )
        return Plot(plots.forest(differences, labels, "difference in AUC"), caption, told)

    def _label(self, one: Difference) -> str:
        label = f"{self._names[one.of]} against {self._names[one.against]}"
        return label if one.where == ALL else f"{label}, {one.where}"

    def _table(self, caption: str, differences: list[Difference]) -> Table:
        rows = [
            (
                self._label(d),
                _unbroken(
                    _METRICS.get(d.metric.removeprefix(f"{self._report.headline}_"), d.metric)
                ),
                f"{d.exposures:,}",
                f"{d.people:,}",
                _signed(d.gain),
                " ".join(f"{seed:+.3f}" for seed in d.gain.seeds) if d.gain else "",
                _CLAIMS[d.claim],
            )
            for d in differences
        ]
        columns = ("", "metric", "exposures", "people", "difference", "by seed", "may be said")
        return Table(caption, columns, rows, left=2)


def _hits(kinds: dict[str, int], headline: str) -> int:
    if headline == PURCHASE:
        return kinds["buy"] + kinds["return"]
    return kinds[headline]


def _span(days: tuple[datetime, datetime]) -> str:
    return f"{days[0]:%Y-%m-%d} to {days[1]:%Y-%m-%d}"


def _unbroken(text: str) -> str:
    return text.replace(" ", _NO_BREAK).replace("-", _NO_BREAK_HYPHEN)


def _cell(found: Estimate | None) -> str:
    if found is None:
        return "\N{EN DASH}"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _signed(found: Estimate | None) -> str:
    if found is None:
        return "\N{EN DASH}"
    return f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
