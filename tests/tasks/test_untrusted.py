"""Pictures, archives and packed sets made by someone who means harm: nothing runs, nothing grows.

`mark` is a file that whatever is executed would make.
"""

import gc
import io
import logging
import os
import pickle
import struct
import tarfile
import time
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from maml_tf import tasks
from maml_tf.tasks.data import (
    image_decoding,
    image_files,
    imagenet_layouts,
    mini_imagenet_staging,
    packed,
)
from maml_tf.tasks.data import omniglot as omniglot_data

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
WNID = "n01532829"


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """Made by a Ghostscript of ours, too."""
    mark = tmp_path / "mark"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {mark}\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    yield mark
    assert not mark.exists()


@pytest.fixture
def undisturbed():
    """Without the garbage collector, which takes seconds where many tests ran before."""
    gc.disable()
    yield
    gc.enable()


class Harmful:
    """Unpickled, it makes the mark."""

    def __init__(self, mark):
        self._mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self._mark),)


def chunk(name, data):
    crc = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + crc


def png(width, height, *chunks):
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunks) + body


def gif(width, height):
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00;"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame


def bmp(width, height):
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head


class TestPictures:
    @pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.eps"])
    def test_postscript_is_not_run(self, tmp_path, mark, name):
        (tmp_path / name).write_bytes(POSTSCRIPT)
        with pytest.raises(ValueError, match="cannot identify image file"):
            list(image_decoding.read([tmp_path / name]))
        picture = imagenet_layouts.Picture(name, str(tmp_path / name))
        with pytest.raises(ValueError, match="cannot identify image file"):
            mini_imagenet_staging.shrink(picture)

    @pytest.mark.usefixtures("undisturbed")
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    @pytest.mark.parametrize("trusting", [False, True])
    @pytest.mark.parametrize(
        "data",
        [
            png(60_000, 60_000),
            gif(60_000, 60_000),
            bmp(60_000, 60_000),
            png(100_001, 1000),  # what Pillow would let pass
            bmp(1000, 100_001),
            png(9, 9, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**27), 9))),
            png(9, 9, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**27), 9))),
        ],
        ids=["png", "gif", "bmp", "wide", "high", "text", "profile"],
    )
    def test_pictures_do_not_expand_without_limit(self, tmp_path, monkeypatch, data, trusting):
        if trusting:  # someone has lifted Pillow's limit for pictures of his own
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        assert len(data) < 2**18
        loaded = []
        monkeypatch.setattr(Image.Image, "resize", lambda *a, **k: loaded.append(a))
        (tmp_path / "a.png").write_bytes(data)
        started = time.process_time()
        with pytest.raises(ValueError, match=r"Received: .*a\.png"):
            list(image_decoding.read([tmp_path / "a.png"]))
        with pytest.raises(ValueError, match=r"Reading it failed"):
            mini_imagenet_staging.shrink(imagenet_layouts.Picture("a", str(tmp_path / "a.png")))
        assert not loaded
        assert time.process_time() - started < 5

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_large_photographs_of_ones_own_are_read(self, tmp_path):
        Image.new("L", (12_000, 10_000), 200).save(tmp_path / "a.jpg", quality=50)
        (_, images), *_ = image_decoding.read([tmp_path / "a.jpg"], 8)
        assert (abs(images.astype(int) - 200) < 5).all()

    def test_names_are_only_names(self, tmp_path, caplog, mark):
        names = [b"a\nb.png", b"$(touch mark).png", b"\x1b[2Jc.png", b"\xff\xfe.png", b"-rf.png"]
        for label in ("x\ny", "..."):
            folder = os.fsencode(tmp_path / "p" / label)
            os.makedirs(folder)
            for name in names:
                with open(os.path.join(folder, name), "wb") as file:
                    file.write(b"no picture")
                Image.new("RGB", (3, 3)).save(tmp_path / "one.png")
            (tmp_path / "one.png").rename(tmp_path / "p" / label / "good.png")
        with caplog.at_level(logging.WARNING):
            (tmp_path / "p" / "...").rename(tmp_path / "p" / "z")
            loaded = tasks.load_image_folder(tmp_path / "p", 3, on_error="skip")
        assert list(loaded.names) == ["x\ny", "z"]
        assert len(caplog.records) == 2 * len(names)
        for record in caplog.records:
            # One record is one line, and moves no cursor.
            assert record.getMessage().split(", which cannot")[0].isprintable()


class TestLinks:
    @pytest.fixture
    def folder(self, tmp_path):
        for name in ("p/a", "p/b", "outside/c"):
            (tmp_path / name).mkdir(parents=True)
            Image.new("RGB", (3, 3)).save(tmp_path / name / "1.png")
        return tmp_path / "p"

    def lead_out(self, folder, what):
        outside = folder.parent / "outside"
        if what == "file":
            (folder / "a" / "2.png").symlink_to(outside / "c" / "1.png")
        elif what == "relative":
            (folder / "a" / "2.png").symlink_to("../../outside/c/1.png")
        elif what == "class":
            (folder / "c").symlink_to(outside / "c")
        elif what == "split":
            for name in ("train", "test"):
                (folder / name).mkdir()
            (folder / "a").rename(folder / "train" / "a")
            (folder / "test").rmdir()
            (folder / "test").symlink_to(outside)

    @pytest.mark.parametrize("what", ["file", "relative", "class", "split"])
    def test_those_that_lead_out_are_refused_unless_asked_for(self, folder, what):
        self.lead_out(folder, what)
        with pytest.raises(ValueError, match=r"a link to .*outside/c.*`follow_links=True`"):
            image_files.list_folder(folder)
        with pytest.raises(ValueError, match="follow_links"):
            tasks.load_image_folder(folder, 3)
        with pytest.raises(ValueError, match="follow_links"):
            tasks.image_folder(folder, ways=2, queries=1)
        assert len(tasks.load_image_folder(folder, 3, follow_links=True).images) >= 2

    def test_those_inside_and_the_folder_itself_may_be_links(self, folder):
        (folder / "a" / "2.png").symlink_to(folder / "b" / "1.png")
        (folder / "a" / "loop.png").symlink_to("loop.png")
        (folder.parent / "q").symlink_to(folder)
        assert len(image_files.list_folder(folder.parent / "q").paths) == 3

    def test_pipes_are_not_opened(self, folder):
        os.mkfifo(folder / "a" / "2.png")
        assert len(image_files.list_folder(folder).paths) == 2
        (folder / WNID).mkdir()
        os.mkfifo(folder / WNID / "1.jpg")
        assert imagenet_layouts.list_pictures(folder, [WNID], {}) == {WNID: []}


class TestArchives:
    def tar(self, path, *members):
        """A tar with members of any kind: (name, type, link, content)."""
        with tarfile.open(path, "w") as tar:
            for name, kind, link, content in members:
                member = tarfile.TarInfo(name)
                member.type, member.linkname, member.size = kind, link, len(content)
                tar.addfile(member, io.BytesIO(content))
        return path

    def test_nothing_is_written_wherever_members_claim_to_be(self, tmp_path):
        source = tmp_path / "source"
        source.mkdir()
        names = ["../../a.jpg", "/etc/b.jpg", "x/../../c.jpg", "a\nd.jpg"]
        inner = self.tar(
            tmp_path / "inner",
            *[(name, tarfile.REGTYPE, "", b"jpeg") for name in names],
            ("e.jpg", tarfile.SYMTYPE, "/etc/passwd", b""),
            ("f.jpg", tarfile.LNKTYPE, "../../a.jpg", b""),
            ("g.jpg", tarfile.CHRTYPE, "", b""),
            ("h.jpg", tarfile.FIFOTYPE, "", b""),
        )
        path = self.tar(
            source / "ILSVRC2012_img_train.tar",
            (f"../../{WNID}.tar", tarfile.REGTYPE, "", inner.read_bytes()),
        )
        inner.unlink()
        for where in (source, path):
            found = imagenet_layouts.list_pictures(where, [WNID], {})
            assert [p.name for p in found[WNID]] == ["a.jpg", "b.jpg", "c.jpg", "a\nd.jpg"]
            assert {p.read() for p in found[WNID]} == {b"jpeg"}
        assert [p.name for p in tmp_path.rglob("*")] == ["source", path.name]

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
    def test_links_are_no_tars(self, tmp_path, kind):
        other = (f"{WNID}.jpg", tarfile.REGTYPE, "", b"jpeg")
        path = self.tar(tmp_path / "t.tar", other, (f"{WNID}.tar", kind, other[0], b""))
        with pytest.raises(ValueError, match="a tar without such tars"):
            imagenet_layouts.list_pictures(path, [WNID], {})

    def test_what_claims_to_be_huge_is_not_read(self, tmp_path):
        with (tmp_path / "a.jpg").open("wb") as file:
            file.truncate(2**40)  # takes no room on the disk
        for picture in (
            imagenet_layouts.Picture("a.jpg", str(tmp_path / "a.jpg")),
            imagenet_layouts.Picture("a.jpg", str(tmp_path / "a.jpg"), 0, 2**39),
        ):
            with pytest.raises(ValueError, match="more than the 268,435,456 that are read"):
                picture.read()


def header(text, version=(1, 0)):
    text = text.encode() + b"\n"
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text


def described(descr, shape):
    return f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}"


class TestPackedSets:
    HEADERS = [
        header(described("<i4", "(10000000000000,)")),
        header(described("<U1000000000", "(1,)")),
        header(described("|u1", "(99999999999, 99999999999, 999999, 3)")),
        header(described("<i4", "(-1,)")),
        header(described("|O", "(1,)")) + pickle.dumps([1]),
        header(described([("a", "|O")], "(1,)")),
        header(described("<i4", "(1,)"), (2, 0)),
        header("__import__('os').mkdir('mark')"),
        header(described("<i4", "__import__('os').mkdir('mark')")),
        header(described("<i4", "(1,)") + " " * 60_000),
        b"",
        b"PK\x03\x04",
    ]

    @pytest.mark.parametrize("data", [*HEADERS, "pickle"])
    @pytest.mark.parametrize("field", packed.Images._fields)
    def test_hostile_headers(self, tmp_path, monkeypatch, mark, field, data):
        monkeypatch.chdir(tmp_path)
        with packed.files.whole_folder(tmp_path / "set") as folder:
            packer = packed.Packer(folder)
            packer.add(np.zeros([2, 3, 3, 1], np.uint8), [0, 1])
            packer.finish(["a", "b"])
        packed.load(tmp_path / "set")
        data = pickle.dumps(Harmful(mark)) if data == "pickle" else data
        (tmp_path / "set" / f"{field}.npy").write_bytes(data)
        with pytest.raises(ValueError):  # noqa: PT011
            packed.load(tmp_path / "set")

    @pytest.mark.parametrize("labels", [[0, 2], [-1, 0]])
    def test_labels_without_a_name(self, tmp_path, labels):
        packer = packed.Packer(tmp_path)
        packer.add(np.zeros([2, 3, 3, 1], np.uint8), labels)
        packer.finish(["a", "b"])
        with pytest.raises(ValueError, match="Expected labels of 0 to 1"):
            packed.load(tmp_path)

    def test_a_damaged_set_is_kept_until_another_is_whole(self, tmp_path, monkeypatch):
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
        (tmp_path / "datasets" / "set").mkdir(parents=True)
        (tmp_path / "datasets" / "set" / "images.npy").write_bytes(b"damaged, and yet of use")

        def fails(packer):
            raise OSError(28, "No space left on device")

        with pytest.raises(OSError, match="No space left"):
            packed.open_or_make("set", None, fails)
        assert [p.name for p in (tmp_path / "datasets").rglob("*")] == ["set", "images.npy"]

    @pytest.mark.parametrize("data", [*HEADERS, "pickle"])
    @pytest.mark.parametrize("field", omniglot_data.Omniglot._fields)
    def test_hostile_copies_of_omniglot(self, tmp_path, monkeypatch, caplog, mark, field, data):
        monkeypatch.chdir(tmp_path)
        shape = omniglot_data._SHAPE
        whole = {
            "images": header(described("|u1", str(shape))),
            "characters": header(described("<U2", f"({shape[0]},)")) + bytes(8 * shape[0]),
            "alphabets": header(described("<U2", f"({shape[0]},)")) + bytes(8 * shape[0]),
        }
        data = pickle.dumps(Harmful(mark)) if data == "pickle" else data
        with zipfile.ZipFile(tmp_path / "o.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in (whole | {field: data}).items():
                archive.writestr(f"{name}.npy", content)

        def forbidden(*args, **kwargs):
            raise AssertionError("read before its size was known")

        monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", forbidden)
        other = omniglot_data.Omniglot(np.zeros([1, 1, 1, 1, 1]), np.zeros(1), np.zeros(1))
        assert omniglot_data.read_packed([tmp_path / "o.npz"], lambda: other) is other
        assert "damaged packed copy" in caplog.text
