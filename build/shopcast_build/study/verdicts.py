"""What the intervals allow to be said, in sentences for those who decide."""

from collections.abc import Iterable

from shopcast_build.study.assessment import ALL
from shopcast_build.study.contenders import (
    AFTER,
    BEFORE,
    MAJORITY,
    NO_HISTORY,
    NO_TEXT,
    TEXTBOOK,
    TREES,
    WORDS,
)
from shopcast_build.study.estimates import Estimate
from shopcast_build.study.identities import FUSED, PLACEBO, SINGLE
from shopcast_build.study.resampling import PURCHASE
from shopcast_build.study.schema import Claim, ContenderResult, Difference, Verdict

SEVERAL, NEW_HERE, COLD_ITEMS = "several platforms", "new on the platform", "cold items"

_PAIRS = {
    PURCHASE: "a purchase and a mere view",
    "return": "a line that came back and one that was kept",
}
_OVER = {
    MAJORITY: "always guessing the usual shares of the platform",
    TREES: "gradient boosting on the same numbers",
    WORDS: "counting words",
    TEXTBOOK: "the textbook recipe",
}


def find(
    differences: Iterable[Difference], of: str, against: str, where: str = ALL
) -> Difference | None:
    """The headline difference of two contenders somewhere: the first that was computed."""
    wanted = (of, against, where)
    return next((d for d in differences if (d.of, d.against, d.where) == wanted), None)


def verdicts(
    subject: ContenderResult,
    headline: str,
    differences: tuple[Difference, ...],
    *,
    fusing: bool,
    calibration_limit: float,
) -> tuple[Verdict, ...]:
    """differences: the headline ones first. fusing: whether it was asked if that helps."""
    found = [_level(subject, headline)]
    found += [
        _rival(one, _OVER[rival])
        for rival in (MAJORITY, TREES, WORDS, TEXTBOOK)
        if (one := find(differences, subject.key, rival))
    ]
    if one := find(differences, BEFORE, NO_HISTORY):
        found.append(_history(one))
    if fusing:
        found.append(_fusing(differences))
    if one := find(differences, AFTER, BEFORE):
        found.append(_tuning(one))
    if one := find(differences, BEFORE, NO_TEXT, COLD_ITEMS):
        found.append(_text(one, "items nobody had met before the training ended"))
    elif one := find(differences, BEFORE, NO_TEXT):
        found.append(_text(one, "all items"))
    found.append(_calibration(subject, calibration_limit))
    return tuple(found)


def fusion_claim(differences: Iterable[Difference], where: str = SEVERAL) -> Claim | None:
    """Whether fusing helps: only when it beats one platform and the placebo; None: not judged."""
    known = list(differences)
    one, other = find(known, FUSED, SINGLE, where), find(known, FUSED, PLACEBO, where)
    if one is None or other is None:
        return None
    claims = {one.claim, other.claim}
    if "too small" in claims:
        return "too small"
    if claims == {"better"}:
        return "better"
    return "worse" if one.claim == "worse" else "none"


def _level(subject: ContenderResult, headline: str) -> Verdict:
    area = subject.metrics[f"{headline}_auc"]
    return Verdict(
        question="How good is it?",
        text=(
            f"Of 100 pairs of {_PAIRS[headline]}, the {_the(subject)} puts {100 * area.value:.1f}"
            f" in the right order ({_range(area)}); chance would be 50."
        ),
        claim="none",
    )


def _the(subject: ContenderResult) -> str:
    return "published model" if subject.key == "published" else f"model {subject.name}"


def _rival(one: Difference, rival: str) -> Verdict:
    return Verdict(
        question=f"Is it better than {rival}?",
        text={
            "better": f"Better than {rival}: {_more(one)}.",
            "worse": f"Worse than {rival}: {_more(one)}.",
            "none": f"No gain over {rival}: {_more(one)}, which may be chance.",
            "too small": f"Whether it beats {rival} cannot be told from {_size(one)}.",
        }[one.claim],
        claim=one.claim,
    )


def _history(one: Difference) -> Verdict:
    return Verdict(
        question="Does the person's past help?",
        text={
            "better": f"What is known of the person helps: {_more(one)} than without it.",
            "worse": f"What is known of the person makes it worse: {_more(one)} than without it.",
            "none": (
                f"No gain from what is known of the person: {_more(one)} than without it, which may"
                " be chance."
            ),
            "too small": f"Whether the person's past helps cannot be told from {_size(one)}.",
        }[one.claim],
        claim=one.claim,
    )


def _fusing(differences: tuple[Difference, ...]) -> Verdict:
    question = "Does fusing platforms help?"
    claim = fusion_claim(differences)
    single = find(differences, FUSED, SINGLE, SEVERAL)
    placebo = find(differences, FUSED, PLACEBO, SEVERAL)
    if claim is None or single is None or placebo is None:
        return Verdict(
            question=question,
            text=(
                "Whether fusing platforms helps cannot be told: nobody in the test period has"
                " accounts on several platforms (--links says whose are one person's)."
            ),
            claim="too small",
        )
    told = (
        f"for people who shop on several platforms, {_more(single)} than with one platform's"
        f" history, and {_more(placebo)} than with strangers' in its place"
    )
    text = {
        "better": f"Fusing platforms helps: {told}.",
        "worse": f"Fusing platforms makes it worse: {told}.",
        "none": f"No gain from fusing platforms: {told}; it counts only where both are above zero.",
        "too small": (
            f"Whether fusing platforms helps cannot be told from {_size(single)} of people who shop"
            " on several."
        ),
    }[claim]
    return Verdict(question=question, text=text, claim=claim)


def _tuning(one: Difference) -> Verdict:
    if one.gain is not None and not any(one.gain.seeds):
        text = "No gain from fine-tuning BERT: validation kept the pretrained weights."
        return Verdict(question="Does fine-tuning BERT help?", text=text, claim="none")
    return Verdict(
        question="Does fine-tuning BERT help?",
        text={
            "better": f"Fine-tuning BERT helps: {_more(one)} than with the pretrained one.",
            "worse": f"Fine-tuning BERT makes it worse: {_more(one)} than with the pretrained one.",
            "none": (
                f"No gain from fine-tuning BERT: {_more(one)} than with the pretrained one, which"
                " may be chance."
            ),
            "too small": f"Whether fine-tuning BERT helps cannot be told from {_size(one)}.",
        }[one.claim],
        claim=one.claim,
    )


def _text(one: Difference, which: str) -> Verdict:
    return Verdict(
        question="Do item texts help?",
        text={
            "better": f"Item texts help on {which}: {_more(one)} than without them.",
            "worse": f"Item texts make it worse on {which}: {_more(one)} than without them.",
            "none": (
                f"No gain from item texts on {which}: {_more(one)} than without them, which may be"
                " chance."
            ),
            "too small": f"Whether item texts help on {which} cannot be told from {_size(one)}.",
        }[one.claim],
        claim=one.claim,
    )


def _calibration(subject: ContenderResult, limit: float) -> Verdict:
    error = subject.metrics["ece_beyond_chance"]
    gap = (
        f"beyond what chance explains, predicted and observed shares differ by"
        f" {100 * max(error.value, 0.0):.2f} points on average, at most {100 * error.high:.2f};"
        f" {100 * limit:.2f} is the limit"
    )
    claim: Claim
    if error.high <= limit:
        text, claim = f"Its probabilities can be read as shares: {gap}.", "better"
    elif error.low > limit:
        text, claim = f"Its probabilities cannot be read as shares: {gap}.", "worse"
    else:
        text, claim = f"Whether its probabilities can be read as shares is open: {gap}.", "none"
    return Verdict(question="Is it calibrated?", text=text, claim=claim)


def _more(one: Difference) -> str:
    if one.gain is None:
        return "no difference to be seen"
    value = 100 * one.gain.value
    word = "more" if value >= 0 else "fewer"
    return f"{abs(value):.1f} {word} of 100 pairs in the right order ({_range(one.gain)})"


def _range(of: Estimate) -> str:
    return f"{100 * of.low:+.1f} to {100 * of.high:+.1f}" if of.low < 0 else _plain(of)


def _plain(of: Estimate) -> str:
    return f"{100 * of.low:.1f} to {100 * of.high:.1f}"


def _size(one: Difference) -> str:
    return f"{one.exposures:,} exposures of {one.people:,} people"
