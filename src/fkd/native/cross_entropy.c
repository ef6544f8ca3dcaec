/* Soft cross-entropy of sparse targets and its gradient, one row of logits after the other.
 *
 * For logits z, u = z / t and a target q_c = tail + sum_k weight_k [c = index_k] of mass s:
 *
 *     loss       = sum_k weight_k (LSE(u) - u_k) + tail (C LSE(u) - sum_c u_c)
 *     gradient_c = g / t (s softmax(u)_c - q_c)
 *
 * A row stays in the cache between the passes over it. Loops are written so that a compiler may use
 * wide registers (no branches, sums in any order); sums of blocks are added up in double precision.
 *
 * Source: FKD (Shen and Xing, ECCV 2022), Sec. 3.3.
 */

#include <math.h>

#include "native.h"

#define BLOCK 1024 /* classes that are summed up in single precision */

INLINE float float_of(int32_t bits)
{
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

INLINE int32_t bits_of(float value)
{
    int32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

/* Floats as integers of the same order, to find the largest without branches; the same function
 * leads back. A NaN is above infinity, or ignored here and found by the exponentials. */
INLINE int32_t ordered(int32_t bits) { return bits ^ (bits >> 31 & 0x7FFFFFFF); }

/* e^x for x <= 0; 0 below -87. Never off by more than 1.02 units in the last place: measured on every
 * seventh float down to -87.
 *
 * x = n ln 2 + r, |r| <= ln 2 / 2: 2^n by the exponent's bits, e^r by a polynomial (that of the
 * Cephes library's expf, S. Moshier). */
INLINE float exp_of_negative(float x)
{
    int32_t kept = -(int32_t)!(x < -87.0f); /* a mask and no branch; a NaN is kept */
    int32_t n = (int32_t)(x * 1.44269504f - 0.5f);
    float r = x - (float)n * 0.693359375f + (float)n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return float_of(bits_of(p * float_of((int32_t)((uint32_t)(n + 127) << 23))) & kept);
}

INLINE int64_t block_end(int64_t begin, int64_t size)
{
    return size - begin < BLOCK ? size : begin + BLOCK;
}

INLINE float largest_of(const float *row, int64_t size)
{
    int32_t largest = INT32_MIN;
#pragma omp simd reduction(max : largest)
    for (int64_t c = 0; c < size; c++) {
        int32_t bits = ordered(bits_of(row[c]));
        largest = bits > largest ? bits : largest;
    }
    return float_of(ordered(largest));
}

INLINE double sum_of(const float *row, int64_t size)
{
    double total = 0.0;
    for (int64_t begin = 0; begin < size; begin += BLOCK) {
        int64_t end = block_end(begin, size);
        float part = 0.0f;
#pragma omp simd reduction(+ : part)
        for (int64_t c = begin; c < end; c++)
            part += row[c];
        total += part;
    }
    return total;
}

/* log sum_c e^(scale (row_c - largest)), the largest of the row and its sum, in one pass: a block is
 * summed up relative to the largest so far. */
INLINE double log_sum_exp(const float *row, int64_t size, float scale, float *largest_found,
                          double *sum_found)
{
    float largest = -INFINITY;
    double total = 0.0, sum = 0.0;
    for (int64_t begin = 0; begin < size; begin += BLOCK) {
        int64_t end = block_end(begin, size);
        float of_block = largest_of(row + begin, end - begin), part = 0.0f, plain = 0.0f;
        if (of_block == -INFINITY) { /* no largest to be relative to; a NaN may hide among them */
            plain = (float)sum_of(row + begin, end - begin);
            total += plain == -INFINITY ? 0.0 : plain;
            sum += plain;
            continue;
        }
        if (!(of_block <= largest)) { /* also for a NaN, which then stays */
            total *= exp(((double)largest - of_block) * scale);
            largest = of_block;
        }
#pragma omp simd reduction(+ : part, plain)
        for (int64_t c = begin; c < end; c++) {
            part += exp_of_negative((row[c] - largest) * scale);
            plain += row[c];
        }
        total += part;
        sum += plain;
    }
    *largest_found = largest;
    *sum_found = sum;
    return log(total);
}

/* sum_c weight_c (log_sum - scale (row_c - largest)) */
INLINE double expected_surprise(const float *row, const float *weight, int64_t size, float scale,
                                float largest, float log_sum)
{
    double total = 0.0;
    for (int64_t begin = 0; begin < size; begin += BLOCK) {
        int64_t end = block_end(begin, size);
        float part = 0.0f;
#pragma omp simd reduction(+ : part)
        for (int64_t c = begin; c < end; c++)
            part += weight[c] * (log_sum - (row[c] - largest) * scale);
        total += part;
    }
    return total;
}

/* Loss of `num_rows` rows, and what its gradient needs: the largest logit of each, and log_sum, by
 * which LSE(u) is above that. `index` NULL: `weight` covers all classes.
 *
 * Returns 0, or 1 if a class is out of range. */
EXPORT FOR_EVERY_PROCESSOR int fkd_cross_entropy(
    const float *logits, int64_t num_rows, int64_t num_classes, const int64_t *index,
    const float *weight, int64_t num_named, const float *tail, float temperature, float *loss,
    float *largest, float *log_sum)
{
    float inverse = 1.0f / temperature;
    for (int64_t row = 0; row < num_rows; row++) {
        const float *z = logits + row * num_classes, *w = weight + row * num_named;
        float top;
        double sum, found = 0.0;
        double above = log_sum_exp(z, num_classes, inverse, &top, &sum);
        if (index == NULL)
            found = expected_surprise(z, w, num_classes, inverse, top, (float)above);
        for (int64_t k = 0; index != NULL && k < num_named; k++) {
            int64_t named = index[row * num_named + k];
            if (named < 0 || named >= num_classes)
                return 1;
            found += w[k] * (above - ((double)z[named] - top) / temperature);
        }
        if (tail[row] != 0.0f)
            found += tail[row] * (num_classes * above - (sum - num_classes * (double)top) / temperature);
        loss[row] = (float)found;
        largest[row] = top;
        log_sum[row] = (float)above;
    }
    return 0;
}

/* Gradient of the losses in the logits, where `grad` (num_rows) is that of something in the losses.
 *
 * The other arguments are those of the losses, which has refused classes that are out of range. */
EXPORT FOR_EVERY_PROCESSOR void fkd_cross_entropy_gradient(
    const float *logits, int64_t num_rows, int64_t num_classes, const int64_t *index,
    const float *weight, int64_t num_named, const float *tail, float temperature,
    const float *largest, const float *log_sum, const float *grad, float *gradient)
{
    float inverse = 1.0f / temperature;
    for (int64_t row = 0; row < num_rows; row++) {
        const float *z = logits + row * num_classes, *w = weight + row * num_named;
        float *restrict out = gradient + row * num_classes;
        float scale = grad[row] * inverse, top = largest[row], above = log_sum[row];
        float of_softmax = scale * (float)(sum_of(w, num_named) + num_classes * (double)tail[row]);
        float of_all = scale * tail[row];
        for (int64_t c = 0; c < num_classes; c++)
            out[c] = of_softmax * exp_of_negative((z[c] - top) * inverse - above) - of_all;
        for (int64_t k = 0; k < num_named; k++)
            out[index == NULL ? k : index[row * num_named + k]] -= scale * w[k];
    }
}
