"""Text files and tables of paths: their forms, keys and classes; what is refused by its line."""

import os
import re
import shutil

import pytest

from fkd.data.lists import ListSource
from fkd.data.sources import ImagesConfig, as_source, open_source
from fkd.errors import ConfigError


@pytest.fixture
def folder(image_folder, tmp_path):
    """A folder of classes in which a list may be written."""
    return shutil.copytree(image_folder, tmp_path / "photos")


def source_of(file, text=None, **options):
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_source(ImagesConfig(root=str(file), **options))


def labeled(source) -> list[tuple[str, str | None]]:
    names = source.class_names
    return [
        (os.fsdecode(source.key(i)), None if source.label(i) < 0 else names[source.label(i)])
        for i in range(len(source))
    ]


FORMS = {
    # name of the file: (text, classes of ant/0.png and bee/1.png)
    "paths.txt": ("bee/1.png\nant/0.png\n", (None, None)),
    "blanks.txt": ("bee/1.png 1\n\n  ant/0.png   0  \n", ("0", "1")),
    "named.txt": ("bee/1.png buzz\nant/0.png crawl", ("crawl", "buzz")),
    "tabs.txt": ("bee/1.png\ta bee\nant/0.png\tan ant", ("an ant", "a bee")),
    "dos.txt": ("\ufeffbee/1.png 1\r\nant/0.png 0\r\n", ("0", "1")),
    "some.txt": ("bee/1.png 1\nant/0.png\n", (None, "1")),
    "header.csv": ("path,label\nbee/1.png,buzz\nant/0.png,crawl\n", ("crawl", "buzz")),
    "any order.csv": ("Label,size,File_Name\n1,3,bee/1.png\n0,2,ant/0.png\n", ("0", "1")),
    "no header.csv": ("bee/1.png,1\nant/0.png,0\n", ("0", "1")),
    "alone.csv": ("bee/1.png\nant/0.png\n", (None, None)),
    "only paths.csv": ("filename\nbee/1.png\nant/0.png\n", (None, None)),
    "quoted.csv": ('image,class\n"bee/1.png","buzz, loud"\nant/0.png,\n', (None, "buzz, loud")),
    "table.tsv": ("bee/1.png\tbuzz\nant/0.png\tcrawl\n", ("crawl", "buzz")),
    "UPPER.CSV": ("PATH,CLASS\nbee/1.png,1\nant/0.png,0\n", ("0", "1")),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_list(name, folder):
    text, classes = FORMS[name]
    source = source_of(folder / name, text)
    assert isinstance(source, ListSource)
    assert labeled(source) == list(zip(("ant/0.png", "bee/1.png"), classes, strict=True))
    assert source.read(0) == (folder / "ant" / "0.png").read_bytes()
    assert source.name(1) == str(folder / "bee" / "1.png")
    assert source.labels_are_ids == ("0" in classes or "1" in classes)
    plain = source_of(folder / name, label_column=None)
    assert labeled(plain) == [("ant/0.png", None), ("bee/1.png", None)]


def test_the_keys_are_those_of_the_folder(folder, tmp_path):
    """So a list of a part of a labeled folder finds its labels, however it writes the paths."""
    whole = open_source(ImagesConfig(root=str(folder)))
    keys = {whole.key(i) for i in range(len(whole))}
    here = ["ant/0.png", "./ant/1.png", "bee/../ant/2.png", str(folder / "bee" / "1.png")]
    source = source_of(folder / "part.txt", "\n".join(here))
    assert {source.key(i) for i in range(4)} < keys
    (tmp_path / "lists").mkdir()
    beside = source_of(tmp_path / "lists" / "a.txt", f"../photos/ant/0.png\n{folder}/cat/0.png\n")
    assert [beside.key(i) for i in range(2)] == sorted(
        [b"../photos/ant/0.png", os.fsencode(folder / "cat" / "0.png")]
    )
    assert len(beside.read(0)) > 0


def test_a_list_without_a_folder_in_its_name(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "all.txt").write_text("ant/0.png 0\n")
    assert as_source("all.txt").read(0) == (folder / "ant" / "0.png").read_bytes()


def test_numbers_have_the_names_of_a_file_beside_the_list(folder):
    (folder / "classnames.txt").write_text("ant\nbee\ncat\n")
    source = source_of(folder / "all.txt", "bee/1.png 1\nant/0.png 0\n")
    assert source.class_names == ["ant", "bee", "cat"]
    assert labeled(source) == [("ant/0.png", "ant"), ("bee/1.png", "bee")]


def test_columns_are_named_where_a_table_has_several(folder):
    text = "id,where,kind,other\n1,ant/0.png,a,x\n2,bee/1.png,b,y\n"
    options = {"image_column": "where", "label_column": "kind"}
    source = source_of(folder / "all.csv", text, **options)
    assert labeled(source) == [("ant/0.png", "a"), ("bee/1.png", "b")]
    assert source_of(folder / "all.csv", **options | {"label_column": None}).class_names is None


def test_any_name_will_do_on_request(folder):
    assert len(source_of(folder / "train.lst", "ant/0.png 0\n", format="list")) == 1
    assert len(source_of(folder, format="auto")) == 15  # a list among images is no list


REFUSED = {
    "names no image": ("a.txt", "\n \n"),
    "ant/9.png in line 2 of .*a.txt is no file below .*photos, and 1 more is not": (
        "a.txt",
        "ant/0.png\nant/9.png\nant/1.png\nbee/9.png\n",
    ),
    "/nowhere/1.png in line 1 of .*a.csv is no file, and|/nowhere/1.png in line 1": (
        "a.csv",
        "/nowhere/1.png,0\n",
    ),
    "where in line 1 of .* is no file .*a header, images.image_column names": (
        "a.csv",
        "where,kind\nant/0.png,0\n",
    ),
    "lines 1 and 3 of .* name the same image ./ant/0.png": (
        "a.txt",
        "ant/0.png 0\nbee/1.png 1\n./ant/0.png 0\n",
    ),
    "line 2 of .* is an address": ("a.txt", "ant/0.png\nhttps://example.org/1.png\n"),
    "line 1 of .* has a zero byte": ("a.txt", "ant\0/0.png\n"),
    "line 1 of .*a.csv has a zero byte": ("a.csv", "path,label\n".encode("utf-16-le")),
    "tabs divide line 2 of .* into more than": ("a.txt", "ant/0.png\t1\nbee/1.png\t1\t3\n"),
    "two columns are called 'label'": ("a.csv", "path,label,Label\nant/0.png,0,1\n"),
    "are decimal numbers": ("a.csv", "path,label\nant/0.png,10.0\nbee/1.png,\ncat/0.png,nan\n"),
    "line 2 of .* names no path": ("a.csv", "path,label\n,3\n"),
    "line 2 of .* has 3 columns, the first has 2": ("a.csv", "ant/0.png,0\nbee/1.png,1,2\n"),
    "line 1 of .* is no line of a table": ("a.csv", 'ant/0.png,"0\n'),
    "_column: the first line of .* has no column 'image', only a, b, c": (
        "a.csv",
        "a,b,c\nant/0.png,0,1\n",
    ),
    "_column: .* has no column 'label', only path, kind": (
        "a.csv",
        "path,kind\nant/0.png,0\n",
    ),
    "some images .* have a number as class, others a name": (
        "a.txt",
        "ant/0.png 0\nbee/1.png bee\n",
    ),
    "has label -7, but a class is a number from 0": ("a.txt", "ant/0.png -7\n"),
    "is not a text file in UTF-8": ("a.txt", b"ant/0.png \xff\xfe\n"),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_strange_lists_are_refused_by_line(sentence, folder):
    with pytest.raises(ConfigError, match=f"(?s)images.*({sentence})"):
        source_of(folder / REFUSED[sentence][0], REFUSED[sentence][1])


TWICE = {
    "absolute": ("ant/0.png", "{folder}/ant/0.png"),
    "through the folder above": ("ant/0.png", "../photos/ant/0.png"),
    "elsewhere": ("../more/0.png", "{folder}/../more/0.png"),
    "by a detour": ("ant/0.png", "bee/../ant/./0.png"),
}


@pytest.mark.parametrize("kind", TWICE)
def test_a_file_comes_once_however_it_is_written(kind, folder, tmp_path):
    shutil.copytree(folder / "ant", tmp_path / "more")
    first, again = (f"{path.format(folder=folder)}" for path in TWICE[kind])
    assert len(source_of(folder / "a.txt", again)) == 1
    with pytest.raises(ConfigError, match=r"lines 1 and 3 of .* name the same image"):
        source_of(folder / "a.txt", f"{first} 0\nbee/1.png 1\n{again} 2\n")


def test_keys_of_folders_with_strange_names(folder, tmp_path):
    """A name that begins with dots leads nowhere else, and a link to the folder is the folder."""
    shutil.copytree(folder / "ant", folder / "..ant")
    source = source_of(folder / "a.txt", f"{folder}/..ant/0.png\n..ant/1.png\n")
    assert [source.key(i) for i in range(2)] == [b"..ant/0.png", b"..ant/1.png"]
    (tmp_path / "link").symlink_to(folder)
    source = source_of(tmp_path / "link" / "b.txt", f"{tmp_path}/link/ant/0.png\n")
    assert source.key(0) == b"ant/0.png"


def test_a_path_back_through_a_link_is_refused(folder, tmp_path):
    """The system would take the file beside what the link leads to."""
    shutil.copytree(folder, tmp_path / "elsewhere")
    (folder / "link").symlink_to(tmp_path / "elsewhere" / "bee")
    for path in ("link/../ant/0.png", f"{folder}/link/../ant/0.png"):
        with pytest.raises(ConfigError, match=r"line 1 .* has '..' behind a link"):
            source_of(folder / "a.txt", f"{path} 0\n")


@pytest.mark.parametrize("character", ["\u2028", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_line_feeds_end_a_line(character, folder):
    """Not what `str.splitlines` takes for ends of lines, too."""
    name = f"a{character}b"
    (folder / f"{name}.png").write_bytes((folder / "ant" / "0.png").read_bytes())
    for file, text in {"a.txt": f"{name}.png\tant\n", "a.csv": f"{name}.png,ant\n"}.items():
        assert labeled(source_of(folder / file, text)) == [(f"{name}.png", "ant")]
    (folder / "classnames.txt").write_text(f"{name}\nbee\n")
    source = source_of(folder / "a.txt", "ant/0.png 0\nbee/1.png 1\n")
    assert source.class_names == [name, "bee"]


def test_a_blank_name_of_a_class_is_refused(folder):
    """Left out, it would shift the names after it."""
    (folder / "classnames.txt").write_text("ant\n\nbee\n\n")
    with pytest.raises(ConfigError, match=r"line 2 of .*classnames.txt is blank"):
        source_of(folder / "a.txt", "ant/0.png 0\nbee/1.png 1\n")


def test_splits_that_are_not_read_are_told(folder):
    text = "path,label,Split\nant/0.png,ant,train\nbee/1.png,bee,test\n"
    source = source_of(folder / "a.csv", text)
    assert len(source) == 2
    assert re.search(r"column split of .*a.csv is not read", source.remarks[0])
    source = source_of(folder / "a.txt", "ant/0.png\n", split="val")
    assert re.search(r"images.split val chooses nothing: .*a.txt is a list", source.remarks[0])
    assert not source_of(folder / "val.txt", "ant/0.png\n", split="val").remarks


ADVICE = {
    "a semicolon divides": ("a.csv", "path;label\nant/0.png;ant\n"),
    "a tab divides": ("a.csv", "ant/0.png\tant\n"),
    "a comma divides": ("a.tsv", "path,label\nant/0.png,ant\n"),
    "commas in a file called .csv": ("a.txt", "ant/0.png,ant\n"),
    "has no comments": ("a.txt", "# all of them\nant/0.png ant\n"),
    "or if this is a header, remove it": ("a.txt", "path label\nant/0.png ant\n"),
    "a tab before a class of several words": ("a.txt", "ant/0.png red ant\n"),
    "without quotation marks": ("a.txt", '"ant/0.png" ant\n'),
    "write / between folders": ("a.txt", "ant\\0.png ant\n"),
    "accents are coded otherwise": ("a.txt", "ant/e\u0301.png ant\n"),
    "it is a folder": ("a.txt", "bee\n"),
    "not at the current one": ("a.txt", "photos/ant/0.png ant\n"),
}


@pytest.mark.parametrize("advice", ADVICE)
def test_what_may_be_meant_is_said(advice, folder, monkeypatch):
    shutil.copy(folder / "ant" / "0.png", folder / "ant" / "\u00e9.png")
    monkeypatch.chdir(folder.parent)
    file, text = ADVICE[advice]
    with pytest.raises(ConfigError, match=f"in line 1 of .*is no file below .*{advice}"):
        source_of(folder / file, text)


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone.txt"):
        source_of(tmp_path / "gone.txt")
    with pytest.raises(ConfigError, match=r"gone.lst cannot be read: no such file"):
        source_of(tmp_path / "gone.lst", format="list")
    with pytest.raises(ConfigError, match=r"cannot be read: is a directory"):
        source_of(tmp_path, format="list")


def test_what_a_list_says_cannot_change_a_terminal(folder):
    with pytest.raises(ConfigError) as refused:
        source_of(folder / "a.txt", "ant/\x1b[31m.png\n")
    assert "\x1b" not in str(refused.value)
    source = source_of(folder / "a.txt", "ant/0.png\tred\x1b[31m\n")
    assert source.class_names == ["red\\x1b[31m"]
