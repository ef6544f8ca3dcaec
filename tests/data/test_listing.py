"""What lies below a folder: links, waste of systems, our own folders, and what is left out."""

import io
import os
import sys

import pytest
from PIL import Image, features

from fkd.data import formats
from fkd.data.formats import EXTENSIONS, image_extensions
from fkd.data.listing import read_tree
from fkd.data.sources import ImagesConfig, load, open_source, remarks_of
from fkd.errors import ConfigError


def picture(file_format="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 10, 90)).save(buffer, file_format)
    return buffer.getvalue()


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture())


def open_folder(root, **settings):
    return open_source(ImagesConfig(root=str(root), **settings))


def keys(source):
    return [source.key(i).decode() for i in range(len(source))]


def to_nowhere(link):
    link.symlink_to(link.parent / "nowhere")
    return "no such file or directory"


def to_itself(link):
    link.symlink_to(link)
    return "too many levels of symbolic links"


def through_a_file(link):
    link.symlink_to(__file__ + "/x")
    return "not a directory"


def to_a_long_name(link):
    link.symlink_to("x" * 300)
    return "file name too long"


class TestLinks:
    @pytest.mark.parametrize("break_it", [to_nowhere, to_itself, through_a_file, to_a_long_name])
    @pytest.mark.parametrize("name", ["b", "a/2.png", "a/b", "b.parquet"])
    def test_those_that_cannot_be_followed_are_named(self, tmp_path, break_it, name):
        """A class folder that vanishes shifts the ids of all later classes."""
        write(tmp_path, "a/1.png", "c/1.png")
        reason = break_it(tmp_path / name)
        for file_format in ("auto", "folder", "classes", "flat"):
            with pytest.raises(ConfigError) as caught:
                open_folder(tmp_path, format=file_format)
            expected = f"images.root: {tmp_path / name} cannot be followed ({reason}); restore"
            assert str(caught.value).startswith(expected)

    def test_many_are_counted(self, tmp_path):
        write(tmp_path, "a/1.png")
        for i in range(5):
            to_nowhere(tmp_path / f"b{i}")
        with pytest.raises(ConfigError, match=r"b0 cannot be .* \(5 such links\)"):
            open_folder(tmp_path)

    def test_hidden_ones_do_not_matter(self, tmp_path):
        write(tmp_path, "a/1.png")
        to_nowhere(tmp_path / ".cache")
        assert keys(open_folder(tmp_path)) == ["a/1.png"]

    def test_good_ones_are_followed(self, tmp_path):
        write(tmp_path / "there", "a/1.png", "2.png")
        write(tmp_path / "root", "b/1.png")
        (tmp_path / "root" / "a").symlink_to(tmp_path / "there" / "a")
        (tmp_path / "root" / "b" / "2.png").symlink_to(tmp_path / "there" / "2.png")
        assert keys(open_folder(tmp_path / "root")) == ["a/1.png", "b/1.png", "b/2.png"]


WASTE = [
    "a/@eaDir/1.png/SYNOPHOTO_THUMB_XL.png",
    "@eaDir/a/thumb.png",
    "__MACOSX/a/._1.png",
    "__MACOSX/a/1.png",
    "a/._1.png",
    "a/.ipynb_checkpoints/1-checkpoint.png",
    ".ipynb_checkpoints/1.png",
    ".git/1.png",
    ".thumbnails/1.png",
    "#recycle/a/1.png",
    "@Recycle/a/1.png",
    ".@__thumb/1.png",
    "$RECYCLE.BIN/S-1/1.png",
    "System Volume Information/1.png",
    "lost+found/1.png",
    "a/Thumbs.db",
    "a/.DS_Store",
    ".DS_Store",
    "a/desktop.ini",
    "a/Icon\r",
    "__pycache__/1.png",
]


@pytest.mark.parametrize("name", WASTE)
@pytest.mark.parametrize("file_format", ["auto", "classes", "flat"])
def test_waste_of_systems_is_no_image_and_no_class(tmp_path, name, file_format):
    write(tmp_path, "a/1.png", "b/1.png", name)
    source = open_folder(tmp_path, format=file_format)
    assert keys(source) == ["a/1.png", "b/1.png"]
    assert source.class_names in (["a", "b"], None)
    assert remarks_of(source) == []


class TestLeftOut:
    def test_one_line_counts_them_by_extension(self, tmp_path, monkeypatch):
        monkeypatch.setattr(formats, "find_spec", lambda name: None)  # no plugins
        formats._readable.cache_clear()
        write(tmp_path, "a/1.png", "b/1.JPG", "b/2", "b/IMG_0003")
        write(tmp_path, *(f"a/{i}.HEIC" for i in range(3)), "b/1.jxl", "b/1.NEF", "b/1.svg")
        write(tmp_path, "a/notes.txt", "labels.csv", "LICENSE", "README", "a/1.xml")
        (remark,) = remarks_of(open_folder(tmp_path))
        formats._readable.cache_clear()
        assert remark.startswith(
            f"{tmp_path}: 8 files are left out, as no images: 3 .heic, 2 without extension, 1 ."
        )
        assert {"1 .jxl", "1 .nef", "1 .svg"} <= set(
            remark.split(": ")[2].split("; ")[0].split(", ")
        )
        assert "pip install pillow-heif" in remark
        assert "\n" not in remark

    def test_nothing_is_said_of_notes(self, tmp_path):
        write(tmp_path, "1.png", "1.json", "classes.txt", "README.md", "LICENSE")
        assert remarks_of(open_folder(tmp_path)) == []

    def test_only_the_split_in_use_counts(self, tmp_path):
        write(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/1.psd")
        assert remarks_of(open_folder(tmp_path)) == []

    def test_a_folder_of_nothing_else_says_what_is_there(self, tmp_path):
        write(tmp_path, "a/1.psd", "a/2.psd")
        with pytest.raises(ConfigError, match=r"no image files .*2 \.psd.*give another folder"):
            open_folder(tmp_path)


@pytest.mark.parametrize(
    ("file_format", "codec"),
    [(name, formats._CODECS.get(name)) for name in formats.FORMATS],
)
def test_every_extension_of_a_format_is_listed_and_read(tmp_path, file_format, codec):
    if codec is not None and not features.check(codec):
        pytest.skip(f"this Pillow lacks {file_format}")
    for extension in EXTENSIONS[file_format]:
        (tmp_path / f"x{extension.decode()}").write_bytes(picture(file_format))
    source = open_folder(tmp_path)
    assert len(source) == len(EXTENSIONS[file_format])
    for i in range(len(source)):
        color = load(source, i).image[:, 8, 8].tolist()
        assert color == pytest.approx([200, 10, 90], abs=6)


def test_extensions_are_those_that_can_be_read():
    assert set(EXTENSIONS["JPEG"]) < set(image_extensions())
    assert (b".avif" in image_extensions()) == features.check("avif")


class TestPlugins:
    """Of a stand-in for pillow_heif: the real one need not be installed."""

    @pytest.fixture(autouse=True)
    def plugin(self, tmp_path_factory, monkeypatch):
        folder = tmp_path_factory.mktemp("modules")
        (folder / "pillow_heif.py").write_text(
            "from PIL import Image, PngImagePlugin\n"
            "class Fake(PngImagePlugin.PngImageFile):\n"
            "    def _open(self):\n"
            "        self.fp.seek(12)\n"
            "        import io; self.fp = io.BytesIO(self.fp.read()); super()._open()\n"
            "def register_heif_opener():\n"
            "    Image.register_open('HEIF', Fake, lambda start: start[4:12] == b'ftypheic')\n"
        )
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
        formats._readable.cache_clear()
        formats._register.cache_clear()
        yield
        sys.modules.pop("pillow_heif", None)
        formats._readable.cache_clear()
        formats._register.cache_clear()

    def test_what_an_installed_plugin_reads_is_listed_and_read(self, tmp_path):
        (tmp_path / "1.heic").write_bytes(b"\0\0\0\x18ftypheic" + picture())
        (tmp_path / "2.png").write_bytes(picture())
        source = open_folder(tmp_path)
        assert keys(source) == ["1.heic", "2.png"]
        assert load(source, 0).image.shape == (3, 16, 16)
        assert remarks_of(source) == []


OURS = {
    "a finished store": ["config.json", "manifest.json", "shards/0.png", "commits/0.json", "lock"],
    "a copy of a store": ["config.json", "manifest.json", "shards/0.png"],
    "a store that was begun": ["lock", "config.json"],
    "a store before its config": ["lock", ".tmp.config.json.17"],
    "a run": ["lock", "config.yaml", "env.json", "checkpoints/1.png", "model.safetensors"],
    "a run that was begun": ["lock", "env.json", "config.yaml.tmp"],
    "a run before its settings": ["lock", "env.json.tmp"],
    "features": ["00000000.safetensors", "00002048.safetensors.17.tmp", ".DS_Store"],
}
PROBES = {
    "features": ["net-0123456789abcdef/00000000.safetensors"],
    "features and a classifier": [
        "net-0123456789abcdef/00000000.safetensors.17.tmp",
        "classifier-0123456789abcdef.safetensors",
        "classifier-0123456789abcdef.safetensors.17.tmp",
    ],
}


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("where", ["out", "a/out", "a/b/c/out", ".hidden/out", "outs/1", "x/y/z"])
def test_stores_and_runs_are_no_classes(tmp_path, kind, where):
    write(tmp_path, "a/1.png", "b/1.png", *(f"{where}/{name}" for name in OURS[kind]))
    source = open_folder(tmp_path)
    assert source.class_names == ["a", "b"]
    assert keys(source) == ["a/1.png", "b/1.png"]
    assert remarks_of(source) == []


def test_a_folder_of_nothing_but_stores_and_runs_is_no_class(tmp_path):
    files = [f"outs/{i}/{name}" for i, kind in enumerate(OURS) for name in OURS[kind]]
    write(tmp_path, "a/1.png", "b/1.png", *files, "outs/0.html", "outs/notes.txt")
    assert open_folder(tmp_path).class_names == ["a", "b"]
    write(tmp_path, "outs/1.png")
    assert open_folder(tmp_path).class_names == ["a", "b", "outs"]


@pytest.mark.parametrize("kind", OURS)
def test_stores_and_runs_are_no_images(tmp_path, kind):
    write(tmp_path, *(f"out/{name}" for name in OURS[kind]))
    with pytest.raises(ConfigError, match="is a label store, a run folder or of features"):
        open_folder(tmp_path / "out")


@pytest.mark.parametrize("kind", PROBES)
@pytest.mark.parametrize("where", ["out", "a/out", "outs/1"])
@pytest.mark.parametrize("layout", ["folder", "classes", "flat"])
def test_what_a_probe_keeps_is_no_class(tmp_path, kind, where, layout):
    """`--out` may lie in the folder of the images, and the same call must work again."""
    write(tmp_path, "a/1.png", "b/1.png", *(f"{where}/{name}" for name in PROBES[kind]))
    source = open_source(ImagesConfig(root=str(tmp_path), format=layout))
    assert keys(source) == ["a/1.png", "b/1.png"]
    assert source.class_names == (None if layout == "flat" else ["a", "b"])
    assert remarks_of(source) == []


def test_other_weights_beside_images_are_left_out_with_a_word(tmp_path):
    write(tmp_path, "a/1.png", "b/1.png", "a/00000000.safetensors", "b/model.safetensors")
    (remark,) = remarks_of(open_folder(tmp_path))
    assert "2 files are left out" in remark


def test_a_class_with_a_file_called_config_is_a_class(tmp_path):
    write(tmp_path, "a/1.png", "a/config.json", "b/1.png", "b/env.json", "b/shards/2.png")
    assert open_folder(tmp_path).class_names == ["a", "b"]


def test_circles_and_depth_end(tmp_path):
    write(tmp_path, "a/1.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="is a link to a folder that contains it"):
        read_tree(str(tmp_path))
    deep = tmp_path / "deep" / "/".join("x" * 100)
    deep.mkdir(parents=True)
    with pytest.raises(ConfigError, match="lies too deep"):
        read_tree(str(tmp_path / "deep"))


@pytest.mark.skipif(os.getuid() == 0, reason="root may enter every folder")
def test_a_folder_behind_a_locked_one_is_not_said_to_be_absent(tmp_path):
    write(tmp_path, "locked/a/1.png")
    (tmp_path / "locked").chmod(0)
    with pytest.raises(ConfigError, match=r"cannot be opened \(permission denied\)"):
        open_folder(tmp_path / "locked" / "a")
    (tmp_path / "locked").chmod(0o700)


def test_does_not_exist_is_said_only_where_it_does_not(tmp_path):
    for name, reason in {
        "nowhere": "does not exist",
        "x" * 300: r"cannot be opened \(file name too long\)",
        "file/below": r"cannot be opened \(not a directory\)",
        "loop": r"cannot be opened \(too many levels of symbolic links\)",
        "file": "is not a folder",
    }.items():
        (tmp_path / "file").write_text("x")
        if name == "loop":
            to_itself(tmp_path / name)
        with pytest.raises(ConfigError, match=rf"images\.root: .* {reason}; give"):
            open_folder(tmp_path / name)
