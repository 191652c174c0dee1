"""The metrics: values by hand and by their definitions, and laws of their sums."""

import dataclasses
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import cv2
import numba
import numpy as np
import pytest

from cffm_jax.metrics import all_metrics, boundary, confusion, consistency, kernels
from cffm_jax.metrics import scores as metrics_scores
from cffm_jax.metrics.confusion import Confusion, read_only
from cffm_jax.metrics.consistency import VideoConsistency, Windows
from cffm_jax.metrics.scores import Scores, score_video

K = 5


def random_video(frames, seed, ignored=0.1, change=0.1, shape=(6, 9)):
    """Labels and predictions u8[T,H,W] whose pixels keep their class for some frames."""
    rng = np.random.default_rng([frames, seed])
    labels, predictions = np.empty((2, frames, *shape), np.uint8)
    for t in range(frames):
        new_labels = np.where(rng.random(shape) < ignored, 255, rng.integers(0, K, shape))
        new_predictions = np.where(rng.random(shape) < 0.6, new_labels % K, rng.integers(0, K, shape))
        changes, prediction_changes = rng.random((2, *shape)) < change
        labels[t] = np.where(changes, new_labels, labels[t - 1]) if t else new_labels
        predictions[t] = np.where(prediction_changes, new_predictions, predictions[t - 1]) if t else new_predictions
    return labels, predictions


def direct_windows(labels, predictions, length):
    """(stable, consistent) pixels of each of the T-n+1 windows, from the definition."""
    found = []
    for start in range(len(labels) - length + 1):
        stable = consistent = 0
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                if len(set(labels[start : start + length, y, x].tolist())) == 1:
                    stable += 1
                    consistent += len(set(predictions[start : start + length, y, x].tolist())) == 1
        found.append((stable, consistent))
    return found


def direct_confusion(labels, predictions):
    counts = [[int(((labels == i) & (predictions == j)).sum()) for j in range(K)] for i in range(K)]
    return np.array(counts)


def ratios(windows):
    return [consistent / stable for stable, consistent in windows if stable]


def mean(values):
    return sum(values) / len(values) if values else math.nan


def test_released_script(golden):
    arrays, expected = golden("metrics")
    scores = Scores.empty(124)
    for i in range(5):
        raw = arrays[f"gt_{i}"]
        labels = np.where((raw == 0) | (raw == 255), 255, raw - 1).astype(np.uint8)
        scores = scores.update(score_video(str(i), zip(labels, arrays[f"pred_{i}"], strict=True), 124))
    figures = scores.figures()
    found = {
        "mIoU": figures["miou"],
        "weighted_iou": figures["weighted_iou"],
        "pixel_acc": figures["pixel_accuracy"],
        "class_acc": figures["class_accuracy"],
        "vc8": figures["vc8"],
        "vc16": figures["vc16"],
    }
    assert set(expected) - set(found) == {"kind", "seed", "note", "per_video"}
    for name, value in found.items():
        assert value == pytest.approx(expected[name], rel=0, abs=1e-9), name
    assert figures["videos"] == 4 and figures["left_out"] == 1 and figures["frames"] == 17 + 20 + 31 + 40
    counted = {video.name: video for video in scores.counted().videos}
    assert counted.keys() == expected["per_video"].keys()
    for name, video in counted.items():
        for length in (8, 16):
            expected_vc = expected["per_video"][name][f"vc{length}"]
            vc = video.sums["steadiness"].consistency(length, with_last=False)
            assert vc == pytest.approx(expected_vc, rel=0, abs=1e-9)


@pytest.mark.parametrize("frames", [5, 7, 8, 9, 15, 16, 17, 18, 27, 40])
def test_windows_equal_the_definition(frames):
    labels, predictions = random_video(frames, seed=0)
    state = VideoConsistency.empty()
    found = {8: [], 16: []}
    for label, prediction in zip(labels, predictions, strict=True):
        state = state.update(label, prediction)
        for windows, pixels in zip(state.windows, state.pixels, strict=True):
            if pixels is not None:
                found[windows.length].append(pixels)
    for windows in state.windows:
        direct = direct_windows(labels, predictions, windows.length)
        assert found[windows.length] == direct
        for with_last in (True, False):
            expected = mean(ratios(direct if with_last else direct[:-1]))
            assert windows.mean(with_last) == pytest.approx(expected, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("longest", [1, 2, 280])
def test_other_window_lengths(longest):
    labels, predictions = random_video(300, seed=3, change=0.002, shape=(3, 4))
    state = VideoConsistency.empty((longest,))
    for label, prediction in zip(labels, predictions, strict=True):
        state = state.update(label, prediction)
    expected = mean(ratios(direct_windows(labels, predictions, longest)))
    assert state.windows[0].mean(with_last=True) == pytest.approx(expected, rel=1e-12)


def test_windows_without_stable_pixels_are_skipped():
    windows = Windows(8).update(4, 1).update(0, 0).update(2, 2).update(0, 0)
    assert windows.mean(with_last=False) == windows.mean(with_last=True) == (0.25 + 1.0) / 2
    assert math.isnan(Windows(8).update(3, 1).mean(with_last=False))
    assert math.isnan(Windows(8).update(0, 0).mean(with_last=True))


def test_reused_frame_buffers():
    labels, predictions = random_video(12, seed=1)
    label, prediction = np.empty_like(labels[0]), np.empty_like(predictions[0])

    def reusing():
        for t in range(len(labels)):
            label[:], prediction[:] = labels[t], predictions[t]
            yield label, prediction

    fresh = score_video("a", zip(labels, predictions, strict=True), K)
    assert score_video("a", reusing(), K).sums["steadiness"].windows == fresh.sums["steadiness"].windows


def test_confusion_equals_the_definition():
    labels, predictions = random_video(9, seed=2)
    labels[labels == 3] = 255  # A class without labels, but with predictions.
    counts = direct_confusion(labels, predictions)
    confusion = Confusion.empty(K)
    for label, prediction in zip(labels, predictions, strict=True):
        confusion = confusion.update(label, prediction)
    np.testing.assert_array_equal(confusion.counts, counts)
    assert confusion.counts.dtype == np.int64

    ious, accuracies, weights = [], [], []
    for k in range(K):
        if counts[k].sum():
            ious.append(counts[k, k] / (counts[k].sum() + counts[:, k].sum() - counts[k, k]))
            accuracies.append(counts[k, k] / counts[k].sum())
            weights.append(counts[k].sum() / counts.sum())
    assert len(ious) == K - 1
    assert np.isnan(confusion.ious()[3]) and np.isnan(confusion.accuracies()[3])
    np.testing.assert_allclose(np.delete(confusion.ious(), 3), ious, rtol=1e-12)
    np.testing.assert_allclose(np.delete(confusion.accuracies(), 3), accuracies, rtol=1e-12)
    assert confusion.miou() == pytest.approx(mean(ious), rel=1e-12)
    assert confusion.class_accuracy() == pytest.approx(mean(accuracies), rel=1e-12)
    assert confusion.weighted_iou() == pytest.approx(np.dot(ious, weights), rel=1e-12)
    assert confusion.pixel_accuracy() == pytest.approx(np.trace(counts) / counts.sum(), rel=1e-12)


def test_confusion_of_many_classes_and_other_integers():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 255, (2, 4, 50))
    confusion = Confusion.empty(255).update(labels.astype(np.int32), predictions)
    assert confusion.counts.sum() == 200 and confusion.counts[labels[0, 0], predictions[0, 0]] >= 1
    assert Confusion.empty(1).update(np.zeros((2, 2), bool), np.zeros((2, 2), np.uint8)).miou() == 1.0


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([[K]], [[0]], "labels hold a value that is not in 0..4"),
        ([[0]], [[K]], "predictions hold a value that is not in 0..4"),
        ([[0]], [[255]], "predictions hold"),
        ([[0, 1]], [[0]], "differ in shape"),
        ([[-1]], [[0]], "labels must be integers in 0..255"),
        ([[0]], [[0.0]], "predictions must be integers in 0..255"),
    ],
)
def test_confusion_refuses(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        Confusion.empty(K).update(np.array(labels), np.array(predictions))


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 127, 128, 129, 640, 70_001])
def test_frames_of_any_size_and_raggedness(size):
    """Patches of all lengths, so that they end at all places of the words that the kernels take together."""
    rng = np.random.default_rng(size)
    for longest in (1, 3, 70, 500):
        frames = [patches(rng, size, longest) for _ in range(10)]
        frames += frames[-1:] * 3
        labels, predictions = (np.array(frames)[rng.permutation(13)] for _ in range(2))
        labels[labels == K] = 255
        predictions[predictions == K] = 0
        counts = Confusion.empty(K).update(labels, predictions).counts
        np.testing.assert_array_equal(counts, direct_confusion(labels, predictions))
        steady = VideoConsistency.empty((1, 2, 3)).extend(labels[:, None], predictions[:, None])
        for windows, right in zip(steady.windows, steady.right_windows, strict=True):
            n = windows.length
            stable = [(labels[i : i + n] == labels[i]).all(0) for i in range(14 - n)]
            same = [stable[i] & (predictions[i : i + n] == predictions[i]).all(0) for i in range(14 - n)]
            expected = mean([y.sum() / x.sum() for x, y in zip(stable, same) if x.any()])
            assert windows.mean(with_last=True) == pytest.approx(expected, rel=1e-12, nan_ok=True)
            known = [x & (label != 255) for x, label in zip(stable, labels)]
            same = [known[i] & (predictions[i : i + n] == labels[i]).all(0) for i in range(14 - n)]
            expected = mean([y.sum() / x.sum() for x, y in zip(known, same) if x.any()])
            assert right.mean(with_last=True) == pytest.approx(expected, rel=1e-12, nan_ok=True)


def patches(rng, size, longest):
    """u8[size] of runs of 0..K, at most so long."""
    lengths = rng.integers(1, longest + 1, size)
    return np.repeat(rng.integers(0, K + 1, size, np.uint8), lengths)[:size]


def test_more_pixels_than_are_counted_together(monkeypatch):
    labels, predictions = random_video(2, seed=0)
    whole = Confusion.empty(K).update(labels, predictions).counts
    monkeypatch.setattr(confusion, "MOST", 7)
    np.testing.assert_array_equal(Confusion.empty(K).update(labels, predictions).counts, whole)


def test_frames_need_not_lie_together():
    labels, predictions = random_video(12, seed=1, shape=(20, 30))
    whole = score("a", labels[:, ::2, ::3].copy(), predictions[:, ::2, ::3].copy())
    apart = score("a", labels[:, ::2, ::3], np.asfortranarray(predictions)[:, ::2, ::3])
    for name in ("confusion", "boundary"):
        np.testing.assert_array_equal(apart.sums[name].counts, whole.sums[name].counts)
    assert apart.sums["steadiness"] == whole.sums["steadiness"]


def test_compiles_where_no_folder_takes_the_machine_code(monkeypatch):
    real = numba.njit
    kinds = []

    def njit(**options):
        kinds.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function")  # What Numba raises then.
        return real(**options)

    monkeypatch.setattr(numba, "njit", njit)
    assert kernels._compiled(lambda x: x + 1)(1) == 2
    assert kinds == [{"nogil": True, "cache": True}, {"nogil": True}]


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_no_pixels_are_no_counts(shape):
    nothing = np.zeros(shape, np.uint8)
    video = score("a", [nothing] * 9, [nothing] * 9)
    assert video.sums["confusion"].counts.sum() == video.sums["boundary"].counts.sum() == 0
    assert video.sums["steadiness"].steady == 0
    assert math.isnan(video.sums["steadiness"].consistency(8, with_last=True))


def test_boundaries_refuse_what_does_not_fit():
    frame = np.zeros((4, 5), np.uint8)
    with pytest.raises(ValueError, match="differ in shape"):
        boundary.boundary_confusion(frame, frame[:3], K)
    with pytest.raises(ValueError, match="predictions hold a value that is not in 0..4"):
        boundary.boundary_confusion(frame, np.where(np.eye(4, 5) > 0, 9, frame), K)


def test_predictions_of_ignored_pixels_do_not_matter():
    ignored = np.full((3, 4), 255, np.uint8)
    assert Confusion.empty(K).update(ignored, ignored).counts.sum() == 0


def test_consistency_refuses():
    frame = np.zeros((2, 3), np.uint8)
    with pytest.raises(ValueError, match="must keep one shape"):
        VideoConsistency.empty().update(frame, frame).update(frame[:, :2], frame[:, :2])
    with pytest.raises(ValueError, match="must keep one shape"):
        VideoConsistency.empty().update(frame, frame[:, :2])
    for lengths in ((), (0,)):
        with pytest.raises(ValueError, match="window lengths"):
            VideoConsistency.empty(lengths)
    for num_classes in (0, 256):
        with pytest.raises(ValueError, match="num_classes"):
            Confusion.empty(num_classes)


def score(name, labels, predictions):
    return score_video(name, zip(labels, predictions, strict=True), K)


def test_perfect_and_constant_predictions():
    labels, _ = random_video(20, seed=5, ignored=0.0)
    perfect = Scores.empty(K).update(score("a", labels, labels)).figures()
    shares = (perfect["miou"], perfect["weighted_iou"], perfect["pixel_accuracy"], perfect["class_accuracy"])
    assert shares == (1.0, 1.0, 1.0, 1.0)
    assert (perfect["vc8"], perfect["vc16"], perfect["vc8_paper"], perfect["vc16_paper"]) == (1.0, 1.0, 1.0, 1.0)
    constant = Scores.empty(K).update(score("a", labels, np.zeros_like(labels))).figures()
    assert (constant["vc8"], constant["vc16"], constant["vc8_paper"], constant["vc16_paper"]) == (1.0, 1.0, 1.0, 1.0)
    assert constant["pixel_accuracy"] == pytest.approx((labels == 0).mean())


def test_all_ignored():
    labels = np.full((20, 4, 5), 255, np.uint8)
    figures = Scores.empty(K).update(score("a", labels, np.zeros_like(labels))).figures()
    for name in ("miou", "weighted_iou", "pixel_accuracy", "class_accuracy"):
        assert math.isnan(figures[name])
    assert (figures["vc8"], figures["vc16"]) == (1.0, 1.0)  # An ignored label is a label like any other.


def test_nothing_to_measure():
    figures = Scores.empty(K).figures()
    assert (figures["videos"], figures["frames"], figures["left_out"]) == (0, 0, 0)
    assert math.isnan(figures["miou"]) and math.isnan(figures["vc8"]) and math.isnan(figures["vc16_paper"])
    labels, predictions = random_video(5, seed=0)
    short = Scores.empty(K).update(score("a", labels, predictions))
    assert math.isnan(short.figures()["miou"]) and short.figures()["left_out"] == 1
    every = dataclasses.replace(short, cutoff=0).figures()
    assert every["miou"] > 0 and math.isnan(every["vc8_paper"])


@pytest.fixture(scope="module")
def many():
    """Videos of 5 to 40 frames."""
    return {f"v{frames:02}": random_video(frames, seed=7) for frames in range(5, 41, 5)}


def test_figures_equal_the_definition(many):
    scores = Scores.empty(K)
    for name, video in many.items():
        scores = scores.update(score(name, *video))
    found = scores.figures()
    long = [video for video in many.values() if len(video[0]) > 16]
    confusion = Confusion(sum(direct_confusion(*video) for video in long))
    assert found["miou"] == confusion.miou() and found["weighted_iou"] == confusion.weighted_iou()
    assert (found["videos"], found["left_out"], found["frames"]) == (5, 3, 20 + 25 + 30 + 35 + 40)
    for length, released, paper in ((8, found["vc8"], found["vc8_paper"]), (16, found["vc16"], found["vc16_paper"])):
        pooled = [ratio for video in long for ratio in ratios(direct_windows(*video, length)[:-1])]
        assert released == pytest.approx(mean(pooled), rel=1e-12)
        means = [mean(ratios(direct_windows(*video, length))) for video in many.values()]
        assert paper == pytest.approx(mean([x for x in means if not math.isnan(x)]), rel=1e-12)


def test_short_videos_count_where_no_benchmark_leaves_them_out(many):
    scores = Scores.empty(K, cutoff=0)
    for name, video in many.items():
        scores = scores.update(score(name, *video))
    found = scores.figures()
    assert found["miou"] == Confusion(sum(direct_confusion(*video) for video in many.values())).miou()
    assert (found["videos"], found["left_out"], found["frames"]) == (8, 0, sum(range(5, 41, 5)))
    released = dataclasses.replace(scores, cutoff=16)
    long = dataclasses.replace(scores, videos=tuple(video for video in scores.videos if video.frames > 16)).figures()
    for metric in all_metrics.METRICS:
        assert released.figures()[metric.key] == (found if metric.short_videos else long)[metric.key]
    with pytest.raises(ValueError, match="over 0 and over 16 frames do not merge"):
        scores.merge(Scores.empty(K))


@pytest.mark.parametrize("cutoff", [0, 16])
def test_in_how_many_videos_consistency_could_be_measured(many, cutoff):
    scores = Scores.empty(K, cutoff)
    for name, video in many.items():
        scores = scores.update(score(name, *video))
    measured = scores.measured()
    for length in (8, 16):
        windows = {len(video[0]): ratios(direct_windows(*video, length)[:-1]) for video in many.values()}
        assert measured[f"vc{length}"] == sum(bool(of) for frames, of in windows.items() if frames > cutoff)
        every = [ratios(direct_windows(*video, length)) for video in many.values()]
        assert measured[f"vc{length}_paper"] == sum(map(bool, every)) > 0


def test_merging_is_exact_in_any_order(many):
    videos = [score(name, *video) for name, video in many.items()]
    one_go = Scores.empty(K)
    for video in videos:
        one_go = one_go.update(video)
    rng = np.random.default_rng(0)
    for _ in range(5):
        order = rng.permutation(len(videos))
        parts = [Scores.empty(K) for _ in range(3)]
        for i in order:
            part = rng.integers(3)
            parts[part] = parts[part].update(videos[i])
        parts = [pickle.loads(pickle.dumps(part)) for part in parts]  # As if from other processes.
        merged = parts[2].merge(parts[0]).merge(parts[1])
        assert merged.figures() == one_go.figures()
        assert [v.name for v in merged.videos] == [v.name for v in one_go.videos]
    with pytest.raises(ValueError, match="video scored twice: v05"):
        one_go.update(videos[0])
    with pytest.raises(ValueError, match="classes do not merge"):
        one_go.merge(Scores.empty(K + 1))


@pytest.mark.parametrize("sparse", [False, True])
def test_frames_together_and_on_threads_give_the_same(many, sparse):
    labels, predictions = many["v40"]
    expected = score_video("a", zip(labels, predictions, strict=True), K, sparse)
    with ThreadPoolExecutor(4) as pool:
        for own in (None, pool):
            tally = metrics_scores.VideoTally.empty(K, sparse)
            for start, stop in ((0, 1), (1, 8), (8, 8), (8, len(labels))):
                tally = tally.extend(labels[start:stop], predictions[start:stop], own)
            found = tally.score("a")
            for name in ("confusion", "boundary"):
                np.testing.assert_array_equal(found.sums[name].counts, expected.sums[name].counts)
            assert found.frames == expected.frames
            assert found.sums.get("steadiness") == expected.sums.get("steadiness")
            assert ("steadiness" in found.sums) == (not sparse)
            assert sparse or found.sums["steadiness"].consistency(8, True) > 0


def test_state_does_not_grow(many):
    labels, predictions = many["v40"]
    state = VideoConsistency.empty()
    sizes = []
    for label, prediction in zip(labels, predictions, strict=True):
        state = state.update(label, prediction)
        sizes.append(state.label.nbytes + state.prediction.nbytes + state.ages.nbytes)
    # Two frames, and 3 numbers up to 16.
    assert set(sizes) == {5 * labels[0].size}
    assert consistency.LENGTHS == tuple(w.length for w in state.windows)


# --- what the papers do not report


def direct_right(labels, predictions, length):
    """(stable pixels with a class, those that are right in all frames) of each window, from the definition."""
    found = []
    for start in range(len(labels) - length + 1):
        window = slice(start, start + length)
        stable = (labels[window] == labels[start]).all(0) & (labels[start] != 255)
        found.append((int(stable.sum()), int((stable & (predictions[window] == labels[window]).all(0)).sum())))
    return found


@pytest.mark.parametrize("frames", [7, 8, 17, 40])
def test_correct_consistency_equals_the_definition(frames):
    labels, predictions = random_video(frames, seed=4, ignored=0.3, change=0.04)
    steadiness = score("a", labels, predictions).sums["steadiness"]
    for length in (8, 16):
        expected = mean(ratios(direct_right(labels, predictions, length)))
        assert steadiness.right_consistency(length) == pytest.approx(expected, rel=1e-12, nan_ok=True)
    if frames > 8:
        assert 0 < steadiness.right_consistency(8) < steadiness.consistency(8, with_last=True)


def test_flicker_equals_the_definition(many):
    changed = steady = 0
    scores = Scores.empty(K)
    for name, (labels, predictions) in many.items():
        same = (labels[1:] == labels[:-1]) & (labels[1:] != 255)
        both = int((same & (predictions[1:] != predictions[:-1])).sum()), int(same.sum())
        video = score(name, labels, predictions)
        assert video.sums["steadiness"].flicker() == both[0] / both[1]
        if len(labels) > 16:
            changed, steady = changed + both[0], steady + both[1]
        scores = scores.update(video)
    assert scores.figures()["flicker"] == changed / steady


def eroded_bands(mask, width):
    """As Boundary IoU defines it: what erosion takes away from a class; outside of the frame is another class."""
    padded = np.pad(mask.astype(np.uint8), 1)
    return (padded - cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width))[1:-1, 1:-1].astype(bool)


def test_boundary_iou_equals_erosion_class_by_class():
    rng = np.random.default_rng(0)
    size = (97, 151)
    assert (width := boundary.boundary_width(*size)) == 4

    def patches():
        return cv2.resize(rng.integers(0, K, (6, 9), np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)

    labels = [patches() for _ in range(3)]
    for label in labels:
        label[30:50, 40:80] = 255
    predictions = [np.where(rng.random(size) < 0.003, 0, np.roll(np.where(x == 255, 1, x), 2, 1)) for x in labels]
    predictions = np.array(predictions, np.uint8)
    scores = Scores.empty(K, cutoff=0).update(score("a", labels, predictions))
    expected = []
    for k in range(K):
        both = either = 0
        for label, prediction in zip(labels, predictions):
            bands = eroded_bands(label == k, width), eroded_bands(prediction == k, width) & (label != 255)
            both, either = both + (bands[0] & bands[1]).sum(), either + (bands[0] | bands[1]).sum()
        expected.append(both / either)
    np.testing.assert_allclose(boundary.boundary_ious(scores.total(boundary.BOUNDARY)), expected, rtol=1e-12)
    assert scores.figures()["boundary_iou"] == pytest.approx(np.mean(expected)) and 0.2 < np.mean(expected) < 0.9


@pytest.mark.parametrize("seed", range(6))
def test_a_band_is_where_the_square_is_not_one_class_of_the_frame(seed):
    rng = np.random.default_rng(seed)
    for height, length, width in rng.integers((1, 1, 1), (40, 40, 7), (20, 3)).tolist():
        size = (height, length)
        change = rng.choice([0.0, 0.004, 0.05])
        classes = (rng.random(size) < change).astype(np.uint8) * rng.integers(1, 255, dtype=np.uint8)
        padded = np.pad(classes.astype(int), width, constant_values=-1)
        squares = np.lib.stride_tricks.sliding_window_view(padded, (2 * width + 1,) * 2)
        expected = (squares != classes[..., None, None]).any((2, 3))
        bands = kernels.bands(read_only(classes), width, np.uint8(255))
        np.testing.assert_array_equal(bands, np.where(expected, classes, 255))


def test_a_constant_prediction_is_steady_but_not_right():
    labels, _ = random_video(20, seed=5, ignored=0.0)
    labels %= 4
    constant = Scores.empty(K).update(score("a", labels, np.full_like(labels, 4))).figures()
    assert (constant["vc8"], constant["flicker"], constant["cc8"], constant["cc16"]) == (1.0, 0.0, 0.0, 0.0)
    perfect = Scores.empty(K).update(score("a", labels, labels)).figures()
    assert (perfect["cc8"], perfect["cc16"], perfect["boundary_iou"], perfect["flicker"]) == (1.0, 1.0, 1.0, 0.0)
