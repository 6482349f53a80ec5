"""Decoding: as Pillow does, every odd image, files cut short or broken, and 2,000 mutated ones."""

import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from data.sources.decode import ImageError, decode
from tests.conftest import execute

SHAPE = (263, 376, 3)
MODES = {"JPEG": "RGB L CMYK", "PNG": "RGB L RGBA P 1 I;16", "BMP": "RGB L"}


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
    expected = {"empty.jpg": "empty", "text.jpg": "unreadable", "header_only.jpg": "unreadable"}
    expected |= {"truncated.jpg": "truncated", "bomb_30000x30000.png": "too_large"}
    assert {name: why for name, why in reasons.items() if why != "ok"} == expected
    shapes = {"one_pixel.png": (1, 1, 3), "sliver.png": (2, 3000, 3)}  # EXIF turns none
    names = "grey.jpg grey16.png rgba.png palette.png cmyk.jpg png_named.jpg exif_rotated.jpg"
    shapes |= dict.fromkeys([*names.split(), "webp_image.webp"], SHAPE)
    assert {name: decode(odd[name]).shape for name in shapes} == shapes


@pytest.mark.parametrize("kind", MODES)
def test_cut_by_a_few_bytes_is_used_and_cut_by_half_is_not(photograph, kind):
    there = slice(60, None) if kind == "BMP" else slice(200)  # a BMP begins with its lowest row
    for mode in MODES[kind].split():
        image = photograph.convert("L") if mode == "I;16" else photograph
        content = encoded(image.convert(mode), kind)
        whole = decode(content)
        for cut in (1, 20, 200):
            found = decode(content[:-cut])
            assert found.shape == whole.shape and (found[there] == whole[there]).all(), (mode, cut)
        for keep in (len(content) // 2, len(content) // 4):
            assert reason(content[:keep]) == "truncated", (mode, keep)


def test_a_progressive_jpeg_a_webp_several_jpegs_and_a_broken_png(photograph):
    progressive = encoded(photograph, "JPEG", progressive=True)
    assert reason(progressive[: len(progressive) // 2]) == "ok"  # every row is there, only softer
    assert reason(progressive[: len(progressive) // 20]) == "truncated"
    assert reason(encoded(photograph, "WEBP")[:-1]) == "truncated"
    several = encoded(photograph, "MPO", save_all=True, append_images=[photograph])
    assert np.array_equal(decode(several, reduce=4), decode(encoded(photograph, "JPEG"), reduce=4))
    png = encoded(photograph, "PNG")
    for place, expected in ((len(png) // 2, "truncated"), (len(png) - 40, "ok")):
        broken = bytearray(png)
        broken[place] ^= 255
        assert reason(bytes(broken)) == expected


def test_a_png_with_much_text_or_a_large_profile_is_decoded(photograph):
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a" * (2 << 20), zip=True)  # as generators write their prompts
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for options in ({"pnginfo": text}, {"icc_profile": profile + os.urandom(2 << 20)}):
        assert np.array_equal(decode(encoded(photograph, "PNG", **options)), photograph)


@pytest.mark.parametrize("top", [1, 15, 255, 1023, 65535])
def test_a_pnm_of_any_scale_binary_or_text_is_decoded_by_its_own_largest_level(top):
    levels = np.array([[[0, top, top // 2]]])
    true = levels * 255 / top
    binary = levels.astype(">u2" if top > 255 else np.uint8).tobytes()
    text = " ".join(map(str, levels.ravel())).encode()
    for kind, body in ((b"P6", binary), (b"P5", binary), (b"P3", text), (b"P2", text)):
        size = b"1 1" if kind in (b"P6", b"P3") else b"3 1"
        decoded = decode(kind + b"\n" + size + b"\n%d\n" % top + body)
        assert np.abs(decoded.reshape(-1, 3)[-1, -1] - true.ravel()[-1]) <= 1, kind
        assert reason(kind + b"\n9000 9000\n%d\n" % top + body) == "unreadable", kind


def test_warnings_of_libraries_stay_off_the_terminal(photograph, capfd):
    jpeg = encoded(photograph, "JPEG")
    broken = jpeg[: len(jpeg) // 2] + bytes(50) + jpeg[len(jpeg) // 2 + 90 :]
    profile = encoded(photograph, "PNG", icc_profile=b"no profile" * 100)
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(reason, [broken] * 4 + [profile]))) == 5
    os.write(2, b"still there")
    assert capfd.readouterr().err == "still there"


MUTATE = """
import sys
import numpy as np
from data.sources.decode import ImageError, decode
seeds = [open(path, "rb").read() for path in sys.argv[2:]]
rng = np.random.default_rng(0)
for i in range(int(sys.argv[1])):
    content = bytearray(seeds[i % len(seeds)])
    for _ in range(rng.integers(1, 9)):
        place = int(rng.integers(min(len(content), rng.choice([700, 1 << 30])) + 1))
        content[place : place + int(rng.integers(50))] = rng.bytes(int(rng.integers(50)))
    if rng.random() < 0.2:
        del content[int(rng.integers(len(content))) :]
    try:
        image = decode(bytes(content))
        assert image.ndim == 3 and image.dtype == np.uint8
    except ImageError:
        pass
# getrusage would count what the parent held before the fork
peak = dict(line.split(":", 1) for line in open("/proc/self/status"))["VmHWM"].split()[0]
assert int(peak) < 1 << 20
"""


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_files_neither_crash_nor_take_a_gigabyte(shared, photograph, tmp_path, count):
    large = {"text.jpg", "empty.jpg", "bomb_30000x30000.png", "bitmap.bmp"}
    seeds = [path for path in (shared / "odd_images").iterdir() if path.name not in large]
    for kind, ending in (("TIFF", "tif"), ("PPM", "ppm"), ("BMP", "bmp")):
        seeds.append(tmp_path / f"x.{ending}")
        photograph.resize((60, 40)).save(seeds[-1], kind)
    command = [sys.executable, "-c", MUTATE, str(count), *map(str, seeds)]
    done = execute(command, timeout=60 + count / 4)
    assert done.returncode == 0 and not done.stderr, done.stderr[-2000:]
