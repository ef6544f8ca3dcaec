"""How a soft label is compressed: the codecs of the paper, one equation each, and some more.

    codec     stored per crop        decoded q_c
    full      p (C values)           p_c
    hard      y = argmax p           1 if c = y else 0                            Eq. 3
    smoothing (y, p_y)               p_y if c = y else (1 - p_y) / (C - 1)        Eq. 4
    ms:K      top-K (id, p)          p_c if c in top-K else (1 - sum p) / (C - K) Eq. 5
    mr:K      top-K (id, p)          p_c / sum p if c in top-K else 0             Eq. 6-7
    logits    z (D values)           softmax(z / t): for self-supervised teachers
    logits:K  top-K (id, log p),     the same with any t; at t = 1 it is ms:K
              log of the rest
    top:K     top-K (id, logit)      softmax(z), z_c = 0 for all others: cells of label maps
    X*T       X of each teacher      weighted mean of T labels

Guards on rounded values: a sum above 1 is scaled back to 1, a sum of 0 becomes the uniform label.
Ties go to the lower class id, so a label does not depend on the sorting library.

This room knows tensors, not files. Source: FKD (Shen and Xing, ECCV 2022), Sec. 3.2.
"""

from fkd.labels.codecs.codec import Codec, Encoded, decode, top_k
from fkd.labels.codecs.logits import Logits, TopKLogits, TopKLogProbs
from fkd.labels.codecs.probabilities import Full, Hard, MarginalRenorm, MarginalSmoothing, Smoothing
from fkd.labels.codecs.separate import PerTeacher
from fkd.labels.codecs.spelling import (
    SPELLINGS,
    check_codec,
    parse_codec,
    with_teacher_weights,
    with_temperature,
)
from fkd.labels.codecs.values import VALUE_DTYPES, dequantize, quantize

__all__ = [
    "SPELLINGS",
    "VALUE_DTYPES",
    "Codec",
    "Encoded",
    "Full",
    "Hard",
    "Logits",
    "MarginalRenorm",
    "MarginalSmoothing",
    "PerTeacher",
    "Smoothing",
    "TopKLogProbs",
    "TopKLogits",
    "check_codec",
    "decode",
    "dequantize",
    "parse_codec",
    "quantize",
    "top_k",
    "with_teacher_weights",
    "with_temperature",
]
