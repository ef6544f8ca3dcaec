/* Rows of shards in memory: copied cell by cell, and summed up.
 *
 * A shard stores columns, so the parts of a row lie apart. `at` says where: at[column][row] is the
 * byte of `memory` at which a row begins in a column. Nothing is checked here: callers give places
 * inside the memory only.
 */

#include "native.h"

enum how { COPY = 0, U16_TO_I64 = 1, U32_TO_I64 = 2, U16_TO_VALUE = 3, BIT_TO_BOOL = 4 };

struct column {
    int64_t number;   /* its place in `at` */
    int64_t cell;     /* bytes of one image, or of one crop */
    int64_t per_crop; /* whether each crop has a cell, or only the image */
    int64_t how;      /* what becomes of its items */
    int64_t to;       /* where its cells go, bytes from the beginning of the output */
};

struct piece {
    int64_t number;
    int64_t length; /* bytes of a row */
};

struct variable {
    int64_t bytes;   /* number of the column of bytes; `at` has the beginning of the column */
    int64_t offsets; /* number of the column that says where a row begins and ends in there */
    int64_t item;    /* bytes of an offset */
};

static uint8_t *copy_cell(const struct column *column, const uint8_t *from, const float *values,
                          uint8_t *to)
{
    const uint8_t *end = from + column->cell;
    switch (column->how) {
    case U16_TO_I64:
        for (; from < end; from += 2, to += 8) {
            uint16_t narrow;
            memcpy(&narrow, from, 2);
            memcpy(to, &(int64_t){narrow}, 8);
        }
        return to;
    case U32_TO_I64:
        for (; from < end; from += 4, to += 8) {
            uint32_t narrow;
            memcpy(&narrow, from, 4);
            memcpy(to, &(int64_t){narrow}, 8);
        }
        return to;
    case U16_TO_VALUE:
        for (; from < end; from += 2, to += 4) {
            uint16_t stored;
            memcpy(&stored, from, 2);
            memcpy(to, &values[stored], 4);
        }
        return to;
    default:
        memcpy(to, from, column->cell);
        return to + column->cell;
    }
}

/* Copies the cells of some rows: those of `crops` [row][crop], or of the images.
 *
 * The output has the cells of the first column, row after row and crop after crop, then those of the
 * second, ... `values` has the float32 of each uint16 that U16_TO_VALUE meets. */
EXPORT void fkd_gather(const uint8_t *memory, const int64_t *at, int64_t num_rows,
                       const int64_t *crops, int64_t num_crops, const struct column *columns,
                       int64_t num_columns, const float *values, uint8_t *output)
{
    for (const struct column *column = columns; column < columns + num_columns; column++) {
        uint8_t *to = output + column->to;
        for (int64_t row = 0; row < num_rows; row++) {
            const uint8_t *first = memory + at[column->number * num_rows + row];
            if (!column->per_crop) {
                to = copy_cell(column, first, values, to);
                continue;
            }
            const int64_t *chosen = crops + row * num_crops;
            for (int64_t i = 0; i < num_crops; i++) {
                if (column->how == BIT_TO_BOOL)
                    *to++ = first[chosen[i] >> 3] >> (chosen[i] & 7) & 1;
                else
                    to = copy_cell(column, first + chosen[i] * column->cell, values, to);
            }
        }
    }
}

static uint64_t load_offset(const uint8_t *from, int64_t item)
{
    uint64_t offset = 0; /* little-endian, as the shard is */
    memcpy(&offset, from, item);
    return offset;
}

/* Bring the pieces of a row into the cache, while an earlier row is summed up: rows of a batch lie
 * anywhere in a store, where the processor would wait for the beginning of each piece. */
static void prefetch(const uint8_t *memory, const int64_t *at, int64_t num_rows, int64_t row,
                     const struct piece *pieces, int64_t num_pieces)
{
    for (int64_t i = 0; i < num_pieces; i++) {
        const uint8_t *first = memory + at[pieces[i].number * num_rows + row];
        for (int64_t offset = 0; offset < pieces[i].length; offset += 64)
            __builtin_prefetch(first + offset);
    }
}

/* CRC-32 of each row: its pieces in order, then what each variable column has of it.
 *
 * `ends` [variable][row] is the byte of the memory where a column of bytes ends: offsets that a
 * flipped bit sends elsewhere are cut off there. */
EXPORT void fkd_checksums(const uint8_t *memory, const int64_t *at, int64_t num_rows,
                          const struct piece *pieces, int64_t num_pieces,
                          const struct variable *variables, int64_t num_variables,
                          const int64_t *ends, uint32_t *found)
{
    for (int64_t row = 0; row < num_rows; row++) {
        uint32_t sum = 0;
        if (row + 1 < num_rows)
            prefetch(memory, at, num_rows, row + 1, pieces, num_pieces);
        for (int64_t i = 0; i < num_pieces; i++)
            sum = fkd_crc32(sum, memory + at[pieces[i].number * num_rows + row], pieces[i].length);
        for (int64_t i = 0; i < num_variables; i++) {
            const struct variable *variable = variables + i;
            const uint8_t *offsets = memory + at[variable->offsets * num_rows + row];
            int64_t first = at[variable->bytes * num_rows + row];
            uint64_t room = (uint64_t)(ends[i * num_rows + row] - first);
            uint64_t start = load_offset(offsets, variable->item);
            uint64_t stop = load_offset(offsets + variable->item, variable->item);
            start = start < room ? start : room;
            stop = stop < room ? stop : room;
            if (stop > start)
                sum = fkd_crc32(sum, memory + first + start, (int64_t)(stop - start));
        }
        found[row] = sum;
    }
}
