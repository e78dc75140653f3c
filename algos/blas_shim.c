/*
 * The three BLAS functions that MLX calls on a CPU, computed by another BLAS.
 *
 * blas.py sets the textenv_* variables, then makes this library global before MLX is loaded, so
 * that MLX binds to these functions. Nothing else may be global here: a whole BLAS in the global
 * namespace also takes the place of the one that torch carries, whose complex dot products return
 * their value in another way and come out wrong.
 *
 * The other BLAS runs on the thread that calls it. A large real product is cut here into slices of
 * rows or columns of C, which the caller and a pool of threads take one after another. The pool
 * sleeps where OpenBLAS's own threads wait in a busy loop, which makes them many times slower when
 * another process wants the same cores. The slices follow from the product and textenv_threads
 * alone, so its result is the same to the last bit whichever threads compute it.
 */

#include <pthread.h>
#include <stddef.h>

#define ARGUMENTS(scalar, element)                                                                \
    int order, int trans_a, int trans_b, int m, int n, int k, scalar alpha, const element *a,     \
        int lda, const element *b, int ldb, scalar beta, element *c, int ldc

enum { ROW_MAJOR = 101, TRANS = 112, CONJ_TRANS = 113 }; /* as in cblas.h */

#ifndef SLICES_PER_THREAD
#define SLICES_PER_THREAD 2
#endif
#ifndef SLICE_WORK
#define SLICE_WORK 2e6
#endif
enum { ALIGN = 16 };            /* a multiple of the rows and columns that kernels take at once */

struct product {
    void (*gemm)(const struct product *p, int m, int n, const char *a, const char *b, char *c);
    int order, trans_a, trans_b, m, n, k, lda, ldb, ldc;
    double alpha, beta; /* a float survives the trip */
    const char *a, *b;
    char *c;
    size_t size; /* of an element, in bytes */

    int by_rows, dimension, length, count;  /* slices: `count` of `length`, the last one shorter */
    size_t step_a, step_b, step_c;          /* bytes from one row (or column) of C to the next */
    int taken, running;                     /* slices; under `lock` */
};

#ifdef __cplusplus /* a machine with g++ alone */
extern "C" {
#endif

int textenv_threads = 1; /* the caller's among them */

static pthread_mutex_t owner = PTHREAD_MUTEX_INITIALIZER; /* held by the caller using the pool */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;  /* of what follows */
static pthread_cond_t work = PTHREAD_COND_INITIALIZER, done = PTHREAD_COND_INITIALIZER;
static struct product *current;
static int started; /* under `owner` */

static void compute(const struct product *p, int slice)
{
    int first = slice * p->length, left = p->dimension - first;
    int length = left < p->length ? left : p->length;
    p->gemm(p, p->by_rows ? length : p->m, p->by_rows ? p->n : length,
            p->a + first * p->step_a, p->b + first * p->step_b, p->c + first * p->step_c);
}

static void take_slices(struct product *p) /* `lock` is held, but not during the computing */
{
    while (p->taken < p->count) {
        int slice = p->taken++;
        p->running++;
        pthread_mutex_unlock(&lock);
        compute(p, slice);
        pthread_mutex_lock(&lock);
        p->running--;
    }
}

static void *help(void *unused)
{
    pthread_mutex_lock(&lock);
    for (;;) {
        if (!current || current->taken == current->count) {
            pthread_cond_wait(&work, &lock);
            continue;
        }
        take_slices(current); /* which stays current while a slice is running */
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

static void cut(struct product *p)
{
    int row_major = p->order == ROW_MAJOR;
    int plain_a = p->trans_a != TRANS && p->trans_a != CONJ_TRANS;
    int plain_b = p->trans_b != TRANS && p->trans_b != CONJ_TRANS;
    p->by_rows = p->m >= p->n;
    p->dimension = p->by_rows ? p->m : p->n;
    p->step_a = !p->by_rows ? 0 : row_major == plain_a ? p->size * p->lda : p->size;
    p->step_b = p->by_rows ? 0 : row_major == plain_b ? p->size : p->size * p->ldb;
    p->step_c = row_major == p->by_rows ? p->size * p->ldc : p->size;

    double worth = (double)p->m * p->n * p->k / SLICE_WORK;
    int most = textenv_threads > 1 ? textenv_threads * SLICES_PER_THREAD : 1;
    int count = worth < most ? (int)worth : most;
    p->length = count > 1 ? ((p->dimension - 1) / (count * ALIGN) + 1) * ALIGN : p->dimension;
    p->count = count > 1 ? (p->dimension - 1) / p->length + 1 : 1;
}

static void multiply(struct product *p)
{
    cut(p);
    if (p->count == 1 || pthread_mutex_trylock(&owner) != 0) { /* small, or the pool is taken */
        for (int slice = 0; slice < p->count; slice++)
            compute(p, slice);
        return;
    }
    if (!started)
        start_pool();
    pthread_mutex_lock(&lock);
    current = p;
    for (int i = 1; i < textenv_threads && i < p->count; i++)
        pthread_cond_signal(&work);
    take_slices(p);
    while (p->running > 0)
        pthread_cond_wait(&done, &lock);
    current = NULL;
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&owner);
}

/* A fork waits for the pool's product. The child has none of its threads and starts others. */
static void before_fork(void) { pthread_mutex_lock(&owner); }
static void after_fork_in_parent(void) { pthread_mutex_unlock(&owner); }
static void after_fork_in_child(void)
{
    pthread_mutex_init(&owner, NULL);
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&work, NULL);
    pthread_cond_init(&done, NULL);
    started = 0;
}
__attribute__((constructor)) static void on_load(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

#define REAL(gemm, real)                                                                          \
    void (*textenv_##gemm)(ARGUMENTS(real, real));                                                \
    static void call_##gemm(const struct product *p, int m, int n, const char *a, const char *b,  \
                            char *c)                                                              \
    {                                                                                             \
        textenv_##gemm(p->order, p->trans_a, p->trans_b, m, n, p->k, (real)p->alpha,              \
                       (const real *)a, p->lda, (const real *)b, p->ldb, (real)p->beta,           \
                       (real *)c, p->ldc);                                                        \
    }                                                                                             \
    void cblas_##gemm(ARGUMENTS(real, real))                                                      \
    {                                                                                             \
        struct product p = {call_##gemm, order, trans_a, trans_b, m, n, k, lda, ldb, ldc, alpha,  \
                            beta, (const char *)a, (const char *)b, (char *)c, sizeof(real),      \
                            0, 0, 0, 0, 0, 0, 0, 0, 0};                                           \
        multiply(&p);                                                                             \
    }

REAL(sgemm, float)
REAL(dgemm, double)

void (*textenv_cgemm)(ARGUMENTS(const void *, void)); /* seldom used, so never cut */
void cblas_cgemm(ARGUMENTS(const void *, void))
{
    textenv_cgemm(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

#ifdef __cplusplus
}
#endif
