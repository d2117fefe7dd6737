from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.text import TextStream

byte_chunks = st.lists(st.binary(max_size=4), max_size=30)


def stream_of(chunks: list[bytes], stops: tuple[str, ...] = ()) -> TextStream:
    return TextStream(lambda token_id: chunks[token_id], stops)


def show(chunks: list[bytes], stops: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream = stream_of(chunks, stops)
    shown: list[str] = []
    for token_id in range(len(chunks)):
        shown.append(stream.push(token_id))
        if stream.is_stopped:
            break
    return [*shown, stream.close()], stream


def cut(text: str, stops: tuple[str, ...]) -> str:
    """The text up to the first stop string to be completed, read character by character."""
    for end in range(len(text) + 1):
        matching = [stop for stop in stops if text[:end].endswith(stop)]
        if matching:
            return text[: end - max(map(len, matching))]
    return text


def test_half_a_character_is_never_shown() -> None:
    shown, _ = show([b"na", b"\xc3", b"\xaf", b"ve \xf0", b"\x9f\x99", b"\x82!"])
    assert shown == ["na", "", "ï", "ve ", "", "🙂!", ""]


def test_a_character_that_never_ends_becomes_a_replacement_at_the_end() -> None:
    assert show([b"ok", b"\xe2\x82"])[0] == ["ok", "", "\ufffd"]


@given(byte_chunks)
def test_pieces_join_to_the_whole_text(chunks: list[bytes]) -> None:
    assert "".join(show(chunks)[0]) == b"".join(chunks).decode("utf-8", "replace")


def test_a_stop_string_across_tokens_is_held_back_and_never_shown() -> None:
    shown, stream = show([b"Hello W", b"OR", b"LD, bye"], ("WORLD",))
    assert shown == ["Hello ", "", "", ""]
    assert stream.is_stopped


def test_text_that_only_began_like_a_stop_string_is_released() -> None:
    assert show([b"a WOR", b"K b"], ("WORLD",))[0] == ["a ", "WORK b", ""]
    assert show([b"the WORL"], ("WORLD",))[0] == ["the ", "WORL"]


def test_the_stop_string_completed_first_wins() -> None:
    assert "".join(show([b"xabcd"], ("abcd", "b"))[0]) == "xa"


@given(
    st.lists(st.text("ab", max_size=3), max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3, unique=True),
)
def test_stops_cut_where_a_reader_of_characters_would_cut(pieces: list[str], stops: list[str]) -> None:
    shown, stream = show([piece.encode() for piece in pieces], tuple(stops))
    whole = "".join(pieces)
    assert "".join(shown) == cut(whole, tuple(stops))
    assert stream.is_stopped == any(stop in whole for stop in stops)


@given(byte_chunks)
def test_length_counts_what_was_decoded(chunks: list[bytes]) -> None:
    shown, stream = show(chunks, ("\x00never\x00",))
    assert stream.length == len("".join(shown))


def test_a_stop_string_counts_only_when_completed_after_the_deaf_tokens() -> None:
    def shown(num_deaf: int) -> str:
        pieces = [b"one ", b"two ", b"th", b"ree ", b"two "]
        stream = TextStream(lambda token_id: pieces[token_id], ("two", "three"), num_deaf)
        text = ""
        for token_id in range(len(pieces)):
            text += stream.push(token_id)
            if stream.is_stopped:
                return text
        return text + stream.close()

    assert shown(0) == shown(1) == "one "
    assert shown(2) == shown(3) == "one two "  # "three" begins in a deaf token's text and ends after it
    assert shown(4) == "one two three "
    assert shown(5) == "one two three two "


@given(byte_chunks, st.integers(0, 30))
def test_deaf_tokens_change_no_text(chunks: list[bytes], num_deaf: int) -> None:
    deaf = TextStream(lambda token_id: chunks[token_id], ("a", "bc"), num_deaf)
    free = stream_of(chunks)
    for token_id in range(len(chunks)):
        deaf.push(token_id)
        free.push(token_id)
        if deaf.is_stopped:
            assert token_id >= num_deaf
            return
        assert deaf.length == free.length
