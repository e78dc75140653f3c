/*
 * C = A B^T for few rows of A, in float32: one step of decoding multiplies them by all weights.
 * Elements may be rounded to bfloat16, of which two are multiplied in the place of one; sums stay
 * float32.
 *
 * A BLAS copies B into its own order for every product, which costs as much as to multiply it by
 * some tens of rows. Here a row of A and a row of B (a unit's weights) are multiplied as they lie,
 * LANES elements at a time, in tiles of ROWS x COLUMNS results that stay in registers. Each result
 * is summed in an order that follows from k alone: it is the same to the last bit whatever the
 * other rows are, and whichever thread computes it.
 *
 * This file is included once for each kind of processor, with LANES (floats in a register), ROWS,
 * COLUMNS, TARGET and NAME(it) set, and what the elements of A and B become: ELEMENT, of which WIDTH
 * fill a register, LAY(to, from) which makes so many of floats, and ADD_PRODUCT(sums, a, b).
 */

typedef float NAME(lanes) __attribute__((vector_size(LANES * 4), aligned(LANES * 4), may_alias));
typedef float NAME(loose) __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

/* Lay `height` rows side by side in pieces of WIDTH; zeros after the k-th, and for missing rows. */
TARGET static void NAME(lay)(int rows, int height, int k, const float *from, size_t ld, ELEMENT *to)
{
    for (int r = 0; r < height; r++, from += ld) {
        ELEMENT *piece = to + r * WIDTH;
        int p = 0, whole = r < rows ? k / WIDTH * WIDTH : 0;
        for (; p < whole; p += WIDTH, piece += height * WIDTH)
            LAY(piece, from + p);
        for (; p < k; p += WIDTH, piece += height * WIDTH) {
            float last[WIDTH] = {0};
            if (r < rows)
                memcpy(last, from + p, (k - p) * sizeof(float));
            LAY(piece, last);
        }
    }
}

TARGET static void NAME(tile)(int pieces, const ELEMENT *a, const ELEMENT *b, float *c, size_t ldc,
                              int rows, int columns)
{
    NAME(lanes) sums[ROWS][COLUMNS];
    UNROLL for (int i = 0; i < ROWS; i++)
        UNROLL for (int j = 0; j < COLUMNS; j++)
            sums[i][j] = (NAME(lanes)){0};
    for (int p = 0; p < pieces; p++, a += ROWS * WIDTH, b += COLUMNS * WIDTH) {
        UNROLL for (int i = 0; i < ROWS; i++)
            UNROLL for (int j = 0; j < COLUMNS; j++)
                ADD_PRODUCT(sums[i][j], a + i * WIDTH, b + j * WIDTH);
    }
    float results[ROWS][COLUMNS];
    UNROLL for (int i = 0; i < ROWS; i++)
        UNROLL for (int j = 0; j < COLUMNS; j++) {
            union { NAME(lanes) all; four parts[LANES / 4]; } sum = {sums[i][j]};
            four parts = sum.parts[0];
            UNROLL for (int q = 1; q < LANES / 4; q++)
                parts += sum.parts[q];
            results[i][j] = (parts[0] + parts[2]) + (parts[1] + parts[3]);
        }
    for (int i = 0; i < rows; i++)
        memcpy(c + i * ldc, results[i], columns * sizeof(float));
}

/* The bytes of room that a product takes. */
TARGET static size_t NAME(size)(int m, int k)
{
    size_t pieces = (k - 1) / WIDTH + 1, tiles = (m - 1) / ROWS + 1;
    return pieces * WIDTH * (tiles * ROWS + COLUMNS) * sizeof(ELEMENT);
}

/* A is (m, k), B (n, k), C (m, n), all by rows; `room` has NAME(size) bytes. If `laid` is not null,
   it is B, COLUMNS rows of it after one another as NAME(lay) lays them. */
TARGET static void NAME(product)(int m, int n, int k, const float *a, size_t lda, const float *b,
                                 size_t ldb, const void *laid, float *c, size_t ldc, void *room)
{
    size_t pieces = (k - 1) / WIDTH + 1, tiles = (m - 1) / ROWS + 1;
    size_t tile = pieces * WIDTH * ROWS, group = pieces * WIDTH * COLUMNS;
    ELEMENT *rows = (ELEMENT *)room, *own = rows + tiles * tile;
    const ELEMENT *units = laid ? (const ELEMENT *)laid : own;
    for (size_t i = 0; i < tiles; i++)
        NAME(lay)(m - i * ROWS < ROWS ? m - i * ROWS : ROWS, ROWS, k, a + i * ROWS * lda, lda,
                  rows + i * tile);
    for (int j = 0; j < n; j += COLUMNS) {
        int columns = n - j < COLUMNS ? n - j : COLUMNS;
        const char *next = laid ? (const char *)(units + group)
                                : (const char *)(b + COLUMNS * ldb);
        if (!laid)
            NAME(lay)(columns, COLUMNS, k, b, ldb, own);
        /* Meanwhile the next units come from memory, a share of them in each tile. */
        size_t bytes = laid ? group * sizeof(ELEMENT) : COLUMNS * ldb * sizeof(float);
        size_t ahead = n - j >= 2 * COLUMNS ? bytes : 0, fetched = 0;
        for (size_t i = 0; i < tiles; i++) {
            for (; fetched < ahead * (i + 1) / tiles; fetched += 64)
                __builtin_prefetch(next + fetched, 0, 2);
            NAME(tile)(pieces, rows + i * tile, units, c + i * ROWS * ldc + j, ldc,
                       m - i * ROWS < ROWS ? m - i * ROWS : ROWS, columns);
        }
        b += COLUMNS * ldb;
        units += laid ? group : 0;
    }
}
