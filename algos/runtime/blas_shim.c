/*
 * The three BLAS functions that MLX calls on a CPU, computed by another BLAS, except for float32
 * products with few rows, which narrow_product.h computes if the processor is one that it is for,
 * and those with matrices that are kept in bfloat16.
 *
 * blas.py sets the textenv_* variables, then makes this library global before MLX is loaded, so
 * that MLX binds to these functions. Nothing else may be global here: a whole BLAS in the global
 * namespace also takes the place of the one that torch carries, whose complex dot products return
 * their value in another way and come out wrong.
 *
 * The other BLAS runs on the thread that calls it. A large float32 product is cut into slices of
 * rows or columns of C, which the caller and a pool of threads take one after another. The pool
 * sleeps where OpenBLAS's own threads wait in a busy loop, which makes them many times slower when
 * another process wants the same cores. The slices follow from the product and textenv_threads
 * alone, so its result is the same to the last bit whichever threads compute it.
 */

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ARGUMENTS(scalar, element)                                                                \
    int order, int trans_a, int trans_b, int m, int n, int k, scalar alpha, const element *a,     \
        int lda, const element *b, int ldb, scalar beta, element *c, int ldc

enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112, CONJ_TRANS = 113 }; /* as in cblas.h */

/* Of a large product, so that the others make up for a thread that comes late. */
enum { SLICES_PER_THREAD = 2 };

/* Slices are multiples of the rows and columns that kernels take at once, and of the six that
   matrices which are kept are laid by. */
enum { ALIGN = 16, KEPT_ALIGN = 48 };

/* In multiplications, of which a core does some 60,000 in a microsecond. To wake a thread took 10
   microseconds of its caller's time, and up to 50 until it worked; but half of the small products
   follow another so soon that it is awake. Small ones are halved: more slices would pack more than
   they save. */
static const double LEAST_TO_HALVE = 1e6, LEAST_TO_CUT = 8e6, LEAST_IN_SLICE = 2e6;

/* OpenBLAS is faster from about 170 rows on, and for matrices that fit into a cache. */
enum { MOST_ROWS = 160, LEAST_IN_B = 65536 };

/* A matrix (n, k) in bfloat16, laid out for narrow_product.h; it stands for the one at `b`. */
struct kept {
    const float *b;
    int n, k;
    void *laid;
};

struct product {
    int order, trans_a, trans_b, m, n, k, lda, ldb, ldc;
    float alpha, beta;
    const float *a, *b;
    float *c;

    const struct kept *kept; /* B, if it is kept in bfloat16 */

    int by_rows, dimension, length, count; /* slices: `count` of `length`, the last one shorter */
    size_t step_a, step_b, step_c;         /* elements from one row (or column) of C to the next */
    int taken, running;                    /* slices; under `lock` */
};

#ifdef __cplusplus /* a machine with g++ alone */
extern "C" {
#endif

int textenv_threads = 1; /* that products are cut for, the caller's among them */
int textenv_limit = 64;  /* of them, so many compute */
int textenv_lanes = 16;  /* of narrow products, at most; 0: the other BLAS computes them */
/* Nanoseconds that a thread waits for another before it sleeps: about what it takes to wake one. */
int textenv_linger = 50000;
int textenv_has_half;    /* whether textenv_keep works, by this processor */
/* Of the float32 products so far: operations, and how long their callers waited for them. */
unsigned long long textenv_operations, textenv_nanoseconds;
void (*textenv_sgemm)(ARGUMENTS(float, float));
void (*textenv_dgemm)(ARGUMENTS(double, double));
void (*textenv_cgemm)(ARGUMENTS(const void *, void));

static pthread_mutex_t owner = PTHREAD_MUTEX_INITIALIZER; /* held by the caller using the pool */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;  /* of what the pool reads and writes */
static pthread_cond_t work = PTHREAD_COND_INITIALIZER, done = PTHREAD_COND_INITIALIZER;
static struct product *current; /* under `lock` */
static unsigned posted;         /* how many products were current; also read without the lock */
static int lingering, helping;  /* threads of the pool; under `lock` */

static pthread_rwlock_t keeping = PTHREAD_RWLOCK_INITIALIZER; /* of what follows */
static struct kept *kept;                                     /* ascending by address */
static int kept_count;                                        /* also read without the lock */
static double least_kept;                                     /* elements of the smallest */
static int started;             /* under `owner` */

static int is_plain(const struct product *p) /* C = A B^T, by rows */
{
    return p->order == ROW_MAJOR && p->trans_a == NO_TRANS && p->trans_b == TRANS &&
           p->alpha == 1 && p->beta == 0 && p->k >= 1;
}

#if defined(__x86_64__)
#define PAUSE __builtin_ia32_pause()
#define UNROLL _Pragma("GCC unroll 16")
#define JOIN(a, b) a##b

typedef float four __attribute__((vector_size(16)));

#define ELEMENT float
#define WIDTH LANES
#define LAY(to, from) *(NAME(lanes) *)(to) = *(const NAME(loose) *)(from)
#define ADD_PRODUCT(sums, a, b) sums += *(const NAME(lanes) *)(a) * *(const NAME(lanes) *)(b)
#define LANES 16
#define ROWS 4
#define COLUMNS 6
#define TARGET __attribute__((target("avx512f")))
#define NAME(it) JOIN(avx512_, it)
#include "narrow_product.h"
#undef LANES
#undef ROWS
#undef COLUMNS
#undef TARGET
#undef NAME
#define LANES 8
#define ROWS 3
#define COLUMNS 4
#define TARGET __attribute__((target("avx2,fma")))
#define NAME(it) JOIN(avx2_, it)
#include "narrow_product.h"

#if defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11
#define HAS_HALF_CODE
#include <immintrin.h>
#undef ELEMENT
#undef WIDTH
#undef LAY
#undef ADD_PRODUCT
#undef LANES
#undef ROWS
#undef COLUMNS
#undef TARGET
#undef NAME
#define ELEMENT unsigned short
#define WIDTH 32
#define LAY(to, from)                                                                             \
    _mm512_store_si512((void *)(to), (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps((from) + 16),   \
                                                                  _mm512_loadu_ps(from)))
#define ADD_PRODUCT(sums, a, b)                                                                   \
    sums = (NAME(lanes))_mm512_dpbf16_ps((__m512)sums, (__m512bh)_mm512_load_si512(a),            \
                                         (__m512bh)_mm512_load_si512(b))
#define LANES 16
#define ROWS 4
#define COLUMNS 6
#define TARGET __attribute__((target("avx512f,avx512bf16")))
#define NAME(it) JOIN(half_, it)
#include "narrow_product.h"

/*
 * Lay a whole matrix (n, k) out in bfloat16, each element rounded up or down at random in proportion
 * to where it lies between the two (stochastic rounding). To the nearest would not do: weights that
 * were once dequantized lie half-way between two in great numbers, so that a small step of all of
 * them, as an optimizer's, would tip these at once, and act like one a thousand times as large.
 * The randomness follows from the place alone, and is the same each time.
 */
TARGET static void half_keep(int n, int k, const float *b, unsigned short *to)
{
    size_t group = ((size_t)(k - 1) / WIDTH + 1) * WIDTH * COLUMNS;
    const __m512i factor = _mm512_set1_epi32(1664525), more = _mm512_set1_epi32(1013904223);
    __m512i state = _mm512_setr_epi32(0x2545f491, 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19, 0xcbbb9d5d,
                                      0x629a292a, 0x9159015a, 0x152fecd8, 0x67332667, 0x8eb44a87,
                                      0xdb0c2e0d);
    for (int j = 0; j < n; j++) {
        unsigned short *piece = to + j / COLUMNS * group + j % COLUMNS * WIDTH;
        for (int p = 0; p < k; p += WIDTH, piece += COLUMNS * WIDTH) {
            float part[WIDTH] = {0};
            memcpy(part, b + (size_t)j * k + p, (k - p < WIDTH ? k - p : WIDTH) * sizeof(float));
            UNROLL for (int h = 0; h < WIDTH; h += 16) {
                state = _mm512_add_epi32(_mm512_mullo_epi32(state, factor), more);
                __m512i bits = _mm512_loadu_si512(part + h);
                bits = _mm512_add_epi32(bits, _mm512_srli_epi32(state, 16));
                _mm256_store_si256((__m256i *)(piece + h),
                                   _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
            }
        }
    }
}
#endif

static int most_lanes; /* that this processor's registers hold, among those that there is code for */

static void look_at_processor(void)
{
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
        most_lanes = 16;
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        most_lanes = 8;
#ifdef HAS_HALF_CODE
    textenv_has_half = most_lanes == 16 && __builtin_cpu_supports("avx512bf16");
#endif
}

/* Compute a slice, if it is of a kind that is computed here; returns whether it was. */
static int compute_here(const struct product *p, int m, int n, const float *a, const float *b,
                        float *c)
{
    int lanes = textenv_lanes < most_lanes ? textenv_lanes : most_lanes;
    size_t (*size)(int, int) = lanes == 16 ? avx512_size : avx2_size;
    void (*product)(int, int, int, const float *, size_t, const float *, size_t, const void *,
                    float *, size_t, void *) = lanes == 16 ? avx512_product : avx2_product;
    const unsigned short *laid = NULL;
#ifdef HAS_HALF_CODE
    if (p->kept) {
        size_t row = ((size_t)(p->k - 1) / WIDTH + 1) * WIDTH;
        laid = (const unsigned short *)p->kept->laid + (b - p->b) / p->ldb * row;
        size = half_size;
        product = half_product;
    }
#endif
    if (!laid && (lanes < 8 || !is_plain(p) || p->m > MOST_ROWS || p->by_rows ||
                  (double)p->n * p->k < LEAST_IN_B))
        return 0;
    void *room;
    if (posix_memalign(&room, 64, size(m, p->k)) != 0)
        return 0;
    product(m, n, p->k, a, p->lda, b, p->ldb, laid, c, p->ldc, room);
    free(room);
    return 1;
}
#else /* not measured on others */
#define PAUSE
static void look_at_processor(void) {}
static int compute_here(const struct product *p, int m, int n, const float *a, const float *b,
                        float *c)
{
    return 0;
}
#endif

static int by_address(const void *left, const void *right)
{
    const float *a = ((const struct kept *)left)->b, *b = ((const struct kept *)right)->b;
    return (a > b) - (a < b);
}

/* Replace what is kept, once no product is computed with it. */
static void replace_kept(struct kept *others, int count, double smallest)
{
    pthread_rwlock_wrlock(&keeping);
    struct kept *old = kept;
    int old_count = kept_count;
    kept = others;
    least_kept = smallest;
    __atomic_store_n(&kept_count, count, __ATOMIC_RELEASE);
    pthread_rwlock_unlock(&keeping);
    for (int i = 0; i < old_count; i++)
        free(old[i].laid);
    free(old);
}

void textenv_forget(void) { replace_kept(NULL, 0, 0); }

/*
 * Keep matrices (n, k), by rows without gaps, in bfloat16: until textenv_forget, which must come
 * before they change or are freed, products A B^T with them are computed with what is kept.
 * Returns whether it is done; if not, nothing is kept.
 */
int textenv_keep(int count, const float *const *b, const int *n, const int *k)
{
    textenv_forget();
#ifdef HAS_HALF_CODE
    struct kept *all = (struct kept *)calloc(count + 1, sizeof *all);
    double smallest = 0;
    int done = 0, full = !textenv_has_half || !all;
    for (; !full && done < count; done++) {
        struct kept *one = all + done;
        size_t row = ((size_t)(k[done] - 1) / WIDTH + 1) * WIDTH;
        size_t rows = ((size_t)(n[done] - 1) / KEPT_ALIGN + 1) * KEPT_ALIGN;
        double size = (double)n[done] * k[done];
        if ((full = posix_memalign(&one->laid, 64, rows * row * sizeof(short)) != 0))
            break;
        one->b = b[done];
        one->n = n[done];
        one->k = k[done];
        half_keep(one->n, one->k, one->b, (unsigned short *)one->laid);
        smallest = done && smallest < size ? smallest : size;
    }
    if (full) {
        for (int i = 0; all && i < done; i++)
            free(all[i].laid);
        free(all);
        return 0;
    }
    qsort(all, count, sizeof *all, by_address);
    replace_kept(all, count, smallest);
    return 1;
#else
    return 0;
#endif
}

/* What is kept of B. If it is not null, `keeping` is locked until the product is computed. */
static const struct kept *find_kept(const struct product *p)
{
    if (!__atomic_load_n(&kept_count, __ATOMIC_ACQUIRE) || !is_plain(p) || p->ldb != p->k)
        return NULL;
    pthread_rwlock_rdlock(&keeping);
    struct kept like = {p->b, 0, 0, NULL};
    const struct kept *found = NULL;
    if (kept && (double)p->n * p->k >= least_kept)
        found = (const struct kept *)bsearch(&like, kept, kept_count, sizeof *kept, by_address);
    if (found && found->n == p->n && found->k == p->k)
        return found;
    pthread_rwlock_unlock(&keeping);
    return NULL;
}

static void cut(struct product *p)
{
    int row_major = p->order == ROW_MAJOR;
    int plain_a = p->trans_a != TRANS && p->trans_a != CONJ_TRANS;
    int plain_b = p->trans_b != TRANS && p->trans_b != CONJ_TRANS;
    p->by_rows = p->m >= p->n;
    p->step_a = !p->by_rows ? 0 : plain_a == row_major ? p->lda : 1;
    p->step_b = p->by_rows ? 0 : plain_b == row_major ? 1 : p->ldb;
    p->step_c = p->by_rows == row_major ? p->ldc : 1;
    p->dimension = p->length = p->by_rows ? p->m : p->n;
    p->count = 1;

    double multiplications = (double)p->m * p->n * p->k, most = multiplications / LEAST_IN_SLICE;
    if (textenv_threads > 1 && multiplications >= LEAST_TO_HALVE) {
        int count = textenv_threads * SLICES_PER_THREAD;
        count = multiplications < LEAST_TO_CUT ? 2 : count < most ? count : (int)most;
        int align = p->kept && !p->by_rows ? KEPT_ALIGN : ALIGN;
        p->length = ((p->dimension - 1) / (count * align) + 1) * align;
        p->count = (p->dimension - 1) / p->length + 1;
    }
}

static void compute(const struct product *p, int slice)
{
    int first = slice * p->length, left = p->dimension - first;
    int length = left < p->length ? left : p->length;
    int m = p->by_rows ? length : p->m, n = p->by_rows ? p->n : length;
    const float *a = p->a + first * p->step_a, *b = p->b + first * p->step_b;
    float *c = p->c + first * p->step_c;
    if (!compute_here(p, m, n, a, b, c))
        textenv_sgemm(p->order, p->trans_a, p->trans_b, m, n, p->k, p->alpha, a, p->lda, b, p->ldb,
                      p->beta, c, p->ldc);
}

static void take_slices(struct product *p) /* `lock` is held, but not during the computing */
{
    while (p->taken < p->count) {
        int slice = p->taken++;
        __atomic_fetch_add(&p->running, 1, __ATOMIC_RELAXED);
        pthread_mutex_unlock(&lock);
        compute(p, slice);
        pthread_mutex_lock(&lock);
        __atomic_fetch_sub(&p->running, 1, __ATOMIC_RELAXED);
    }
}

static unsigned long long nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

/* Wait without sleeping, for a moment. `lock` is held before and after, but not meanwhile. */
#define LINGER_WHILE(condition)                                                                   \
    do {                                                                                          \
        unsigned long long end = nanoseconds() + textenv_linger;                                  \
        pthread_mutex_unlock(&lock);                                                              \
        while ((condition) && nanoseconds() < end)                                                \
            PAUSE;                                                                                \
        pthread_mutex_lock(&lock);                                                                \
    } while (0)

static void *help(void *unused)
{
    pthread_mutex_lock(&lock);
    for (;;) {
        int more = 1 + lingering + helping < textenv_limit; /* threads may be awake */
        if (!current || current->taken == current->count || !more) {
            unsigned seen = posted;
            if (more) {
                lingering++;
                LINGER_WHILE(__atomic_load_n(&posted, __ATOMIC_RELAXED) == seen);
                lingering--;
            }
            if (posted == seen)
                pthread_cond_wait(&work, &lock);
            continue;
        }
        helping++;
        take_slices(current); /* which stays current while a slice is running */
        helping--;
        if (current->running == 0)
            pthread_cond_signal(&done);
    }
    return unused;
}

static void start_pool(void) /* where it fails, the caller computes the slices nobody takes */
{
    pthread_t thread;
    for (int i = 1; i < textenv_threads && pthread_create(&thread, NULL, help, NULL) == 0; i++)
        pthread_detach(thread);
    started = 1;
}

static void share(struct product *p) /* with the pool, unless it is small, or the pool is taken */
{
    if (p->count == 1 || textenv_limit == 1 || pthread_mutex_trylock(&owner) != 0) {
        for (int slice = 0; slice < p->count; slice++)
            compute(p, slice);
        return;
    }
    if (!started)
        start_pool();
    pthread_mutex_lock(&lock);
    current = p;
    __atomic_store_n(&posted, posted + 1, __ATOMIC_RELEASE);
    for (int i = 1 + lingering; i < textenv_threads && i < textenv_limit && i < p->count; i++)
        pthread_cond_signal(&work);
    take_slices(p);
    if (p->running > 0)
        LINGER_WHILE(__atomic_load_n(&p->running, __ATOMIC_RELAXED) > 0);
    while (p->running > 0)
        pthread_cond_wait(&done, &lock);
    current = NULL;
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&owner);
}

void cblas_sgemm(ARGUMENTS(float, float))
{
    unsigned long long began = nanoseconds();
    struct product p = {order, trans_a, trans_b, m, n, k, lda, ldb, ldc, alpha,
                        beta, a, b, c, NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    p.kept = find_kept(&p);
    cut(&p);
    share(&p);
    if (p.kept)
        pthread_rwlock_unlock(&keeping);
    __atomic_fetch_add(&textenv_operations, 2ULL * m * n * k, __ATOMIC_RELAXED);
    __atomic_fetch_add(&textenv_nanoseconds, nanoseconds() - began, __ATOMIC_RELAXED);
}

void cblas_dgemm(ARGUMENTS(double, double))
{
    textenv_dgemm(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void cblas_cgemm(ARGUMENTS(const void *, void))
{
    textenv_cgemm(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

/* A fork waits for the pool's product. The child has none of its threads, and starts others. */
static void before_fork(void) { pthread_mutex_lock(&owner); }
static void after_fork_in_parent(void) { pthread_mutex_unlock(&owner); }
static void after_fork_in_child(void)
{
    pthread_mutex_init(&owner, NULL);
    pthread_mutex_init(&lock, NULL);
    pthread_rwlock_init(&keeping, NULL);
    pthread_cond_init(&work, NULL);
    pthread_cond_init(&done, NULL);
    started = lingering = helping = 0;
}
__attribute__((constructor)) static void on_load(void)
{
    look_at_processor();
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

#ifdef __cplusplus
}
#endif
