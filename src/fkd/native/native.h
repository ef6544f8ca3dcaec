/* What all kernels share. */

#pragma once

#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

/* The same loops once more for wider registers; the C library picks a copy when it loads them. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EVERY_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EVERY_PROCESSOR
#endif

/* CRC-32 of `length` bytes, going on from the CRC-32 of what came before (0 at the beginning). */
uint32_t fkd_crc32(uint32_t before, const uint8_t *data, int64_t length);
