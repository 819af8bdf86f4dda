"""Limits of what clients may send; each refusal is one sentence that names the field and the limit."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Final

from horen_vllm.control._pb.horen.v1.edits_pb2 import SubmitEditRequest
from horen_vllm.control.messages import EditProgress
from horen_vllm.core.presets import MAX_FALSE_FIRE_RATE
from horen_vllm.errors import FieldViolation, InvalidArgument
from horen_vllm.ids import TenantId
from horen_vllm.registry.models import EditSpec, KeyScope

MAX_PROMPT: Final = 32_768
"""Characters."""
MAX_TARGET: Final = 16_384
"""Characters; the editor counts tokens beside."""
MAX_SUBJECT: Final = 1_024
"""Characters."""
MAX_ITEMS: Final = 64
"""Aliases, paraphrases or must-not-fire prompts of one edit."""
MAX_REQUEST_ID: Final = 128
"""Characters."""
MAX_NAME: Final = 256
"""Characters of a resource name; longer ones are not even looked at."""
MAX_REPLICA_ID: Final = 128
"""Characters."""
MAX_LEASE_S: Final = 3_600.0
MAX_WAIT_S: Final = 60.0
MAX_LIFETIME_S: Final = 10 * 366 * 86_400.0
"""Ten years."""
MIN_TTL_S: Final = 1.0
MAX_OVERLAP_S: Final = 90 * 86_400.0
"""90 days."""
MAX_RANK: Final = 64
MAX_VALUE_ROWS: Final = 2_048
"""Vectors of one value; no answer has more tokens."""
MAX_PREFIXES: Final = 16
DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1_000
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def check_spec(spec: EditSpec) -> EditSpec:
    """Return `spec` if it is within the limits; the error tells all that is wrong with it.

    Raises
    ------
    InvalidArgument
        ``empty_prompt``, ``prompt_too_long``, ``empty_target``, ``target_too_long``, ``subject_too_long``,
        ``too_many_items``, ``empty_item``, ``item_too_long``, ``invalid_text``, ``subject_not_in_prompt`` or
        ``contradictory_edit``.
    """
    found = list(_wrong_texts(spec)) or list(_contradictions(spec))
    if found:
        raise violation_error(found)
    return spec


def violation_error(violations: Sequence[FieldViolation]) -> InvalidArgument:
    """Return the error that says all of `violations`, at least one, with the code of the first."""
    sentences = " ".join(it.message for it in violations)
    return InvalidArgument(sentences, code=violations[0].code, violations=violations)


def check_request_id(request_id: str) -> str | None:
    """Return the id, or None when it is empty; InvalidArgument ``invalid_request_id`` when it is too long."""
    if len(request_id) > MAX_REQUEST_ID:
        message = f"request_id has {len(request_id)} characters; at most {MAX_REQUEST_ID} are allowed."
        raise InvalidArgument(message, code="invalid_request_id")
    _check_storable(request_id, "request_id")
    return request_id or None


def check_ttl(request: SubmitEditRequest) -> float | None:
    """Return how long the edit lives in seconds, None: without end; InvalidArgument ``invalid_ttl``."""
    if not request.HasField("ttl"):
        return None
    seconds = request.ttl.seconds + request.ttl.nanos / 1e9
    if not MIN_TTL_S <= seconds <= MAX_LIFETIME_S:
        message = f"ttl is {seconds:g} s; it must be {MIN_TTL_S:g} to {MAX_LIFETIME_S:.0f}."
        raise violation_error([FieldViolation("ttl", "invalid_ttl", message)])
    return seconds


def check_page_size(page_size: int) -> int:
    """Return how many items a page has; InvalidArgument ``invalid_page_size`` below 0."""
    if page_size < 0:
        message = f"page_size is {page_size}; it must be 0 (for {DEFAULT_PAGE}) to {MAX_PAGE}."
        raise InvalidArgument(message, code="invalid_page_size")
    return min(page_size or DEFAULT_PAGE, MAX_PAGE)


def check_threshold(threshold: float, field: str = "threshold") -> float:
    """Return `threshold`; InvalidArgument ``invalid_threshold`` unless it is a cosine."""
    if not -1.0 <= threshold <= 1.0:
        message = f"{field} is {threshold}; it must be a cosine, -1 to 1."
        raise InvalidArgument(message, code="invalid_threshold")
    return threshold


def check_anchored_threshold(threshold: float) -> float:
    """Return `threshold`; InvalidArgument ``invalid_threshold`` unless it is a cosine."""
    return check_threshold(threshold, "anchored_threshold")


def check_false_fire_rate(rate: float) -> float:
    """Return `rate`; InvalidArgument ``invalid_parameter`` unless it is more than 0 and at most 0.2."""
    if not 0.0 < rate <= MAX_FALSE_FIRE_RATE:
        message = f"false_fire_rate is {rate}; it must be more than 0 and at most {MAX_FALSE_FIRE_RATE:g}."
        raise InvalidArgument(message, code="invalid_parameter")
    return rate


def check_window_ratio(ratio: float) -> float:
    """Return `ratio`; InvalidArgument ``invalid_window_ratio`` unless it is more than 0 and at most 1."""
    if not 0.0 < ratio <= 1.0:
        message = f"window_ratio is {ratio}; it must be more than 0 and at most 1."
        raise InvalidArgument(message, code="invalid_window_ratio")
    return ratio


def check_rank(rank: int) -> int:
    """Return `rank`; InvalidArgument ``invalid_parameter`` unless it is 0 to 64."""
    return _check_count(rank, "rank", 0, MAX_RANK)


def check_value_rows(rows: int) -> int:
    """Return `rows`; InvalidArgument ``invalid_parameter`` unless it is 1 to 2,048."""
    return _check_count(rows, "max_value_rows", 1, MAX_VALUE_ROWS)


def check_prefixes(count: int) -> int:
    """Return `count`; InvalidArgument ``invalid_parameter`` unless it is 0 to 16."""
    return _check_count(count, "prefixes", 0, MAX_PREFIXES)


def check_revision(revision: int, field: str = "to_revision", *, first: int = 1) -> int:
    """Return `revision`; InvalidArgument ``invalid_revision`` below `first`."""
    if revision < first:
        message = f"{field} is {revision}; revisions start at 1."
        raise InvalidArgument(message, code="invalid_revision")
    return revision


def check_replica(replica_id: str, model: str, fingerprint: str) -> None:
    """Refuse a replica without a usable id or without a base model.

    Raises
    ------
    InvalidArgument
        ``invalid_replica_id``, ``missing_fingerprint`` or ``invalid_text``.
    """
    if not 0 < len(replica_id) <= MAX_REPLICA_ID or not replica_id.isprintable():
        message = f"replica_id must have 1 to {MAX_REPLICA_ID} printable characters; it has {len(replica_id)}."
        raise InvalidArgument(message, code="invalid_replica_id")
    if not fingerprint:
        raise InvalidArgument("fingerprint must not be empty.", code="missing_fingerprint")
    _check_storable(fingerprint, "fingerprint")
    _check_storable(model, "model")


def check_lease(seconds: float) -> float:
    """Return the lease; InvalidArgument ``invalid_lease`` unless it is more than 0 and at most 3,600 s."""
    if not 0.0 < seconds <= MAX_LEASE_S:
        message = f"lease_seconds is {seconds}; it must be more than 0 and at most {MAX_LEASE_S:g}."
        raise InvalidArgument(message, code="invalid_lease")
    return seconds


def check_wait(seconds: float) -> float:
    """Return the longest wait; InvalidArgument ``invalid_wait`` unless it is 0 to 60 s."""
    if math.isnan(seconds) or not 0.0 <= seconds <= MAX_WAIT_S:
        message = f"wait_seconds is {seconds}; it must be 0 to {MAX_WAIT_S:g}."
        raise InvalidArgument(message, code="invalid_wait")
    return seconds


def check_lifetime(seconds: float) -> float | None:
    """Return a key's lifetime, None for 0; InvalidArgument ``invalid_lifetime`` below 0 or over ten years."""
    if math.isnan(seconds) or not 0.0 <= seconds <= MAX_LIFETIME_S:
        message = f"lifetime_seconds is {seconds}; it must be 0 (without end) to {MAX_LIFETIME_S:.0f}."
        raise InvalidArgument(message, code="invalid_lifetime")
    return seconds or None


def check_key_scope(scope: KeyScope, tenant: TenantId | None) -> None:
    """Refuse a key that would belong to the wrong side; InvalidArgument ``invalid_key_scope``."""
    if (tenant is None) != (scope in {KeyScope.ADMIN, KeyScope.REPLICA}):
        message = "a key of scope admin or replica belongs to no tenant, every other key to one."
        raise InvalidArgument(message, code="invalid_key_scope")


def check_overlap(seconds: float) -> float:
    """Return how long a rotated key goes on working; InvalidArgument ``invalid_overlap`` unless it is 0 to 90 days."""
    if math.isnan(seconds) or not 0.0 <= seconds <= MAX_OVERLAP_S:
        message = f"overlap_seconds is {seconds}; it must be 0 to {MAX_OVERLAP_S:.0f}."
        raise InvalidArgument(message, code="invalid_overlap")
    return seconds


def check_digest(digest: str) -> str:
    """Return the digest; InvalidArgument ``invalid_digest`` unless it is a sha256 in lower-case hex."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidArgument("digest must be a sha256: 64 of 0-9 and a-f.", code="invalid_digest")
    return digest


def check_until(until: EditProgress) -> EditProgress:
    """Return `until`; InvalidArgument ``invalid_until`` for the states that no edit is waited for."""
    if until in {EditProgress.FAILED, EditProgress.INACTIVE}:
        message = f"until is {until.name}; it must be COMMITTED, TRAINING, TRAINED, PUBLISHED or SERVING."
        raise InvalidArgument(message, code="invalid_until")
    return until


def encodable(text: str) -> bool:
    """Return whether UTF-8 can carry `text`: halves of surrogate pairs, as Python reads bad bytes, it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def invalid_text(field: str) -> InvalidArgument:
    """Return the error that `field` has text that is not `encodable`."""
    message = f"{field} is not valid Unicode text: it has half of a surrogate pair, such as a byte outside UTF-8."
    return InvalidArgument(message, code="invalid_text")


def _check_count(number: int, field: str, low: int, high: int) -> int:
    if not low <= number <= high:
        raise InvalidArgument(f"{field} is {number}; it must be {low} to {high}.", code="invalid_parameter")
    return number


def _wrong_texts(spec: EditSpec) -> Iterator[FieldViolation]:
    yield from _wrong_text(spec.prompt, "prompt", MAX_PROMPT)
    yield from _wrong_text(spec.target, "target", MAX_TARGET)
    if spec.subject is not None:
        yield from _wrong_text(spec.subject, "subject", MAX_SUBJECT)
    yield from _wrong_items(spec.aliases, "aliases", MAX_SUBJECT)
    yield from _wrong_items(spec.paraphrases, "paraphrases", MAX_PROMPT)
    yield from _wrong_items(spec.must_not_fire, "must_not_fire", MAX_PROMPT)


def _wrong_text(text: str, field: str, limit: int, *, kind: str | None = None) -> Iterator[FieldViolation]:
    kind = kind or field
    if not text.strip():
        yield FieldViolation(field, f"empty_{kind}", f"{field} must not be empty.")
    elif len(text) > limit:
        message = f"{field} has {len(text)} characters; at most {limit} are allowed."
        yield FieldViolation(field, f"{kind}_too_long", message)
    else:
        try:
            _check_storable(text, field)
        except InvalidArgument as error:
            yield FieldViolation(field, error.code, error.message)


def _wrong_items(items: tuple[str, ...], field: str, limit: int) -> Iterator[FieldViolation]:
    if len(items) > MAX_ITEMS:
        message = f"{field} has {len(items)} items; at most {MAX_ITEMS} are allowed."
        yield FieldViolation(field, "too_many_items", message)
        return
    for index, item in enumerate(items):
        yield from _wrong_text(item, f"{field}[{index}]", limit, kind="item")


def _check_storable(text: str, field: str) -> None:
    # PostgreSQL has no NUL in text; what one store takes the other shall take.
    if "\x00" in text:
        raise InvalidArgument(f"{field} contains a NUL character.", code="invalid_text")
    if not encodable(text):
        raise invalid_text(field)


def _is_named(name: str, text: str) -> bool:
    from horen_vllm.core.anchors import AnchorTable  # noqa: PLC0415
    from horen_vllm.core.words import plain_words  # noqa: PLC0415

    words = plain_words(name)
    return bool(words) and bool(AnchorTable({0: [words]}).find(plain_words(text)))


def _contradictions(spec: EditSpec) -> Iterator[FieldViolation]:
    """Yield where an edit contradicts itself, by the prompts as the upsert rule compares them."""
    # It brings torch, which the client's side of this package does without.
    from horen_vllm.core.admission import normalise_prompt  # noqa: PLC0415

    if spec.aliases and spec.subject is None:
        message = "aliases are other names of a subject: give the subject, too."
        yield FieldViolation("aliases", "aliases_alone", message)
    prompt = normalise_prompt(spec.prompt)
    names = (spec.subject, *spec.aliases) if spec.subject is not None else ()
    # As text, without word boundaries, or as words: neither case, accents nor punctuation matter.
    if names and not any(normalise_prompt(name) in prompt or _is_named(name, spec.prompt) for name in names):
        others = f", nor is one of its {len(spec.aliases)} aliases" if spec.aliases else ""
        message = f"the subject {spec.subject!r} is not in the prompt{others}."
        yield FieldViolation("subject", "subject_not_in_prompt", message)
    firing = {normalise_prompt(text): f"paraphrases[{index}]" for index, text in enumerate(spec.paraphrases)}
    firing[prompt] = "prompt"
    for index, text in enumerate(spec.must_not_fire):
        same = firing.get(normalise_prompt(text))
        if same is not None:
            message = f"must_not_fire[{index}] is the same text as {same}, which is to get the target."
            yield FieldViolation(f"must_not_fire[{index}]", "contradictory_edit", message)
