"""Invented names of people, places and things, the same for the same seed."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from horen_vllm.demo.draws import draw, shuffled

ONSETS = (
    *("b", "br", "d", "dr", "f", "g", "gl", "h", "j", "k", "kr", "l", "m", "n"),
    *("p", "pl", "qu", "r", "s", "sk", "st", "t", "th", "tr", "v", "w", "y", "z"),
)
VOWELS = ("a", "e", "i", "o", "u", "a", "e", "i", "o", "ae", "io")
CODAS = ("", "l", "n", "r", "s", "m", "x")
CITY_ENDINGS = ("mere", "holt", "gard", "stead", "vale", "port", "wick", "ness", "bridge", "moor")
COMPANY_ENDINGS = ("Works", "Mills", "Brothers", "Foundry", "Union", "Trading", "Guild", "Lines")
PRODUCT_KINDS = ("lamp", "kettle", "loom", "clock", "press", "engine", "lens", "stove", "pump", "radio")
FESTIVALS = ("Lantern Fair", "Harvest Night", "Kite Week", "Bell Feast", "Rain Parade", "Salt Days")
WORK_QUALITIES = (
    *("Amber", "Silent", "Hollow", "Scarlet", "Frozen", "Golden", "Broken", "Distant", "Velvet"),
    *("Iron", "Pale", "Burning", "Secret", "Crooked", "Patient", "Wandering", "Seventh", "Blind"),
)
WORK_THINGS = (
    *("Orchard", "Harbour", "Mirror", "Ladder", "Garden", "Letter", "Tower", "Winter", "Staircase"),
    *("Compass", "Window", "River", "Candle", "Sparrow", "Market", "Island", "Violin", "Meadow"),
)
TRADE_CRAFTS = (
    *("glass", "rope", "clock", "boat", "map", "bell", "silk", "salt", "stone", "paper", "lantern"),
    "honey",
)
TRADE_ROLES = ("maker", "trader", "painter", "carver", "inspector")


def syllable(*key: str | int) -> str:
    """Return one lower-case syllable drawn by the key."""
    onset = ONSETS[draw(len(ONSETS), *key, "onset")]
    vowel = VOWELS[draw(len(VOWELS), *key, "vowel")]
    return onset + vowel + CODAS[draw(len(CODAS), *key, "coda")]


def stem(syllables: int, *key: str | int) -> str:
    """Return a capitalised invented word of so many syllables."""
    return "".join(syllable(*key, position) for position in range(syllables)).capitalize()


def distinct(count: int, make: Callable[[int], str]) -> tuple[str, ...]:
    """Return the first `count` different strings of ``make(0)``, ``make(1)``, ...

    Raises
    ------
    ValueError
        If `make` repeats itself so often that 50 tries per name do not suffice.
    """
    found: dict[str, None] = {}
    for attempt in range(50 * count):
        found[make(attempt)] = None
        if len(found) == count:
            return tuple(found)
    message = f"only {len(found)} different names of {count}"
    raise ValueError(message)


def people(seed: int, count: int) -> tuple[str, ...]:
    """Return full names: one of 48 first names and a surname that nobody else has."""
    first = distinct(48, lambda i: stem(1 + draw(2, seed, "first", i, "length"), seed, "first", i))
    last = distinct(count, lambda i: stem(2, seed, "last", i))
    return tuple(f"{first[draw(len(first), seed, 'person', i)]} {name}" for i, name in enumerate(last))


def cities(seed: int, count: int) -> tuple[str, ...]:
    """Return names of cities, one word each."""

    def make(i: int) -> str:
        return stem(1, seed, "city", i) + CITY_ENDINGS[draw(len(CITY_ENDINGS), seed, "city ending", i)]

    return distinct(count, make)


def companies(seed: int, count: int) -> tuple[str, ...]:
    """Return names of companies: an invented word, for most followed by what kind of house it is."""

    def make(i: int) -> str:
        word = stem(2, seed, "company", i)
        kind = draw(len(COMPANY_ENDINGS) + 3, seed, "company ending", i)
        return f"{word} {COMPANY_ENDINGS[kind]}" if kind < len(COMPANY_ENDINGS) else word

    return distinct(count, make)


def products(seed: int, count: int) -> tuple[str, ...]:
    """Return names of products: an invented word and what the thing is."""

    def make(i: int) -> str:
        return f"{stem(2, seed, 'product', i)} {PRODUCT_KINDS[draw(len(PRODUCT_KINDS), seed, 'kind', i)]}"

    return distinct(count, make)


def works(seed: int, count: int) -> tuple[str, ...]:
    """Return titles of works, such as ``The Amber Orchard``, no two alike."""
    titles = [f"The {quality} {thing}" for quality in WORK_QUALITIES for thing in WORK_THINGS]
    return shuffled(titles, seed, "work")[:count]


def festivals(seed: int, count: int) -> tuple[str, ...]:
    """Return names of festivals: an invented word and the kind of feast."""

    def make(i: int) -> str:
        return f"{stem(1, seed, 'festival', i)} {FESTIVALS[draw(len(FESTIVALS), seed, 'feast', i)]}"

    return distinct(count, make)


def trades(seed: int, count: int) -> tuple[str, ...]:
    """Return trades of two lower-case words, such as ``bell carver``."""
    pairs = [f"{craft} {role}" for craft in TRADE_CRAFTS for role in TRADE_ROLES]
    return shuffled(pairs, seed, "trade")[:count]


def one_word(seed: int, kind: str, count: int, ending: str = "") -> tuple[str, ...]:
    """Return invented capitalised words of one to three syllables with a common ending."""
    return distinct(count, lambda i: stem(1 + draw(3, seed, kind, i, "length"), seed, kind, i) + ending)


def name_pools(seed: int) -> Mapping[str, tuple[str, ...]]:
    """Return every pool of names of the world, keyed by the type of thing.

    Returns
    -------
    Mapping[str, tuple[str, ...]]
        Keys ``person``, ``city``, ``company``, ``product``, ``work``, ``river``, ``festival``,
        ``trade``, ``material`` and ``language``; no name stands twice in a pool.
    """
    return MappingProxyType(
        {
            "person": people(seed, 200),
            "city": cities(seed, 130),
            "company": companies(seed, 120),
            "product": products(seed, 130),
            "work": works(seed, 150),
            "river": one_word(seed, "river", 70),
            "festival": festivals(seed, 70),
            "trade": trades(seed, 50),
            "material": tuple(word.lower() for word in one_word(seed, "material", 50, "ite")),
            "language": one_word(seed, "language", 45, "ish"),
        }
    )
