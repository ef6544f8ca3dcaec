"""Images that a text file names: what a file may look like, and what is said of a wrong name."""

import os
import pickle

import pytest

from fkd.data.decode import decode_image
from fkd.data.sources import ImagesConfig, ImageSource, open_source, remarks_of
from fkd.data.subset import is_named_part
from fkd.errors import ConfigError
from tests.data.kinds import PLACES, place


def config_of(root, text, tmp_path, **options) -> ImagesConfig:
    file = tmp_path / "subset.txt"
    file.write_bytes(text)
    return ImagesConfig(root=str(root), subset=str(file), **options)


def keys_of(source: ImageSource) -> list[bytes]:
    return [source.key(i) for i in range(len(source))]


@pytest.mark.parametrize("kind", PLACES[: PLACES.index("datasets")])
def test_any_source_is_cut_to_the_named_images_and_keeps_its_classes(kind, image_folder, tmp_path):
    root = place(kind, image_folder, tmp_path / kind)
    whole = open_source(ImagesConfig(root=root))
    places = [i for i in range(len(whole)) if whole.class_names[whole.label(i)] != "ant"][::2]
    text = b"\n".join(whole.key(i) for i in reversed(places))  # in any order
    part = open_source(config_of(root, text, tmp_path))
    assert isinstance(part, ImageSource)
    assert part.class_names == whole.class_names == ["ant", "bee", "cat"]
    assert keys_of(part) == [whole.key(i) for i in places]
    for own, i in enumerate(places):
        assert (part.label(own), part.name(own)) == (whole.label(i), whole.name(i))
        assert part.read(own) == whole.read(i)
        decode_image(part.read(own), part.name(own))
    assert is_named_part(part)
    assert not is_named_part(whole)
    assert f"5 of 15 images of {root} are named by" in " ".join(remarks_of(part))
    assert keys_of(pickle.loads(pickle.dumps(part))) == keys_of(part)


SPELLINGS = {
    "plain": b"ant/0.png\nbee/2.png\n",
    "no last line end": b"ant/0.png\nbee/2.png",
    "CRLF": b"ant/0.png\r\nbee/2.png\r\n",
    "byte order mark": b"\xef\xbb\xbfant/0.png\nbee/2.png\n",
    "comments and blank lines": b"# two\n\nant/0.png\n   \n#cat/1.png\n\tbee/2.png\n\n",
    "as find writes it": b"./ant/0.png\n./bee/2.png\n",
    "spaces at the end": b"ant/0.png  \nbee/2.png\t\n",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_a_file(spelling, image_folder, tmp_path):
    part = open_source(config_of(image_folder, SPELLINGS[spelling], tmp_path))
    assert keys_of(part) == [b"ant/0.png", b"bee/2.png"]
    assert len(remarks_of(part)) == 1


def test_a_name_given_again_counts_once_and_is_told(image_folder, tmp_path):
    text = b"ant/0.png\nbee/2.png\nant/0.png\n./ant/0.png\nbee/2.png \n"
    part = open_source(config_of(image_folder, text, tmp_path))
    assert keys_of(part) == [b"ant/0.png", b"bee/2.png"]
    assert remarks_of(part)[0].startswith("3 lines of ")


def test_names_are_bytes(image_folder, tmp_path):
    data = (image_folder / "ant" / "0.png").read_bytes()
    names = [os.fsdecode(name) for name in (b"caf\xe9.png", b" a b.png", b"caf\xc3\xa9.png")]
    for name in names:
        (tmp_path / "images" / "ant").mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / "ant" / name).write_bytes(data)
    wanted = sorted(b"ant/" + os.fsencode(name) for name in names)
    part = open_source(config_of(tmp_path / "images", b"\n".join(wanted), tmp_path))
    assert keys_of(part) == wanted


WRONG = {
    "cat/9.png": "",
    "bee/2": " (did you mean bee/2.png?)",
    "bee/2.jpeg": " (did you mean bee/2.png?)",
    "Bee/2.PNG": " (did you mean bee/2.png?)",
    "bee\\2.png": " (did you mean bee/2.png?)",
    "photos/train/bee/2.png": " (did you mean bee/2.png?)",
    "/photos/bee/2.png": " (did you mean bee/2.png?)",
    "only-here.png": " (did you mean cat/only-here.png?)",
    "only-here": " (did you mean cat/only-here.png?)",
    "dog/only-here.png": " (did you mean cat/only-here.png?)",
    "cat/only-hare.png": " (did you mean cat/only-here.png?)",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_name_is_an_error_with_the_image_that_may_be_meant(name, make_images, tmp_path):
    root = make_images(tmp_path / "images")
    (root / "cat" / "4.png").rename(root / "cat" / "only-here.png")
    text = b"# names\nant/0.png\n" + name.encode()
    with pytest.raises(ConfigError) as caught:
        open_source(config_of(root, text, tmp_path))
    said = str(caught.value)
    assert "subset.txt names 1 image that " in said
    if WRONG[name]:
        assert f"(line 3: {name}{WRONG[name]})" in said
    else:
        assert f"(line 3: {name}" in said


def test_accents_that_are_coded_otherwise_are_told(make_images, tmp_path):
    """The two names look the same."""
    root = make_images(tmp_path / "images")
    (root / "cat" / "4.png").rename(root / "cat" / "e\u0301.png")
    with pytest.raises(ConfigError, match=r"mean cat/e\u0301\.png, with accents coded otherwise"):
        open_source(config_of(root, "cat/\u00e9.png\n".encode(), tmp_path))


def test_many_wrong_names_are_counted_and_the_first_are_shown(image_folder, tmp_path):
    text = b"".join(b"x%d.png\n" % i for i in range(50)) + b"ant/0.png\n"
    with pytest.raises(ConfigError, match=r"names 50 images .*line 1: x0\.png; line 2: .* 47 more"):
        open_source(config_of(image_folder, text, tmp_path))


NO_FILES = {
    "empty": (b"", "names no image"),
    "comments only": (b"# nothing\n\n", "names no image"),
    "UTF-16": ("ant/0.png\n".encode("utf-16"), "save it as UTF-8"),
    "an image": (b"\x89PNG\0\0", "no text file"),
}


@pytest.mark.parametrize("what", NO_FILES)
def test_files_that_name_nothing(what, image_folder, tmp_path):
    data, said = NO_FILES[what]
    with pytest.raises(ConfigError, match=rf"images.subset: .*{said}"):
        open_source(config_of(image_folder, data, tmp_path))


def test_a_file_that_is_not_there(image_folder, tmp_path):
    for file in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(ConfigError, match=r"images\.subset: .* cannot be read"):
            open_source(ImagesConfig(root=str(image_folder), subset=str(file)))


def test_numbered_classes_stay_those_of_the_whole_source(make_images, tmp_path):
    """Classes that are ids are numbered by what the whole folder has, not by the named images."""
    root = make_images(tmp_path / "images", ("0", "2", "11"), per_class=2)
    part = open_source(config_of(root, b"2/0.png\n2/1.png", tmp_path, classes="by_number"))
    assert part.class_names == [str(i) for i in range(12)]
    assert [part.label(i) for i in range(2)] == [2, 2]
    assert part.classes_are_numbers
