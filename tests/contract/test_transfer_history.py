"""Files that travel between three codebooks, against plain sets."""

from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.models import EditRecord
from horen_vllm.registry.portable import PortableState
from horen_vllm.registry.ports import Registry

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
