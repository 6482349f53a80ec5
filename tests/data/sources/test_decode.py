"""Decoding: as Pillow does, every odd image, files cut short or broken, and 2,000 mutated ones."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from data.sources.decode import ImageError, decode, image_size, jpeg_size

SHAPE = (263, 376, 3)


def reason(content: bytes) -> str:
    try:
        decode(content)
    except ImageError as error:
        return error.reason
    return "ok"


@pytest.fixture(scope="module")
def photograph(shared) -> Image.Image:
    return Image.open(shared / "odd_images" / "bitmap.bmp").convert("RGB")


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_decodes_to_rgb_as_pillow_does(shared):
    for path in sorted((shared / "imagenet_sample").rglob("*.JPEG"))[:20]:
        ours = decode(path.read_bytes())
        theirs = np.asarray(Image.open(path).convert("RGB"))
        assert ours.shape == theirs.shape and np.abs(ours.astype(int) - theirs).mean() < 1.5, path


def test_odd_images(shared):
    odd = {path.name: path.read_bytes() for path in (shared / "odd_images").iterdir()}
    reasons = {name: reason(content) for name, content in odd.items()}
    assert {name: why for name, why in reasons.items() if why != "ok"} == {
        "empty.jpg": "empty",
        "text.jpg": "unreadable",
        "header_only.jpg": "unreadable",
        "truncated.jpg": "truncated",
        "bomb_30000x30000.png": "too_large",
    }
    for name in ("grey.jpg", "grey16.png", "rgba.png", "palette.png", "cmyk.jpg", "png_named.jpg"):
        assert decode(odd[name]).shape == SHAPE, name
    assert decode(odd["webp_image.webp"]).shape == SHAPE
    assert decode(odd["exif_rotated.jpg"]).shape == SHAPE  # orientation is ignored
    assert decode(odd["one_pixel.png"]).shape == (1, 1, 3)
    assert decode(odd["sliver.png"]).shape == (2, 3000, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_cut_by_a_few_bytes_is_used_and_cut_by_half_is_not(photograph, kind, mode):
    content = encoded(photograph.convert(mode), kind)
    whole = decode(content).astype(int)
    for cut in (1, 2, 20, 200):
        found = decode(content[:-cut])
        assert found.shape == whole.shape
        there = slice(60, None) if kind == "BMP" else slice(200)  # a BMP begins with its lowest row
        assert np.abs(found[there] - whole[there]).max() == 0, cut  # what is there is exact
    for keep in (len(content) // 2, len(content) // 4):
        assert reason(content[:keep]) == "truncated", keep


def test_other_layouts_cut_short(photograph):
    progressive = encoded(photograph, "JPEG", progressive=True)
    assert decode(progressive[:-20]).shape == SHAPE
    assert reason(progressive[: len(progressive) // 2]) == "ok"  # every row is there, only softer
    assert reason(progressive[: len(progressive) // 20]) == "truncated"
    webp = encoded(photograph, "WEBP")
    assert reason(webp[:-1]) == reason(webp[: len(webp) // 2]) == "truncated"
    cmyk = encoded(photograph.convert("CMYK"), "JPEG")
    assert reason(cmyk[:-20]) == "ok" and reason(cmyk[: len(cmyk) // 2]) == "truncated"
    for mode in ("RGBA", "P", "1", "I;16"):
        image = photograph.convert("L") if mode in "1I;16" else photograph
        png = encoded(image.convert(mode), "PNG")
        assert reason(png[:-30]) == "ok" and reason(png[: len(png) // 2]) == "truncated", mode


@pytest.mark.parametrize(("place", "expected"), [(0.5, "truncated"), (-40, "ok")])
def test_a_broken_png_is_used_where_most_of_it_is_sound(photograph, place, expected):
    content = bytearray(encoded(photograph, "PNG"))
    content[int(len(content) * place) if place > 0 else place] ^= 255
    assert reason(bytes(content)) == expected


def test_a_png_with_much_text_or_a_large_profile_is_decoded(photograph):
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a" * (2 << 20), zip=True)  # as generators write their prompts
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for options in ({"pnginfo": text}, {"icc_profile": profile + os.urandom(2 << 20)}):
        content = encoded(photograph, "PNG", **options)
        assert image_size(content) == (376, 263)
        assert np.array_equal(decode(content), np.asarray(photograph))


def test_warnings_of_libraries_stay_off_the_terminal(photograph, capfd):
    jpeg = encoded(photograph, "JPEG")
    broken = jpeg[: len(jpeg) // 2] + bytes(50) + jpeg[len(jpeg) // 2 + 90 :]
    profile = encoded(photograph, "PNG", icc_profile=b"no profile" * 100)
    threads = [threading.Thread(target=reason, args=(broken,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reason(profile)
    assert not capfd.readouterr().err
    os.write(2, b"still there")
    assert capfd.readouterr().err == "still there"


def test_the_cap_is_on_pixels():
    content = cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
    assert decode(content, max_pixels=600).shape == (20, 30, 3)
    with pytest.raises(ImageError, match="30x20 pixels, more than the cap of 599"):
        decode(content, max_pixels=599)


MUTATE = """
import sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np
from data.sources.decode import ImageError, decode
seeds = [open(p, "rb").read() for p in sys.argv[3:]]
rng = np.random.default_rng(0)
counts, slowest = {}, 0
for i in range(int(sys.argv[2])):
    content = bytearray(seeds[i % len(seeds)])
    for _ in range(int(rng.integers(1, 9))):
        place = int(rng.integers(len(content) if rng.random() < 0.5 else min(len(content), 700)))
        kind = rng.integers(5)
        if kind == 0: content[place] ^= 1 << int(rng.integers(8))
        elif kind == 1: content[place] = int(rng.integers(256))
        elif kind == 2: content[place:place] = rng.bytes(int(rng.integers(1, 50)))
        elif kind == 3: del content[place:place + int(rng.integers(1, 200))]
        else: content[place:place + 4] = [255, 255, 0, 0][:len(content) - place]
        if not content: content = bytearray(b"x")
    if rng.random() < 0.2: content = content[:int(rng.integers(len(content)))]
    start = time.perf_counter()
    try:
        image = decode(bytes(content))
        assert image.ndim == 3 and image.dtype == np.uint8
        name = "ok"
    except ImageError as error:
        name = error.reason
    counts[name] = counts.get(name, 0) + 1
    slowest = max(slowest, time.perf_counter() - start)
# getrusage would count what the parent held before the fork
peak = int(dict(line.split(":", 1) for line in open("/proc/self/status"))["VmHWM"].split()[0])
print(counts, "slowest", round(slowest, 2), "MB", peak // 1024)
assert slowest < 20 and peak < 1 << 20
"""


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_files_neither_crash_nor_hang_nor_take_a_gigabyte(
    shared, photograph, tmp_path, count
):
    large = {"text.jpg", "empty.jpg", "bomb_30000x30000.png", "bitmap.bmp"}
    seeds = [path for path in (shared / "odd_images").iterdir() if path.name not in large]
    for kind, ending in (("TIFF", "tif"), ("PPM", "ppm"), ("BMP", "bmp")):
        seeds.append(tmp_path / f"x.{ending}")
        photograph.resize((60, 40)).save(seeds[-1], kind)
    command = [sys.executable, "-c", MUTATE, str(Path(__file__).parents[3]), str(count)]
    done = subprocess.run([*command, *map(str, seeds)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not done.stderr


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_size_reads_what_pillow_reads(mode: str):
    comment = {"comment": b"\xff\xc0 no frame", "exif": b"Exif\0\0" + bytes(300)}
    for options in ({"progressive": True}, comment, {"restart_marker_blocks": 2}):
        content = encoded(Image.new(mode, (37, 21), 90), "JPEG", **options)
        assert jpeg_size(content) == (37, 21)
        for cut in range(200):  # never a wrong size, whatever the header has lost
            assert jpeg_size(content[:cut]) in (None, (37, 21))


def test_jpeg_size_agrees_on_real_files(shared: Path):
    paths = [p for name in ("imagenet_sample", "odd_images") for p in (shared / name).rglob("*.*")]
    sizes = {path: jpeg_size(path.read_bytes()) for path in paths}
    sizes = {path: size for path, size in sizes.items() if size}
    assert len(sizes) > 200
    for path, size in sizes.items():
        with Image.open(path) as image:
            assert image.size == size, path
