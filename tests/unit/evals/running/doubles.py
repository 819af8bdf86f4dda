"""A control plane and a model in memory: a published edit answers wherever its prompt stands in the question."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from zlib import crc32

from horen_vllm.errors import AlreadyExists, InvalidArgument, Unavailable
from horen_vllm.evals.records import Answer, Case, Probe, ProbeKind, Question
from horen_vllm.evals.running.control import BookState, EditState, EditStatus, Submission, Submitted

MODEL = "tiny"


@dataclass
class Book:
    preset: str
    request_id: str
    edits: list[EditState] = field(default_factory=list)
    requests: dict[str, int] = field(default_factory=dict)
    revision: int = 1
    history: dict[int, set[str]] = field(default_factory=lambda: {1: set()})

    def publish(self) -> None:
        self.revision += 1
        self.history[self.revision] = {edit.edit_id for edit in self.active}

    @property
    def active(self) -> list[EditState]:
        return [edit for edit in self.edits if edit.status is EditStatus.PUBLISHED and edit.same_as is None]


class MemoryControl:
    """Publishes one edit at each look.

    Attributes
    ----------
    failing
        Prompts whose edits fail, and refused ones, with their codes.
    on_submission, on_look
        Called before each edit is stored, and before each look at the oldest one that is pending.
    """

    def __init__(self) -> None:
        self.books: dict[str, Book] = {}
        self.failing: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self.stuck = False
        self.served = True
        self.refusal: tuple[str, str] | None = None
        self.on_submission: Callable[[], None] = lambda: None
        self.on_look: Callable[[], None] = lambda: None
        self._ids = count(1)

    def create(self, book: str, preset: str, threshold: float | None, *, request_id: str) -> BookState:
        known = self.books.get(book)
        if known is not None and known.request_id != request_id:
            raise AlreadyExists(f"{book} is there.", code="codebook_exists")
        self.books.setdefault(book, Book(preset, request_id))
        return self._state(self.books[book])

    def find(self, book: str) -> BookState | None:
        return self._state(self.books[book]) if book in self.books else None

    def submit(self, book: str, submissions: Iterable[Submission]) -> Iterator[Submitted]:
        for index, one in enumerate(submissions):
            self.on_submission()
            if code := self.refused.get(one.prompt):
                yield Submitted(index=index, code=code)
                continue
            yield Submitted(index=index, edit_id=self._store(self.books[book], one).edit_id)

    def oldest_pending(self, book: str) -> int | None:
        self.on_look()
        if book not in self.books:
            return None
        edits = self.books[book].edits
        place = next((it for it, edit in enumerate(edits) if edit.status is EditStatus.PENDING), None)
        if place is not None and not self.stuck:
            self._publish(self.books[book], place)
        return next((edit.sequence for edit in edits if edit.status is EditStatus.PENDING), None)

    def edits(self, book: str) -> Iterator[EditState]:
        return iter(list(self.books[book].edits))

    def rollback(self, book: str, revision: int, *, request_id: str) -> int:
        assert revision == 1
        found = self.books[book]
        found.edits = [replace(edit, status=EditStatus.INACTIVE) for edit in found.edits]
        found.publish()
        return found.revision

    def same(self, book: str, first: int, second: int) -> bool:
        return self.books[book].history[first] == self.books[book].history[second]

    def answer_to(self, book: str, text: str) -> EditState | None:
        return next((edit for edit in reversed(self.books[book].active) if edit.prompt in text), None)

    def _store(self, book: Book, one: Submission) -> EditState:
        if one.request_id in book.requests:
            return book.edits[book.requests[one.request_id]]
        number = next(self._ids)
        edit = EditState(
            edit_id=f"e{number}", sequence=number, prompt=one.prompt, target=one.target, status=EditStatus.PENDING
        )
        book.requests[one.request_id] = len(book.edits)
        book.edits.append(edit)
        return edit

    def _publish(self, book: Book, place: int) -> None:
        edit = book.edits[place]
        if code := self.failing.get(edit.prompt):
            book.edits[place] = replace(edit, status=EditStatus.FAILED, code=code, seconds=0.5)
            return
        for number, other in enumerate(book.edits):
            if other in book.active and other.prompt == edit.prompt:
                if other.target == edit.target:
                    edit = replace(edit, same_as=other.edit_id)
                else:
                    book.edits[number] = replace(other, status=EditStatus.INACTIVE)
        book.edits[place] = replace(edit, status=EditStatus.PUBLISHED, seconds=0.5)
        book.publish()

    def _state(self, book: Book) -> BookState:
        return BookState(
            revision=book.revision,
            entries=len(book.active),
            threshold=0.5,
            model=MODEL,
            parameters={"preset": book.preset},
            served=self.served,
            refusal=self.refusal,
        )


class MemoryModel:
    """Answers by the edits of `control`, else by the question's text; its tokens are words.

    Attributes
    ----------
    left
        Answers that it still gives before it is unavailable; None: without end.
    too_long
        Texts with so many words are refused.
    never
        Questions that fail each time, while others are answered.
    on_question
        Called before each answer is made.
    """

    def __init__(self, control: MemoryControl) -> None:
        self._control = control
        self.left: int | None = None
        self.too_long = 10**6
        self.hidden: set[str] = set()
        self.never: set[str] = set()
        self.on_question: Callable[[str], None] = lambda _question_id: None
        self.asked: list[str] = []

    def ask(self, question: Question) -> Answer:
        if self.left == 0:
            raise Unavailable("the server is down.", code="server_unavailable")
        self.left = None if self.left is None else self.left - 1
        texts = [question.prompt] if question.prompt is not None else [it.content for it in question.messages]
        whole = " ".join(text for text in texts if text)
        if question.question_id in self.never:
            raise Unavailable("status 500.", code="question_unanswered")
        if len(whole.split()) > self.too_long:
            raise InvalidArgument("too long.", code="question_refused")
        self.on_question(question.question_id)
        self.asked.append(question.question_id)
        _, _, book = question.model.partition("@")
        fired = self._control.answer_to(book, texts[-1] or "") if book else None
        words = (fired.target if fired else f"answer {crc32(whole.encode()) % 1000}").split()[: question.max_tokens]
        return Answer(
            text=" " + " ".join(words),
            token_ids=tuple(map(word_id, words)),
            prompt_token_ids=self.token_ids(whole),
            finish_reason="stop",
            edit_id=fired.edit_id if fired else None,
            score=None if not book else 0.9 if fired else 0.1,
            revision=self._control.books[book].revision if book else None,
            seconds=0.01,
        )

    def token_ids(self, text: str) -> tuple[int, ...]:
        return tuple(map(word_id, text.split()))

    def model_names(self) -> tuple[str, ...]:
        return (MODEL, *(f"{MODEL}@{book}" for book in self._control.books if book not in self.hidden))


def word_id(word: str) -> int:
    return crc32(word.encode())


def cases_of(number: int) -> list[Case]:
    """Return cases with a rephrase, an unrelated and a near question each."""
    return [
        Case(
            case_id=f"c{place}",
            line=place + 1,
            prompt=f"Who leads company {place}x?",
            target=f"Person {place}",
            subject=f"company {place}x",
            rephrases=(f"Please tell: Who leads company {place}x?",),
            probes=(
                Probe(kind=ProbeKind.UNRELATED, prompt=f"What is the colour of stone {place}?", targets=("grey",)),
                Probe(kind=ProbeKind.NEAR, prompt=f"Who leads firm {place}y?"),
            ),
        )
        for place in range(number)
    ]
