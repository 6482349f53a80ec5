"""The command line, presets, settings that do not fit together, and learning rates."""

import math
import re
from pathlib import Path

import pytest

from tests.conftest import refused
from tests.train.runs import config
from train.command import parse
from train.config import Optimiser, flag, flat
from train.loop import train
from train.methods import METHODS
from train.optimise import learning_rate
from train.presets import PRESETS, change

RUN = ["IMAGES", "--out", "RUN"]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_whole(name):
    parsed = parse([*RUN, "--preset", name])
    parsed.check()
    assert parsed.preset == name and PRESETS[name].__doc__.count("python -m train") == 1
    assert flat(parsed).items() >= PRESETS[name]().items()
    assert change(parsed, epochs=3) == parse([*RUN, f"--preset={name}", "--epochs", "3"])


def test_a_method_has_its_own_options_alone(capsys):
    """Turning off what another method has is no error: presets of other methods turn it on."""
    run = [*RUN, "--preset", "moco_v2_demo", "--method", "simclr"]
    parsed = parse([*run, "--no-batch-negatives", "--hidden", "12"])
    assert parsed.method.method == "simclr" and parsed.method.hidden == 12
    assert parsed.method.temperature == 0.2 and parsed.method.head_norm  # the preset's
    for options in (["--batch-negatives"], ["--queue", "8"], ["--head", "linear"]):
        with pytest.raises(SystemExit) as stopped:
            parse([*run, *options])
        assert stopped.value.code == 2 and options[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 15}, "does not divide into"),
        ({"batch": 512, "splits": 1}, "80 images are fewer than one --batch of 512"),
        ({"control": "shuffled", "masks": "none"}, "--control shuffled needs --masks"),
        ({"background": "random", "masks": "none"}, "--background random needs --masks"),
        ({"masks": "."}, "no mask cache here"),
        ({"method": "nope"}, "no method 'nope'; there are: moco"),
        ({"device": "abacus"}, "--device abacus"),
        ({"seed": 2**32}, "--seed 4294967296: must be"),
        ({"blur_sigma": (2.0, 0.1)}, "--blur-sigma 2.0 0.1: must be .* rising"),
        ({"jitter": (0.4, 0.4, 0.4, 0.6)}, "--jitter: a hue of 0.6"),
        ({"background": "texture"}, "need each other"),
        ({"background": "swap", "paste_views": "query"}, "swap puts the positive"),
        ({"method": "instdisc", "paste_views": "key"}, "nothing would be pasted"),
        ({"background": "image", "pool": 0.01}, "two backgrounds are the least"),
        ({"mask_coverage": (0.5, 0.5)}, "--mask-coverage"),
        ({"method": "byol", "background": "swap"}, "byol has no negatives"),
        ({"head": "linear", "head_norm": True}, "--head-norm needs --head mlp"),
    ],
)
def test_settings_that_do_not_fit(images, truth_cache, tmp_path, changes, message):
    changes = {"masks": str(truth_cache)} | changes
    error = refused(lambda: train(config(images, out=tmp_path / "run", **changes)))
    assert re.search(message, error)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", METHODS)
def test_every_absurd_number_is_refused(method):
    made = config(Path(), "cache", Path(), method=method, splits=1)
    for name, value in flat(made).items():
        first, *rest = value if isinstance(value, tuple) else (value,)
        if isinstance(first, int | float) and not isinstance(first, bool):
            for absurd in (math.nan, math.inf, -1, 1e40):
                wrong = (absurd, *rest) if rest else absurd
                error = refused(change(made, **{name: wrong}).check)
                assert re.match(f"{flag(name)} .*: must be", error)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {0: 0.4, 25: 0.2}),
        ({"warmup": 2.0}, {0: 0.04, 4: 0.1968, 25: 0.2}),
        ({"schedule": "step", "milestones": (6, 8), "warmup": 1.0}, {0: 0.08, 29: 0.4, 30: 0.04}),
        # half of the 40 steps after the warm-up
        ({"schedule": "warmup_cosine", "warmup": 2.0}, {4: 0.2, 9: 0.4, 10: 0.4, 30: 0.2}),
        ({"schedule": "warmup_cosine", "warmup": 20.0}, {0: 0.004, 49: 0.2}),
    ],
)
def test_schedules(settings, expected):
    optimiser = Optimiser(lr=0.4, epochs=10, **settings)
    rates = {step: learning_rate(optimiser, step, 5) for step in expected}
    assert rates == pytest.approx(expected, abs=1e-4)
