"""Asks many questions, several at a time, and stores what is answered as soon as it is."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from queue import SimpleQueue
from typing import Final, Protocol

from horen_vllm.errors import HorenError
from horen_vllm.evals.asking.answerer import Answerer
from horen_vllm.evals.asking.store import RecordStore
from horen_vllm.evals.records import Answer, Question, Record

REFUSED: Final = "question_refused"
UNANSWERED: Final = "question_unanswered"
_AHEAD: Final = 2
"""Questions handed out for each thread: the next one waits, so that none is idle while an answer is stored."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A question that the server does not answer; it has no record, and a resumed run asks it again."""

    question: Question
    message: str


@dataclass(slots=True)
class Asked:
    """What became of some questions."""

    answered: int = 0
    """Answers stored by this call."""
    skipped: int = 0
    """Questions that had their record before."""
    refused: list[Refusal] = field(default_factory=list)
    """Questions that the server will not answer."""
    unanswered: list[Refusal] = field(default_factory=list)
    """Questions that failed each time, while the server answered others."""


class Watcher(Protocol):
    """Who is told how far it is (`progress.bar`)."""

    def begin(self, total: int, done: int) -> None:
        """`total` questions are to be asked in all, `done` of them have their record."""
        ...

    def advance(self) -> None:
        """One more question is done with."""
        ...


def answer_all(
    answerer: Answerer,
    questions: Sequence[Question],
    store: RecordStore,
    record: Callable[[Question, Answer], Record],
    *,
    concurrency: int = 16,
    watcher: Watcher | None = None,
) -> Asked:
    """Ask every question that has no record in `store`, and store a record of each answer.

    When it ends early by an error, answers under way are still waited for and stored; by an interrupt, those that are
    there. The same call later goes on from there.

    Parameters
    ----------
    record
        Makes the record of an answer (its metrics). Called in this thread, in the order of the answers.
    concurrency
        Questions in flight at a time.

    Raises
    ------
    ValueError
        When two questions have the same id.
    HorenError
        As `Answerer.ask`, but for ``question_refused`` and ``question_unanswered``, which are counted in the result.
    """
    to_ask = [question for question in questions if question.question_id not in store]
    if len({question.question_id for question in to_ask}) != len(to_ask):
        raise ValueError("two questions of a run have the same id")
    asked = Asked(skipped=len(questions) - len(to_ask))
    if watcher is not None:
        watcher.begin(len(questions), asked.skipped)
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="ask")
    under_way = _UnderWay(pool, answerer, iter(to_ask), room=_AHEAD * concurrency)

    def settle(question: Question, future: Future[Answer]) -> None:
        try:
            store.append(record(question, future.result()))
            asked.answered += 1
        except HorenError as exc:
            if exc.code not in {REFUSED, UNANSWERED}:
                under_way.fail(exc)
                return
            found = asked.refused if exc.code == REFUSED else asked.unanswered
            found.append(Refusal(question, exc.message))
        if watcher is not None:
            watcher.advance()

    try:
        for question, future in under_way.settled():
            settle(question, future)
    except KeyboardInterrupt:
        for question, future in under_way.finished():
            settle(question, future)
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return asked


class _UnderWay:
    """Questions that are being asked, never more than `room`."""

    def __init__(self, pool: ThreadPoolExecutor, answerer: Answerer, to_ask: Iterator[Question], *, room: int) -> None:
        self._pool = pool
        self._answerer = answerer
        self._to_ask = to_ask
        self._room = room
        self._asked: dict[Future[Answer], Question] = {}
        self._done: SimpleQueue[Future[Answer]] = SimpleQueue()
        self._failure: HorenError | None = None

    def settled(self) -> Iterator[tuple[Question, Future[Answer]]]:
        """Yield each question once it is answered or has failed; raise in the end what `fail` was told."""
        self._ask_more()
        while self._asked:
            future = self._done.get()
            question = self._asked.pop(future)
            if not future.cancelled():
                yield question, future
            self._ask_more()
        if self._failure is not None:
            raise self._failure

    def finished(self) -> Iterator[tuple[Question, Future[Answer]]]:
        """Yield what is answered or has failed by now."""
        for future in [future for future in self._asked if future.done() and not future.cancelled()]:
            yield self._asked.pop(future), future

    def fail(self, error: HorenError) -> None:
        """Ask nothing more: the first error is what the asking ends with."""
        self._failure = self._failure or error
        # `cancel` settles a future at once.
        for future in list(self._asked):
            future.cancel()

    def _ask_more(self) -> None:
        if self._failure is not None:
            return
        for question in islice(self._to_ask, self._room - len(self._asked)):
            future = self._pool.submit(self._answerer.ask, question)
            self._asked[future] = question
            future.add_done_callback(self._done.put)
