"""Images as cameras, scanners, microscopes and web sites store them: each kind is decoded to the right colours, or is
refused by name.

A new kind is one line in KINDS (the content of the file and the expected colours) or in REFUSED.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from image_datasets import constant
from image_datasets.bad_images import BadImage
from image_datasets.decode import as_array, read_pixels
from image_datasets.image_files import read_image
from image_datasets.orientation import file_orientation
from image_datasets.reading import MAX_PIXELS, Reading

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255,) * 3, (0,) * 3
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1


def grey(*values: int) -> list[tuple[int, int, int]]:
    return [(value,) * 3 for value in values]


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def row(mode: str, *pixels) -> Image.Image:
    """An image one pixel high."""
    image = Image.new(mode, (len(pixels), 1))
    for x, pixel in enumerate(pixels):
        image.putpixel((x, 0), pixel)
    return image


def png(bits: int, colour: int, samples: list[int], **chunks: bytes) -> bytes:
    """A PNG file one pixel high, written from its samples without a library. Args: colour: PNG's colour type."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    width = len(samples) // {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    text = "".join(f"{sample:0{bits}b}" for sample in samples)
    line = int(text.ljust(-len(text) % 8 + len(text), "0"), 2).to_bytes(-(-len(text) // 8), "big")
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0))
    more = b"".join(chunk(name.encode(), data) for name, data in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", zlib.compress(b"\0" + line)) + chunk(b"IEND", b"")


def tiff(bits: int, data: bytes, width: int, kind: int = UNSIGNED, photometric: int = BLACK_IS_ZERO, samples: int = 1,
         order: str = "<", more: dict[int, float] | None = None) -> bytes:  # fmt: skip
    """A TIFF file one pixel high, written from its bytes without a library. Args: more: floats by tag."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: samples, 278: 1, 279: len(data),
            339: kind}  # fmt: skip
    body, extra = data + b"\0" * (len(data) % 2), b""
    table = 8 + len(body)
    behind = table + 2 + 12 * (len(tags) + len(more or {})) + 4
    entries = []
    for tag, value in tags.items():
        if tag in (258, 339) and samples > 2:
            entries.append((tag, 3, samples, struct.pack(f"{order}I", behind + len(extra))))
            extra += struct.pack(f"{order}{samples}H", *[value] * samples)
        else:
            entries.append((tag, 3, 1, struct.pack(f"{order}HH", value, 0)))
    for tag, value in (more or {}).items():
        entries.append((tag, 11, 1, struct.pack(f"{order}f", value)))
    packed = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3] for entry in sorted(entries))
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", table)
    return start + body + struct.pack(f"{order}H", len(entries)) + packed + bytes(4) + extra


def cmyk_jpeg(inks: tuple[int, int, int, int], adobe: bool = True) -> bytes:
    """A JPEG of one colour. Pillow inverts the inks and writes Adobe's marker, as Photoshop does."""
    inks = inks if adobe else tuple(255 - ink for ink in inks)
    content = encoded(Image.new("CMYK", (8, 8), inks), "JPEG", quality=100, subsampling=0)
    if not adobe:
        at = content.index(b"\xff\xee")
        content = content[:at] + content[at + 2 + int.from_bytes(content[at + 2 : at + 4], "big") :]
    return content


def ycck_jpeg(luma: int, blue: int, red: int, black: int) -> bytes:
    """A JPEG of one colour. The inks are stored as YCbCr and black, inverted as Adobe does."""
    content = cmyk_jpeg(tuple(255 - value for value in (luma, blue, red, black)))
    at = content.index(b"Adobe")
    return content[: at + 11] + b"\x02" + content[at + 12 :]


def lab_tiff(*colours: tuple[int, int, int]) -> bytes:
    """A TIFF file in CIELAB. Args: colours: L from 0 to 255, a and b from -128."""
    return tiff(8, b"".join(struct.pack("<Bbb", *colour) for colour in colours), len(colours), photometric=8, samples=3)


FRAMES = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
SEVERAL = {"save_all": True, "append_images": FRAMES[1:]}
HALF = 128  # opacity: 128 / 255 of the colour, the rest white
STEPS = (0, 1, 128, 254, 255)  # times 257 in 16 bits

# Description of the file: its bytes, and the expected colours of its first pixels.
KINDS = {
    "PNG, 1 bit": (png(1, 0, [0, 1, 1, 0]), grey(0, 255, 255, 0)),
    "PNG, 2 bits": (png(2, 0, [0, 1, 2, 3]), grey(0, 85, 170, 255)),
    "PNG, 4 bits": (png(4, 0, [0, 1, 14, 15]), grey(0, 17, 238, 255)),
    "PNG, 16-bit grey": (png(16, 0, [257 * step for step in STEPS]), grey(*STEPS)),
    "PNG, 16-bit grey between two levels": (png(16, 0, [500, 30_000]), grey(2, 117)),
    "PNG, 16-bit grey, one of them transparent": (
        png(16, 0, [0, 257, 258, 40_000], tRNS=struct.pack(">H", 257)), grey(0, 255, 1, 156)),
    "PNG, 16-bit grey with opacity": (png(16, 4, [0, 65535, 0, 257 * HALF, 0, 0]), grey(0, 127, 255)),
    "PNG, 16-bit colour": (png(16, 2, [0, 257 * 100, 65535, 257 * 7, 0, 257]), [(0, 100, 255), (7, 0, 1)]),
    "PNG, 16-bit colour with opacity": (png(16, 6, [65535, 0, 0, 65535, 0, 0, 0, 0]), [RED, WHITE]),
    "PNG, grey, one of them transparent": (png(8, 0, [7, 8], tRNS=b"\0\x07"), grey(255, 8)),
    "PNG, 1 bit, black transparent": (png(1, 0, [0, 1], tRNS=b"\0\0"), grey(255, 255)),
    "PNG, a colour transparent": (png(8, 2, [1, 2, 3, 1, 2, 4], tRNS=b"\0\1\0\2\0\3"), [WHITE, (1, 2, 4)]),
    "PNG, palette": (png(2, 3, [1, 0, 2], PLTE=bytes([*RED, *GREEN, *BLUE])), [GREEN, RED, BLUE]),
    "PNG, palette with opacities": (
        png(2, 3, [0, 1, 2], PLTE=bytes([*RED, *BLACK, *BLUE]), tRNS=bytes([0, HALF])), [WHITE, (127,) * 3, BLUE]),
    "PNG, colour with opacity": (
        encoded(row("RGBA", (*RED, 255), (*RED, 0), (*BLACK, HALF)), "PNG"), [RED, WHITE, (127,) * 3]),
    "PNG, grey with opacity": (encoded(row("LA", (10, 255), (10, 0), (0, HALF)), "PNG"), grey(10, 255, 127)),
    "WebP with opacity": (encoded(row("RGBA", (*BLUE, 255), (*BLUE, 0)), "WEBP", lossless=True), [BLUE, WHITE]),
    "GIF, transparent": (encoded(row("P", 0, 1), "GIF", transparency=1), [BLACK, WHITE]),
    "TIFF, palette with opacity": (encoded(row("RGBA", (*RED, 255), (*RED, 0)), "TIFF"), [RED, WHITE]),
    "TIFF, 12 bits": (tiff(12, bytes([0x00, 0x0F, 0xFF]), 2), grey(0, 255)),
    "TIFF, 16 bits": (tiff(16, struct.pack("<5H", *(257 * step for step in STEPS)), 5), grey(*STEPS)),
    "TIFF, 16 bits, big-endian": (
        tiff(16, struct.pack(">5H", *(257 * step for step in STEPS)), 5, order=">"), grey(*STEPS)),
    "TIFF, 16 bits, white is zero": (
        tiff(16, struct.pack("<3H", 0, 257 * 55, 65535), 3, photometric=WHITE_IS_ZERO), grey(255, 200, 0)),
    "TIFF, 8 bits, white is zero": (tiff(8, bytes([0, 55, 255]), 3, photometric=WHITE_IS_ZERO), grey(255, 200, 0)),
    "TIFF, 16-bit colour": (
        tiff(16, struct.pack("<3H", 0, 25700, 65535), 1, photometric=2, samples=3), [(0, 100, 255)]),
    "TIFF, floats with their range": (
        tiff(32, struct.pack("<4f", -1, 0, 1, 9), 4, FLOAT, more={340: -1.0, 341: 1.0}), grey(0, 128, 255, 255)),
    "TIFF, CMYK": (encoded(row("CMYK", (255, 0, 0, 0), (0, 0, 0, 255)), "TIFF"), [(0, 255, 255), BLACK]),
    "TIFF, YCbCr": (
        tiff(8, bytes([255, 128, 128, 76, 128, 128, 76, 85, 255]), 3, photometric=6, samples=3),
        [*grey(255, 76), (254, 0, 0)]),
    "TIFF, CIELAB": (lab_tiff((200, 0, 0), (137, 0, 0)), grey(194, 128)),
    "PGM, 16 bits": (b"P5 3 1 65535\n" + struct.pack(">3H", 0, 25700, 65535), grey(0, 100, 255)),
    "PGM, 10 bits": (b"P5 3 1 1023\n" + struct.pack(">3H", 0, 512, 1023), grey(0, 128, 255)),
    "PPM, 16 bits": (b"P6 1 1 65535\n" + struct.pack(">3H", 0, 25700, 65535), [(0, 100, 255)]),
    "JPEG, CMYK of Adobe": (cmyk_jpeg((0, 255, 255, 0)), [RED]),
    "JPEG, CMYK of Adobe, grey ink": (cmyk_jpeg((0, 0, 0, 100)), grey(155)),
    "JPEG, CMYK of others": (cmyk_jpeg((0, 255, 255, 0), adobe=False), [RED]),
    "JPEG, YCCK": (ycck_jpeg(200, 128, 128, 255), grey(55)),
    "GIF, several frames": (encoded(FRAMES[0], "GIF", **SEVERAL), [RED]),
    "WebP, several frames": (encoded(FRAMES[0], "WEBP", lossless=True, **SEVERAL), [RED]),
    "PNG, several frames": (encoded(FRAMES[0], "PNG", **SEVERAL), [RED]),
    "TIFF, several pages": (encoded(FRAMES[0], "TIFF", **SEVERAL), [RED]),
    "MPO, two views": (encoded(FRAMES[0], "MPO", **SEVERAL), [(254, 0, 0)]),
}  # fmt: skip
FLOATS = encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF")
REFUSED = {
    "floats": (FLOATS, "floats, and the file does not say"),
    "floats from 0 to 0": (tiff(32, bytes(8), 2, FLOAT, more={340: 0.0, 341: 0.0}), "floats, and the file does not"),
    "floats that are none": (
        tiff(32, struct.pack("<f", float("nan")), 1, FLOAT, more={340: 0.0, 341: 1.0}), "floats are not finite"),
    "PFM": (b"Pf\n1 1\n-1.0\n" + struct.pack("<f", 0.5), "floats, and the file does not say"),
    "signed 16 bits": (tiff(16, struct.pack("<2h", -5, 5), 2, SIGNED), "signed 16-bit integers"),
    "32-bit integers": (tiff(32, struct.pack("<2I", 1, 2), 2), "32-bit integers"),
}  # fmt: skip


def read(path: str, chans: int, reading: Reading) -> np.ndarray:
    """Reads (H, W, C) and asserts that both readers agree."""
    pixels = as_array(read_pixels(path, chans, reading))
    again = np.asarray(read_image(path, chans, reading)).reshape(pixels.shape)
    assert np.array_equal(pixels, again)
    return pixels


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_becomes_the_colours_that_it_stands_for(decoder, store, kind):
    content, colours = KINDS[kind]
    path = store(content)
    wanted = np.array(colours)
    assert read(path, 3, Reading())[0, : len(colours)].tolist() == wanted.tolist()
    luma = (wanted @ (0.299, 0.587, 0.114)).round()
    assert np.abs(read(path, 1, Reading())[0, : len(colours), 0] - luma).max() <= 1
    if (wanted == wanted[:, :1]).all():
        assert read(path, 1, Reading())[0, : len(colours), 0].tolist() == wanted[:, 0].tolist()


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("chans", [1, 3])
def test_what_does_not_tell_its_colours_is_refused_by_name(store, kind, chans):
    content, reason = REFUSED[kind]
    path = store(content)
    for reader in (read_pixels, read_image):
        with pytest.raises(BadImage, match=reason) as refused:
            reader(path, chans, Reading())
        assert str(refused.value).startswith(f"{path}: cannot be read as an image (")
        assert "\n" not in str(refused.value)


def srgb(lightness: int, a: int, b: int) -> np.ndarray:
    """sRGB of 8-bit CIELAB with white point D50, by CIE 15, Bradford adaptation and IEC 61966-2-1."""
    y = (lightness * 100 / 255 + 16) / 116
    f = np.array([y + a / 500, y, y - b / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.9642, 1, 0.8249)
    linear = np.array([[3.1339, -1.6169, -0.4906], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]]) @ xyz
    linear = linear.clip(0, 1)
    return 255 * np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


def test_colours_of_cielab_are_those_of_srgb(store):
    colours = [(255, 0, 0), (0, 0, 0), (140, 38, 43), (180, -40, 30), (100, 20, -50)]
    pixels = read(store(lab_tiff(*colours)), 3, Reading())[0]
    assert np.abs(pixels - np.array([srgb(*colour) for colour in colours])).max() < 2


def test_without_littlecms_cielab_is_refused_by_name(store, monkeypatch):
    def missing(*args):
        raise ImportError

    monkeypatch.setattr(ImageCms, "createProfile", missing)
    with pytest.raises(BadImage, match="CIELAB, which this build of Pillow cannot convert"):
        read_image(store(lab_tiff((0, 0, 0))), 3)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_under_the_oldest_rules_pixels_are_what_pillows_convert_makes_of_them(store):
    for content, _ in KINDS.values():
        path = store(content)
        for chans, mode in ((1, "L"), (3, "RGB")):
            with Image.open(path) as image:
                try:
                    expected = np.asarray(image.convert(mode))
                except ValueError:  # CIELAB
                    continue
            assert np.array_equal(read(path, chans, Reading(rules=1)), expected.reshape(*expected.shape[:2], chans))


# --------------------------------------------------------------------------------------------------------- orientation

# Upright positions of the stored image's top left, top right, bottom left and bottom right.
UPRIGHT = {1: "abcd", 2: "badc", 3: "dcba", 4: "cdab", 5: "acbd", 6: "cadb", 7: "dbca", 8: "bdac"}
COLOURS = dict(zip("abcd", (RED, GREEN, BLUE, WHITE), strict=True))


def quarters(names: str, width: int, height: int) -> np.ndarray:
    a, b, c, d = (np.full((height // 2, width // 2, 3), COLOURS[name], np.uint8) for name in names)
    return np.concatenate([np.concatenate([a, b], 1), np.concatenate([c, d], 1)])


def photograph(orientation: int, form: str, **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    return encoded(Image.fromarray(quarters("abcd", 48, 32)), form, exif=exif, **options)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_photograph_is_turned_upright(decoder, store, orientation, form):
    path = store(photograph(orientation, form))
    size = (48, 32) if orientation < 5 else (32, 48)
    upright = quarters(UPRIGHT[orientation], *size).astype(int)
    assert np.abs(read(path, 3, Reading()) - upright).max() <= 2
    assert file_orientation(path) == (orientation if form != "TIFF" else 1)
    if form != "TIFF":  # Pillow itself applies a TIFF's orientation
        for reading in (Reading(exif_orientation=False), Reading(rules=1)):
            assert np.abs(read(path, 3, reading) - quarters("abcd", 48, 32).astype(int)).max() <= 2


def with_metadata(*segments: bytes) -> bytes:
    content = encoded(Image.fromarray(quarters("abcd", 48, 32)), "JPEG", quality=100, subsampling=0)
    packed = b"".join(b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data for data in segments)
    return content[:2] + packed + content[2:]


def exif(order: str = ">", tag: int = 0x0112, kind: int = 3, count: int = 1, value: int = 6) -> bytes:
    entry = struct.pack(f"{order}HHIHH", tag, kind, count, value, 0)
    start = b"MM\0*" if order == ">" else b"II*\0"
    return b"Exif\0\0" + start + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)


XMP = b"http://ns.adobe.com/xap/1.0/\0"
ODD_METADATA = {
    "big-endian": ([exif(">")], True),
    "little-endian": ([exif("<")], True),
    "EXIF and XMP": ([exif(), XMP + b'<x tiff:Orientation="1"/>'], True),
    "XMP alone": ([XMP + b'<x tiff:Orientation="6"/>'], True),
    "XMP without it": ([XMP + b"<x/>"], False),
    "another tag": ([exif(tag=0x0100)], False),
    "no orientation that there is": ([exif(value=9)], False),
    "cut": ([exif()[:15]], False),
    "a table beyond its end": ([b"Exif\0\0MM\0*" + struct.pack(">I", 60_000)], False),
    "no TIFF": ([b"Exif\0\0hello, world"], False),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", ODD_METADATA)
def test_odd_metadata_neither_stop_an_image_nor_set_the_two_readers_apart(decoder, store, kind):
    segments, is_turned = ODD_METADATA[kind]
    path = store(with_metadata(*segments))
    assert file_orientation(path) == (6 if is_turned else 1)
    assert read(path, 3, Reading()).shape == ((48, 32, 3) if is_turned else (32, 48, 3))


def test_metadata_behind_the_frame_header_count_too(decoder, store):
    content = with_metadata()
    at = content.index(b"\xff\xda")
    segment = exif()
    content = content[:at] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + content[at:]
    assert read(store(content), 3, Reading()).shape == (48, 32, 3)


# ------------------------------------------------------------------------------------------------------------- commands


@pytest.fixture
def album(tmp_path) -> Path:
    """Two classes of photographs in train/ and test/. All lie on their side, except one per class."""
    root = tmp_path / "album"
    for part, count in (("train", 5), ("test", 2)):
        for name, orientation in (("left", 6), ("right", 8)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.jpg").write_bytes(photograph(orientation if i else 1, "JPEG"))
    return root


LINE = "--dataset folder --model resnet20 --img-size 32 --batch-size 8 --epochs 1 --num-workers 0"


def test_a_run_keeps_how_it_turns_photographs(learns, workdir, album):
    """The classes are one image turned left and right: as stored, nothing distinguishes them."""

    def logits(name: str) -> np.ndarray:
        return np.load(workdir / f"runs/{name}/predictions.npz")["logits"]

    out = learns(f"{LINE} --datapath {album} --check-images --run-name upright").out
    assert "upright       10 of 14 images are turned, as their EXIF data say" in out
    out = learns(f"{LINE} --datapath {album} --check-images --no-exif-orientation --run-name stored").out
    assert "upright" not in out.partition("run  ")[0]
    assert np.abs(np.diff(logits("stored"), axis=0)).max() < 1e-5 < np.abs(np.diff(logits("upright"), axis=0)).max()
    for name in ("upright", "stored"):
        learns(f"--evaluate runs/{name}/best.pth --num-workers 0 --run-name {name}-again")
        assert logits(f"{name}-again") == pytest.approx(logits(name), abs=1e-5)
        settings = json.loads((workdir / f"runs/{name}/settings.json").read_text())["settings"]
        assert settings["exif_orientation"] is (name == "upright") and settings["max_pixels"] == MAX_PIXELS


def test_flags_of_reading_without_effect_are_refused(cli, album):
    for words, needle in (
        (f"--dataset folder --datapath {album} --data-rules 1 --exif-orientation", "--data-rules 1 turns no images"),
        ("--dataset digits --exif-orientation", "digits is no set of image files"),
        ("--dataset digits --max-pixels 9", "digits is no set of image files"),
        ("--evaluate x.pth --exif-orientation", "--exif-orientation has no effect with --evaluate"),
    ):
        result = cli(words)
        assert result.status == 2 and needle in result.err and len(result.err.splitlines()) == 1


# -------------------------------------------------------------------------------------------------- enormous images


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_max_pixels_decides_what_is_too_large_and_the_message_names_it(decoder, store, form):
    path = store(encoded(Image.new("RGB", (40, 60), RED), form))
    assert read(path, 3, Reading(max_pixels=2400)).shape == (60, 40, 3)
    for reader in (read_image, read_pixels):
        with pytest.raises(BadImage, match="40 x 60 pixels are more than --max-pixels 2,399 allows"):
            reader(path, 3, Reading(max_pixels=2399))


def test_a_huge_image_is_refused_by_its_header_whatever_the_rules(store):
    path = store(png(1, 0, [0]).replace(struct.pack(">II", 1, 1), struct.pack(">II", 20_000, 10_000)))
    content = bytearray(Path(path).read_bytes())
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    Path(path).write_bytes(content)
    for rules in (1, 2):
        with pytest.raises(BadImage, match="200,000,000 pixels are more than --max-pixels 89,478,485 allows"):
            read_image(path, 1, Reading(rules))


def test_pillows_own_bound_follows_the_flag(store, monkeypatch):
    path = store(encoded(Image.new("RGB", (40, 60), RED), "PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BadImage, match="2,400 pixels are more than --max-pixels 900 allows"):
        read_image(path, 3, Reading(max_pixels=900))
    assert read(path, 3, Reading(max_pixels=2400)).shape == (60, 40, 3)
    assert Image.MAX_IMAGE_PIXELS == 2400
    with pytest.raises(BadImage, match="40 x 60 pixels are more than --max-pixels 900 allows"):
        read_image(path, 3, Reading(max_pixels=900))  # a run's limit holds even after a run with a higher one


def test_check_images_lists_every_image_that_is_refused_and_counts_them(cli, learns, workdir, image_folder):
    """Among them the first image of a class, which is probed when the data set is located."""
    root = image_folder(side=80, parts={"train": 5, "test": 2})
    large = [root / name for name in ("train/class0/0.png", "train/class1/3.png", "test/class2/1.png")]
    for file in large:
        Image.new("RGB", (100, 90)).save(file)
    (root / "train/class2/0.png").write_bytes(FLOATS)
    line = f"{LINE} --datapath {root} --max-pixels 8999"
    result = cli(f"{line} --check-images")
    assert result.status == 2 and len(result.err.splitlines()) == 1
    assert "4 of 21 images are broken" in result.err and "--on-bad-image skip" in result.err
    assert (
        sum("100 x 90 pixels are more than --max-pixels 8,999 allows" in text for text in result.out.splitlines()) == 3
    )
    assert all(f"{file}: cannot be read" in result.out for file in (*large, root / "train/class2/0.png"))
    assert not (workdir / "runs").exists()

    (root / "train/class2/0.png").unlink()
    assert "100 x 90 pixels are more than --max-pixels 8,999 allows" in cli(line).err
    out = learns(f"{LINE} --datapath {root} --max-pixels 9000 --check-images --run-name a --num-workers 1").out
    assert "all 20 files can be read" in out
    for words in ("", "--max-pixels 9001"):
        learns(f"--evaluate runs/a/best.pth --num-workers 1 --overwrite --run-name b {words}")
        kept = json.loads((workdir / "runs/b/summary.json").read_text())["settings"]["max_pixels"]
        assert kept == (9001 if words else 9000)
    assert "--max-pixels 8,000 allows" in cli("--evaluate runs/a/best.pth --max-pixels 8000 --run-name c").err
    assert "--max-pixels 8,000 allows" in cli(f"--predict runs/a/best.pth {large[0]} --max-pixels 8000").err
    assert "class" in learns(f"--predict runs/a/best.pth {large[0]}").out


# ------------------------------------------------------------------------------------------------------ constant images


def warnings_of(out: str) -> list[str]:
    return [line.removeprefix("warning     ") for line in out.splitlines() if line.startswith("warning")]


@pytest.mark.parametrize("side", [32, 80])  # in memory, and streamed
def test_inspecting_the_data_warns_of_images_that_show_nothing(learns, workdir, image_folder, side):
    root = image_folder(side=side, parts={"train": 4, "test": 2})
    line = f"--inspect-data x.png --dataset folder --datapath {root} --val-fraction 0"
    assert warnings_of(learns(line).out) == []

    noise = np.random.default_rng(0).integers(0, 2, (side, side, 3), dtype=np.uint8)
    white, black, blue = (np.full((side, side, 3), colour, np.uint8) for colour in ((254, 254, 254), BLACK, BLUE))
    for i, pixels in enumerate((white + noise, white, black, black + noise)):  # the whole class
        Image.fromarray(pixels).save(root / f"train/class1/{i}.png")
    Image.fromarray(blue).save(root / "train/class2/3.png")
    Image.fromarray(black).save(root / "test/class0/1.png")
    dim = black + noise
    dim[: side // 2] += 5  # standard deviation 2.5
    Image.fromarray(dim).save(root / "test/class2/0.png")
    assert warnings_of(learns(line).out) == [
        "train: 5 of 12 images are nearly constant (2 white, 2 black, 1 of one colour)",
        f"  class1: all 4: {', '.join(str(root / f'train/class1/{i}.png') for i in range(3))}, ... (1 more)",
        f"  class2: 1 of 4: {root / 'train/class2/3.png'}",
        "test: 1 of 6 images are nearly constant (1 black)",
        f"  class0: 1 of 2: {root / 'test/class0/1.png'}",
    ]


def test_a_set_that_older_rules_read_as_white_is_warned_of_and_seen_by_the_newer_ones(learns, workdir, tmp_path):
    """16-bit scans, which Pillow's convert turns white."""
    root, rng = tmp_path / "scans", np.random.default_rng(0)
    for part in ("train", "test"):
        for label in range(2):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(3):
                Image.fromarray(rng.integers(1000, 60_000, (16, 16), dtype=np.uint16)).save(folder / f"{i}.png")
    line = f"--inspect-data x.png --dataset folder --datapath {root} --val-fraction 0"
    found = warnings_of(learns(f"{line} --data-rules 1").out)
    assert found[0] == "train: all 6 images are nearly constant (6 white)"
    assert [text[:18] for text in found[1:3]] == ["  class0: all 3: /", "  class1: all 3: /"]
    assert found[3] == "test: all 6 images are nearly constant (6 white)"
    out = learns(line).out
    assert warnings_of(out) == []
    mean = float(out.partition("pixels      mean ")[2][:6])
    assert mean == pytest.approx(30_500 / 65_535, abs=0.02)


def test_of_many_files_an_even_sample_is_looked_at(learns, workdir, image_folder, monkeypatch):
    monkeypatch.setattr(constant, "MAX_FILES", 4)
    root = image_folder(side=80, parts={"train": 4, "test": 1})
    for path in root.rglob("train/*/*.png"):
        Image.new("RGB", (80, 80)).save(path)
    found = warnings_of(learns(f"--inspect-data x.png --dataset folder --datapath {root} --val-fraction 0").out)
    assert found[0] == "train: all 4 images that were looked at are nearly constant (4 black)"
    assert found[1] == f"  class0: all 2: {root / 'train/class0/0.png'}, {root / 'train/class0/3.png'}"
    assert found[2] == f"  class1: all 1: {root / 'train/class1/2.png'}"
