"""k nearest neighbors and linear probes, against naive versions and known answers."""

import math

import pytest
import torch
import torch.nn.functional as F

from fkd.errors import ConfigError
from fkd.evaluation.probes import Features, _Heads, knn_accuracy, linear_probe


def clusters(num_images, num_classes=4, dim=8, noise=0.5, seed=0) -> Features:
    """Features around one center per class."""
    centers = torch.randn(num_classes, dim, generator=torch.Generator().manual_seed(77))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_images) % num_classes
    return Features(
        centers[labels] + noise * torch.randn(num_images, dim, generator=generator), labels
    )


def test_the_vote_is_that_of_the_definition():
    train, test, k = clusters(40, noise=1.5), clusters(30, noise=1.5, seed=1), 5
    right = 0
    for value, label in zip(test.values, test.labels, strict=True):
        similar = sorted(
            (
                (float(F.cosine_similarity(value, other, dim=0)), int(of))
                for other, of in zip(train.values, train.labels, strict=True)
            ),
            reverse=True,
        )
        votes = [0.0] * 4
        for cosine, of in similar[:k]:
            votes[of] += math.exp(cosine / 0.07)
        right += max(range(4), key=votes.__getitem__) == int(label)
    assert 30 < 100 * right / 30 < 100
    assert knn_accuracy(train, test, k) == pytest.approx(100 * right / 30)


def test_one_neighbor_of_the_training_images_is_the_image_itself():
    train = clusters(30, noise=3.0)
    assert knn_accuracy(train, train, k=1) == 100.0


@pytest.mark.parametrize("k", [0, -1, 31])
def test_impossible_numbers_of_neighbors_are_refused(k):
    with pytest.raises(ConfigError, match=r"k must lie in \[1, 30\]"):
        knn_accuracy(clusters(30), clusters(3), k)


def test_a_step_is_that_of_torch():
    """All rates at once give what torch's SGD gives for each alone."""
    part, rates = clusters(64), [0.01, 0.3]
    heads = _Heads(8, 4, rates)
    heads.fit(part, epochs=3, batch_size=64, seed=0)
    for number, rate in enumerate(rates):
        layer = torch.nn.Linear(8, 4)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        optimizer = torch.optim.SGD(layer.parameters(), rate, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(layer(part.values), part.labels).backward()
            optimizer.step()
            schedule.step()
        # torch scales the velocity by the newest rate; so do we.
        torch.testing.assert_close(heads.weight[number].T, layer.weight, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(heads.bias[number, 0], layer.bias, atol=1e-5, rtol=1e-4)


def test_separable_classes_are_separated():
    result = linear_probe(clusters(200, noise=0.2), clusters(50, noise=0.2, seed=1), epochs=10)
    assert result.top1 == result.top5 == 100.0
    assert result.learning_rate in result.held_out_top1


def test_noise_is_not_learned():
    generator = torch.Generator().manual_seed(0)
    train, test = (
        Features(torch.randn(200, 8, generator=generator), torch.arange(200) % 4) for _ in range(2)
    )
    assert 10 < linear_probe(train, test, epochs=5).top1 < 40


def test_the_scale_of_features_does_not_matter():
    train, test = clusters(120, noise=1.0), clusters(40, noise=1.0, seed=1)
    reference = linear_probe(train, test, epochs=5)
    large = [Features(1000 * part.values + 77, part.labels) for part in (train, test)]
    assert linear_probe(*large, epochs=5).top1 == pytest.approx(reference.top1, abs=2.6)


def test_the_same_seed_gives_the_same_result():
    train, test = clusters(120, noise=2.0), clusters(40, noise=2.0, seed=1)
    assert linear_probe(train, test, epochs=3) == linear_probe(train, test, epochs=3)


def test_a_rate_that_diverges_is_not_chosen():
    """Its classifier is not finite, and whatever comes first would be its answer."""
    train, test = clusters(60), clusters(20, seed=1)
    result = linear_probe(train, test, learning_rates=[1e38, 0.1], epochs=5)
    assert result.learning_rate == 0.1
    assert result.held_out_top1.keys() == {0.1}
    with pytest.raises(ConfigError, match=r"diverged at 1e\+38; give smaller rates"):
        linear_probe(train, test, learning_rates=[1e38], epochs=5)


def test_too_few_images_are_refused():
    with pytest.raises(ConfigError, match="needs 20 training images, got 8"):
        linear_probe(clusters(8), clusters(8))
