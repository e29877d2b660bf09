"""The shopping platforms: how each names, words and prices what it sells."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Platform:
    """One platform's manners.

    wording: which of the three wordings of every noun, material and quality it uses.
    price_level: multiplier on what the product would cost elsewhere.
    title, label: templates of an item's title and its category string.
    item_ids: template of an item id, from a number.
    case: how titles are written.
    """

    name: str
    wording: int
    price_level: float
    title: str
    label: str
    item_ids: str
    case: str = "as is"

    def write_title(self, **words: str) -> str:
        """The title made of the words; parts without a word leave no gap."""
        title = " ".join(self.title.format(**words).split())
        title = title.replace(" ,", "").strip(" ,-|")
        match self.case:
            case "lower":
                return title.lower()
            case "title":
                return title.title()
            case _:
                return title

    def write_label(self, department: str, noun: str) -> str:
        """The platform's own category string."""
        nouns = noun if noun.endswith("s") else f"{noun}s"
        return self.label.format(
            department=department.capitalize(),
            nouns=nouns.title(),
            department_slug=department.replace(" ", "-"),
            nouns_slug=nouns.replace(" ", "-"),
        )


PLATFORMS: tuple[Platform, ...] = (
    Platform(
        name="kaufwerk",
        wording=0,
        price_level=1.0,
        title="{brand} {quality} {material} {noun} {style} {colour} {fit}",
        label="{department} > {nouns}",
        item_ids="KW-{:06d}",
        case="title",
    ),
    Platform(
        name="velvetlane",
        wording=1,
        price_level=1.12,
        title="{quality} {noun} in {colour} {material}, {style}, {fit} by {brand}",
        label="{department_slug}/{nouns_slug}",
        item_ids="{:08d}",
        case="lower",
    ),
    Platform(
        name="gearhub",
        wording=2,
        price_level=0.93,
        title="{noun} {brand} | {material} | {quality} {style} {fit} ({colour})",
        label="{department} | {nouns}",
        item_ids="gh{:07d}x",
    ),
    Platform(
        name="marktbox",
        wording=1,
        price_level=0.85,
        title="{noun} - {colour} - {material} - {brand} {style} {quality} {fit}",
        label="All / {department} / {nouns}",
        item_ids="MB{:06d}",
        case="title",
    ),
    Platform(
        name="nordbazaar",
        wording=2,
        price_level=1.05,
        title="{brand}: {style} {noun}, {quality} {material}, {colour}, {fit}",
        label="{department_slug}.{nouns_slug}",
        item_ids="nb-{:06d}",
        case="lower",
    ),
    Platform(
        name="pixelport",
        wording=0,
        price_level=0.97,
        title="{colour} {noun} {brand} {material} {quality} {style} {fit}",
        label="{nouns} ({department})",
        item_ids="9{:07d}",
    ),
    Platform(
        name="homestead",
        wording=1,
        price_level=1.08,
        title="{style} {material} {noun} by {brand}, {quality}, {colour}, {fit}",
        label="{department}: {nouns}",
        item_ids="HS.{:06d}",
    ),
    Platform(
        name="outletista",
        wording=2,
        price_level=0.78,
        title="{brand} {noun} {quality} {colour} {material} {fit} {style}",
        label="outlet>{department_slug}>{nouns_slug}",
        item_ids="o{:07d}",
        case="lower",
    ),
)
