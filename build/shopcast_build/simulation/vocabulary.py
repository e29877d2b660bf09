"""The words of the market and what they mean: every meaning is an effect on buying or returning.

Wherever three words stand together they are synonyms, one for each wording of a platform.
"""

from dataclasses import dataclass

Wordings = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Meaning:
    """Words that mean the same.

    axis: where they lie, -1 to 1, between synthetic and natural (materials), muted and bold
    (colours), or classic and modern (styles). disappoints: 0 to 1, how surely a buyer sends the
    item back for it.
    """

    words: Wordings
    axis: float = 0.0
    disappoints: float = 0.0


@dataclass(frozen=True, slots=True)
class Category:
    """What people need. price: of a middling item, in EUR. weight: how often it is needed."""

    nouns: Wordings
    price: float
    weight: float


@dataclass(frozen=True, slots=True)
class Department:
    """Categories that share names, materials and fits. returns: effect on the return logit."""

    names: Wordings
    categories: tuple[Category, ...]
    materials: tuple[Meaning, ...]
    fits: tuple[Meaning, ...] = (Meaning(("", "", "")),)
    returns: float = 0.0


QUALITIES: tuple[Wordings, ...] = (
    ("economy", "budget", "no-frills"),
    ("basic", "value", "simple"),
    ("everyday", "standard", "classic range"),
    ("reinforced", "durable", "long-lasting"),
    ("premium", "handmade", "luxury"),
)
"""From the worst quality to the best."""

COLOURS: tuple[Meaning, ...] = (
    Meaning(("black", "jet black", "black"), -1.0),
    Meaning(("grey", "charcoal", "ash grey"), -0.8),
    Meaning(("beige", "sand", "cream"), -0.6),
    Meaning(("navy", "navy blue", "dark blue"), -0.4),
    Meaning(("white", "off-white", "snow white"), -0.6),
    Meaning(("turquoise", "teal", "aqua"), 0.6),
    Meaning(("red", "scarlet", "bright red"), 0.8),
    Meaning(("orange", "tangerine", "bright orange"), 0.9),
    Meaning(("neon yellow", "lemon yellow", "yellow"), 1.0),
    Meaning(("purple", "violet", "magenta"), 0.7),
)

STYLES: tuple[Meaning, ...] = (
    Meaning(("vintage", "retro", "antique look"), -1.0),
    Meaning(("heritage", "traditional", "old-school"), -0.8),
    Meaning(("timeless", "elegant", "formal"), -0.5),
    Meaning(("casual", "relaxed", "easy-going"), 0.2),
    Meaning(("modern", "contemporary", "urban"), 0.7),
    Meaning(("futuristic", "high-tech", "sporty"), 1.0),
)

_BODY_FITS = (
    Meaning(("regular fit", "classic fit", "normal fit")),
    Meaning(("true to size", "exact sizing", "measured sizes")),
    Meaning(("one size", "one size fits all", "free size"), disappoints=1.0),
    Meaning(("slim fit", "skinny fit", "tight cut"), disappoints=0.8),
)

DEPARTMENTS: tuple[Department, ...] = (
    Department(
        names=("shoes", "footwear", "shoes and boots"),
        categories=(
            Category(("running shoe", "sneaker", "trainer"), 85, 1.6),
            Category(("hiking boot", "trekking boot", "mountain boot"), 130, 0.8),
            Category(("sandal", "summer sandal", "open shoe"), 45, 0.9),
            Category(("dress shoe", "oxford", "business shoe"), 110, 0.7),
        ),
        materials=(
            Meaning(("full-grain leather", "genuine leather", "real leather"), 1.0),
            Meaning(("suede", "suede leather", "nubuck"), 0.8),
            Meaning(("canvas", "cotton canvas", "woven canvas"), 0.4),
            Meaning(("knit mesh", "engineered mesh", "breathable mesh"), -0.4),
            Meaning(("faux leather", "leatherette", "imitation leather"), -0.9, 0.9),
            Meaning(("pvc", "vinyl", "plastic"), -1.0, 1.0),
        ),
        fits=_BODY_FITS,
        returns=0.5,
    ),
    Department(
        names=("clothing", "apparel", "fashion"),
        categories=(
            Category(("sweater", "pullover", "jumper"), 60, 1.3),
            Category(("t-shirt", "tee", "short-sleeve top"), 25, 1.7),
            Category(("winter jacket", "parka", "down coat"), 150, 0.8),
            Category(("jeans", "denim trousers", "denim pants"), 70, 1.3),
        ),
        materials=(
            Meaning(("merino wool", "fine wool", "pure new wool"), 1.0),
            Meaning(("organic cotton", "pure cotton", "cotton"), 0.8),
            Meaning(("linen", "flax linen", "linen weave"), 0.9),
            Meaning(("recycled nylon", "nylon", "ripstop nylon"), -0.5),
            Meaning(("polyester", "polyester blend", "synthetic fibre"), -0.9, 0.9),
            Meaning(("acrylic", "acrylic yarn", "acrylic knit"), -1.0, 1.0),
        ),
        fits=_BODY_FITS,
        returns=0.6,
    ),
    Department(
        names=("sports", "fitness", "sport and training"),
        categories=(
            Category(("yoga mat", "exercise mat", "gym mat"), 35, 1.0),
            Category(("dumbbell", "hand weight", "free weight"), 45, 0.7),
            Category(("bicycle helmet", "bike helmet", "cycling helmet"), 70, 0.7),
        ),
        materials=(
            Meaning(("cork", "natural cork", "cork layer"), 1.0),
            Meaning(("natural rubber", "tree rubber", "caoutchouc"), 0.8),
            Meaning(("carbon fibre", "carbon", "carbon composite"), -0.3),
            Meaning(("pvc foam", "foam plastic", "vinyl foam"), -0.9, 0.9),
            Meaning(("hollow plastic", "thin plastic", "plastic shell"), -1.0, 1.0),
        ),
    ),
    Department(
        names=("kitchen", "cookware", "cooking and dining"),
        categories=(
            Category(("frying pan", "skillet", "saute pan"), 50, 1.1),
            Category(("knife set", "cutlery set", "blade set"), 80, 0.7),
            Category(("coffee mug", "cup", "coffee cup"), 14, 1.2),
            Category(("kettle", "water boiler", "tea kettle"), 45, 0.8),
        ),
        materials=(
            Meaning(("cast iron", "iron", "forged iron"), 0.7),
            Meaning(("stoneware", "ceramic", "earthenware"), 0.9),
            Meaning(("stainless steel", "steel", "brushed steel"), 0.0),
            Meaning(("coated aluminium", "thin aluminium", "pressed aluminium"), -0.7, 0.7),
            Meaning(("plastic", "plastic body", "melamine"), -1.0, 1.0),
        ),
        returns=-0.3,
    ),
    Department(
        names=("furniture", "home furniture", "living"),
        categories=(
            Category(("armchair", "lounge chair", "easy chair"), 240, 0.7),
            Category(("coffee table", "side table", "sofa table"), 160, 0.7),
            Category(("bookcase", "shelving unit", "book rack"), 130, 0.8),
        ),
        materials=(
            Meaning(("solid oak", "oak wood", "massive oak"), 1.0),
            Meaning(("walnut", "walnut wood", "solid walnut"), 0.9),
            Meaning(("bamboo", "bamboo wood", "bamboo cane"), 0.8),
            Meaning(("powder-coated steel", "steel frame", "metal frame"), -0.2),
            Meaning(("particle board", "chipboard", "pressed board"), -0.7, 0.9),
            Meaning(("plastic", "moulded plastic", "plastic frame"), -1.0, 1.0),
        ),
    ),
    Department(
        names=("electronics", "tech", "devices"),
        categories=(
            Category(("headphones", "wireless headset", "over-ear headphones"), 120, 1.4),
            Category(("keyboard", "computer keyboard", "typing keyboard"), 75, 0.9),
            Category(("phone charger", "charging adapter", "power adapter"), 25, 1.4),
            Category(("bluetooth speaker", "portable speaker", "wireless speaker"), 80, 1.0),
        ),
        materials=(
            Meaning(("walnut case", "wooden case", "real wood case"), 1.0),
            Meaning(("bamboo case", "bamboo housing", "bamboo shell"), 0.9),
            Meaning(("aluminium case", "aluminium housing", "metal housing"), 0.0),
            Meaning(("abs plastic", "plastic housing", "plastic case"), -0.8, 0.8),
            Meaning(("glossy plastic", "shiny plastic", "thin plastic"), -1.0, 1.0),
        ),
        fits=(
            Meaning(("usb-c", "usb-c port", "with usb-c")),
            Meaning(("universal fit", "fits most models", "universal"), disappoints=1.0),
        ),
        returns=0.2,
    ),
    Department(
        names=("toys", "games and toys", "kids"),
        categories=(
            Category(("building block set", "construction set", "brick set"), 40, 1.0),
            Category(("plush toy", "stuffed animal", "cuddly toy"), 22, 1.0),
            Category(("board game", "family game", "tabletop game"), 32, 1.0),
        ),
        materials=(
            Meaning(("beech wood", "wooden", "solid wood"), 1.0),
            Meaning(("felt", "wool felt", "felted wool"), 0.9),
            Meaning(("cardboard", "sturdy card", "thick paperboard"), 0.3),
            Meaning(("soft vinyl", "pvc", "vinyl"), -0.9, 0.9),
            Meaning(("plastic", "hard plastic", "brittle plastic"), -1.0, 1.0),
        ),
        returns=-0.2,
    ),
    Department(
        names=("garden", "outdoor living", "yard and patio"),
        categories=(
            Category(("planter", "flower pot", "plant pot"), 28, 1.0),
            Category(("charcoal grill", "barbecue", "bbq grill"), 140, 0.6),
            Category(("garden lantern", "patio light", "outdoor lamp"), 38, 0.8),
        ),
        materials=(
            Meaning(("terracotta", "clay", "fired clay"), 0.9),
            Meaning(("cedar wood", "teak wood", "hardwood"), 1.0),
            Meaning(("galvanised steel", "zinc steel", "coated steel"), -0.1),
            Meaning(("resin", "polyresin", "plastic resin"), -0.8, 0.8),
            Meaning(("thin plastic", "plastic", "recycled plastic"), -1.0, 1.0),
        ),
        returns=-0.2,
    ),
)

CATEGORIES: tuple[Category, ...] = tuple(c for d in DEPARTMENTS for c in d.categories)
DEPARTMENT_OF: tuple[int, ...] = tuple(
    index for index, department in enumerate(DEPARTMENTS) for _ in department.categories
)
"""Index of the department of each category."""

BRAND_STARTS: tuple[str, ...] = (
    "al", "bren", "cor", "dal", "el", "fen", "gar", "hol", "is", "jor", "kel", "lor", "mir",
    "nor", "ost", "pel", "quin", "ros", "sol", "tarn", "ul", "ver", "wel", "yar", "zan",
)  # fmt: skip
BRAND_ENDS: tuple[str, ...] = (
    "aro", "bekk", "dine", "essa", "fjord", "gard", "ika", "lund", "mora", "nia", "ova", "rell",
    "stad", "tino", "una", "vik", "wyn", "zell",
)  # fmt: skip
