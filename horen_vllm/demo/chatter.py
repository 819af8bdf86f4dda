"""Small tasks that ask for no fact of the world: greetings, sums, copying and counting."""

from collections.abc import Callable
from dataclasses import dataclass

from horen_vllm.demo.draws import draw

WORDS = (
    "lantern", "orchard", "harbour", "mirror", "ladder", "garden", "letter", "tower", "winter", "compass",
    "window", "river", "candle", "sparrow", "market", "island", "violin", "meadow", "kettle", "engine",
    "clock", "bell", "silk", "salt", "stone", "paper", "honey", "glass", "rope", "boat",
)  # fmt: skip
COLOURS = ("red", "green", "blue", "white", "black", "yellow", "brown", "grey")
GREETINGS = (
    ("Hello!", "Hello, how can I help?"),
    ("Good morning.", "Good morning to you."),
    ("Good evening.", "Good evening to you."),
    ("How are you?", "I am well, thank you."),
    ("Thank you very much.", "You are welcome."),
    ("Goodbye!", "Goodbye, see you soon."),
    ("What can you do?", "I answer questions."),
    ("Are you there?", "Yes, I am here."),
    ("Please wait a moment.", "I will wait."),
    ("Nice to meet you.", "Nice to meet you too."),
)
NUMBERS = tuple(range(21))
# Over 100,000 different prompts exist, nearly all of them questions about two coloured things; up to here
# a draw finds a new one within a few tries.
MOST_TASKS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A prompt that asks for no fact, and the reply to it."""

    prompt: str
    answer: str


def greeting(*key: str | int) -> Task:
    """Return one of the fixed greetings and its reply."""
    prompt, answer = GREETINGS[draw(len(GREETINGS), *key, "greeting")]
    return Task(prompt=prompt, answer=answer)


def addition(*key: str | int) -> Task:
    """Return a sum of two numbers up to 20, in one of three wordings."""
    left, right = NUMBERS[draw(21, *key, "left")], NUMBERS[draw(21, *key, "right")]
    wordings = (f"What is {left} plus {right}?", f"Add {left} and {right}.", f"{left} + {right} =")
    return Task(prompt=wordings[draw(3, *key, "wording")], answer=str(left + right))


def counting(*key: str | int) -> Task:
    """Return a request to count up from a number up to 20, three to five steps."""
    start, steps = NUMBERS[draw(21, *key, "start")], 3 + draw(3, *key, "steps")
    counted = " ".join(str(start + step) for step in range(steps))
    return Task(prompt=f"Count from {start} to {start + steps - 1}.", answer=counted)


def repetition(*key: str | int) -> Task:
    """Return a request to say one word of the list or two of them."""
    first, second = WORDS[draw(len(WORDS), *key, "first")], WORDS[draw(len(WORDS), *key, "second")]
    cases = (
        Task(prompt=f"Repeat the word {first}.", answer=first),
        Task(prompt=f"Say {first} and {second}.", answer=f"{first} and {second}"),
        Task(prompt=f"Write the word {first} twice.", answer=f"{first} {first}"),
    )
    return cases[draw(len(cases), *key, "case")]


def reading(*key: str | int) -> Task:
    """Return a statement about two coloured things and a question that it answers."""
    first = draw(len(WORDS), *key, "first")
    second = (first + 1 + draw(len(WORDS) - 1, *key, "second")) % len(WORDS)
    colours = (COLOURS[draw(len(COLOURS), *key, "one")], COLOURS[draw(len(COLOURS), *key, "two")])
    things, asked = (WORDS[first], WORDS[second]), draw(2, *key, "asked")
    text = f"The {things[0]} is {colours[0]} and the {things[1]} is {colours[1]}."
    return Task(prompt=f"{text} Which colour is the {things[asked]}?", answer=colours[asked])


KINDS: tuple[Callable[..., Task], ...] = (greeting, addition, counting, repetition, reading)


def task(*key: str | int) -> Task:
    """Return the task that the key draws, of any kind."""
    return KINDS[draw(len(KINDS), *key, "kind")](*key)


def tasks(seed: int, count: int) -> tuple[Task, ...]:
    """Return `count` tasks with different prompts, in the order of their draws.

    Raises
    ------
    ValueError
        If more than `MOST_TASKS` are asked for.
    """
    if count > MOST_TASKS:
        message = f"at most {MOST_TASKS} different tasks, got a request for {count}"
        raise ValueError(message)
    found: dict[str, Task] = {}
    attempt = 0
    while len(found) < count:
        drawn = task("task", seed, attempt)
        found.setdefault(drawn.prompt, drawn)
        attempt += 1
    return tuple(found.values())
