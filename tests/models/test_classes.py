"""Classes are matched by name, never by position; doubt is an error."""

import json

import pytest

from fkd.errors import ConfigError
from fkd.models.classes import (
    display_names,
    imagenet_classes,
    match_classes,
    match_known_classes,
    numbered_classes,
    read_class_names,
)

WNIDS = imagenet_classes(1000)


def test_imagenet_heads_are_known_by_their_size():
    assert WNIDS[0] == "n01440764"
    assert sorted(WNIDS) == WNIDS
    assert len(set(WNIDS)) == 1000
    assert len(imagenet_classes(21843)) == 21843
    assert imagenet_classes(10) is None
    assert numbered_classes(3) == ["0", "1", "2"]


def test_display_names_are_for_people():
    assert display_names(["n01440764", "n02123045", "cat", "n99999999", "n1234567x"]) == [
        "tench",
        "tabby",
        "cat",
        "n99999999",
        "n1234567x",
    ]


class TestMatching:
    def test_subset_and_order_by_exact_name(self):
        assert match_classes(["c", "a"], ["a", "b", "c"]) == [2, 0]

    def test_folders_of_some_imagenet_classes(self):
        """A folder scan of 200 classes numbers them 0..199, which are not the teacher's numbers."""
        folders = WNIDS[::5]
        assert match_classes(folders, WNIDS) == list(range(0, 1000, 5))

    def test_words_for_wordnet_ids_whatever_their_case(self):
        wanted = ["Great_White_Shark", "tabby cat", "EGYPTIAN CAT", "tench"]
        assert [WNIDS[i] for i in match_classes(wanted, WNIDS)] == [
            "n01484850",
            "n02123045",
            "n02124075",
            "n01440764",
        ]

    def test_ids_find_a_head_that_speaks_in_words(self):
        assert match_classes(["n02123045", "n01440764"], ["tench", "tabby"]) == [1, 0]

    def test_first_word_goes_before_the_others(self):
        """ "panda" is also a word for the lesser panda, "wagon" for a railway car."""
        assert match_classes(["n02510455"], ["giant panda", "lesser panda"]) == [0]

    def test_unknown_classes_are_counted_and_the_first_is_named(self):
        with pytest.raises(
            ConfigError, match=r"2 of 3 classes are unknown .* first is 'hat' \(it knows"
        ):
            match_classes(["tench", "hat", "outwear"], WNIDS)

    def test_ambiguous_word(self):
        with pytest.raises(ConfigError, match="'crane' may mean n02012849 or n03126707"):
            match_classes(["crane"], WNIDS)

    def test_two_names_for_one_class(self):
        with pytest.raises(ConfigError, match="'tabby' and 'n02123045' both mean 'n02123045'"):
            match_classes(["tabby", "n02123045"], WNIDS)

    def test_position_never_counts(self):
        with pytest.raises(ConfigError, match="2 of 2 classes are unknown"):
            match_classes(["cat", "dog"], numbered_classes(2))


class TestFiles:
    @pytest.mark.parametrize(
        "text",
        ["cat\nd og", "cat\nd og\n\n", "cat\r\nd og\r\n\r\n", " cat \n\td og", "cat\nd og\n \n"],
    )
    def test_white_space_around_lines_is_no_part_of_names(self, tmp_path, text):
        (tmp_path / "a.txt").write_bytes(text.encode())
        assert read_class_names(tmp_path / "a.txt") == ["cat", "d og"]

    @pytest.mark.parametrize("character", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
    def test_a_character_within_a_name_ends_no_line(self, tmp_path, character):
        """Else all later classes would be shifted."""
        (tmp_path / "a.txt").write_text(f"cat{character}s\ndog\n", encoding="utf-8")
        assert read_class_names(tmp_path / "a.txt") == [f"cat{character}s", "dog"]

    def test_json_is_known_by_its_ending_in_capitals_too(self, tmp_path):
        (tmp_path / "A.JSON").write_text('["cat", "dog"]')
        assert read_class_names(tmp_path / "A.JSON") == ["cat", "dog"]

    def test_json_and_text(self, tmp_path):
        (tmp_path / "a.json").write_text(json.dumps(["cat", "d\u00f6g"]), encoding="utf-8")
        (tmp_path / "a.txt").write_text("cat\nd\u00f6g\n", encoding="utf-8")
        assert read_class_names(tmp_path / "a.json") == ["cat", "d\u00f6g"]
        assert read_class_names(tmp_path / "a.txt") == ["cat", "d\u00f6g"]

    @pytest.mark.parametrize(
        ("name", "content"), [("a.json", '["cat", "dog"]'), ("a.txt", "cat\r\ndog\r\n")]
    )
    def test_a_byte_order_mark_is_no_part_of_the_first_class(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content.encode("utf-8-sig"))
        assert read_class_names(tmp_path / name) == ["cat", "dog"]

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("a.json", b'{"0": "cat"}', "must hold a list"),
            ("a.json", b"[1, 2]", "must hold a list"),
            ("a.json", b"[", "is not JSON"),
            ("a.json", b"[" * 100_000, "is not JSON"),
            ("a.json", b"cat\ndog", "is not JSON, as its name says"),
            ("a.txt", b"cat\n\ndog", "must hold a list of non-empty names"),
            ("a.txt", b"cat\ncat", "holds a name twice"),
            ("a.txt", b"\xff\xfe", "is not a text file in UTF-8"),
        ],
    )
    def test_anything_else_is_refused(self, tmp_path, name, content, words):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=rf"class_names: .*{name} {words}"):
            read_class_names(tmp_path / name)

    def test_missing(self, tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_class_names(tmp_path / "a.txt")


def test_classes_that_are_not_there_are_told_by_minus_one():
    head = ["n02124075", "n02123045", "bicycle"]
    assert match_known_classes(["Egyptian_cat", "bicycle", "lane", "n02123045"], head) == [
        0,
        2,
        -1,
        1,
    ]
    assert match_known_classes(["tabby", "n02123045"], head) == [1, -1]  # both mean the same output
    assert match_known_classes([], head) == []
