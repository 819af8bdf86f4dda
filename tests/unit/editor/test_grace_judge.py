"""The judge of a GRACE codebook: equal to GRACE's own rule in place, undone by removal, and every reason to refuse."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.core.admission import AdmissionKind, Existing
from horen_vllm.core.euclid import lifted_key, lifted_query
from horen_vllm.editor.codebook.balls import GraceEntry, effective_radii
from horen_vllm.editor.codebook.grace import GraceEdit, GraceJudge, GraceVerdict
from horen_vllm.editor.failure import EditFailed

FIRST = 1.0
Found = tuple[tuple[float, ...], int]


@dataclass
class Book:
    """Entries around distinct keys, as the codebook's arena keeps them."""

    keys: torch.Tensor
    entries: list[GraceEntry] = field(default_factory=list)

    def judge(self, edit: GraceEdit, *, own_key: bool = False) -> GraceVerdict:
        return GraceJudge(FIRST, self.keys, self.entries).verdict(edit, own_key=own_key)

    def add(self, edit: GraceEdit, *, own_key: bool = False) -> GraceVerdict:
        verdict = self.judge(edit, own_key=own_key)
        if verdict.ball is not None:
            self.entries = [entry for entry in self.entries if entry.existing.edit_id not in verdict.supersedes]
            same = (self.keys == verdict.ball.key).all(dim=1).nonzero()[:, 0].tolist()
            row = same[0] if same else len(self.keys)
            self.keys = self.keys if same else torch.cat([self.keys, verdict.ball.key[None]])
            known = Existing(f"e{edit.sequence}", edit.sequence, edit.normalised_prompt, edit.target_ids)
            self.entries.append(GraceEntry(known, row, verdict.ball.radius, verdict.ball.splits))
        return verdict

    def retire(self, edit_id: str) -> None:
        self.entries = [entry for entry in self.entries if entry.existing.edit_id != edit_id]

    def radii(self) -> dict[str, float]:
        return effective_radii((entry.existing.edit_id, entry.radius, entry.splits) for entry in self.entries)

    def fires(self, query: torch.Tensor) -> GraceEntry | None:
        """Return the entry that the server's products make fire."""
        scores = [float(self.keys[entry.row] @ lifted_query(query)) for entry in self.entries]
        ranked = sorted(zip(scores, self.entries, strict=True), key=lambda pair: (pair[0], pair[1].existing.sequence))
        if not ranked:
            return None
        score, nearest = ranked[-1]
        return nearest if max(0.0, -2 * score) ** 0.5 < self.radii()[nearest.existing.edit_id] else None


def empty(width: int) -> Book:
    return Book(torch.empty(0, width + 2))


def edit(sequence: int, query: Sequence[float] | torch.Tensor, target: int, **more: object) -> GraceEdit:
    fields = {"normalised_prompt": f"p{sequence}", **more}
    return GraceEdit(sequence=sequence, target_ids=(target,), query=torch.as_tensor(query), **fields)  # type: ignore[arg-type]


@dataclass
class Grace:
    """GRACE in place: keys, labels and radii, as its own code changes them."""

    keys: list[torch.Tensor] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    radii: list[float] = field(default_factory=list)

    def edit(self, query: torch.Tensor, label: int) -> bool:
        """Edit; return whether that made an old key's radius larger by a conflict."""
        if not self.keys:
            self._add(query, label, FIRST)
            return False
        nearest, distance = self.nearest(query)
        if distance > FIRST + self.radii[nearest]:
            self._add(query, label, FIRST)
        elif label != self.labels[nearest]:
            self._add(query, label, distance / 2)
            before, self.radii[nearest] = self.radii[nearest], distance / 2
            return before < distance / 2
        elif distance > self.radii[nearest]:
            self.radii[nearest] = distance
        return False

    def nearest(self, query: torch.Tensor) -> tuple[int, float]:
        apart = torch.stack([(key.double() - query.double()).norm() for key in self.keys])
        return int(apart.argmin()), float(apart.min())

    def _add(self, query: torch.Tensor, label: int, radius: float) -> None:
        self.keys.append(query)
        self.labels.append(label)
        self.radii.append(radius)


def found_by_grace(grace: Grace, query: torch.Tensor) -> tuple[Found | None, bool]:
    """Return key and label that fire for a query, and whether rounding could decide otherwise."""
    apart = torch.stack([(key.double() - query.double()).norm() for key in grace.keys]).sort()
    nearest, distance = grace.nearest(query)
    close = abs(distance - grace.radii[nearest]) < 1e-2
    close |= len(grace.keys) > 1 and float(apart.values[1] - apart.values[0]) < 1e-2
    fires = distance <= grace.radii[nearest]
    return (tuple(grace.keys[nearest].tolist()), grace.labels[nearest]) if fires else None, close


def found_in(book: Book, query: torch.Tensor) -> Found | None:
    entry = book.fires(query)
    return None if entry is None else (tuple(book.keys[entry.row, :-2].tolist()), entry.existing.target_ids[0])


def stream(seed: int, width: int, length: int) -> tuple[list[GraceEdit], torch.Tensor]:
    """Edits around a few places, near enough to meet, and queries."""
    generator = torch.Generator().manual_seed(seed)
    places = 1.5 * torch.randn(4, width, generator=generator)

    def near(count: int, spread: float) -> torch.Tensor:
        picked = torch.randint(4, (count,), generator=generator)
        drawn: torch.Tensor = places[picked] + spread * torch.randn(count, width, generator=generator) / width**0.5
        return drawn

    targets = torch.randint(3, (length,), generator=generator).tolist()
    drawn = zip(near(length, 1.5), targets, strict=True)
    return [edit(number, query, target) for number, (query, target) in enumerate(drawn, 1)], near(30, 2.0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), width=st.sampled_from([2, 3, 8]), length=st.integers(1, 14))
def test_what_fires_is_what_graces_own_rule_makes_fire(seed: int, width: int, length: int) -> None:
    edits, queries = stream(seed, width, length)
    book, grace = empty(width), Grace()
    for new in edits:
        # From the first cut that is wider than an earlier one on, the two differ by design.
        if grace.edit(new.query, new.target_ids[0]):
            break
        try:
            book.add(new)
        except EditFailed:
            # Two labels nearer to each other than rounding.
            break
        entry = book.fires(new.query)
        assert entry is not None
        assert entry.existing.sequence == new.sequence
        for query in queries:
            expected, close = found_by_grace(grace, query)
            if not close:
                assert found_in(book, query) == expected


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), length=st.integers(2, 14))
def test_retiring_the_last_edit_leaves_what_was_before_it(seed: int, length: int) -> None:
    edits, queries = stream(seed, 3, length)
    book = empty(3)
    for new in edits:
        before = book.radii(), [book.fires(query) for query in queries]
        if book.add(new).ball is not None:
            book.retire(f"e{new.sequence}")
            assert (book.radii(), [book.fires(query) for query in queries]) == before
            book.add(new)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), size=st.sampled_from([1.0, 20.0, 100.0]))
def test_whatever_passes_fires_by_products_in_single_precision(seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    centre = size * torch.nn.functional.normalize(torch.randn(2048, generator=generator) ** 3, dim=0)
    book = empty(2048)
    for number in range(1, 9):
        apart = torch.nn.functional.normalize(torch.randn(2048, generator=generator), dim=0)
        new = edit(number, centre + 0.3 * number * apart, int(torch.randint(2, (1,), generator=generator)))
        try:
            book.add(new)
        except EditFailed:
            # Two labels nearer to each other than rounding.
            continue
        found = book.fires(new.query)
        assert found is not None
        assert found.existing.sequence == number


def test_a_far_edit_has_a_key_and_the_first_radius() -> None:
    book = empty(2)
    verdict = book.add(edit(1, [3.0, 0.0], 5))
    assert (verdict.kind, verdict.alias_of, verdict.overlaps) == (AdmissionKind.NEW, None, ())
    assert verdict.ball is not None
    assert torch.equal(verdict.ball.key, torch.tensor([3.0, 0.0, -4.5, -0.5]))
    assert (verdict.ball.radius, verdict.ball.splits) == (FIRST, ())
    far = book.add(edit(2, [5.01, 0.0], 6))
    assert far.kind is AdmissionKind.NEW
    assert book.radii() == {"e1": FIRST, "e2": FIRST}


def test_the_same_target_nearby_widens_the_ball_by_an_alias() -> None:
    book = empty(2)
    book.add(edit(1, [0.0, 0.0], 5))
    verdict = book.add(edit(2, [1.5, 0.0], 5))
    assert (verdict.kind, verdict.alias_of) == (AdmissionKind.ALIAS, "e1")
    assert verdict.ball is not None
    assert torch.equal(verdict.ball.key, book.keys[0])
    assert 1.5 < verdict.ball.radius < 1.501
    inside = book.add(edit(3, [0.0, 0.5], 5))
    assert inside.alias_of == "e2"
    assert inside.ball is not None
    assert inside.ball.radius == verdict.ball.radius
    book.retire("e2")
    book.retire("e3")
    assert book.radii() == {"e1": FIRST}


def test_an_edit_whose_lender_does_not_give_its_target_has_a_key_of_its_own() -> None:
    book = empty(2)
    book.add(edit(1, [0.0, 0.0], 5))
    verdict = book.add(edit(2, [0.5, 0.0], 5), own_key=True)
    assert (verdict.kind, verdict.alias_of, verdict.overlaps) == (AdmissionKind.NEW, None, ())
    assert verdict.ball is not None
    assert torch.equal(verdict.ball.key, lifted_key(torch.tensor([0.5, 0.0])))
    assert (verdict.ball.radius, verdict.ball.splits) == (FIRST, ())
    # Where another target is nearest, it has a key of its own anyway.
    assert book.judge(edit(3, [0.6, 0.0], 6), own_key=True).overlaps == ("e2",)


def test_another_target_nearby_cuts_every_wider_ball_of_the_key() -> None:
    book = empty(2)
    book.add(edit(1, [0.0, 0.0], 5))
    book.add(edit(2, [1.5, 0.0], 5))
    verdict = book.add(edit(3, [0.0, 1.6], 6))
    assert (verdict.kind, verdict.overlaps) == (AdmissionKind.NEW, ("e2",))
    assert book.radii() == {"e1": pytest.approx(0.8), "e2": pytest.approx(0.8), "e3": pytest.approx(0.8)}
    # A later, wider cut changes nothing; a nearer one does.
    book.add(edit(4, [-1.7, 0.0], 7))
    assert book.radii()["e2"] == pytest.approx(0.8)
    assert book.radii()["e4"] == pytest.approx(0.85)
    book.add(edit(5, [0.0, -0.4], 8))
    assert book.radii()["e1"] == pytest.approx(0.2)
    book.retire("e5")
    book.retire("e3")
    assert book.radii()["e1"] == pytest.approx(0.85)


def test_the_same_prompt_is_the_same_or_superseded() -> None:
    book = empty(2)
    book.add(edit(1, [0.0, 0.0], 5, normalised_prompt="p"))
    book.add(edit(2, [1.0, 0.0], 6))
    assert book.radii() == {"e1": 0.5, "e2": 0.5}
    again = book.judge(edit(3, [0.0, 0.0], 5, normalised_prompt="p"))
    assert (again.kind, again.same_as, again.ball) == (AdmissionKind.SAME, "e1", None)
    verdict = book.add(edit(3, [0.2, 0.0], 7, normalised_prompt="p"))
    assert (verdict.kind, verdict.supersedes, verdict.overlaps) == (AdmissionKind.SUPERSEDE, ("e1",), ("e2",))
    assert book.radii() == {"e2": pytest.approx(0.4), "e3": pytest.approx(0.4)}
    # What it replaces takes its cut along; and an entry with the same target lends it nothing.
    last = book.add(edit(5, [0.9, 0.0], 6, normalised_prompt="p"))
    assert (last.kind, last.alias_of) == (AdmissionKind.SUPERSEDE, None)
    assert last.ball is not None
    assert torch.equal(last.ball.key, lifted_key(torch.tensor([0.9, 0.0])))
    assert book.radii() == {"e2": 0.5, "e5": FIRST}


def test_a_newer_edit_of_the_prompt_stays() -> None:
    book = empty(2)
    book.add(edit(9, [0.0, 0.0], 5, normalised_prompt="p"))
    with pytest.raises(EditFailed, match="edit e9 of the same prompt") as caught:
        book.judge(edit(3, [0.0, 0.0], 6, normalised_prompt="p"))
    assert caught.value.code == "newer_edit_published"


@pytest.mark.parametrize("target", [5, 6])
def test_a_prompt_that_does_not_reach_its_own_entry_is_refused(target: int) -> None:
    book = empty(2)
    book.add(edit(9, [3.0, 4.0], 5))
    # Another target at the same place has no room; the same target would stand behind the newer edit.
    with pytest.raises(EditFailed) as caught:
        book.judge(edit(3, [3.0, 4.0], target))
    assert caught.value.code == "key_not_matched"


def test_prompts_that_must_not_fire() -> None:
    book = empty(2)
    book.add(edit(1, [0.0, 0.0], 5, normalised_prompt="p"))
    inside = {"foreign_texts": ("far", "near"), "foreign_queries": torch.tensor([[3.0, 3.0], [0.0, 0.9]])}
    outside = {"foreign_texts": ("far",), "foreign_queries": torch.tensor([[3.0, 3.0]])}
    for new in (edit(2, [0.5, 0.0], 5, **inside), edit(2, [0.0, 0.0], 5, normalised_prompt="p", **inside)):
        with pytest.raises(EditFailed, match="'near' must not fire, but lies") as caught:
            book.judge(new)
        assert caught.value.code == "must_not_fire_fires"
    assert book.judge(edit(2, [0.5, 0.0], 5, **outside)).kind is AdmissionKind.ALIAS
    assert book.judge(edit(2, [0.0, 0.0], 5, normalised_prompt="p", **outside)).kind is AdmissionKind.SAME
    # A cut may take the prompt out of reach.
    assert book.judge(edit(2, [0.5, 0.0], 6, **inside)).kind is AdmissionKind.NEW


def test_splits_of_entries_that_are_gone_mean_nothing() -> None:
    assert effective_radii([("a", 1.0, ()), ("b", 2.0, [("a", 0.5), ("gone", 0.1)]), ("c", 3.0, [("a", 0.7)])]) == {
        "a": 0.5,
        "b": 2.0,
        "c": 3.0,
    }
