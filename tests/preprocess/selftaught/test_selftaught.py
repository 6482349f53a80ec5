"""The label-free network: labels, losses, the loop, and that it learns more than its labels hold."""

import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from data.cli import UsageError
from data.synthetic import draw
from preprocess.blocks import Recipe
from preprocess.estimators import load
from preprocess.selftaught import augment, checkpoint, cues, cut, loop, losses, parts
from preprocess.selftaught.network import Net, follow
from preprocess.selftaught.refine import predict, stacked

SIDE = 64


def labelled(work, count, side=SIDE):
    """Samples with first labels of `count` embedded scenes in work/scenes, and their (count, side, side) truth."""
    truth = []
    (work / "scenes").mkdir()
    for i in range(count):
        image, mask = draw("train", i, size=side)["train"]
        cv2.imwrite(str(work / "scenes" / f"{i:03d}.png"), image[..., ::-1])
        truth.append(mask >= 128)
    sources = cues.prepare([str(work / "scenes")], work / "cues", side, 0)
    return parts.first(sources, work / "labels", side, 1, parts.rows_of(sources), "x"), np.stack(truth)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def samples(work):
    return labelled(work, 48)[0]


def everything(column):
    return column[np.arange(len(column))]


def test_cues_are_the_cached_maps_of_the_four_estimators(work, samples):
    image = cv2.imread(str(work / "scenes" / "007.png"))[..., ::-1]
    found = cues.cues(image, SIDE)
    for i, (name, parameters) in enumerate(cues.RECIPES.items()):
        expected = np.rint(load(name, **dict(parameters))(image) * 255)
        assert np.abs(found[i].astype(int) - expected).max() <= 1, name
    assert np.array_equal(samples.cues[np.array([7])][0], found)


def test_no_cue_was_chosen_with_true_masks():
    assert "fusion" not in cues.RECIPES
    assert load("rbd", **dict(cues.RECIPES["rbd"])).parameters["iterations"] == 10


def test_a_cut_finds_a_disc_from_a_crude_prior():
    truth = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(truth, (30, 34), 15, 255, -1)
    rng = np.random.default_rng(0)
    image = np.clip(rng.normal(70, 8, (SIDE, SIDE, 3)) + (truth > 0)[..., None] * [120, 40, 0], 0, 255).astype(np.uint8)
    prior = cv2.GaussianBlur(np.roll(truth, 4, 1), (31, 31), 6)
    found = cut.cut(image, prior)
    assert np.mean((found >= 128) == (truth > 0)) > 0.98 > np.mean((prior >= 128) == (truth > 0))
    assert np.array_equal(found, cut.cut(image, prior))
    flat = np.full((SIDE, SIDE), 9, np.uint8)
    assert np.array_equal(cut.cut(image, flat), flat)


def test_the_first_label_is_the_mean_cues_cut_weighed_by_the_votes():
    truth = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(truth, (32, 32), 15, 255, -1)
    image = np.where((truth > 0)[..., None], np.uint8([190, 110, 70]), np.uint8(70))
    crude, astray = cv2.GaussianBlur(truth, (31, 31), 6), cv2.GaussianBlur(255 - truth, (31, 31), 6)
    label, agreed = cut.first_label(image, np.stack([crude] * 4))
    assert set(np.unique(label)) == {0, 255} and agreed == 1
    assert np.mean((label == 255) == (truth > 0)) > 0.98
    label, agreed = cut.first_label(image, np.stack([crude] * 3 + [astray]))
    inside = label >= 128
    assert np.mean(inside == (truth > 0)) > 0.98 and agreed < 0.8
    assert np.median(label[inside]) == 223 and np.median(label[~inside]) == 32  # three of four agree


def test_agreement_and_trust_by_hand():
    a, b = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    a[:2], b[:1] = 255, 255
    assert cut.agreement(np.stack([a, b]), a) == pytest.approx(0.75)
    assert parts.trust(0.75, a) == 0.75 and parts.trust(0.75, a * 0) == 0 and parts.trust(0.75, a * 0 + 255) == 0


def test_label_loss_by_hand_and_blind_to_undecided_pixels():
    logits = torch.tensor([[[2.0, -1.0], [0.5, 3.0]]])
    label = torch.tensor([[[1.0, 0.0], [0.5, 0.75]]])
    p = torch.sigmoid(logits[0]).flatten().tolist()
    w, t = [1, 1, 0, 0.5], [1, 0, 1, 1]
    entropy = sum(-wi * np.log(pi if ti else 1 - pi) for wi, pi, ti in zip(w, p, t, strict=True)) / 2.5
    both = sum(wi * pi * ti for wi, pi, ti in zip(w, p, t, strict=True))
    either = sum(wi * (pi + ti - pi * ti) for wi, pi, ti in zip(w, p, t, strict=True))
    expected = entropy + 1 - both / either
    assert losses.label_loss(logits, label, torch.ones(1)).item() == pytest.approx(expected, rel=1e-5)
    moved = logits.clone()
    moved[0, 1, 0] = -7
    assert losses.label_loss(moved, label, torch.ones(1)).item() == pytest.approx(expected, rel=1e-5)
    two = torch.cat([logits, -logits]), torch.cat([label, label])
    assert losses.label_loss(*two, torch.tensor([1.0, 0.0])).item() == pytest.approx(expected, rel=1e-5)


def test_consistency_compares_across_sides():
    assert losses.consistency(torch.zeros(1, 8, 8), torch.full((1, 4, 4), 0.5)).item() == 0
    assert losses.consistency(torch.zeros(1, 8, 8), torch.ones(1, 4, 4)).item() == pytest.approx(0.25)


def test_every_pass_sees_every_image_once_and_batches_are_pure(samples):
    seen = np.concatenate([augment.order(10, 3, s, 4) for s in range(0, 20, 4)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and list(seen[:10]) != list(seen[10:])
    rows = np.arange(len(samples))
    one, two, other = (augment.batch(samples, rows, 4, (32, 64), 0, step) for step in (5, 5, 6))
    assert np.array_equal(one.pixels, two.pixels) and np.array_equal(one.keep, two.keep)
    assert one.pixels.shape != other.pixels.shape or not np.array_equal(one.pixels, other.pixels)


def test_picture_cues_and_label_are_cropped_and_flipped_together():
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 3, (64, 1))
    columns = [np.stack([c] * 8) for c in (np.dstack([ramp] * 3), np.stack([ramp] * 4), ramp)]
    batch = augment.batch(parts.Samples(*columns, np.ones(8, np.float32)), np.arange(8), 8, (32,), 1, 0)
    assert np.array_equal(batch.pixels[:, 3], batch.label)
    for pixels, label in zip(batch.pixels, batch.label, strict=True):  # colours change, the ramp's direction does not
        assert (np.diff(pixels[0].astype(int).sum(0)).mean() > 0) == (np.diff(label.astype(int).sum(0)).mean() > 0)
    assert len({bool(label[0, 0] < label[0, -1]) for label in batch.label}) == 2


def test_the_network_is_small_and_follows():
    network, average = Net(), Net()
    assert sum(p.numel() for p in network.parameters()) < 5_000_000
    assert network.eval()(torch.zeros(2, 7, 96, 96)).shape == (2, 96, 96)
    before = average.coarse.weight.detach().clone()
    follow(average, network, 0.75)
    assert torch.allclose(average.coarse.weight, 0.75 * before + 0.25 * network.coarse.weight)


SHORT = loop.Schedule(steps=24, rounds=2, batch=8, side=SIDE, sides=(32, 64))


@pytest.fixture(scope="module")
def trained(samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    few = parts.Samples(*(everything(c)[:32] for c in (samples.image, samples.cues, samples.label, samples.trust)))
    network = loop.train(few, SHORT, folder)
    return few, folder, network.state_dict()


def test_training_lowers_the_loss_on_32_images(trained, tmp_path):
    few, _, state = trained
    torch.manual_seed(SHORT.seed)
    untrained, network = Net(), Net()
    network.load_state_dict(state)

    def loss(net):
        maps = torch.from_numpy(predict(net, stacked(few.image, few.cues))).float() / 255
        label = torch.from_numpy(few.label).float() / 255
        return losses.label_loss(torch.logit(maps, 1e-3), label, torch.from_numpy(few.trust)).item()

    assert loss(network) < 0.8 * loss(untrained)


def test_the_second_round_has_labels_of_its_own(trained):
    few, folder, _ = trained
    later = np.load(folder / "labels" / "round1-label-00000.npy")
    assert later.shape == few.label.shape and np.abs(later.astype(int) - few.label).mean() > 1


def test_stopped_and_continued_and_the_same_seed_give_the_same_weights(trained, tmp_path):
    few, folder, expected = trained
    for stop in (5, 12, None):  # within the first round, and where the labels are made anew
        network = loop.train(few, SHORT, tmp_path, stop_after=stop)
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), expected.values(), strict=True))
    again = (np.load(f / "labels" / "round1-label-00000.npy") for f in (folder, tmp_path))
    assert np.array_equal(*again)
    (tmp_path / "other").mkdir()
    other = loop.train(few, loop.Schedule(**{**SHORT.__dict__, "seed": 1, "steps": 2}), tmp_path / "other")
    assert not torch.equal(other.state_dict()["coarse.weight"], expected["coarse.weight"])


@pytest.mark.parametrize("content", [b"", b"no checkpoint", "foreign", "cut"])
def test_a_corrupt_or_foreign_checkpoint_is_one_line(trained, tmp_path, content):
    few, folder, _ = trained
    path = tmp_path / checkpoint.CHECKPOINT
    if content == "foreign":
        torch.save({"step": 3, "network": {"w": torch.zeros(2)}}, path)
    else:
        whole = (folder / checkpoint.CHECKPOINT).read_bytes()
        path.write_bytes(whole[:len(whole) // 2] if content == "cut" else content)
    message = r"checkpoint\.pt: (not a file of weights|no checkpoint of this run)"
    with pytest.raises(UsageError, match=message) as caught:
        loop.train(few, SHORT, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_of_another_run_is_refused(tmp_path):
    checkpoint.claim(tmp_path / "run", {"steps": 1})
    checkpoint.claim(tmp_path / "run", {"steps": 1})
    with pytest.raises(UsageError, match="holds another run \\(steps: 1 -> 2\\)"):
        checkpoint.claim(tmp_path / "run", {"steps": 2})
    (tmp_path / "run" / checkpoint.CONFIG).write_text("[")
    with pytest.raises(UsageError, match="damaged or foreign"):
        checkpoint.claim(tmp_path / "run", {"steps": 2})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and holds no run"):
        checkpoint.claim(tmp_path / "other", {"steps": 2})


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    with checkpoint.alone(tmp_path), pytest.raises(UsageError, match="another process trains in it"), \
            checkpoint.alone(tmp_path):
        pass
    with checkpoint.alone(tmp_path):
        pass


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "preprocess.selftaught", *map(str, arguments)], capture_output=True,
                          text=True)


def test_the_command_trains_and_its_weights_make_masks(work, samples, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(24):
        shutil.copy(work / "scenes" / f"{i:03d}.png", folder)
    options = [folder, "--out", tmp_path / "out", "--steps", 4, "--rounds", 2, "--batch", 4, "--side", 64,
               "--sides", 32, 64, "--workers", 1]
    done = command(*options)
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["images"] == 24 and card["held_out"] == 1 and card["log"][-1]["step"] == 4 and card["seconds"] > 0
    weights = tmp_path / "out" / "selftaught.pt"
    estimator = load("selftaught", weights=str(weights), side=64)
    assert estimator.weights == card["sha256"] and weights.stat().st_size < 10_000_000
    recipe = Recipe("selftaught", weights=str(weights))
    assert recipe.identity()["weights"] == card["sha256"]
    image = cv2.imread(str(folder / "003.png"))[..., ::-1]
    one, pair = estimator.working(image), estimator.batch([image[:, ::-1].copy(), image])[1]
    assert one.shape == (64, 64) and 0 <= one.min() < one.max() <= 1 and np.allclose(one, pair, atol=1e-4)
    wrong = command(*options, "--seed", 1)
    assert wrong.returncode == 2 and "holds another run (seed: 0 -> 1)" in wrong.stderr
    assert wrong.stderr.count("\n") == 1


@pytest.mark.parametrize(("options", "message"), [
    (["--steps", "0"], "--steps 0: must be at least 1"), (["--sides", "100"], "--sides 100: must be multiples of 32"),
    (["--batch", "1"], "--batch must be at least 2")])
def test_bad_options_are_one_line(tmp_path, options, message):
    done = command(tmp_path, "--out", tmp_path / "out", *options)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_network_beats_the_consensus_that_it_learnt_from(tmp_path):
    """By error and by intersection over union with true masks that nothing in the training has seen."""
    samples, truth = labelled(tmp_path, 256, 96)
    schedule = loop.Schedule(steps=600, rounds=3, batch=12, side=96, sides=(96,))
    network = loop.train(samples, schedule, tmp_path)
    maps = predict(network, stacked(everything(samples.image), everything(samples.cues))) / 255
    consensus = everything(samples.label) / 255
    assert np.abs(maps - truth).mean() < np.abs(consensus - truth).mean()
    assert union(maps, truth) > union(consensus, truth)


def union(maps, truth):
    found = maps >= 0.5
    return np.mean((found & truth).sum((1, 2)) / np.maximum((found | truth).sum((1, 2)), 1))
