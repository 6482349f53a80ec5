"""Networks as saliency estimators: their modules, weights, and batches on a device.

A network estimator is one module named in preprocess.estimators.NETWORKS. It imports torch inside
`build` and `run` only, because worker processes that decode for a GPU call `prepare` alone. It has

    VERSION: int                    raised whenever the maps change
    PARAMETERS: dict                defaults, JSON-able; passed to each function below by name
    WEIGHTS: Source                 preprocess.networks.weights.Source: file names to look for, and
    where they come from prepare(image, **p)             (H, W, 3) uint8 RGB -> array of one fixed
                                    shape and dtype (uint8 where it can be: it crosses from process
                                    to process); numpy and OpenCV only
    build(state, **p)               torch.nn.Module whose state_dict() the file must match key for
                                    key, shape for shape; `state` is the file's {key: tensor}, for
                                    those that tell the size of the network by its shapes; only look
                                    at it, loading and checking is done by the caller
    run(network, batch, **p)        (B, ...) tensor of what `prepare` gave, on the device -> (B,
                                    ...) float tensor; an image's result must not depend on the
                                    others of the batch; runs under inference mode, and under
                                    autocast where the precision is bf16
    finish(output, **p)             one image's output as a float32 array -> (h, w) float32 map in
    [0, 1]; numpy only

and optionally `convert(state, **p)`, which renames a file's keys before they are matched.
preprocess.networks.squashed has `prepare`, `run` and `finish` for networks that take a squashed
photograph and give a map.

`preprocess.estimators.load(NAME, weights=FILE, device="cuda", precision="bf16")` gives an Estimator
as any other (`working(image)`, `estimator(image)`), with `batch(images) -> maps` beside; see
preprocess.networks.inference.
"""
