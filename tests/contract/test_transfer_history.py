"""Files that travel between three codebooks, against plain sets."""

from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.models import EditRecord
from horen_vllm.registry.portable import ImportCounts, PortableState
from horen_vllm.registry.ports import Registry

from .test_revision_history import STEPS, Publishing, Rollback, play
from .transfers import Book, active_origins, bring_in, export

Create = Callable[..., CodebookName]
Publish = Callable[..., EditRecord]

PLACES = 3
STEP = st.tuples(
    st.sampled_from(["publish", "retire", "export", "import", "import"]), st.integers(0, 2), st.integers(0, 20)
)


@dataclass
class World:
    """What each codebook must contain, by origin, and which files there are."""

    registry: Registry
    names: list[CodebookName]
    active: list[set[EditId]] = field(default_factory=lambda: [set() for _ in range(PLACES)])
    retired: list[set[EditId]] = field(default_factory=lambda: [set() for _ in range(PLACES)])
    files: list[tuple[Book, set[EditId], set[EditId]]] = field(default_factory=list)

    def publish(self, place: int, publish: Publish) -> None:
        self.active[place].add(publish(self.names[place]).edit_id)

    def retire(self, place: int, number: int) -> None:
        choices = sorted(self.active[place])
        if choices:
            origin = choices[number % len(choices)]
            known = self.registry.known_origins(self.names[place], [origin])
            self.registry.retire_edit(known[origin].edit_id)
            self.active[place].remove(origin)
            self.retired[place].add(origin)

    def export(self, place: int) -> None:
        book = export(self.registry, self.names[place], page=3)
        assert set(book.of(PortableState.ACTIVE)) == self.active[place]
        assert set(book.of(PortableState.RETIRED)) == self.retired[place]
        self.files.append((book, set(self.active[place]), set(self.retired[place])))

    def bring_in(self, place: int, number: int) -> None:
        if self.files:
            book, active, retired = self.files[number % len(self.files)]
            bring_in(self.registry, self.names[place], book)
            self.retired[place] |= retired
            self.active[place] = (self.active[place] | active) - self.retired[place]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, max_size=14))
def test_what_is_retired_anywhere_along_the_way_never_comes_back(
    registry: Registry, create: Create, publish: Publish, steps: list[tuple[str, int, int]]
) -> None:
    unique = str(uuid4())
    world = World(registry, [create(f"b{place}-{unique}", fingerprint=unique) for place in range(PLACES)])
    for act, place, number in steps:
        if act == "publish":
            world.publish(place, publish)
        elif act == "retire":
            world.retire(place, number)
        elif act == "export":
            world.export(place)
        else:
            world.bring_in(place, number)
        for at, name in enumerate(world.names):
            origins = active_origins(registry, name)
            assert set(origins) == world.active[at]
            assert len(origins) == len(world.active[at]) == registry.get_codebook(name).entry_count


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, number=st.integers(0, 30))
def test_an_empty_codebook_becomes_any_exported_revision(
    registry: Registry, create: Create, publish: Publish, steps: list[Publishing | Rollback], number: int
) -> None:
    unique = str(uuid4())
    source, target = create(f"source-{unique}", fingerprint=unique), create(f"target-{unique}", fingerprint=unique)
    history, _ = play(registry, publish, source, steps)
    revision = 1 + number % (len(history) - 1)
    made = bring_in(registry, target, export(registry, source, revision, page=2))
    wanted = registry.entries(source, revision)
    assert made.counts == ImportCounts(added=len(wanted))
    assert [entry.artifact for entry in registry.entries(target)] == [entry.artifact for entry in wanted]
    assert active_origins(registry, target) == [entry.edit_id for entry in wanted]
    assert made.codebook.parameters.threshold == history[revision][1]
    # What came in goes out again as the same.
    again = create(f"again-{unique}", fingerprint=unique)
    bring_in(registry, again, export(registry, target))
    assert active_origins(registry, again) == active_origins(registry, target)
    assert registry.get_codebook(again).parameters == made.codebook.parameters
