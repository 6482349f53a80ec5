"""A network and its weights as an Estimator: batches of images in, maps out, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from data.cli import UsageError
from data.tensors import SHOWN, misfit, read_tensors
from preprocess.estimators import REFINED_SIDE, Estimator
from preprocess.networks.weights import find
from preprocess.vision.pixels import working_image

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
WRAPPERS = (
    "state_dict",
    "model",
    "network",
    "net",
    "teacher",
)  # under which checkpoints keep the state
PREFIXES = ("module.", "backbone.")  # of DistributedDataParallel, of DINO's full checkpoints


@dataclass(frozen=True)
class Network(Estimator):
    """A network estimator, see preprocess.networks; made by `load`.

    Attributes:
        precision: "fp32" or "bf16".  refine: one of REFINEMENTS.
        module: the estimator's module.  options: what its functions take; `parameters`, which a
            cache's identity stores, are these, and refinement and precision where they are not the
            usual ones.
        network: in evaluation mode, on device `place` ("cuda:1").
    """

    precision: str = "fp32"
    refine: str = "none"
    module: ModuleType | None = None
    options: dict = field(default_factory=dict)
    network: nn.Module | None = None
    place: str = "cpu"

    def working(self, image: np.ndarray) -> np.ndarray:
        return self.batch([image])[0]

    def batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        outputs = self.forward(np.stack([self.prepare(image) for image in images]))
        return [
            self.finish(out, self.thumbnail(image))
            for out, image in zip(outputs, images, strict=True)
        ]

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """What the network sees of an (H, W, 3) uint8 RGB image; the same shape and dtype for every
        image."""
        return self.module.prepare(image, **self.options)

    def thumbnail(self, image: np.ndarray) -> np.ndarray | None:
        """What `finish` needs of the image itself: nothing, unless the map is to be refined."""
        return None if self.refine == "none" else working_image(image, REFINED_SIDE)

    def forward(self, batch: np.ndarray) -> np.ndarray:
        """(B, ...) of prepared images to (B, ...) float32 outputs, one `run` of the network.

        Raises:
            torch.OutOfMemoryError: the batch is too large for the device; MemoryError: for the CPU.
        """
        try:
            with (
                torch.inference_mode(),
                _settings(),
                torch.autocast(
                    self.device, PRECISIONS[self.precision], enabled=self.precision != "fp32"
                ),
            ):
                out: Tensor = self.module.run(
                    self.network, torch.from_numpy(batch).to(self.place), **self.options
                )
                return out.float().cpu().numpy()
        except RuntimeError as error:
            if "allocate memory" in str(error) and not isinstance(error, torch.OutOfMemoryError):
                raise MemoryError(str(error).splitlines()[0]) from error
            raise

    def finish(self, output: np.ndarray, thumbnail: np.ndarray | None = None) -> np.ndarray:
        """One image's output to its map, float32 (h, w) in [0, 1]."""
        saliency = self.module.finish(np.ascontiguousarray(output), **self.options)
        if thumbnail is None:
            return saliency
        from preprocess.refine import refined

        return refined(lambda _: saliency, thumbnail, self.refine)


@contextmanager
def _settings():
    """fp32 that is fp32, and the same sums at every run: TensorFloat-32 would move maps by more
    than two levels."""
    backends = torch.backends
    before = (
        backends.cuda.matmul.allow_tf32,
        backends.cudnn.allow_tf32,
        backends.cudnn.deterministic,
    )
    backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.deterministic = (
        False,
        False,
        True,
    )
    try:
        yield
    finally:
        backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.deterministic = (
            before
        )


def load(
    name: str,
    module: ModuleType,
    parameters: dict,
    refine: str = "none",
    weights: str | None = None,
    device: str = "cpu",
    precision: str = "fp32",
) -> Network:
    """The network estimator `name` with its weights (see preprocess.networks.weights.find), ready
    on the device.

    Raises:
        UsageError: one line: no weights, a file that cannot be read, or does not fit; no such
            device or precision.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"no precision {precision!r}; there are: {', '.join(PRECISIONS)}")
    path = find(name, module.WEIGHTS, weights)
    stat = path.stat()
    stored = dict(parameters)
    if refine != "none":
        stored["refine"] = refine
    if precision != "fp32":
        stored["precision"] = precision
    network, digest = _load(
        name,
        module,
        tuple(sorted(parameters.items())),
        path,
        (stat.st_size, stat.st_mtime_ns),
        device,
    )
    return Network(
        name,
        module.VERSION,
        stored,
        None,
        digest,
        torch.device(device).type,
        precision,
        refine,
        module,
        parameters,
        network,
        device,
    )


@lru_cache(maxsize=2)
def _load(
    name: str, module: ModuleType, parameters: tuple, path: Path, stat: tuple, device: str
) -> tuple:
    """(network, SHA-256 of its file); kept, for callers that load an estimator anew for every
    image."""
    content, digest = read_tensors(path)
    options = dict(parameters)
    state = tensors_of(content, path)
    if hasattr(module, "convert"):
        state = module.convert(state, **options)
    try:
        network = fitted(partial(module.build, state, **options), state, f"no weights of {name}")
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    try:
        return network.eval().requires_grad_(False).to(device), digest
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # what torch raises where it has no CUDA, or no such card
        raise UsageError(f"--device {device}: {' '.join(str(error).split())[:200]}") from error


def tensors_of(content: object, path: Path) -> dict[str, Tensor]:
    """The one state of a checkpoint, without wrappers and prefixes. UsageError where there is
    none."""
    while isinstance(content, dict):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    state = (
        {
            key: value
            for key, value in content.items()
            if isinstance(key, str) and isinstance(value, Tensor)
        }
        if isinstance(content, dict)
        else {}
    )
    if not state:
        raise UsageError(
            f"{path}: holds no state_dict, no {{name: tensor}} of a network's parameters"
        )
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def fitted(build: Callable[[], nn.Module], state: dict[str, Tensor], what: str) -> nn.Module:
    """`build()` with the weights `state`.

    Raises:
        UsageError: `what`, and which keys are missing, unexpected or of another shape; or tensors
            that are not finite.
    """
    odd = [
        key
        for key, value in state.items()
        if value.layout != torch.strided
        or value.is_quantized
        or value.is_complex()
        or value.is_meta
    ]
    if odd:
        raise UsageError(
            f"{what}: {len(odd)} of its tensors are sparse, quantised or complex ({odd[0]})"
        )
    network = build()
    wanted = network.state_dict()
    state = {
        **{
            k: torch.zeros((), dtype=torch.long)
            for k in wanted
            if k.endswith("num_batches_tracked")
        },
        **state,
    }  # files of before torch 0.4 have none
    wrong = misfit(state, wanted)
    if wrong:
        raise UsageError(f"{what}; {wrong}")
    broken = [key for key, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise UsageError(
            f"{what}: {len(broken)} of its tensors are not finite ({', '.join(broken[:SHOWN])})"
        )
    network.load_state_dict(state)
    return network
