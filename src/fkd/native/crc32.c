/* The CRC-32 of zlib, gzip and PNG: polynomial 0xEDB88320, bits reflected.
 *
 * Long runs are folded 64 or 256 bytes at a time with carry-less multiplications where the processor
 * has them: that replaces a block by 16 bytes of the same remainder, which go through the table.
 *
 * Source: Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction",
 * Intel 2009, for the method.
 */

#include "native.h"

#define POLYNOMIAL 0xEDB88320u
#define FOLDED 64 /* bytes; fewer are not worth the set-up */

static uint32_t table[8][256]; /* [k][b]: remainder of byte b with k zero bytes behind it */

__attribute__((constructor)) static void fill_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t remainder = byte;
        for (int bit = 0; bit < 8; bit++)
            remainder = (remainder >> 1) ^ (remainder & 1 ? POLYNOMIAL : 0);
        table[0][byte] = remainder;
    }
    for (int zeros = 1; zeros < 8; zeros++)
        for (int byte = 0; byte < 256; byte++) {
            uint32_t shorter = table[zeros - 1][byte];
            table[zeros][byte] = (shorter >> 8) ^ table[0][shorter & 0xFF];
        }
}

static uint32_t by_table(uint32_t state, const uint8_t *data, int64_t length)
{
    for (; length >= 8; data += 8, length -= 8) {
        uint32_t low, high;
        memcpy(&low, data, 4);
        memcpy(&high, data + 4, 4);
        low ^= state;
        state = table[7][low & 0xFF] ^ table[6][low >> 8 & 0xFF] ^ table[5][low >> 16 & 0xFF] ^
                table[4][low >> 24] ^ table[3][high & 0xFF] ^ table[2][high >> 8 & 0xFF] ^
                table[1][high >> 16 & 0xFF] ^ table[0][high >> 24];
    }
    for (; length > 0; data++, length--)
        state = (state >> 8) ^ table[0][(state ^ *data) & 0xFF];
    return state;
}

#if defined(__x86_64__)
#include <immintrin.h>

#define WITH_FOLDING __attribute__((target("pclmul,sse4.1")))
#define WITH_WIDE_FOLDING __attribute__((target("pclmul,vpclmulqdq,avx512f")))

/* x^(8 n + 32) and x^(8 n - 32) modulo the polynomial, bits reflected, to fold by n bytes. */
#define BY_256_BYTES 0x11542778a, 0x1322d1430
#define BY_64_BYTES 0x154442bd4, 0x1c6e41596
#define BY_16_BYTES 0x1751997d0, 0x0ccaa009e
#define SPREAD(...) SPREAD_(__VA_ARGS__)
#define SPREAD_(low, high) _mm_set_epi64x(high, low)

WITH_FOLDING static inline __m128i fold(__m128i folded, __m128i next, __m128i by)
{
    __m128i low = _mm_clmulepi64_si128(folded, by, 0x00);
    __m128i high = _mm_clmulepi64_si128(folded, by, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

/* The state after 64 folded bytes and `length` more, a multiple of 16. */
WITH_FOLDING static uint32_t fold_rest(__m128i lanes[4], const uint8_t *data, int64_t length)
{
    const __m128i by_64_bytes = SPREAD(BY_64_BYTES), by_16_bytes = SPREAD(BY_16_BYTES);
    const __m128i *next = (const __m128i *)data;
    for (; length >= 64; length -= 64)
        for (int lane = 0; lane < 4; lane++)
            lanes[lane] = fold(lanes[lane], _mm_loadu_si128(next++), by_64_bytes);
    __m128i folded = lanes[0];
    for (int lane = 1; lane < 4; lane++)
        folded = fold(folded, lanes[lane], by_16_bytes);
    for (; length > 0; length -= 16)
        folded = fold(folded, _mm_loadu_si128(next++), by_16_bytes);
    uint8_t remainder[16];
    _mm_storeu_si128((__m128i *)remainder, folded);
    return by_table(0, remainder, 16);
}

/* `length` is a multiple of 16 and at least 64. */
WITH_FOLDING static uint32_t by_folding(uint32_t state, const uint8_t *data, int64_t length)
{
    __m128i lanes[4];
    for (int lane = 0; lane < 4; lane++)
        lanes[lane] = _mm_loadu_si128((const __m128i *)data + lane);
    lanes[0] = _mm_xor_si128(lanes[0], _mm_cvtsi32_si128((int)state));
    return fold_rest(lanes, data + 64, length - 64);
}

WITH_WIDE_FOLDING static inline __m512i fold_wide(__m512i folded, __m512i next, __m128i by)
{
    __m512i wide_by = _mm512_broadcast_i32x4(by);
    __m512i low = _mm512_clmulepi64_epi128(folded, wide_by, 0x00);
    __m512i high = _mm512_clmulepi64_epi128(folded, wide_by, 0x11);
    return _mm512_xor_si512(_mm512_xor_si512(low, high), next);
}

/* `length` is a multiple of 16 and at least 256. */
WITH_WIDE_FOLDING static uint32_t by_wide_folding(uint32_t state, const uint8_t *data,
                                                  int64_t length)
{
    const __m128i by_256_bytes = SPREAD(BY_256_BYTES), by_64_bytes = SPREAD(BY_64_BYTES);
    __m512i blocks[4];
    for (int block = 0; block < 4; block++)
        blocks[block] = _mm512_loadu_si512(data + 64 * block);
    __m512i begin = _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)state));
    blocks[0] = _mm512_xor_si512(blocks[0], begin);
    for (data += 256, length -= 256; length >= 256; data += 256, length -= 256)
        for (int block = 0; block < 4; block++)
            blocks[block] =
                fold_wide(blocks[block], _mm512_loadu_si512(data + 64 * block), by_256_bytes);
    for (int block = 1; block < 4; block++)
        blocks[block] = fold_wide(blocks[block - 1], blocks[block], by_64_bytes);
    __m128i lanes[4];
    _mm512_storeu_si512(lanes, blocks[3]);
    return fold_rest(lanes, data, length);
}

/* `length` is a multiple of 16 and at least FOLDED. */
static uint32_t by_multiplication(uint32_t state, const uint8_t *data, int64_t length)
{
    if (length >= 256 && __builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("avx512f"))
        return by_wide_folding(state, data, length);
    return by_folding(state, data, length);
}

static int can_multiply(void) { return __builtin_cpu_supports("pclmul"); }
#else
static uint32_t by_multiplication(uint32_t state, const uint8_t *data, int64_t length)
{
    return by_table(state, data, length);
}

static int can_multiply(void) { return 0; }
#endif

EXPORT uint32_t fkd_crc32(uint32_t before, const uint8_t *data, int64_t length)
{
    uint32_t state = ~before;
    if (length >= FOLDED && can_multiply()) {
        int64_t whole = length & ~(int64_t)15;
        state = by_multiplication(state, data, whole);
        data += whole;
        length -= whole;
    }
    return ~by_table(state, data, length);
}
