"""SLIC superpixels (Achanta et al., TPAMI 2012), compiled: 1.5 ms of RBD's 6 times decoding.

OpenCV's crash on small images, and scikit-image's take twenty times as long.
"""

import math

import numpy as np

from data.kernels import njit

BLOCK = 16  # pixels a step of the inner loop; windows are whole blocks wide
MIN_PIXELS = 9  # of a superpixel, on average: fewer tell nothing about a region


def slic(
    lab: np.ndarray, superpixels: int = 200, compactness: float = 20.0, iterations: int = 10
) -> tuple[np.ndarray, int]:
    """Partition an image into about `superpixels` compact regions of similar colour.

    k-means in (L, a, b, x, y) with a search window of one grid step to each side, seeds moved to
    the lowest gradient in 3 x 3, then every 4-connected part smaller than a quarter of a mean
    superpixel joined to a neighbour (sections III and IV of the paper).

    Args:
        lab: (3, h, w) float32, L in 0..100, one plane a channel; at least 1 x 1.
        superpixels: wanted number; images under `superpixels * MIN_PIXELS` pixels get fewer.
        compactness: weight of one grid step against one Lab unit.

    Returns:
        labels (h, w) int32 in 0..count-1, each label one 4-connected region, and count.
    """
    _, height, width = lab.shape
    wanted = max(1, min(superpixels, height * width // MIN_PIXELS))
    rows = min(max(1, round((wanted * height / width) ** 0.5)), height)
    columns = min(max(1, round(wanted / rows)), width)
    step = (height * width / (rows * columns)) ** 0.5
    step = max(step, 1.0)
    # every pixel lies in a window, also where the grid is not square
    reach = max(step, height / rows, width / columns)
    labels = _assign(lab, rows, columns, np.float32((compactness / step) ** 2), reach, iterations)
    return _connect(labels, max(1, int(step * step / 4)))


@njit("float32[:, ::1](float32[:, :, ::1], int64, int64)", cache=True, nogil=True)
def _seeds(lab, rows, columns):
    """(rows * columns, 5) float32 L, a, b, x, y on a grid, each at the lowest gradient in 3 x 3."""
    h, w = lab.shape[1], lab.shape[2]
    centre = np.empty((rows * columns, 5), np.float32)
    for row in range(rows):
        for column in range(columns):
            y0, x0 = int((row + 0.5) * h / rows), int((column + 0.5) * w / columns)
            best, by, bx = np.float32(np.inf), y0, x0
            for y in range(max(y0 - 1, 1), min(y0 + 2, h - 1)):
                for x in range(max(x0 - 1, 1), min(x0 + 2, w - 1)):
                    gradient = np.float32(0)
                    for c in range(3):
                        dx = lab[c, y, x + 1] - lab[c, y, x - 1]
                        dy = lab[c, y + 1, x] - lab[c, y - 1, x]
                        gradient += dx * dx + dy * dy
                    if gradient < best:
                        best, by, bx = gradient, y, x
            k = row * columns + column
            for c in range(3):
                centre[k, c] = lab[c, by, bx]
            centre[k, 3], centre[k, 4] = bx, by
    return centre


@njit(
    "int32[:, ::1](float32[:, :, ::1], int64, int64, float32, float64, int64)",
    cache=True,
    nogil=True,
)
def _assign(lab, rows, columns, weight, reach, iterations):
    """Local k-means: (h, w) int32 labels in 0..rows*columns-1, not yet connected."""
    h, w = lab.shape[1], lab.shape[2]
    count = rows * columns
    # a window's width, two grid steps, in whole blocks
    blocks = max(1, math.ceil(2 * reach / BLOCK - 0.1))
    # padded, so that windows need no clipping in x
    pad = blocks * BLOCK
    planes = np.zeros((3, h, w + 2 * pad), np.float32)
    planes[:, :, pad : pad + w] = lab
    lightness, green, blue = planes[0], planes[1], planes[2]
    xs = np.arange(-pad, w + pad).astype(np.float32)
    labels = np.zeros((h, w + 2 * pad), np.int32)
    distance = np.empty((h, w + 2 * pad), np.float32)
    centre = _seeds(lab, rows, columns)
    for row in range(rows):
        for column in range(columns):
            top, bottom = row * h // rows, (row + 1) * h // rows
            left, right = pad + column * w // columns, pad + (column + 1) * w // columns
            labels[top:bottom, left:right] = row * columns + column
    sums = np.empty((count, 6), np.float64)
    for iteration in range(iterations):
        # centres hardly need every pixel: each second row, in turn, but all in the last two rounds
        stride = 2 if iteration < iterations - 2 else 1
        offset = iteration % stride
        distance[:] = np.inf
        for k in range(count):
            cl, ca, cb = centre[k, 0], centre[k, 1], centre[k, 2]
            cx, cy = centre[k, 3], centre[k, 4]
            start = pad + round(cx) - pad // 2
            top = max(math.ceil(cy - reach), 0)
            top += (top + offset) % stride
            for y in range(top, min(int(cy + reach) + 1, h), stride):
                across = np.float32(y) - cy
                across *= across * weight
                row_l, row_a, row_b = lightness[y], green[y], blue[y]
                row_d, row_k = distance[y], labels[y]
                for block in range(blocks):
                    first = np.uint64(start + block * BLOCK)
                    # a fixed trip count and selects instead of branches: this loop vectorises
                    for i in range(BLOCK):
                        x = first + np.uint64(i)
                        dl, da, db, dx = row_l[x] - cl, row_a[x] - ca, row_b[x] - cb, xs[x] - cx
                        d = dl * dl + da * da + db * db + weight * dx * dx + across
                        nearer = d < row_d[x]
                        row_d[x] = d if nearer else row_d[x]
                        row_k[x] = np.int32(k) if nearer else row_k[x]
        sums[:] = 0
        for y in range(offset, h, stride):
            x = pad
            while x < pad + w:  # a row's run of one label at a time: few scattered additions
                k, first_x = labels[y, x], x
                sl = sa = sb = np.float32(0)
                while x < pad + w and labels[y, x] == k:
                    sl += lightness[y, x]
                    sa += green[y, x]
                    sb += blue[y, x]
                    x += 1
                length = x - first_x
                sums[k, 0] += sl
                sums[k, 1] += sa
                sums[k, 2] += sb
                sums[k, 3] += length * (first_x - pad + 0.5 * (length - 1))
                sums[k, 4] += y * length
                sums[k, 5] += length
        for k in range(count):
            if sums[k, 5] > 0:
                for c in range(5):
                    centre[k, c] = sums[k, c] / sums[k, 5]
    return labels[:, pad : pad + w].copy()


@njit("Tuple((int32[:, ::1], int64))(int32[:, ::1], int64)", cache=True, nogil=True)
def _connect(labels, smallest):
    """Number the 4-connected parts in raster order.

    Parts of at most `smallest` px join the neighbour seen last.
    """
    h, w = labels.shape
    out = np.full((h, w), -1, np.int32)
    queue = np.empty(h * w, np.int64)
    count = 0
    for y in range(h):
        for x in range(w):
            if out[y, x] >= 0:
                continue
            neighbour = np.int32(-1)
            if x > 0:
                neighbour = out[y, x - 1]
            if y > 0:
                neighbour = out[y - 1, x]
            old = labels[y, x]
            out[y, x] = count
            queue[0] = y * w + x
            first, last = 0, 1
            while first < last:
                cell = queue[first]
                first += 1
                cy, cx = cell // w, cell % w
                for ny, nx in ((cy + 1, cx), (cy - 1, cx), (cy, cx + 1), (cy, cx - 1)):
                    if 0 <= ny < h and 0 <= nx < w and out[ny, nx] < 0 and labels[ny, nx] == old:
                        out[ny, nx] = count
                        queue[last] = ny * w + nx
                        last += 1
            if last <= smallest and neighbour >= 0:
                for i in range(last):
                    out[queue[i] // w, queue[i] % w] = neighbour
            else:
                count += 1
    return out, count
