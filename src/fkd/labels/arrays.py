"""Decoded labels as NumPy arrays: for looking at labels without torch.

The same equations as `targets` of `fkd.labels.codecs`, which explains them; a test compares the two
for every codec. Training takes those, which stay sparse.
"""

import numpy as np

from fkd.labels.codec_names import PerTeacher
from fkd.labels.codecs import (
    Codec,
    Full,
    Hard,
    Logits,
    MarginalRenorm,
    MarginalSmoothing,
    TopKLogits,
    TopKLogProbs,
)
from fkd.labels.encoded import Encoded
from fkd.labels.sigmoid_codecs import Sigmoid, TopKSigmoid, from_angles


def decode_array(codec: Codec, encoded: Encoded, num_classes: int) -> np.ndarray:
    """The decoded label q of every crop, float64 (B, C); rows sum to 1, but for sigmoids.

    Raises:
        TypeError: the codec is none of this package's.
    """
    if isinstance(codec, PerTeacher):
        weights = codec.weights or (1.0,) * codec.count
        labels = [decode_array(codec.codec, part, num_classes) for part in codec.split(encoded)]
        return np.average(labels, axis=0, weights=weights)
    ids, values = _rows(encoded.ids), _rows(encoded.values)
    if isinstance(codec, Full):
        return _normalized(values)
    if isinstance(codec, Logits):
        return _softmax(values / codec.temperature)
    if isinstance(codec, Sigmoid):
        return from_angles(values)
    rest = num_classes - ids.shape[1]
    if isinstance(codec, TopKSigmoid):
        p = from_angles(values)
        return _spread(ids, p[:, :-1], p[:, -1:], num_classes)
    if isinstance(codec, Hard):
        return _spread(ids, np.ones(ids.shape), 0.0, num_classes)
    if isinstance(codec, MarginalRenorm):
        return _normalized(_spread(ids, values, 0.0, num_classes))
    if isinstance(codec, MarginalSmoothing):
        kept = values / np.maximum(values.sum(1, keepdims=True), 1.0)
        other = np.maximum(1.0 - kept.sum(1, keepdims=True), 0.0) / max(rest, 1)
        empty = values.sum(1, keepdims=True) == 0
        return _normalized(_spread(ids, kept, np.where(empty, 0.0, other), num_classes))
    if isinstance(codec, TopKLogits):
        return _softmax(_spread(ids, values, 0.0, num_classes))
    if isinstance(codec, TopKLogProbs):
        each_other = values[:, -1:] - np.log(max(rest, 1))
        logits = _spread(ids, values[:, :-1], each_other, num_classes)
        return _softmax(logits / codec.temperature)
    raise TypeError(f"no codec: {codec!r}")


def entropies(probabilities: np.ndarray) -> np.ndarray:
    """Entropy of each row in nats."""
    logs = np.log(np.where(probabilities > 0, probabilities, 1.0))
    result: np.ndarray = -(probabilities * logs).sum(-1)
    return result


def _rows(array: np.ndarray | None) -> np.ndarray:
    """(B, K) of ids or (B, V) of values; integers stay what they are, the rest is float64."""
    if array is None:
        return np.zeros((0, 0))
    rows = array.reshape(-1, array.shape[-1])
    return rows if rows.dtype.kind in "iu" else rows.astype(np.float64)


def _spread(
    ids: np.ndarray, kept: np.ndarray, other: np.ndarray | float, num_classes: int
) -> np.ndarray:
    """Kept values (B, K) at their class ids, `other` (B, 1) everywhere else: (B, C)."""
    dense = np.broadcast_to(other, (len(ids), num_classes)).astype(np.float64)
    np.put_along_axis(dense, ids.astype(np.int64), kept, axis=1)
    return dense


def _normalized(weights: np.ndarray) -> np.ndarray:
    """Rescaled to sum 1; a row of zeros is uniform."""
    total = weights.sum(1, keepdims=True)
    return np.where(total == 0, 1.0 / weights.shape[1], weights / np.where(total == 0, 1.0, total))


def _softmax(logits: np.ndarray) -> np.ndarray:
    power = np.exp(logits - logits.max(1, keepdims=True))
    result: np.ndarray = power / power.sum(1, keepdims=True)
    return result
