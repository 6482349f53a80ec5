"""Area-averaged reduction of a part of an image, and linear sampling of a part of a mask: OpenCV's
INTER_AREA and warpAffine, five times faster at a view's size.

OpenCV averages along the rows of every source row first, which does not vectorise; here whole
source rows are averaged first, which is one long loop, and only the few that are left along
themselves.
"""

import numpy as np

from data.kernels import njit, types


@njit("void(int64, float32[:, ::1], uint32[::1])", cache=True, nogil=True)
def _taps(length, weight, first):
    """How much of each source pixel from `first` on lies in each of the len(first) equal parts of
    `length` pixels."""
    scale = length / len(first)
    for d in range(len(first)):
        low = d * scale
        high = min(low + scale, length)
        at = min(int(low), length - 1)
        first[d] = at
        for t in range(weight.shape[1]):
            weight[d, t] = max(min(at + t + 1.0, high) - max(at + t, low), 0.0) / (high - low)


@njit(
    "void(float32[::1], uint32[::1], float32[:, ::1], float32[:, ::1], float32[::1])",
    cache=True,
    nogil=True,
    fastmath=True,
    error_model="numpy",
)
def _along(line, first, weight, taps, pixels):
    """Average a line along itself: the taps of all pixels are copied to where they are summed,
    which is one long loop then."""
    near, middle, far = taps[0], taps[1], taps[2]
    for x in range(len(first)):
        k, j = np.uint32(3) * first[x], np.uint32(3 * x)
        for tap, t in ((near, np.uint32(0)), (middle, np.uint32(3)), (far, np.uint32(6))):
            red, green, blue = line[k + t], line[k + t + np.uint32(1)], line[k + t + np.uint32(2)]
            tap[j], tap[j + np.uint32(1)], tap[j + np.uint32(2)] = red, green, blue
    a, b, c = weight[0], weight[1], weight[2]
    for j in range(len(pixels)):
        pixels[j] = a[j] * near[j] + b[j] * middle[j] + c[j] * far[j]
    for t in range(3, len(weight)):
        a = weight[t]
        for x in range(len(first)):
            k, j = np.uint32(3) * (first[x] + np.uint32(t)), np.uint32(3 * x)
            red, green, blue = line[k], line[k + np.uint32(1)], line[k + np.uint32(2)]
            near[j], near[j + np.uint32(1)], near[j + np.uint32(2)] = red, green, blue
        for j in range(len(pixels)):
            pixels[j] += a[j] * near[j]


@njit(
    "void(uint8[:, ::1], int64, int64, int64, int64, boolean, uint8[:, ::1])",
    cache=True,
    nogil=True,
    fastmath=True,
    error_model="numpy",
)
def _area(image, left, top, w, h, flip, out):
    size = out.shape[0]
    up = max(3, -(-h // size) + 1)  # source rows that a pixel may touch
    along = max(3, -(-w // size) + 1)  # source columns
    first_y, first_x = np.empty(size, np.uint32), np.empty(size, np.uint32)
    weight_y, weight_x = np.empty((size, up), np.float32), np.empty((size, along), np.float32)
    _taps(h, weight_y, first_y)
    _taps(w, weight_x, first_x)
    if flip:
        first_x, weight_x = first_x[::-1].copy(), weight_x[::-1].copy()
    taps, pixels = np.empty((3, 3 * size), np.float32), np.empty(3 * size, np.float32)
    shares = np.empty((along, 3 * size), np.float32)
    for t in range(along):
        for x in range(size):
            for j in range(3 * x, 3 * x + 3):
                shares[t, j] = weight_x[x, t]
    line = np.zeros(3 * (w + along), np.float32)  # the taps beyond the last column read zeros
    part = image[top : top + h, 3 * left : 3 * (left + w)]
    for y in range(size):
        at = int(first_y[y])
        a, b, c = weight_y[y, 0], weight_y[y, 1], weight_y[y, 2]
        first, second, third = part[at], part[min(at + 1, h - 1)], part[min(at + 2, h - 1)]
        for i in range(3 * w):
            line[i] = (
                a * np.float32(first[i]) + b * np.float32(second[i]) + c * np.float32(third[i])
            )
        for t in range(3, up):
            a = weight_y[y, t]
            if a > 0:
                row = part[at + t]
                for i in range(3 * w):
                    line[i] += a * np.float32(row[i])
        _along(line, first_x, shares, taps, pixels)
        for j in range(3 * size):
            out[y, j] = np.uint8(pixels[j] + np.float32(0.5))


def area(
    image: np.ndarray, left: int, top: int, w: int, h: int, flip: bool, out: np.ndarray
) -> None:
    """Reduce a part of an image by averaging areas.

    Args:
        image: (H, W, 3) uint8, contiguous.
        left, top, w, h: the part, inside the image; at least as large as the result.
        flip: mirror the result left to right.
        out: (s, s, 3) uint8, contiguous, filled; within one level of cv2.resize with INTER_AREA.
    """
    _area(image.reshape(len(image), -1), left, top, w, h, flip, out.reshape(len(out), -1))


@njit("float32(int64, float32, float32)", cache=True, nogil=True)
def _place(row, scale, top):
    """Without `fastmath`: OpenCV rounds twice here, and once where it goes along a row."""
    return np.float32(row) * scale + top


@njit(
    types.void(
        types.Array(types.uint8, 2, "C", readonly=True), types.float32[::1], types.uint8[:, ::1]
    ),
    cache=True,
    nogil=True,
    fastmath={"contract"},
)
def _linear(mask, transform, out):
    scale_x, left, scale_y, top = transform
    size, last = len(out), len(mask) - 1
    channels = out.shape[1] // size
    near, far = np.empty(out.shape[1], np.int64), np.empty(out.shape[1], np.int64)
    share = np.empty(out.shape[1], np.float32)
    for j in range(out.shape[1]):
        at = np.float32(np.float64(scale_x) * (j // channels) + np.float64(left))
        low = np.floor(at)
        share[j] = at - low
        near[j] = channels * min(max(int(low), 0), last) + j % channels
        far[j] = channels * min(max(int(low) + 1, 0), last) + j % channels
    lines = np.empty((len(mask), out.shape[1]), np.float32)
    ready = -1  # the last row that was sampled along itself
    for y in range(size):
        at = _place(y, scale_y, top)
        low = np.floor(at)
        above, below = min(max(int(low), 0), last), min(max(int(low) + 1, 0), last)
        for row in range(max(above, ready + 1), below + 1):
            source, line, ready = mask[row], lines[row], row
            for j in range(len(line)):
                a, b = np.float32(source[near[j]]), np.float32(source[far[j]])
                line[j] = a + share[j] * (b - a)
        first, second, down = lines[above], lines[below], np.float32(at - low)
        for j in range(out.shape[1]):
            out[y, j] = np.uint8(np.rint(first[j] + down * (second[j] - first[j])))


def linear(
    mask: np.ndarray, scale: tuple[float, float], corner: tuple[float, float], size: int
) -> np.ndarray:
    """Sample a mask linearly: pixel (x, y) of the result lies at corner + scale * (x, y), where the
    mask goes on outside as at its edge. cv2.warpAffine's numbers.

    Args:
        mask: (S, S) or (S, S, C) uint8, contiguous.

    Returns:
        (size, size) or (size, size, C) uint8.
    """
    out = np.empty((size, size, *mask.shape[2:]), np.uint8)
    transform = np.array([scale[0], corner[0], scale[1], corner[1]], np.float32)
    _linear(mask.reshape(len(mask), -1), transform, out.reshape(size, -1))
    return out
