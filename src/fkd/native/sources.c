/* Which sources the library was compiled from. */

#include "native.h"

EXPORT const char *fkd_sources(void) { return SOURCES; }
