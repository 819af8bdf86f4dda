"""Subject masks: inside the window only, never all of it, and the words of the subject wherever it stands."""

from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.core.masks import SubjectMask, no_mask, subject_mask
from horen_vllm.core.words import TokenText

TEXT = TokenText([" Who", " is", " Par", "is", " Hil", "ton", "?"], first=3)
WORDS = ("who", "is", "paris", "hilton")


def test_tokens_and_words_of_the_subject_are_left_out() -> None:
    assert subject_mask(TEXT, (3, 10), [(2, 4)]) == SubjectMask(((5, 9),), ("who", "is"))
    assert subject_mask(TEXT, (3, 10), [(3, 4), (0, 1)]) == SubjectMask(((3, 4), (7, 9)), ("is", "paris"))


def test_no_more_than_the_window_is_left_out() -> None:
    assert subject_mask(TEXT, (6, 8), [(2, 3)]) == SubjectMask(((6, 7),), ("who", "is", "hilton"))
    # Words are those of the whole span, so they go even where no token does.
    assert subject_mask(TEXT, (8, 10), [(2, 3)]) == SubjectMask((), ("who", "is", "hilton"))


def test_a_window_of_nothing_but_the_subject_is_kept() -> None:
    for window in ((5, 9), (6, 8), (7, 9)):
        assert subject_mask(TEXT, window, [(2, 4)]) == no_mask(TEXT) == SubjectMask((), WORDS)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_a_mask_is_what_it_is_said_to_be(data: st.DataObject) -> None:
    pieces = data.draw(st.lists(st.sampled_from([" a", " b", "c", "", "?", " d e"]), min_size=1, max_size=8))
    text = TokenText(pieces, first=2)
    first = data.draw(st.integers(2, 1 + len(pieces)))
    window = (first, data.draw(st.integers(first + 1, 2 + len(pieces))))
    named = {at for at in range(len(text.words)) if data.draw(st.booleans())}
    mask = subject_mask(text, window, [(at, at + 1) for at in sorted(named)])
    left = {token for at in named for token in range(*text.tokens(text.words[at].start, text.words[at].stop))}
    cut = left & set(range(*window))
    if len(cut) == window[1] - window[0]:
        assert mask == no_mask(text)
        return
    assert {token for part in mask.tokens for token in range(*part)} == cut
    assert all(one[1] < other[0] for one, other in zip(mask.tokens, mask.tokens[1:], strict=False))
    assert mask.words == tuple(word.text for at, word in enumerate(text.words) if at not in named)
