# ruff: noqa: RUF001 - letters that look alike are the point
"""Words: the same whatever case, accents, punctuation, form of Unicode or tokens a text has."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from horen_vllm.core.words import TokenText, plain_words, words_of
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.pieces import token_text
from tests.unit.editor.conftest import byte_tokenizer

BYTES, DEMO = byte_tokenizer(), AutoTokenizer.from_pretrained(demo_model_dir())
SCRIPTS = (
    "Who's the mayor of São Paulo – today?",
    "Straße, Ἀθῆναι; Ελλάς, Москва и Орёл",
    "東京都の知事は誰ですか、佐々木さん",
    "서울은 어디에 있습니까?",
    "กรุงเทพมหานครคือน้ำตก",
    "भारत की राजधानी नई दिल्ली है",
    "ما هي عاصمةُ مِصر؟",
    "מהי בירת יִשְׂרָאֵל?",
    "𝐀cme™ ☀️ ﬁne ½ ﾊﾞﾅﾅ",
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ()),
        (" \n—… !? ", ()),
        ("Who LEADS Acme?", ("who", "leads", "acme")),
        ("Acme's, Acme’s", ("acme", "s", "acme", "s")),
        ("Acme´s Acme™", ("acme", "s", "acme")),
        ("AC/DC rock-n-roll 4.5", ("ac", "dc", "rock", "n", "roll", "4", "5")),
        ("Zürich São Dvořák", ("zurich", "sao", "dvorak")),
        ("Straße İstanbul", ("strasse", "istanbul")),
        ("Ａｃｍｅ　７", ("acme", "7")),
        ("𝐀𝐜𝐦𝐞 Ⅷ ﬁn", ("acme", "viii", "fin")),
        ("☀️ ✈︎ Rio", ("rio",)),
        ("ΟΔΥΣΣΕΎΣ Ὀδυσσεύς", ("οδυσσευσ", "οδυσσευσ")),
        ("МОСКВА Орёл", ("москва", "орел")),
        ("שָׁלוֹם שלום", ("שלום", "שלום")),
        ("مُحَمَّد محمد", ("محمد", "محمد")),
        ("東京の王", ("東", "京", "の", "王")),
        ("佐々木A", ("佐", "々", "木", "a")),
        ("ﾄﾖﾀ トヨタ", ("ト", "ヨ", "タ", "ト", "ヨ", "タ")),
        ("กรุง", ("ก", "รุ", "ง")),
        ("नमस्ते", ("नमस्ते",)),
        ("BMWの車", ("bmw", "の", "車")),
    ],
)
def test_words(text: str, words: tuple[str, ...]) -> None:
    assert plain_words(text) == words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("दिल", "दल"),
        ("ज़मीन", "जमीन"),
        ("ハ", "バ"),
        ("กา", "กำ"),
        ("서울", "서운"),
        ("ab", "a b"),
        ("Ann", "Anna"),
    ],
)
def test_what_makes_another_word(one: str, other: str) -> None:
    assert plain_words(one) != plain_words(other)


def test_a_korean_name_is_found_before_a_particle() -> None:
    name = plain_words("서울")
    assert plain_words("서울은")[:2] == plain_words("서울에서")[:2] == name


@pytest.mark.parametrize("text", SCRIPTS)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_equivalent_texts_have_the_same_words(text: str, form: str) -> None:
    assert plain_words(unicodedata.normalize(form, text)) == plain_words(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["ﾊﾞﾅﾅ バナナ ｶﾞ", "น้ำตก", "Ａｃｍｅ", "한글 ㈀", "กู้"])
def test_compatible_texts_have_the_same_words(text: str) -> None:
    letters = text.replace("㈀", "")
    assert plain_words(unicodedata.normalize("NFKC", letters)) == plain_words(letters)
    assert plain_words(unicodedata.normalize("NFKD", letters)) == plain_words(letters)


def test_marks_may_be_typed_in_any_order() -> None:
    assert plain_words("กู้") == plain_words("กู้")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text())
def test_any_text(text: str) -> None:
    words = words_of(text)
    assert [word.text for word in words] == list(plain_words(unicodedata.normalize("NFD", text)))
    assert [word.text for word in words] == list(plain_words(unicodedata.normalize("NFC", text)))
    ends = [0]
    for word in words:
        # Two may share a character that gives a part to each.
        assert ends[-1] - 1 <= word.start < word.stop
        assert word.text == word.text.casefold() != ""
        ends.append(word.stop)
    assert ends[-1] <= len(text)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text(st.characters(codec="utf-8")))
def test_case_and_space_say_nothing(text: str) -> None:
    assert plain_words(text.casefold()) == plain_words(text)
    assert plain_words(f"  {text}\n!") == plain_words(text)


@pytest.mark.parametrize("text", SCRIPTS)
def test_any_tokens_of_a_text_have_its_words(text: str) -> None:
    expected = words_of(text)
    for tokenizer in (BYTES, DEMO):
        ids = tokenizer.encode(text, add_special_tokens=False)
        read = token_text(tokenizer, [7, 7, *ids, 9], (2, len(ids) + 2))
        assert (read.text, read.words) == (text, expected)
        for number, word in enumerate(expected):
            [(first, stop)] = read.token_ranges([(number, number + 1)])
            assert 2 <= first < stop <= len(ids) + 2
            held = tokenizer.decode(ids[first - 2 : stop - 2])
            assert text[word.start : word.stop] in held


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_tokens_of_a_range_are_those_with_a_part_in_it(data: st.DataObject) -> None:
    pieces = data.draw(st.lists(st.text("ab .", max_size=3), min_size=1))
    text = TokenText(pieces, first=5)
    if not text.text:
        return
    start = data.draw(st.integers(0, len(text.text) - 1))
    stop = data.draw(st.integers(start + 1, len(text.text)))
    first, last = text.tokens(start, stop)
    owners = [5 + token for token, piece in enumerate(pieces) for _ in piece][start:stop]
    assert last == owners[-1] + 1
    # Tokens without a text of their own in front of it belong to what comes next, if it begins with them.
    assert first <= owners[0]
    assert all(not pieces[token - 5] for token in range(first, owners[0]))
    if first > 5 and not pieces[first - 6]:
        assert "".join(pieces[: owners[0] - 5]) != text.text[:start]


def test_token_ranges_are_joined_where_they_touch() -> None:
    text = TokenText(["Pa", "ris", " Hil", "ton", " or", " Par", "is", "Rome"])
    assert text.text == "Paris Hilton or ParisRome"
    assert text.token_ranges([(3, 4), (0, 1)]) == ((0, 2), (5, 8))
    assert text.token_ranges([(0, 1), (1, 2)]) == ((0, 4),)
    assert text.token_ranges([]) == ()


def test_bytes_that_are_no_text_stop_nobody() -> None:
    tokenizer = BYTES
    ids = tokenizer.encode("東京 Rome", add_special_tokens=False)
    for broken in (ids[1:], [*ids[:2], *ids[3:]], [*ids, ids[0]], [ids[1]] * 9 + ids):
        read = token_text(tokenizer, broken, (0, len(broken)))
        assert read.words[-1].text == "rome"
        [(_, stop)] = read.token_ranges([(len(read.words) - 1, len(read.words))])
        assert stop <= len(broken)
