/* New memory in large pages.
 *
 * A page is cleared when it is first touched. In pages of 4 kB that costs more than to compute what
 * goes there: 18 ms instead of 4 for the 89 MB of a gradient.
 */

#include "native.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#define LARGE ((uintptr_t)2 << 20) /* of most processors; elsewhere the system rounds or refuses */

/* Ask for large pages under a buffer that is about to be filled; a refusal changes nothing. */
EXPORT void fkd_want_large_pages(uint8_t *buffer, int64_t length)
{
#if defined(MADV_HUGEPAGE)
    uintptr_t first = ((uintptr_t)buffer + LARGE - 1) & ~(LARGE - 1);
    uintptr_t stop = ((uintptr_t)buffer + (uintptr_t)length) & ~(LARGE - 1);
    if (stop > first)
        madvise((void *)first, stop - first, MADV_HUGEPAGE);
#else
    (void)buffer;
    (void)length;
#endif
}
