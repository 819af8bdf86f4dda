"""What a codebook takes on a server, read from the plugin's own buffers and tables after loading one."""

import gc
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import psutil
import torch
from torch.nn import functional as F

from bench.made_entries import EntryForm, write_pack
from bench.memory_accounts import ModelShape
from horen_vllm.core.presets import MethodParameters, ValueMode, preset_parameters
from horen_vllm.core.routing import RoutingSpace
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.pack import EntryPack, read_pack
from horen_vllm.plugin.codebooks import PagedCodebooks, Update
from horen_vllm.plugin.entries import EntryStore
from horen_vllm.plugin.revisions import RevisionView
from horen_vllm.plugin.texts import PromptTexts

LORA_RANK: Final = 4
"""The paper's, appendix G.3."""
VALUE_MODES: Final = ("sequence", "answer", "last", "lora")
_BOOK: Final = "tenants/default/codebooks/bench"
_SPACE: Final = "s" * 64
_FINGERPRINT: Final = "bench"
_WARM_WIDTH: Final = 8
_RARITIES: Final = 1 << 16
"""Weights of word n-grams, once for all codebooks of a base model; they stay on the host."""


@dataclass(frozen=True, slots=True)
class Case:
    """Entries of one kind on one model."""

    shape: ModelShape
    rank: int
    """r of whitened keys; 0: raw ones, as wide as the site's input."""
    words: int
    """Columns of word n-grams that whitened keys have beside."""
    mode: str
    """One of `VALUE_MODES`."""
    target_tokens: int
    """Tokens of a target, without its end."""

    @property
    def keys(self) -> str:
        """Name of the keys."""
        if not self.rank:
            return "raw"
        return f"whitened {self.rank}" + (f" + {self.words} words" if self.words else "")

    @property
    def width(self) -> int:
        """Numbers of a key."""
        return self.rank + self.words if self.rank else self.shape.d_in

    @property
    def parameters(self) -> MethodParameters:
        """What such a codebook is made with."""
        lora = self.mode == "lora"
        mode = ValueMode.SEQUENCE if lora else ValueMode(self.mode)
        parameters = replace(preset_parameters("cosine", "bench", 0.9), value_mode=mode, rank=LORA_RANK * lora)
        return replace(parameters, space=_SPACE) if self.rank else parameters

    @property
    def form(self) -> EntryForm:
        """What its entries have in common."""
        return EntryForm.of(self.parameters, self.target_tokens, fingerprint=_FINGERPRINT, site="bench")


@dataclass(frozen=True, slots=True)
class PoolBytes:
    """Bytes of one rank's buffers and tables that a codebook takes."""

    entries: int
    keys: int
    values: int
    tables: int
    """The revision's device tables: sequence numbers, key rows and owners, where values are written."""
    space: int
    """The fitted space's maps, once for all codebooks of a base model."""

    def an_entry(self) -> dict[str, float]:
        """Return the bytes that one entry takes."""
        parts = {name: round(getattr(self, name) / self.entries, 1) for name in ("keys", "values", "tables")}
        return {**parts, "all": round((self.keys + self.values + self.tables) / self.entries, 1)}


@dataclass(frozen=True, slots=True)
class PackFile:
    """A pack on disk."""

    path: Path
    sha256: str

    def read(self) -> EntryPack:
        """Return it as a worker reads it."""
        return read_pack(self.path, self.sha256)


def pool_bytes(case: Case, entries: int) -> PoolBytes:
    """Load `entries` entries and return what the buffers say that they take."""
    with tempfile.TemporaryDirectory() as folder:
        return _loaded(case, entries, made_packs(case, entries, Path(folder)))[1]


def made_packs(case: Case, entries: int, folder: Path) -> tuple[PackFile, PackFile]:
    """Write the pack of an empty codebook, which has its space alone, and one of random entries."""
    generator = torch.Generator().manual_seed(1)
    shape, form = case.shape, case.form
    keys = F.normalize(torch.randn(entries, case.width, generator=generator), dim=-1)
    values = torch.randn(entries, form.value_rows, shape.d_out, generator=generator)
    made = [form.entry(f"e{number}", keys[number : number + 1], values[number]) for number in range(entries)]
    matrix = torch.zeros(case.rank, shape.d_in)
    rarity = torch.ones(_RARITIES if case.words else 0)
    space = RoutingSpace(torch.zeros(shape.d_in), matrix, rarity, word_buckets=case.words) if case.rank else None
    empty, full = folder / "empty", folder / "full"
    return PackFile(empty, write_pack(empty, [], space=space)), PackFile(full, write_pack(full, made))


def resident_bytes(case: Case, entries: int) -> dict[str, float]:
    """Return how the resident memory of a process of its own grows by buffers and entries, and what is not in pools.

    The rest is what the worker keeps of an entry in Python: its row of the pack with digest, ids and references.
    """
    with tempfile.TemporaryDirectory() as folder:
        packs = made_packs(case, entries, Path(folder))
        # An allocator keeps what others have freed, so it must be one that nobody has used.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            grown, pools = pool.submit(_grown, case, entries, packs).result()
    own, inside = (grown - pools.space) / entries, pools.an_entry()["all"]
    return {"entries": entries, "grown": round(own, 1), "pools": inside, "beside_pools": round(own - inside, 1)}


def _grown(case: Case, entries: int, packs: tuple[PackFile, PackFile]) -> tuple[int, PoolBytes]:
    """Return by how much this process grows from nothing to a loaded codebook, and what its pools say."""
    # What the first codebook of a process needs is not what an entry needs.
    pool_bytes(replace(case, shape=replace(case.shape, d_in=_WARM_WIDTH, d_out=_WARM_WIDTH), rank=0), 2)
    gc.collect()
    before = psutil.Process().memory_info().rss
    held = _loaded(case, entries, packs)
    gc.collect()
    return psutil.Process().memory_info().rss - before, held[1]


def _loaded(case: Case, entries: int, packs: tuple[PackFile, PackFile]) -> tuple[PagedCodebooks, PoolBytes]:
    """Load the empty codebook, then the full one into new buffers; return the codebooks and what it took."""
    shape, rows = case.shape, case.form.value_rows
    # One row more of each width: rows stand at multiples of it.
    numbers = (case.rank + 2) * shape.d_in + (entries + 1) * case.width
    store = EntryStore(
        d_in=shape.d_in,
        d_out=shape.d_out,
        key_numbers=numbers,
        num_values=entries * rows,
        dtype=shape.dtype,
        device=torch.device("cpu"),
    )
    codebooks = PagedCodebooks(store, texts=PromptTexts(_tokenizer))
    _load(codebooks, case, packs[0].read(), revision=1)
    space = store.pages()["keys"]["used"] * store.pages()["keys"]["bytes"]
    view = _load(codebooks, case, packs[1].read(), revision=2)
    pages = store.pages()
    used = {name: page["used"] * page["bytes"] for name, page in pages.items()}
    return codebooks, PoolBytes(entries, used["keys"] - space, used["values"], table_bytes(view), space)


def _tokenizer() -> Any:
    # Keys with words are taken by a worker only that can read prompts as text; which tokenizer does not matter here.
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(demo_model_dir(), local_files_only=True)


def _load(codebooks: PagedCodebooks, case: Case, pack: EntryPack, *, revision: int) -> RevisionView:
    update = Update(
        codebook=_BOOK, base_revision=revision - 1, revision=revision, parameters=case.parameters, added=pack
    )
    view = codebooks.prepare(update)
    codebooks.flip(view, update.base_revision)
    return view


def table_bytes(view: RevisionView) -> int:
    """Return the bytes of a revision's own tensors."""
    groups = [tensor for group in (view.open, view.anchored) for tensor in (group.rows, group.owners)]
    tables = [*groups, view.sequences, view.value_table, view.radii, view.floors]
    return sum(table.nbytes for table in tables if table is not None)


def described(case: Case, entries: int) -> dict[str, Any]:
    """Return a result's row."""
    pools = pool_bytes(case, entries)
    return {
        "model": case.shape.name,
        "keys": case.keys,
        "value": f"lora {LORA_RANK}" if case.mode == "lora" else case.mode,
        "vectors": case.form.value_rows,
        "bytes_an_entry": pools.an_entry(),
        "space_bytes_once": pools.space,
        "loaded": asdict(pools),
    }
