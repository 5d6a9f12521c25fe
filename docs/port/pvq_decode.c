/* pvq_decode: a second decoder of the pvq_ref format, version 1, in one file of portable C99.
 *
 * It was written from the text of ../spec.md, without a look at the code of the reference;
 * "spec 8.5" in a comment is section 8.5 of that text. Where the text was unclear it follows
 * what the reference program does: README.md names these points. It is a worked example for
 * porters: plain loops, no dependency but the C library.
 *
 *   cc -std=c99 -O2 -Wall -Wextra -Werror -ffp-contract=off pvq_decode.c -o pvq_decode -lm
 *
 *   pvq_decode IN.safetensors OUT.safetensors    decode a compressed file
 *   pvq_decode --port                            answer the questions of ../conform.md
 *
 * Parts: 1 errors and memory, 2 big integers, 3 counting and unranking, 4 rotation, 5 numbers and
 * bits, 6 SHA-256, 7 JSON, 8 container, 9 decoding, 10 whole files, 11 the port.
 */
#include <errno.h>
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0
#error "the deterministic sections need binary64 arithmetic without excess precision"
#endif

/* ---- 1 Errors and memory ------------------------------------------------------------------- */

/* Every violation ends in fail(), which jumps back to the one place that reports it; everything
 * allocated since then is freed there. */
static jmp_buf failure_target;
static const char *failure_name;   /* a name of spec 11 */
static const char *failure_text;

static void fail(const char *name, const char *text)
{
    failure_name = name;
    failure_text = text;
    longjmp(failure_target, 1);
}

typedef union Chunk Chunk;
union Chunk {
    struct { Chunk *previous, *next; } link;
    uint64_t align_integer;
    double align_number;
};

static Chunk chunks = { { &chunks, &chunks } };

/* Zeroed memory for count elements of the given size, owned by the current job. */
static void *allocate(uint64_t count, size_t size)
{
    Chunk *chunk;
    if (count > (SIZE_MAX / 2 - sizeof *chunk) / size)
        fail("CapacityError", "not enough memory");
    chunk = calloc(1, sizeof *chunk + (size_t)count * size);
    if (!chunk)
        fail("CapacityError", "not enough memory");
    chunk->link.previous = &chunks;
    chunk->link.next = chunks.link.next;
    chunks.link.next->link.previous = chunk;
    chunks.link.next = chunk;
    return chunk + 1;
}

static void release(void *pointer)
{
    Chunk *chunk = (Chunk *)pointer - 1;
    chunk->link.previous->link.next = chunk->link.next;
    chunk->link.next->link.previous = chunk->link.previous;
    free(chunk);
}

static void release_all(void)
{
    while (chunks.link.next != &chunks)
        release(chunks.link.next + 1);
}

/* A growing string of bytes. */
typedef struct {
    char *data;
    size_t length, room;
} Text;

static void text_put(Text *text, const char *data, size_t length)
{
    if (length > text->room - text->length) {
        size_t room = 2 * text->room + length + 64;
        char *grown = allocate(room, 1);
        if (text->data) {
            memcpy(grown, text->data, text->length);
            release(text->data);
        }
        text->data = grown;
        text->room = room;
    }
    if (length)
        memcpy(text->data + text->length, data, length);
    text->length += length;
}

static void text_add(Text *text, const char *string)
{
    text_put(text, string, strlen(string));
}

static void text_add_char(Text *text, char c)
{
    text_put(text, &c, 1);
}

static void text_add_u64(Text *text, uint64_t value)
{
    char digits[20];
    int i = 20;
    do {
        digits[--i] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    text_put(text, digits + i, (size_t)(20 - i));
}

/* a * b, or 0 in *ok if that is above 2^64 - 1. */
static uint64_t checked_product(uint64_t a, uint64_t b, int *ok)
{
    if (a && b > UINT64_MAX / a)
        *ok = 0;
    return a * b;
}

static uint64_t checked_sum(uint64_t a, uint64_t b, int *ok)
{
    if (b > UINT64_MAX - a)
        *ok = 0;
    return a + b;
}

/* ---- 2 Big integers ------------------------------------------------------------------------ */

/* A big integer is an array of 32-bit limbs, least significant first, and a number of limbs;
 * leading zero limbs are allowed everywhere. */
typedef uint32_t Limb;

static size_t big_trim(const Limb *a, size_t n)
{
    while (n && !a[n - 1])
        n--;
    return n;
}

static int big_compare(const Limb *a, size_t na, const Limb *b, size_t nb)
{
    while (na > nb)
        if (a[--na])
            return 1;
    while (nb > na)
        if (b[--nb])
            return -1;
    while (na--)
        if (a[na] != b[na])
            return a[na] < b[na] ? -1 : 1;
    return 0;
}

/* a += b; returns the carry out of a. Limbs of b beyond a are 0. */
static Limb big_add(Limb *a, size_t na, const Limb *b, size_t nb)
{
    uint64_t carry = 0;
    size_t i;
    for (i = 0; i < na && (i < nb || carry); i++) {
        carry += (uint64_t)a[i] + (i < nb ? b[i] : 0);
        a[i] = (Limb)carry;
        carry >>= 32;
    }
    return (Limb)carry;
}

/* a -= b, for a >= b. */
static void big_subtract(Limb *a, size_t na, const Limb *b, size_t nb)
{
    uint64_t borrow = 0;
    size_t i;
    for (i = 0; i < na && (i < nb || borrow); i++) {
        uint64_t d = (uint64_t)a[i] - (i < nb ? b[i] : 0) - borrow;
        a[i] = (Limb)d;
        borrow = d >> 63;
    }
}

/* a = a * m + c; returns the carry out of a. */
static Limb big_multiply_small(Limb *a, size_t n, Limb m, Limb c)
{
    uint64_t carry = c;
    size_t i;
    for (i = 0; i < n; i++) {
        carry += (uint64_t)a[i] * m;
        a[i] = (Limb)carry;
        carry >>= 32;
    }
    return (Limb)carry;
}

/* a = floor(a / m); returns the remainder. */
static Limb big_divide_small(Limb *a, size_t n, Limb m)
{
    uint64_t rest = 0;
    while (n--) {
        rest = rest << 32 | a[n];
        a[n] = (Limb)(rest / m);
        rest %= m;
    }
    return (Limb)rest;
}

/* out = a * b, na + nb limbs. */
static void big_multiply(Limb *out, const Limb *a, size_t na, const Limb *b, size_t nb)
{
    size_t i, j;
    memset(out, 0, (na + nb) * sizeof *out);
    for (i = 0; i < na; i++) {
        uint64_t carry = 0;
        for (j = 0; j < nb; j++) {
            carry += (uint64_t)a[i] * b[j] + out[i + j];
            out[i + j] = (Limb)carry;
            carry >>= 32;
        }
        out[i + nb] = (Limb)carry;
    }
}

static unsigned bit_length(Limb a)
{
    unsigned n = 0;
    while (a) {
        a >>= 1;
        n++;
    }
    return n;
}

static uint64_t big_bit_length(const Limb *a, size_t n)
{
    n = big_trim(a, n);
    return n ? 32 * (uint64_t)(n - 1) + bit_length(a[n - 1]) : 0;
}

/* Shift left by fewer than 32 bits; the bits shifted out are returned. */
static Limb big_shift_left(Limb *out, const Limb *a, size_t n, unsigned bits)
{
    Limb carry = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        Limb limb = a[i];
        out[i] = limb << bits | carry;
        carry = bits ? limb >> (32 - bits) : 0;
    }
    return carry;
}

static void big_shift_right(Limb *a, size_t n, unsigned bits)
{
    size_t i;
    for (i = 0; bits && i < n; i++)
        a[i] = a[i] >> bits | (i + 1 < n ? a[i + 1] << (32 - bits) : 0);
}

/* One step of big_divide: subtract digit * b from the n + 1 limbs at a; returns 1 if that is
 * below 0. */
static int subtract_multiple(Limb *a, const Limb *b, size_t n, Limb digit)
{
    uint64_t carry = 0, borrow = 0, d;
    size_t i;
    for (i = 0; i < n; i++) {
        carry += (uint64_t)digit * b[i];
        d = (uint64_t)a[i] - (Limb)carry - borrow;
        a[i] = (Limb)d;
        borrow = d >> 63;
        carry >>= 32;
    }
    d = (uint64_t)a[n] - carry - borrow;
    a[n] = (Limb)d;
    return (int)(d >> 63);
}

/* quotient (na limbs) = floor(a / b); a becomes the remainder. b isn't 0. Both a and b have been
 * given one limb more than na and nb to work in, and b is used up. (Knuth, algorithm 4.3.1 D.) */
static void big_divide(Limb *quotient, Limb *a, size_t na, Limb *b, size_t nb)
{
    unsigned shift;
    size_t i;
    nb = big_trim(b, nb);
    memset(quotient, 0, na * sizeof *quotient);
    if (nb == 1) {
        memcpy(quotient, a, na * sizeof *a);
        memset(a, 0, na * sizeof *a);
        a[0] = big_divide_small(quotient, na, b[0]);
        return;
    }
    if (na < nb)
        return;
    shift = 32 - bit_length(b[nb - 1]);
    big_shift_left(b, b, nb, shift);
    a[na] = big_shift_left(a, a, na, shift);
    for (i = na - nb + 1; i-- > 0;) {
        uint64_t top = (uint64_t)a[i + nb] << 32 | a[i + nb - 1];
        uint64_t digit = top / b[nb - 1], rest = top % b[nb - 1];
        while (digit >> 32 || digit * b[nb - 2] > (rest << 32 | a[i + nb - 2])) {
            digit--;
            rest += b[nb - 1];
            if (rest >> 32)
                break;
        }
        if (subtract_multiple(a + i, b, nb, (Limb)digit)) {
            digit--;
            a[i + nb] += big_add(a + i, nb, b, nb);
        }
        quotient[i] = (Limb)digit;
    }
    big_shift_right(a, na, shift);
    big_shift_right(b, nb, shift);
}

/* Decimal digits of a; a is used up. */
static void text_add_big(Text *text, Limb *a, size_t n)
{
    Text parts = { 0, 0, 0 };
    size_t i;
    n = big_trim(a, n);
    do {
        char digits[9];
        Limb rest = big_divide_small(a, n, 1000000000);
        n = big_trim(a, n);
        for (i = 0; i < 9; i++, rest /= 10)
            digits[i] = (char)('0' + rest % 10);
        text_put(&parts, digits, 9);
    } while (n);
    while (parts.length > 1 && parts.data[parts.length - 1] == '0')
        parts.length--;
    for (i = parts.length; i-- > 0;)
        text_add_char(text, parts.data[i]);
    release(parts.data);
}

/* ---- 3 Counting and unranking -------------------------------------------------------------- */

enum { FISCHER, OPUS, BLOCKED };

/* The most that tables may take before a CapacityError, and the most that the prefix sums of the
 * blocked order are kept for. Choices of this program. */
#define TABLE_BYTES ((uint64_t)1 << 31)
#define PREFIX_BYTES ((uint64_t)1 << 28)

/* Spec 2, V(n,k) by the closed form: each term from the one before,
 * t_1 = 2n, t_{j+1} = t_j * 2 (n-j) (k-j) / ((j+1) j). Returns the number of limbs. */
static size_t count_vectors(Limb **result, uint64_t n, uint64_t k)
{
    uint64_t j, least = n < k ? n : k, most = n < k ? k : n;
    size_t room;
    Limb *term, *sum;
    if (k == 0 || n == 0) {
        *result = allocate(1, sizeof **result);
        **result = k == 0;
        return 1;
    }
    if (least > 1 << 14 || most > INT32_MAX)
        fail("CapacityError", "V(n,k) is too large for this program");
    room = (size_t)(least * (2 + bit_length((Limb)most)) / 32 + 6);
    term = allocate(room, sizeof *term);
    sum = allocate(room, sizeof *sum);
    term[0] = (Limb)n;
    big_multiply_small(term, room, 2, 0);
    for (j = 1; j <= least; j++) {
        big_add(sum, room, term, room);
        if (j == least)
            break;
        big_multiply_small(term, room, 2, 0);
        big_multiply_small(term, room, (Limb)(n - j), 0);
        big_multiply_small(term, room, (Limb)(k - j), 0);
        big_divide_small(term, room, (Limb)(j + 1));
        big_divide_small(term, room, (Limb)j);
    }
    release(term);
    *result = sum;
    return big_trim(sum, room);
}

/* Spec 2, U(n,k): the two identities give 2 U(n,k) = V(n,k) - V(n-1,k) for n >= 1. */
static size_t count_half(Limb **result, uint64_t n, uint64_t k)
{
    Limb *less;
    size_t length, length_less;
    if (n == 0)
        return count_vectors(result, 0, k);
    length = count_vectors(result, n, k);
    length_less = count_vectors(&less, n - 1, k);
    big_subtract(*result, length, less, length_less);
    big_shift_right(*result, length, 1);
    release(less);
    return length;
}

/* Spec 1, B(n,k): the width of an index. */
static uint64_t index_width(uint64_t n, uint64_t k)
{
    static const Limb one = 1;
    Limb *count;
    size_t length = count_vectors(&count, n, k);
    uint64_t bits;
    big_subtract(count, length, &one, 1);
    bits = big_bit_length(count, length);
    release(count);
    return bits;
}

/* What unranking in P(n,k) looks up: rows of U(l, 0 ... k+1). fischer and opus have every row l,
 * blocked those up to the block size and those of the dimensions n, n-b, n-2b, ... */
typedef struct Ranker Ranker;
struct Ranker {
    uint32_t n, k, block;
    int order;
    uint64_t bits;             /* B(n,k) */
    size_t limbs;              /* of an index, one more than it needs */
    size_t *width;             /* limbs of a number of row l */
    Limb **row;                /* row[l] + r * width[l] is U(l,r) */
    Limb **prefix;             /* blocked: [(m / block) * (k+1) + r], built when first needed */
    uint64_t prefix_bytes;
    Limb *work[5];             /* scratch numbers of 2 * limbs + 2 */
    Limb *count;               /* V(n,k) */
    size_t count_length;
    Ranker *next;
};

static int has_row(const Ranker *t, uint32_t l)
{
    return t->order != BLOCKED || l <= t->block || (t->n - l) % t->block == 0;
}

/* Spec 2: row l of U from row l-1, U(l,r) = U(l-1,r) + U(l,r-1) + U(l-1,r-1). */
static void next_row(Limb *row, const Limb *before, uint64_t length, size_t limbs, size_t used)
{
    uint64_t r;
    memset(row, 0, limbs * sizeof *row);
    for (r = 1; r < length; r++) {
        Limb *u = row + r * limbs;
        memcpy(u, before + r * limbs, limbs * sizeof *u);
        big_add(u, used, u - limbs, used);
        big_add(u, used, before + (r - 1) * limbs, used);
    }
}

static void fill_rows(Ranker *t)
{
    uint64_t length = (uint64_t)t->k + 2, r;
    uint32_t l;
    Limb *a = allocate(length * t->limbs, sizeof *a);
    Limb *b = allocate(length * t->limbs, sizeof *b), *swap;
    size_t used = 1;
    a[0] = 1;                                    /* U(0,0) = 1, U(0,k) = 0 */
    for (l = 1; l <= t->n; l++) {
        if (used + 1 <= t->limbs)
            used++;
        next_row(b, a, length, t->limbs, used);
        used = big_trim(b + (length - 1) * t->limbs, t->limbs);
        t->width[l] = used;
        if (has_row(t, l)) {
            t->row[l] = allocate(length * used, sizeof(Limb));
            for (r = 0; r < length; r++)
                memcpy(t->row[l] + r * used, b + r * t->limbs, used * sizeof(Limb));
        }
        swap = a;
        a = b;
        b = swap;
    }
    release(a);
    release(b);
}

static Ranker *new_ranker(uint32_t n, uint32_t k, int order, uint32_t block)
{
    Ranker *t = allocate(1, sizeof *t);
    uint64_t rows, numbers;
    int i;
    t->n = n;
    t->k = k;
    t->order = order == BLOCKED && n <= block ? FISCHER : order;     /* spec 3.3 */
    t->block = block;
    t->bits = index_width(n, k);
    t->count_length = count_vectors(&t->count, n, k);
    t->limbs = (size_t)(t->bits / 32 + 2);
    rows = t->order == BLOCKED ? block + n / block + 4 : (uint64_t)n + 3;
    numbers = rows * ((uint64_t)k + 2);
    if (numbers > TABLE_BYTES / (2 * sizeof(Limb)) / t->limbs)
        fail("CapacityError", "the tables of this n and k would be too large");
    t->width = allocate((uint64_t)n + 1, sizeof *t->width);
    t->row = allocate((uint64_t)n + 1, sizeof *t->row);
    fill_rows(t);
    if (t->order == BLOCKED)
        t->prefix = allocate((uint64_t)(n / block + 1) * ((uint64_t)k + 1), sizeof *t->prefix);
    for (i = 0; i < 5; i++)
        t->work[i] = allocate(2 * t->limbs + 2, sizeof(Limb));
    return t;
}

/* Copy V(l,r) = U(l,r) + U(l,r+1) to out, width[l] + 1 limbs (spec 2). */
static size_t row_count(const Ranker *t, uint32_t l, uint32_t r, Limb *out)
{
    size_t w = t->width[l];
    const Limb *u;
    if (l == 0) {
        out[0] = r == 0;
        return 1;
    }
    u = t->row[l] + (size_t)r * w;
    memcpy(out, u, w * sizeof *out);
    out[w] = 0;
    big_add(out, w + 1, u + w, w);
    return big_trim(out, w + 1);
}

/* The largest r <= most with U(l,r) <= x; U ascends in r and U(l,0) = 0. */
static uint32_t find_half(const Ranker *t, uint32_t l, uint32_t most, const Limb *x, size_t limbs)
{
    size_t w = t->width[l];
    uint32_t low = 0, high = most;
    limbs = big_trim(x, limbs);
    while (low < high) {
        uint32_t middle = high - (high - low) / 2;
        if (big_compare(t->row[l] + middle * w, w, x, limbs) <= 0)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* Spec 3.1 backwards. x is V(l,k) - 1 - F, the number of vectors after y, and is used up. Those
 * with the rest r = R_{j+1} < R_j have x in 2 U(l,r) ... 2 U(l,r+1) - 1, and of these the ones
 * with y_j > 0 start at V(l,r) = U(l,r) + U(l,r+1); y_j = 0, r = R_j starts at 2 U(l,r). */
static void unrank_fischer(const Ranker *t, uint32_t l, uint32_t k, Limb *x, size_t limbs,
                           int32_t *y)
{
    Limb *half = t->work[4];
    for (; l > 0; l--, y++) {
        size_t w = t->width[l];
        const Limb *u;
        uint32_t rest;
        limbs = big_trim(x, limbs);
        memcpy(half, x, limbs * sizeof *half);
        big_shift_right(half, limbs, 1);
        rest = find_half(t, l, k, half, limbs);
        u = t->row[l] + (size_t)rest * w;
        *y = (int32_t)(k - rest);
        big_subtract(x, limbs, u, w);
        if (*y == 0) {
            big_subtract(x, limbs, u, w);
        } else if (big_compare(x, limbs, u + w, w) >= 0) {
            big_subtract(x, limbs, u + w, w);
        } else {
            big_subtract(x, limbs, u, w);
            *y = -*y;
        }
        k = rest;
    }
}

/* Spec 3.2 backwards; x is the rank, and is used up. */
static void unrank_opus(const Ranker *t, Limb *x, int32_t *y)
{
    uint32_t l, k = t->k;
    for (l = t->n; l > 0; l--, y++) {
        size_t w = t->width[l];
        const Limb *u = t->row[l] + ((size_t)k + 1) * w;
        int negative = big_compare(x, t->limbs, u, w) >= 0;
        uint32_t rest;
        if (negative)
            big_subtract(x, t->limbs, u, w);
        rest = find_half(t, l, k, x, t->limbs);
        big_subtract(x, t->limbs, t->row[l] + (size_t)rest * w, w);
        *y = negative ? -(int32_t)(k - rest) : (int32_t)(k - rest);
        k = rest;
    }
}

/* Spec 3.3: V(b,a) V(m-b,r-a), the number of vectors of P(m,r) whose first block has norm a. */
static size_t block_count(const Ranker *t, uint32_t m, uint32_t r, uint32_t a, Limb *out)
{
    size_t first = row_count(t, t->block, a, t->work[2]);
    size_t second = row_count(t, m - t->block, r - a, t->work[3]);
    big_multiply(out, t->work[2], first, t->work[3], second);
    return big_trim(out, first + second);
}

/* The prefix sums over a of block_count, for a = 0 ... r, width[m] + 1 limbs each. */
static const Limb *block_prefixes(Ranker *t, uint32_t m, uint32_t r)
{
    Limb **slot = t->prefix + (size_t)(m / t->block) * ((size_t)t->k + 1) + r;
    size_t w = t->width[m] + 1;
    uint64_t bytes = ((uint64_t)r + 1) * w * sizeof(Limb);
    uint32_t a;
    if (*slot)
        return *slot;
    if (bytes > PREFIX_BYTES - t->prefix_bytes)
        return NULL;
    t->prefix_bytes += bytes;
    *slot = allocate(((uint64_t)r + 1) * w, sizeof(Limb));
    for (a = 0; a < r; a++) {
        Limb *sum = *slot + (size_t)a * w;
        size_t n = block_count(t, m, r, a, t->work[1]);
        memcpy(sum + w, sum, w * sizeof *sum);
        big_add(sum + w, w, t->work[1], n);
    }
    return *slot;
}

/* Take from x the vectors of P(m,r) with a smaller norm of the first block; returns that norm. */
static uint32_t take_block_norm(Ranker *t, uint32_t m, uint32_t r, Limb *x, size_t limbs)
{
    const Limb *prefix = block_prefixes(t, m, r);
    size_t w = t->width[m] + 1;
    uint32_t low = 0, high = r;
    if (!prefix) {
        for (; low < r; low++) {
            size_t n = block_count(t, m, r, low, t->work[1]);
            if (big_compare(x, limbs, t->work[1], n) < 0)
                break;
            big_subtract(x, limbs, t->work[1], n);
        }
        return low;
    }
    while (low < high) {
        uint32_t middle = high - (high - low) / 2;
        if (big_compare(prefix + (size_t)middle * w, w, x, limbs) <= 0)
            low = middle;
        else
            high = middle - 1;
    }
    big_subtract(x, limbs, prefix + (size_t)low * w, w);
    return low;
}

/* Spec 3.3 backwards; x is the rank, and is used up. */
static void unrank_blocked(Ranker *t, Limb *x, int32_t *y)
{
    static const Limb one = 1;
    uint32_t m = t->n, b = t->block, r = t->k;
    size_t limbs = big_trim(x, t->limbs), n;
    Limb *quotient = t->work[0], *last = t->work[2];
    for (; m > b; m -= b, y += b) {
        uint32_t a = take_block_norm(t, m, r, x, limbs);
        n = row_count(t, b, a, last);
        big_divide(quotient, x, limbs, last, n);     /* I(v) and F(u) */
        n = row_count(t, b, a, last);
        big_subtract(last, n, &one, 1);
        big_subtract(last, n, x, limbs);
        unrank_fischer(t, b, a, last, n, y);
        limbs = big_trim(quotient, limbs);
        memset(x, 0, (t->limbs + 1) * sizeof *x);
        memcpy(x, quotient, limbs * sizeof *x);
        r -= a;
    }
    n = row_count(t, m, r, last);
    big_subtract(last, n, &one, 1);
    big_subtract(last, n, x, limbs);
    unrank_fischer(t, m, r, last, n, y);
}

/* Spec 3: the vector of a rank of t->limbs limbs, with room for one more, which is used up.
 * Returns 0 if the rank isn't below V(n,k). */
static int unrank(Ranker *t, Limb *x, int32_t *y)
{
    static const Limb one = 1;
    Limb *last = t->work[0];
    if (big_compare(x, t->limbs, t->count, t->count_length) >= 0)
        return 0;
    if (t->order == OPUS) {
        unrank_opus(t, x, y);
    } else if (t->order == BLOCKED) {
        unrank_blocked(t, x, y);
    } else {
        memcpy(last, t->count, t->count_length * sizeof *last);
        big_subtract(last, t->count_length, &one, 1);
        big_subtract(last, t->count_length, x, t->limbs);
        unrank_fischer(t, t->n, t->k, last, t->count_length, y);
    }
    return 1;
}

/* ---- 4 Rotation ---------------------------------------------------------------------------- */

/* Spec 6.1: SplitMix64. */
static uint64_t splitmix64(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

/* Spec 6.2: signs[i] = 1 where the sign of column i is -1. */
static void make_signs(uint64_t seed, uint64_t cols, int8_t *signs)
{
    uint64_t state = seed, word = 0, i;
    state = splitmix64(&state) ^ cols;
    for (i = 0; i < cols; i++) {
        if (i % 64 == 0)
            word = splitmix64(&state);
        signs[i] = (int8_t)(word >> i % 64 & 1);
    }
}

/* The prime p and exponent m with q = p^m, or 0. */
static int prime_power(unsigned q, unsigned *p, unsigned *m)
{
    unsigned d = 2;
    if (q < 2)
        return 0;
    while (q % d)
        d++;
    *p = d;
    for (*m = 0; q % d == 0; q /= d)
        ++*m;
    return q == 1;
}

#define MAX_DEGREE 10          /* q < 1024 */

/* A polynomial over GF(p), coefficient of x^i at [i]. */
typedef struct { unsigned c[2 * MAX_DEGREE + 1]; } Poly;

/* Spec 6.4: the polynomial of number e. */
static Poly poly_of(unsigned e, unsigned p)
{
    Poly f;
    int i;
    for (i = 0; i <= 2 * MAX_DEGREE; i++, e /= p)
        f.c[i] = e % p;
    return f;
}

static unsigned poly_number(const Poly *f, unsigned degree, unsigned p)
{
    unsigned e = 0;
    while (degree-- > 0)
        e = e * p + f->c[degree];
    return e;
}

/* f modulo the monic polynomial g of the given degree. */
static void poly_reduce(Poly *f, const Poly *g, unsigned degree, unsigned p)
{
    unsigned i, j;
    for (i = 2 * MAX_DEGREE; i >= degree; i--) {
        unsigned lead = f->c[i];
        for (j = 0; lead && j <= degree; j++)
            f->c[i - degree + j] = (f->c[i - degree + j] + (p - lead) * g->c[j]) % p;
        if (i == 0)
            break;
    }
}

static int poly_is_zero(const Poly *f)
{
    int i;
    for (i = 0; i <= 2 * MAX_DEGREE; i++)
        if (f->c[i])
            return 0;
    return 1;
}

static unsigned power(unsigned p, unsigned m)
{
    unsigned q = 1;
    while (m-- > 0)
        q *= p;
    return q;
}

/* Is the monic polynomial of degree m with lower coefficients number e irreducible? */
static int is_irreducible(unsigned e, unsigned p, unsigned m)
{
    unsigned degree, lower;
    for (degree = 1; 2 * degree <= m; degree++)
        for (lower = 0; lower < power(p, degree); lower++) {
            Poly f = poly_of(e, p), g = poly_of(lower, p);
            f.c[m] = 1;
            g.c[degree] = 1;
            poly_reduce(&f, &g, degree, p);
            if (poly_is_zero(&f))
                return 0;
        }
    return 1;
}

/* Spec 6.4: chi over all elements of GF(q), q = p^m. */
static void make_chi(unsigned q, unsigned p, unsigned m, int8_t *chi)
{
    unsigned e, i, j;
    Poly modulus;
    for (e = 0; !is_irreducible(e, p, m); e++)
        ;
    modulus = poly_of(e, p);
    modulus.c[m] = 1;
    for (e = 0; e < q; e++)
        chi[e] = (int8_t)(e ? -1 : 0);
    for (e = 1; e < q; e++) {
        Poly f = poly_of(e, p), square = poly_of(0, p);
        for (i = 0; i < m; i++)
            for (j = 0; j < m; j++)
                square.c[i + j] = (square.c[i + j] + f.c[i] * f.c[j]) % p;
        poly_reduce(&square, &modulus, m, p);
        chi[poly_number(&square, m, p)] = 1;
    }
}

/* Spec 6.4: the number of the element a - b, digit by digit. */
static unsigned field_subtract(unsigned a, unsigned b, unsigned p)
{
    unsigned e = 0, place = 1;
    for (; a || b; a /= p, b /= p, place *= p)
        e += (a % p + p - b % p) % p * place;
    return e;
}

/* The order of a base (spec 6.3, 6.5), or 0 if there is no such base. */
static unsigned base_order(uint64_t paley, uint64_t q)
{
    unsigned p, m;
    if (paley == 0)
        return q == 0;
    if (paley > 2 || q > 1023 || !prime_power((unsigned)q, &p, &m))
        return 0;
    if (paley == 1)
        return q % 4 == 3 ? (unsigned)q + 1 : 0;
    return q % 4 == 1 && q <= 511 ? 2 * ((unsigned)q + 1) : 0;
}

/* Spec 6.5, I. */
static void make_paley_1(int8_t *h, unsigned q, unsigned p, const int8_t *chi)
{
    unsigned i, j, order = q + 1;
    for (i = 0; i < order; i++)
        for (j = 0; j < order; j++)
            h[i * order + j] = (int8_t)(i == 0 ? 1 : j == 0 ? -1 : i == j ? 1 :
                                        chi[field_subtract(i - 1, j - 1, p)]);
}

/* Spec 6.5, II. */
static void make_paley_2(int8_t *h, unsigned q, unsigned p, const int8_t *chi)
{
    unsigned i, j, order = 2 * (q + 1);
    for (i = 0; i <= q; i++)
        for (j = 0; j <= q; j++) {
            int8_t *block = h + 2 * i * order + 2 * j;
            int c = i == j ? 1 : i == 0 || j == 0 ? 1 : chi[field_subtract(i - 1, j - 1, p)];
            block[0] = (int8_t)c;
            block[1] = (int8_t)(i == j ? -1 : c);
            block[order] = (int8_t)(i == j ? -1 : c);
            block[order + 1] = (int8_t)-c;
        }
}

/* The matrix of a base, row by row, +1 and -1. */
static int8_t *make_base(unsigned paley, unsigned q)
{
    unsigned p = 0, m = 0, order = base_order(paley, q);
    int8_t *h = allocate((uint64_t)order * order, 1), *chi;
    if (paley == 0) {
        h[0] = 1;
        return h;
    }
    chi = allocate(q, 1);
    prime_power(q, &p, &m);
    make_chi(q, p, m, chi);
    if (paley == 1)
        make_paley_1(h, q, p, chi);
    else
        make_paley_2(h, q, p, chi);
    release(chi);
    return h;
}

/* Spec 9.3: one object of the blocks of a rotation. */
typedef struct {
    uint64_t count, order;
    unsigned paley, q, base;   /* base is the order of the base */
    const int8_t *matrix;
} RotationBlock;

typedef struct {
    uint64_t seed, cols, count;
    RotationBlock *blocks;
    int8_t *signs;             /* 1 for -1 */
    double *work;              /* a block of numbers */
} Rotation;

/* Build the signs and the base matrices, each different one once. */
static void prepare_rotation(Rotation *rotation)
{
    uint64_t i, j;
    rotation->signs = allocate(rotation->cols, 1);
    rotation->work = allocate(rotation->cols, sizeof(double));
    make_signs(rotation->seed, rotation->cols, rotation->signs);
    for (i = 0; i < rotation->count; i++) {
        RotationBlock *block = rotation->blocks + i, *other = rotation->blocks;
        for (j = 0; j < i; j++, other++)
            if (other->paley == block->paley && other->q == block->q)
                break;
        block->matrix = j < i ? other->matrix : make_base(block->paley, block->q);
    }
}

/* Spec 6.6, step 2, on one run. */
static void sylvester(double *z, uint64_t length)
{
    uint64_t s, span, i;
    for (s = 1; s < length; s *= 2)
        for (span = 0; span < length; span += 2 * s)
            for (i = span; i < span + s; i++) {
                double a = z[i], b = z[i + s];
                z[i] = a + b;
                z[i + s] = a - b;
            }
}

/* Spec 6.6, step 3, and 6.7 with the transposed base: new row i is the sum over j in order of
 * H[i,j] z_j. A product with +1 or -1 is exact, so adding and subtracting is the same. */
static void apply_base(const RotationBlock *block, double *z, double *work, int transposed)
{
    uint64_t h = block->base, run = block->order / h, i, j, c;
    memcpy(work, z, block->order * sizeof *z);
    for (i = 0; i < h; i++, z += run)
        for (j = 0; j < h; j++) {
            const double *from = work + j * run;
            int sign = block->matrix[transposed ? j * h + i : i * h + j];
            if (j == 0)
                for (c = 0; c < run; c++)
                    z[c] = sign < 0 ? -from[c] : from[c];
            else if (sign < 0)
                for (c = 0; c < run; c++)
                    z[c] -= from[c];
            else
                for (c = 0; c < run; c++)
                    z[c] += from[c];
        }
}

static void apply_signs(const Rotation *rotation, double *row)
{
    uint64_t i;
    for (i = 0; i < rotation->cols; i++)
        if (rotation->signs[i])
            row[i] = -row[i];
}

/* Spec 6.6 (forward) and 6.7 (inverse), in place. */
static void rotate(const Rotation *rotation, double *row, int inverse)
{
    double *z = row;
    uint64_t i, copy, j;
    if (!inverse)
        apply_signs(rotation, row);
    for (i = 0; i < rotation->count; i++) {
        const RotationBlock *block = rotation->blocks + i;
        uint64_t run = block->order / block->base;
        double factor = 1.0 / sqrt((double)block->order);
        for (copy = 0; copy < block->count; copy++, z += block->order) {
            if (inverse && block->base > 1)
                apply_base(block, z, rotation->work, 1);
            for (j = 0; j < block->order; j += run)
                sylvester(z + j, run);
            if (!inverse && block->base > 1)
                apply_base(block, z, rotation->work, 0);
            for (j = 0; j < block->order; j++)
                z[j] *= factor;
        }
    }
    if (inverse)
        apply_signs(rotation, row);
}

/* ---- 5 Numbers and bits -------------------------------------------------------------------- */

/* Spec 9.1: the types, with the bytes of an element. */
static const struct { const char *name; unsigned size; } dtypes[] = {
    { "F16", 2 }, { "BF16", 2 }, { "F32", 4 }, { "F64", 8 }, { "BOOL", 1 }, { "U8", 1 },
    { "I8", 1 }, { "F8_E4M3", 1 }, { "F8_E5M2", 1 }, { "F8_E8M0", 1 }, { "F8_E4M3FNUZ", 1 },
    { "F8_E5M2FNUZ", 1 }, { "U16", 2 }, { "I16", 2 }, { "U32", 4 }, { "I32", 4 }, { "U64", 8 },
    { "I64", 8 }, { "C64", 8 }
};
enum { F16, BF16, F32, F64, DTYPES = sizeof dtypes / sizeof *dtypes, DTYPE_U8 = 5 };

static uint64_t read_little(const uint8_t *p, unsigned bytes)
{
    uint64_t value = 0;
    while (bytes-- > 0)
        value = value << 8 | p[bytes];
    return value;
}

static void write_little(uint8_t *p, uint64_t value, unsigned bytes)
{
    for (; bytes-- > 0; value >>= 8)
        *p++ = (uint8_t)value;
}

/* The value of a finite binary16 without its sign (spec 8.2). */
static double from_half(unsigned bits)
{
    int exponent = (int)(bits >> 10 & 31), fraction = (int)(bits & 1023);
    return exponent ? ldexp(fraction + 1024, exponent - 25) : ldexp(fraction, -24);
}

static float from_single(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* Spec 8.5, the one rounding: binary64 to a format with the given bits of exponent and fraction,
 * to nearest, ties to even; too large becomes infinity. */
static uint64_t round_bits(uint64_t x, int exponent_bits, int fraction_bits)
{
    uint64_t sign = x >> 63 << (exponent_bits + fraction_bits);
    uint64_t infinity = (((uint64_t)1 << exponent_bits) - 1) << fraction_bits;
    uint64_t fraction = x & (((uint64_t)1 << 52) - 1), kept, rest, half;
    int exponent = (int)(x >> 52 & 2047), shift = 52 - fraction_bits;
    if (exponent == 2047)
        return sign | infinity | (fraction ? (uint64_t)1 << (fraction_bits - 1) : 0);
    if (exponent == 0)
        return sign;                           /* far below half of the least of the formats */
    exponent += (1 << (exponent_bits - 1)) - 1024;
    fraction |= (uint64_t)1 << 52;
    if (exponent <= 0) {                       /* subnormal: more bits fall away */
        shift += 1 - exponent;
        exponent = 1;
    }
    if (shift > 60)
        return sign;
    kept = fraction >> shift;
    rest = fraction & (((uint64_t)1 << shift) - 1);
    half = (uint64_t)1 << (shift - 1);
    kept += rest > half || (rest == half && (kept & 1));
    kept += (uint64_t)(exponent - 1) << fraction_bits;         /* the leading 1 adds the last one */
    return sign | (kept > infinity ? infinity : kept);
}

static void round_to(int dtype, double value, uint8_t *out)
{
    uint64_t bits;
    memcpy(&bits, &value, 8);
    if (dtype == F16)
        bits = round_bits(bits, 5, 10);
    else if (dtype == BF16)
        bits = round_bits(bits, 8, 7);
    else if (dtype == F32)
        bits = round_bits(bits, 8, 23);
    write_little(out, bits, dtypes[dtype].size);
}

/* Spec 8.4: the field of width bits from bit position on, as limbs. */
static void read_field(const uint8_t *data, uint64_t position, uint64_t width, Limb *out)
{
    uint64_t done;
    unsigned shift = (unsigned)(position % 8);
    data += position / 8;
    for (done = 0; done < width; done += 32, data += 4) {
        unsigned take = width - done < 32 ? (unsigned)(width - done) : 32;
        uint64_t bits = read_little(data, (shift + take + 7) / 8) >> shift;
        *out++ = (Limb)(bits & (((uint64_t)1 << take) - 1));
    }
}

/* ---- 6 SHA-256 (FIPS 180-4) ---------------------------------------------------------------- */

static const uint32_t sha_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2
};

static uint32_t rotate_right(uint32_t x, int bits)
{
    return x >> bits | x << (32 - bits);
}

static void sha_block(uint32_t state[8], const uint8_t *data)
{
    uint32_t w[64], v[8];
    int i;
    for (i = 0; i < 16; i++)
        w[i] = (uint32_t)data[4 * i] << 24 | (uint32_t)data[4 * i + 1] << 16
             | (uint32_t)data[4 * i + 2] << 8 | data[4 * i + 3];
    for (; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + w[i - 7]
             + (rotate_right(a, 7) ^ rotate_right(a, 18) ^ a >> 3)
             + (rotate_right(b, 17) ^ rotate_right(b, 19) ^ b >> 10);
    }
    memcpy(v, state, sizeof v);
    for (i = 0; i < 64; i++) {
        uint32_t a = v[0], e = v[4];
        uint32_t t1 = v[7] + (rotate_right(e, 6) ^ rotate_right(e, 11) ^ rotate_right(e, 25))
                    + ((e & v[5]) ^ (~e & v[6])) + sha_constants[i] + w[i];
        uint32_t t2 = (rotate_right(a, 2) ^ rotate_right(a, 13) ^ rotate_right(a, 22))
                    + ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += t1;
        v[0] = t1 + t2;
    }
    for (i = 0; i < 8; i++)
        state[i] += v[i];
}

/* 64 lower-case hexadecimal digits of the SHA-256 of data. */
static void sha256(const void *bytes, size_t length, char digits[65])
{
    uint32_t state[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                          0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
    const uint8_t *data = bytes;
    uint8_t last[128] = { 0 };
    size_t rest = length % 64, end = rest < 56 ? 64 : 128, i;
    for (i = 0; i + 64 <= length; i += 64)
        sha_block(state, data + i);
    if (rest)
        memcpy(last, data + i, rest);
    last[rest] = 0x80;
    for (i = 0; i < 8; i++)
        last[end - 1 - i] = (uint8_t)((uint64_t)length << 3 >> 8 * i);
    for (i = 0; i < end; i += 64)
        sha_block(state, last + i);
    for (i = 0; i < 64; i++)
        digits[i] = "0123456789abcdef"[state[i / 8] >> (28 - 4 * (i % 8)) & 15];
    digits[64] = 0;
}

/* ---- 7 JSON -------------------------------------------------------------------------------- */

enum { J_NULL, J_TRUE, J_FALSE, J_NUMBER, J_STRING, J_LIST, J_OBJECT };

/* A value. text is the UTF-8 of a string (with its length, for it may contain U+0000), or the
 * number as it was written. The values of a list or object are a chain; in an object each has
 * its key. */
typedef struct Json Json;
struct Json {
    int type;
    char *text, *key;
    size_t length, key_length;
    uint64_t count;
    Json *first, *next;
};

typedef struct {
    const char *at, *end;
    const char *error;         /* the name of the error for broken JSON */
} Parser;

#define JSON_DEPTH 64

static void broken(const Parser *p)
{
    fail(p->error, "not strict JSON");
}

static void skip_space(Parser *p)
{
    while (p->at < p->end && (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r'))
        p->at++;
}

static int next_is(Parser *p, char c)
{
    if (p->at == p->end || *p->at != c)
        return 0;
    p->at++;
    return 1;
}

static unsigned parse_hex4(Parser *p)
{
    unsigned value = 0;
    int i;
    for (i = 0; i < 4; i++, p->at++) {
        char c = p->at < p->end ? *p->at : 0;
        if (c >= '0' && c <= '9')
            value = value << 4 | (unsigned)(c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value << 4 | (unsigned)(c - 'a' + 10);
        else if (c >= 'A' && c <= 'F')
            value = value << 4 | (unsigned)(c - 'A' + 10);
        else
            broken(p);
    }
    return value;
}

static char *put_utf8(char *out, unsigned c)
{
    if (c < 0x80) {
        *out++ = (char)c;
    } else if (c < 0x800) {
        *out++ = (char)(0xC0 | c >> 6);
        *out++ = (char)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        *out++ = (char)(0xE0 | c >> 12);
        *out++ = (char)(0x80 | (c >> 6 & 63));
        *out++ = (char)(0x80 | (c & 63));
    } else {
        *out++ = (char)(0xF0 | c >> 18);
        *out++ = (char)(0x80 | (c >> 12 & 63));
        *out++ = (char)(0x80 | (c >> 6 & 63));
        *out++ = (char)(0x80 | (c & 63));
    }
    return out;
}

/* The next code point of UTF-8 text, or -1 where the text isn't valid. */
static long next_code(const char **at, const char *end)
{
    static const unsigned least[4] = { 0, 0x80, 0x800, 0x10000 };
    unsigned c = (uint8_t)*(*at)++, more, i;
    if (c < 0x80)
        return (long)c;
    more = c >= 0xC2 && c < 0xE0 ? 1 : c >= 0xE0 && c < 0xF0 ? 2 : c >= 0xF0 && c < 0xF5 ? 3 : 0;
    if (!more || (size_t)(end - *at) < more)
        return -1;
    c &= 63u >> more;
    for (i = 0; i < more; i++) {
        unsigned b = (uint8_t)*(*at)++;
        if (b >> 6 != 2)
            return -1;
        c = c << 6 | (b & 63);
    }
    if (c < least[more] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000))
        return -1;
    return (long)c;
}

/* The code point of an escape; unpaired surrogates are errors (spec 9.1). */
static unsigned parse_escape(Parser *p)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    char c = p->at < p->end ? *p->at++ : 0;
    const char *found = c ? strchr(names, c) : NULL;
    unsigned high, low;
    if (found)
        return (unsigned char)values[found - names];
    if (c != 'u')
        broken(p);
    high = parse_hex4(p);
    if (high < 0xD800 || high >= 0xE000)
        return high;
    if (high >= 0xDC00 || !next_is(p, '\\') || !next_is(p, 'u'))
        broken(p);
    low = parse_hex4(p);
    if (low < 0xDC00 || low >= 0xE000)
        broken(p);
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
}

/* A string after its first quote. The UTF-8 is never longer than what stands in the text. */
static char *parse_string(Parser *p, size_t *length)
{
    const char *scan = p->at;
    char *text, *out;
    while (scan < p->end && *scan != '"')
        scan += *scan == '\\' && scan + 1 < p->end ? 2 : 1;
    out = text = allocate((uint64_t)(scan - p->at) + 1, 1);
    while (!next_is(p, '"')) {
        long c;
        if (p->at >= p->end)
            broken(p);
        if (next_is(p, '\\'))
            c = (long)parse_escape(p);
        else if ((c = next_code(&p->at, p->end)) < 0x20)
            broken(p);
        out = put_utf8(out, (unsigned)c);
    }
    *length = (size_t)(out - text);
    return text;
}

static int skip_digits(Parser *p)
{
    const char *start = p->at;
    while (p->at < p->end && *p->at >= '0' && *p->at <= '9')
        p->at++;
    return p->at > start;
}

static void parse_number(Parser *p, Json *value)
{
    const char *start = p->at;
    value->type = J_NUMBER;
    next_is(p, '-');
    if (!next_is(p, '0') && !skip_digits(p))
        broken(p);
    if (next_is(p, '.') && !skip_digits(p))
        broken(p);
    if (next_is(p, 'e') || next_is(p, 'E')) {
        if (!next_is(p, '+'))
            next_is(p, '-');
        if (!skip_digits(p))
            broken(p);
    }
    value->length = (size_t)(p->at - start);
    value->text = allocate(value->length + 1, 1);
    memcpy(value->text, start, value->length);
}

static int parse_word(Parser *p, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(p->end - p->at) < n || memcmp(p->at, word, n))
        return 0;
    p->at += n;
    return 1;
}

/* Code-point order, which is the order of the bytes of UTF-8. */
static int compare_text(const char *a, size_t na, const char *b, size_t nb)
{
    size_t least = na < nb ? na : nb;
    int order = least ? memcmp(a, b, least) : 0;
    return order ? order : (na > nb) - (na < nb);
}

static int compare_keys(const void *a, const void *b)
{
    const Json *x = *(Json *const *)a, *y = *(Json *const *)b;
    return compare_text(x->key, x->key_length, y->key, y->key_length);
}

/* Sort the values of an object by key; the same key twice is an error. */
static void sort_object(const Parser *p, Json *object)
{
    Json **items, *item;
    uint64_t i = 0;
    if (object->count < 2)
        return;
    items = allocate(object->count, sizeof *items);
    for (item = object->first; item; item = item->next)
        items[i++] = item;
    qsort(items, (size_t)object->count, sizeof *items, compare_keys);
    object->first = items[0];
    for (i = 0; i < object->count; i++) {
        items[i]->next = i + 1 < object->count ? items[i + 1] : NULL;
        if (i && compare_keys(items + i - 1, items + i) == 0)
            broken(p);
    }
    release(items);
}

static Json *parse_value(Parser *p, int depth);

/* The rest of a list or object after its first bracket. */
static void parse_items(Parser *p, Json *value, char close, int depth)
{
    Json **tail = &value->first;
    skip_space(p);
    if (next_is(p, close))
        return;
    do {
        char *key = NULL;
        size_t key_length = 0;
        skip_space(p);
        if (close == '}') {
            if (!next_is(p, '"'))
                broken(p);
            key = parse_string(p, &key_length);
            skip_space(p);
            if (!next_is(p, ':'))
                broken(p);
        }
        *tail = parse_value(p, depth + 1);
        (*tail)->key = key;
        (*tail)->key_length = key_length;
        tail = &(*tail)->next;
        value->count++;
        skip_space(p);
    } while (next_is(p, ','));
    if (!next_is(p, close))
        broken(p);
    if (close == '}')
        sort_object(p, value);
}

static Json *parse_value(Parser *p, int depth)
{
    Json *value = allocate(1, sizeof *value);
    if (depth > JSON_DEPTH)
        broken(p);
    skip_space(p);
    if (next_is(p, '{')) {
        value->type = J_OBJECT;
        parse_items(p, value, '}', depth);
    } else if (next_is(p, '[')) {
        value->type = J_LIST;
        parse_items(p, value, ']', depth);
    } else if (next_is(p, '"')) {
        value->type = J_STRING;
        value->text = parse_string(p, &value->length);
    } else if (parse_word(p, "true")) {
        value->type = J_TRUE;
    } else if (parse_word(p, "false")) {
        value->type = J_FALSE;
    } else if (!parse_word(p, "null")) {
        parse_number(p, value);
    }
    return value;
}

/* A whole text of JSON. Objects come out sorted by key. */
static Json *parse_json(const char *text, size_t length, const char *error)
{
    Parser p;
    Json *value;
    p.at = text;
    p.end = text + length;
    p.error = error;
    value = parse_value(&p, 0);
    skip_space(&p);
    if (p.at != p.end)
        broken(&p);
    return value;
}

static void write_u16(Text *out, unsigned c)
{
    static const char digits[] = "0123456789abcdef";
    int shift;
    text_add(out, "\\u");
    for (shift = 12; shift >= 0; shift -= 4)
        text_add_char(out, digits[c >> shift & 15]);
}

/* Spec 9.1: a canonical string. U+007F is written as an escape, as the reference writes it. */
static void write_string(Text *out, const char *text, size_t length)
{
    static const char controls[] = "\"\\\b\f\n\r\t", names[] = "\"\\bfnrt";
    const char *end = text + length;
    text_add_char(out, '"');
    while (text < end) {
        unsigned c = (unsigned)next_code(&text, end);
        const char *found = c && c < 0x80 ? strchr(controls, (int)c) : NULL;
        if (found) {
            text_add_char(out, '\\');
            text_add_char(out, names[found - controls]);
        } else if (c >= 0x20 && c < 0x7F) {
            text_add_char(out, (char)c);
        } else if (c < 0x10000) {
            write_u16(out, c);
        } else {
            write_u16(out, 0xD800 + ((c - 0x10000) >> 10));
            write_u16(out, 0xDC00 + (c & 1023));
        }
    }
    text_add_char(out, '"');
}

/* Spec 9.1: canonical JSON. */
static void write_json(Text *out, const Json *value)
{
    static const char *const words[] = { "null", "true", "false" };
    const Json *item;
    if (value->type <= J_FALSE) {
        text_add(out, words[value->type]);
    } else if (value->type == J_NUMBER) {
        if (strcmp(value->text, "-0"))
            text_put(out, value->text, value->length);
        else
            text_add_char(out, '0');
    } else if (value->type == J_STRING) {
        write_string(out, value->text, value->length);
    } else {
        text_add_char(out, value->type == J_LIST ? '[' : '{');
        for (item = value->first; item; item = item->next) {
            if (item->key) {
                write_string(out, item->key, item->key_length);
                text_add_char(out, ':');
            }
            write_json(out, item);
            if (item->next)
                text_add_char(out, ',');
        }
        text_add_char(out, value->type == J_LIST ? ']' : '}');
    }
}

static int is_text(const Json *value, const char *text)
{
    return value && value->type == J_STRING
        && compare_text(value->text, value->length, text, strlen(text)) == 0;
}

static Json *member(const Json *object, const char *key)
{
    Json *item;
    if (!object || object->type != J_OBJECT)
        return NULL;
    for (item = object->first; item; item = item->next)
        if (compare_text(item->key, item->key_length, key, strlen(key)) == 0)
            return item;
    return NULL;
}

/* Does the object have exactly these keys, given in code-point order and ended by NULL? */
static int has_keys(const Json *object, const char *const *keys)
{
    const Json *item;
    if (object->type != J_OBJECT)
        return 0;
    for (item = object->first; item; item = item->next, keys++)
        if (!*keys || compare_text(item->key, item->key_length, *keys, strlen(*keys)))
            return 0;
    return !*keys;
}

static int is_integer(const Json *value)
{
    return value && value->type == J_NUMBER && !strpbrk(value->text, ".eE");
}

/* An integer 0 ... 2^64 - 1; returns 0 for everything else. */
static int get_u64(const Json *value, uint64_t *result)
{
    const char *c;
    int ok = 1;
    *result = 0;
    if (!is_integer(value) || value->text[0] == '-')
        return 0;
    for (c = value->text; *c; c++) {
        *result = checked_product(*result, 10, &ok);
        *result = checked_sum(*result, (uint64_t)(*c - '0'), &ok);
    }
    return ok;
}

/* An integer least ... most. */
static int get_range(const Json *value, long long least, long long most, long long *result)
{
    if (!is_integer(value) || value->length > 18)
        return 0;
    *result = strtoll(value->text, NULL, 10);
    return *result >= least && *result <= most;
}

/* A string of decimal digits without leading zeros, below 2^64. */
static int get_digits(const Json *value, uint64_t *result)
{
    Json number;
    if (!value || value->type != J_STRING || value->length == 0 || value->length > 20
        || value->text[strspn(value->text, "0123456789")] || strlen(value->text) != value->length
        || (value->text[0] == '0' && value->length > 1))
        return 0;
    number = *value;
    number.type = J_NUMBER;
    return get_u64(&number, result);
}

/* ---- 8 Container --------------------------------------------------------------------------- */

#define MAX_HEADER 100000000u      /* spec 12 */
#define FREE_HEADER (1u << 21)     /* spec 12: what it may have beyond a sixteenth of the data */
#define MAX_GROUP 4096

/* One entry of a safetensors file. */
typedef struct {
    const char *name;              /* UTF-8 */
    size_t name_length;
    int dtype, taken;              /* taken: it belongs to a compressed tensor */
    const Json *shape;
    const uint8_t *data;
    uint64_t begin, size;
} Entry;

/* A compressed tensor (spec 9.3) and its payload. */
typedef struct {
    const char *name;
    size_t name_length;
    const Json *shape;
    int dtype, order, gain_bits, norm_exponent, rotated;
    uint32_t n, k, tail, tail_k, block;
    uint64_t rows, cols, groups;   /* groups: whole ones in a row */
    uint64_t bits, tail_bits;      /* widths of the two kinds of index */
    Rotation rotation;
    const uint8_t *index, *gain, *row_norm, *levels;
    uint64_t index_size, gain_size;
} Tensor;

typedef struct {
    const uint8_t *bytes, *data;
    uint64_t header_length, data_length, entry_count, tensor_count;
    Json *header;
    Json *pvq;
    Entry *entries;                /* by name */
    Tensor *tensors;               /* by name */
} Container;

static void metadata_error(const char *text)
{
    fail("MetadataError", text);
}

static int find_dtype(const Json *value)
{
    int i;
    for (i = 0; i < DTYPES; i++)
        if (is_text(value, dtypes[i].name))
            return i;
    return -1;
}

static int compare_names(const void *a, const void *b)
{
    const Entry *x = a, *y = b;
    return compare_text(x->name, x->name_length, y->name, y->name_length);
}

/* Spec 9.1: larger elements first, then by name. */
static int compare_places(const void *a, const void *b)
{
    const Entry *x = *(Entry *const *)a, *y = *(Entry *const *)b;
    unsigned size_x = dtypes[x->dtype].size, size_y = dtypes[y->dtype].size;
    return size_x != size_y ? (size_x < size_y ? 1 : -1) : compare_names(x, y);
}

/* Spec 9.1: one entry of the header; its shape and its offsets must agree. */
static void read_entry(Entry *entry, const Json *value)
{
    static const char *const keys[] = { "data_offsets", "dtype", "shape", NULL };
    const Json *offsets, *d;
    uint64_t end, size, n;
    int ok = 1, empty = 0;
    if (!has_keys(value, keys))
        fail("HeaderError", "an entry without exactly data_offsets, dtype and shape");
    entry->name = value->key;
    entry->name_length = value->key_length;
    entry->dtype = find_dtype(member(value, "dtype"));
    entry->shape = member(value, "shape");
    offsets = member(value, "data_offsets");
    if (entry->dtype < 0 || entry->shape->type != J_LIST || offsets->type != J_LIST
        || offsets->count != 2 || !get_u64(offsets->first, &entry->begin)
        || !get_u64(offsets->first->next, &end) || end < entry->begin)
        fail("HeaderError", "an entry with a wrong dtype, shape or data_offsets");
    size = dtypes[entry->dtype].size;
    for (d = entry->shape->first; d; d = d->next) {
        if (!get_u64(d, &n))
            fail("HeaderError", "a shape that isn't a list of sizes");
        empty |= n == 0;
        size = checked_product(size, n, &ok);
    }
    if (empty) {
        size = 0;
        ok = 1;
    }
    entry->size = end - entry->begin;
    if (!ok || size != entry->size)
        fail("HeaderError", "an entry whose shape and data_offsets disagree");
}

/* Spec 9.1: offsets cover the data without holes, in the order of the places. */
static void check_places(Container *file)
{
    Entry **places = allocate(file->entry_count, sizeof *places);
    uint64_t i, at = 0;
    for (i = 0; i < file->entry_count; i++)
        places[i] = file->entries + i;
    if (file->entry_count > 1)
        qsort(places, (size_t)file->entry_count, sizeof *places, compare_places);
    for (i = 0; i < file->entry_count; i++) {
        if (places[i]->begin != at || places[i]->size > file->data_length - at)
            fail("HeaderError", "entries out of order, or with holes, or beyond the file");
        places[i]->data = file->data + at;
        at += places[i]->size;
    }
    if (at != file->data_length)
        fail("HeaderError", "data that belong to no entry");
    release(places);
}

/* Spec 9.1: the header is canonical JSON and then spaces. */
static void check_canonical_header(const Container *file)
{
    Text canonical = { 0, 0, 0 };
    uint64_t i;
    write_json(&canonical, file->header);
    if (canonical.length > file->header_length
        || memcmp(canonical.data, file->bytes + 8, canonical.length))
        fail("HeaderError", "the header isn't canonical JSON");
    for (i = canonical.length; i < file->header_length; i++)
        if (file->bytes[8 + i] != ' ')
            fail("HeaderError", "the header isn't padded with spaces");
    release(canonical.data);
}

/* Spec 11, the first stage: the frame and the canonical form. */
static void read_frame(Container *file, const uint8_t *bytes, uint64_t length)
{
    const Json *value;
    file->bytes = bytes;
    if (length < 8)
        fail("HeaderError", "shorter than the length of a header");
    file->header_length = read_little(bytes, 8);
    if (file->header_length > MAX_HEADER || file->header_length > length - 8)
        fail("HeaderError", "a header longer than the file or the limit");
    if (file->header_length > FREE_HEADER + (length - 8 - file->header_length) / 16)
        fail("HeaderError", "a header longer than the limit for so few data");
    if (file->header_length % 8)
        fail("HeaderError", "a header that isn't padded to a multiple of 8");
    file->data = bytes + 8 + file->header_length;
    file->data_length = length - 8 - file->header_length;
    file->header = parse_json((const char *)bytes + 8, (size_t)file->header_length, "HeaderError");
    if (file->header->type != J_OBJECT)
        fail("HeaderError", "the header isn't an object");
    file->entries = allocate(file->header->count, sizeof *file->entries);
    for (value = file->header->first; value; value = value->next)
        if (compare_text(value->key, value->key_length, "__metadata__", 12))
            read_entry(file->entries + file->entry_count++, value);
    check_places(file);
    value = member(file->header, "__metadata__");
    if (value && value->type != J_OBJECT)
        fail("HeaderError", "__metadata__ isn't an object");
    for (value = value ? value->first : NULL; value; value = value->next)
        if (value->type != J_STRING)
            fail("HeaderError", "__metadata__ has a value that isn't a string");
    if (!member(member(file->header, "__metadata__"), "pvq"))      /* canonical or not */
        metadata_error("this file isn't compressed");
    check_canonical_header(file);
}

static int is_hash(const Json *value)
{
    return value->type == J_STRING && value->length == 64
        && strspn(value->text, "0123456789abcdef") == 64;
}

/* Spec 9.3, the second table: the keys of a tensor and their types. */
static void check_tensor_types(const Json *tensor)
{
    static const char *const keys[] = { "block", "dtype", "gain_bits", "k", "levels", "n",
        "norm_exponent", "order", "rotation", "shape", "tail_k", NULL };
    static const char *const block_keys[] = { "count", "order", "paley", "q", NULL };
    static const char *const rotation_keys[] = { "blocks", "seed", NULL };
    static const char *const integers[] = { "block", "gain_bits", "k", "n", "norm_exponent",
        "tail_k" };
    const Json *rotation, *blocks, *item, *number;
    size_t i;
    if (!has_keys(tensor, keys))
        metadata_error("a tensor without exactly the keys of the format");
    for (i = 0; i < sizeof integers / sizeof *integers; i++)
        if (!is_integer(member(tensor, integers[i])))
            metadata_error("a parameter of a tensor that isn't an integer");
    if (member(tensor, "dtype")->type != J_STRING || member(tensor, "order")->type != J_STRING
        || member(tensor, "levels")->type != J_STRING || member(tensor, "shape")->type != J_LIST)
        metadata_error("a dtype, order, levels or shape of a wrong type");
    for (item = member(tensor, "shape")->first; item; item = item->next)
        if (!is_integer(item))
            metadata_error("a shape that isn't a list of integers");
    rotation = member(tensor, "rotation");
    if (rotation->type == J_NULL)
        return;
    if (!has_keys(rotation, rotation_keys) || member(rotation, "seed")->type != J_STRING
        || (blocks = member(rotation, "blocks"))->type != J_LIST)
        metadata_error("a rotation of a wrong form");
    for (item = member(rotation, "blocks")->first; item; item = item->next) {
        if (!has_keys(item, block_keys))
            metadata_error("a block of a rotation of a wrong form");
        for (number = item->first; number; number = number->next)
            if (!is_integer(number))
                metadata_error("a block of a rotation with something else than integers");
    }
}

/* Spec 11: the JSON of pvq, format_version, keys and their types, those of the outermost object.
 * What tensors and sha256 hold belongs to "tensors and entries", after the hash. */
static void read_metadata(Container *file)
{
    static const char *const outer_keys[] = { "format", "pvq", NULL };
    static const char *const keys[] = { "format_version", "header_sha256", "sha256",
        "source_metadata", "tensors", "writer", NULL };
    const Json *metadata = member(file->header, "__metadata__"), *pvq, *item;
    Text canonical = { 0, 0, 0 };
    pvq = member(metadata, "pvq");
    file->pvq = parse_json(pvq->text, pvq->length, "MetadataError");
    write_json(&canonical, file->pvq);
    if (compare_text(canonical.data, canonical.length, pvq->text, pvq->length))
        metadata_error("pvq isn't canonical JSON");
    release(canonical.data);
    item = member(file->pvq, "format_version");
    if (!is_integer(item))
        metadata_error("no integer format_version");
    if (strcmp(item->text, "1"))
        fail("VersionError", "a format_version that isn't 1");
    if (!has_keys(metadata, outer_keys) || !is_text(member(metadata, "format"), "pt"))
        metadata_error("__metadata__ isn't that of a compressed file");
    if (!has_keys(file->pvq, keys))
        metadata_error("pvq hasn't exactly the keys of the format");
    if (!is_hash(member(file->pvq, "header_sha256"))
        || member(file->pvq, "writer")->type != J_STRING
        || member(file->pvq, "source_metadata")->type != J_OBJECT)
        metadata_error("a key of pvq with a value of a wrong type");
    for (item = member(file->pvq, "source_metadata")->first; item; item = item->next)
        if (item->type != J_STRING)
            metadata_error("source_metadata has a value that isn't a string");
}

/* Spec 9.4. The header is canonical, so writing it anew with 64 zeros gives the same bytes. */
static void check_header_hash(Container *file)
{
    Json *hash = member(file->pvq, "header_sha256");
    Json *pvq = member(member(file->header, "__metadata__"), "pvq"), saved = *pvq;
    Text inner = { 0, 0, 0 }, whole = { 0, 0, 0 };
    char expected[65], digits[65];
    memcpy(expected, hash->text, 65);
    memset(hash->text, '0', 64);
    write_json(&inner, file->pvq);
    pvq->text = inner.data;
    pvq->length = inner.length;
    text_put(&whole, (const char *)file->bytes, 8);
    write_json(&whole, file->header);
    *pvq = saved;
    while (whole.length < 8 + file->header_length)
        text_add_char(&whole, ' ');
    sha256(whole.data, whole.length, digits);
    if (strcmp(digits, expected))
        fail("IntegrityError", "the hash of the header doesn't match");
    release(inner.data);
    release(whole.data);
}

static uint32_t get_number(const Json *object, const char *key, long long least, long long most,
                           const char *error)
{
    long long value;
    if (!get_range(member(object, key), least, most, &value))
        fail(error, "a parameter outside its range");
    return (uint32_t)value;
}

/* Spec 9.3 and 6.3: the rotation of a tensor covers its columns. */
static void read_rotation(Rotation *rotation, const Json *seed, const Json *blocks, uint64_t cols,
                          const char *error)
{
    const Json *item;
    RotationBlock *block;
    uint64_t covered = 0, run;
    int ok = 1;
    rotation->cols = cols;
    if (cols < 1 || cols > INT32_MAX || !get_digits(seed, &rotation->seed))
        fail(error, "a rotation with a wrong seed or too many columns");
    block = rotation->blocks = allocate(blocks->count, sizeof *block);
    for (item = blocks->first; item; item = item->next, block++) {
        block->count = get_number(item, "count", 1, INT32_MAX, error);
        block->order = get_number(item, "order", 1, INT32_MAX, error);
        block->paley = get_number(item, "paley", 0, 2, error);
        block->q = get_number(item, "q", 0, 1023, error);
        block->base = base_order(block->paley, block->q);
        if (!block->base || block->base > 1024 || block->order % block->base)
            fail(error, "a rotation with a base that doesn't exist");
        run = block->order / block->base;
        if (run & (run - 1))
            fail(error, "a rotation with an order that isn't h 2^e");
        covered = checked_sum(covered, checked_product(block->count, block->order, &ok), &ok);
    }
    rotation->count = blocks->count;
    if (!ok || covered != cols)
        fail(error, "a rotation that doesn't cover the columns");
}

/* Spec 8.1: rows and columns. */
static void read_shape(Tensor *t, const Json *shape)
{
    const Json *d;
    uint64_t size;
    int ok = 1;
    t->shape = shape;
    t->rows = 1;
    if (shape->count < 2)
        metadata_error("a compressed tensor with fewer than two dimensions");
    for (d = shape->first; d; d = d->next) {
        if (!get_u64(d, &size) || size == 0)
            metadata_error("a compressed tensor with a dimension that isn't at least 1");
        if (d->next)
            t->rows = checked_product(t->rows, size, &ok);
        else
            t->cols = size;
    }
    if (!ok)
        metadata_error("a shape that is too large");
}

/* Spec 9.3: everything in the object of a tensor. */
static void read_tensor(Tensor *t, const Json *object)
{
    static const char *const designs[] = { "quantile", "panter-dite", "panter-dite-centroids",
        "lloyd-max", "fitted" };
    static const char error[] = "MetadataError";
    const Json *rotation = member(object, "rotation"), *order = member(object, "order");
    long long exponent;
    int i, known = 0;
    read_shape(t, member(object, "shape"));
    t->dtype = find_dtype(member(object, "dtype"));
    if (t->dtype < F16 || t->dtype > F64)
        metadata_error("a tensor whose dtype isn't F16, BF16, F32 or F64");
    t->n = get_number(object, "n", 1, MAX_GROUP, error);
    if (t->n > t->cols)
        metadata_error("a group larger than a row");
    t->groups = t->cols / t->n;
    t->tail = (uint32_t)(t->cols % t->n);
    t->k = get_number(object, "k", 1, INT32_MAX, error);
    t->tail_k = get_number(object, "tail_k", t->tail ? 1 : 0, t->tail ? INT32_MAX : 0, error);
    t->order = is_text(order, "fischer") ? FISCHER : is_text(order, "opus") ? OPUS : BLOCKED;
    if (t->order == BLOCKED && !is_text(order, "blocked"))
        metadata_error("an unknown order");
    t->block = get_number(object, "block", t->order == BLOCKED,
                          t->order == BLOCKED ? INT32_MAX : 0, error);
    t->gain_bits = (int)get_number(object, "gain_bits", 0, 8, error);
    if (!get_range(member(object, "norm_exponent"), -551, 497, &exponent))
        metadata_error("a norm_exponent outside its range");
    t->norm_exponent = (int)exponent;
    for (i = 0; i < 5; i++)
        known |= is_text(member(object, "levels"), designs[i]);
    if (!known)
        metadata_error("an unknown design of levels");
    t->rotated = rotation->type != J_NULL;
    if (t->rotated)
        read_rotation(&t->rotation, member(rotation, "seed"), member(rotation, "blocks"), t->cols,
                      error);
    t->bits = index_width(t->n, t->k);
    t->tail_bits = t->tail ? index_width(t->tail, t->tail_k) : 0;
}

/* Spec 8.3, 8.4: the bytes of the two sequences; returns 0 beyond 2^64 bits. */
static int sequence_sizes(Tensor *t)
{
    int ok = 1;
    uint64_t row = checked_sum(checked_product(t->groups, t->bits, &ok), t->tail_bits, &ok);
    uint64_t groups = checked_product(t->rows, t->groups + (t->tail > 0), &ok);
    uint64_t bits = checked_sum(checked_product(t->rows, row, &ok), 7, &ok);
    uint64_t gain = checked_sum(checked_product(groups, (uint64_t)t->gain_bits, &ok), 7, &ok);
    t->index_size = bits / 8;
    t->gain_size = gain / 8;
    return ok;
}

static Entry *find_entry(const Container *file, const char *name, size_t length)
{
    Entry key;
    memset(&key, 0, sizeof key);
    key.name = name;
    key.name_length = length;
    if (!file->entry_count)
        return NULL;
    return bsearch(&key, file->entries, (size_t)file->entry_count, sizeof key, compare_names);
}

/* Spec 9.2: the entry NAME + suffix, of this type and shape (one dimension, or two). */
static const uint8_t *take_entry(Container *file, const Tensor *t, const char *suffix, int dtype,
                                 uint64_t first, uint64_t second)
{
    Text name = { 0, 0, 0 };
    Entry *entry;
    uint64_t size;
    text_put(&name, t->name, t->name_length);
    text_add(&name, suffix);
    entry = find_entry(file, name.data, name.length);
    release(name.data);
    if (!entry || entry->taken)
        metadata_error("an entry of a compressed tensor is missing");
    entry->taken = 1;
    if (entry->dtype != dtype || entry->shape->count != (second ? 2u : 1u)
        || !get_u64(entry->shape->first, &size) || size != first
        || (second && (!get_u64(entry->shape->first->next, &size) || size != second)))
        metadata_error("an entry of a compressed tensor has a wrong type or shape");
    return entry->data;
}

/* Spec 9.2: the four entries; the name itself is taken too. */
static void take_entries(Container *file, Tensor *t)
{
    if (compare_text(t->name, t->name_length, "__metadata__", 12) == 0
        || find_entry(file, t->name, t->name_length))
        metadata_error("the name of a compressed tensor is taken");
    if (!sequence_sizes(t))
        metadata_error("a tensor that is too large for its entries");
    t->index = take_entry(file, t, "_index", DTYPE_U8, t->index_size, 0);
    t->gain = take_entry(file, t, "_gain", DTYPE_U8, t->gain_size, 0);
    t->row_norm = take_entry(file, t, "_row_norm", F16, t->rows, 0);
    t->levels = take_entry(file, t, "_levels", F32, t->tail ? 2 : 1,
                           (uint64_t)1 << t->gain_bits);
}

/* Spec 9.3: sha256 names the entries, no more and no less. Both are sorted by name. */
static void check_hash_names(const Container *file)
{
    const Json *hash = member(file->pvq, "sha256")->first;
    uint64_t i;
    for (i = 0; i < file->entry_count; i++, hash = hash->next)
        if (!hash || compare_text(hash->key, hash->key_length, file->entries[i].name,
                                  file->entries[i].name_length) || !is_hash(hash))
            break;
    if (hash || i < file->entry_count)
        metadata_error("sha256 hasn't one hash for every entry of the file");
}

static void check_entry_hashes(const Container *file)
{
    const Json *hash = member(file->pvq, "sha256")->first;
    char digits[65];
    uint64_t i;
    for (i = 0; i < file->entry_count; i++, hash = hash->next) {
        sha256(file->entries[i].data, (size_t)file->entries[i].size, digits);
        if (strcmp(digits, hash->text))
            fail("IntegrityError", "the hash of an entry doesn't match");
    }
}

/* Spec 11: "tensors and entries". */
static void read_tensors(Container *file)
{
    const Json *object = member(file->pvq, "tensors");
    Tensor *t = file->tensors = allocate(object->count, sizeof *t);
    if (object->type != J_OBJECT || member(file->pvq, "sha256")->type != J_OBJECT)
        metadata_error("tensors or sha256 isn't an object");
    for (object = object->first; object; object = object->next, t++) {
        t->name = object->key;
        t->name_length = object->key_length;
        check_tensor_types(object);
        read_tensor(t, object);
        take_entries(file, t);
        file->tensor_count++;
    }
    check_hash_names(file);
}

/* Everything up to the hashes, in the order of spec 11. */
static void read_container(Container *file, const uint8_t *bytes, uint64_t length)
{
    memset(file, 0, sizeof *file);
    read_frame(file, bytes, length);
    read_metadata(file);
    check_header_hash(file);
    read_tensors(file);
    check_entry_hashes(file);
}

/* ---- 9 Decoding ---------------------------------------------------------------------------- */

static Ranker *rankers;            /* tables made so far in this job */

/* The tables of P(n,k) in an order, made once. */
static Ranker *find_ranker(uint32_t n, uint32_t k, int order, uint32_t block)
{
    Ranker *t;
    if (order == BLOCKED && n <= block)
        order = FISCHER;                                   /* spec 3.3 */
    for (t = rankers; t; t = t->next)
        if (t->n == n && t->k == k && t->order == order && (order != BLOCKED || t->block == block))
            return t;
    t = new_ranker(n, k, order, block);
    t->next = rankers;
    rankers = t;
    return t;
}

static int padding_is_zero(const uint8_t *data, uint64_t size, uint64_t bits)
{
    return !size || bits % 8 == 0 || data[size - 1] >> bits % 8 == 0;
}

static void payload_error(const char *text)
{
    fail("PayloadError", text);
}

static double get_level(const Tensor *t, unsigned which, uint64_t number)
{
    uint64_t at = ((uint64_t)which << t->gain_bits) + number;
    return (double)from_single((uint32_t)read_little(t->levels + 4 * at, 4));
}

/* Spec 11, PayloadError, but for the indices. */
static void check_payload(const Tensor *t)
{
    uint64_t i, row_bits = t->groups * t->bits + t->tail_bits;
    uint64_t fields = t->rows * (t->groups + (t->tail > 0));
    unsigned which;
    for (i = 0; i < t->rows; i++)
        if (read_little(t->row_norm + 2 * i, 2) >= 0x7C00)     /* infinity, NaN or a sign */
            payload_error("a row norm that isn't finite or has its sign bit set");
    for (which = 0; which < 1u + (t->tail > 0); which++)
        for (i = 0; i < (uint64_t)1 << t->gain_bits; i++) {
            double level = get_level(t, which, i);
            if (!(level - level == 0))
                payload_error("a level that isn't finite");
            if (i && level < get_level(t, which, i - 1))
                payload_error("levels that descend");
        }
    if (!padding_is_zero(t->index, t->index_size, t->rows * row_bits)
        || !padding_is_zero(t->gain, t->gain_size, fields * (uint64_t)t->gain_bits))
        payload_error("padding bits that are set");
}

/* What the decoding of one tensor needs besides the tensor. */
typedef struct {
    Tensor *tensor;
    Ranker *whole, *tail;
    Limb *index;
    int32_t *y;
    double *row;
} Decoder;

static void start_decoder(Decoder *d, Tensor *t)
{
    size_t limbs;
    d->tensor = t;
    check_payload(t);
    d->whole = find_ranker(t->n, t->k, t->order, t->block);
    d->tail = t->tail ? find_ranker(t->tail, t->tail_k, t->order, t->block) : NULL;
    limbs = d->whole->limbs;
    if (d->tail && d->tail->limbs > limbs)
        limbs = d->tail->limbs;
    d->index = allocate(limbs + 1, sizeof *d->index);
    d->y = allocate(t->n, sizeof *d->y);
    d->row = allocate(t->cols, sizeof *d->row);
    if (t->rotated)
        prepare_rotation(&t->rotation);
}

static void stop_decoder(Decoder *d)
{
    release(d->index);
    release(d->y);
    release(d->row);
    if (d->tensor->rotated) {
        release(d->tensor->rotation.signs);
        release(d->tensor->rotation.work);
    }
}

/* Spec 8.5, one group. */
static void decode_group(Decoder *d, Ranker *ranker, uint64_t position, double norm, double level,
                         double *out)
{
    uint64_t squares = 0;
    double amplitude, scale;
    uint32_t i;
    memset(d->index, 0, (ranker->limbs + 1) * sizeof *d->index);
    read_field(d->tensor->index, position, ranker->bits, d->index);
    if (!unrank(ranker, d->index, d->y))
        payload_error("an index that isn't below V(n,k)");
    for (i = 0; i < ranker->n; i++)
        squares += (uint64_t)((int64_t)d->y[i] * d->y[i]);
    amplitude = norm * level;
    scale = amplitude / sqrt((double)squares);
    for (i = 0; i < ranker->n; i++)
        out[i] = scale * d->y[i];
}

/* Spec 8.5, one row, up to the inverse rotation; the result is in d->row. */
static void decode_row(Decoder *d, uint64_t row)
{
    const Tensor *t = d->tensor;
    uint64_t fields = t->groups + (t->tail > 0), g;
    uint64_t position = row * (t->groups * t->bits + t->tail_bits);
    double norm = from_half((unsigned)read_little(t->row_norm + 2 * row, 2));
    norm = ldexp(norm, t->norm_exponent);
    for (g = 0; g < fields; g++) {
        unsigned is_tail = g == t->groups;
        Limb gain = 0;
        read_field(t->gain, (row * fields + g) * (uint64_t)t->gain_bits, (uint64_t)t->gain_bits,
                   &gain);
        decode_group(d, is_tail ? d->tail : d->whole, position, norm, get_level(t, is_tail, gain),
                     d->row + g * t->n);
        position += t->bits;
    }
    if (t->rotated)
        rotate(&t->rotation, d->row, 1);
}

/* Where decoded bytes go: a file or a text. */
typedef struct {
    FILE *stream;
    Text *text;
} Sink;

static void put_bytes(const Sink *sink, const void *data, size_t length)
{
    if (sink->text)
        text_put(sink->text, data, length);
    else if (length && fwrite(data, 1, length, sink->stream) != length)
        fail("OutputError", "the output can't be written");
}

/* Decode a tensor, row by row, and round it to its type. */
static void decode_tensor(Tensor *t, const Sink *sink)
{
    Decoder d;
    unsigned size = dtypes[t->dtype].size;
    uint64_t row, col;
    uint8_t *out;
    start_decoder(&d, t);
    out = allocate(t->cols, size);
    for (row = 0; row < t->rows; row++) {
        decode_row(&d, row);
        for (col = 0; col < t->cols; col++)
            round_to(t->dtype, d.row[col], out + col * size);
        put_bytes(sink, out, (size_t)t->cols * size);
    }
    release(out);
    stop_decoder(&d);
}

/* ---- 10 Whole files ------------------------------------------------------------------------ */

/* One entry of the result: a decoded tensor, or an entry as it is. */
typedef struct {
    Entry place;                   /* name, dtype, shape, size */
    Tensor *tensor;
    const Entry *source;
} Output;

static int compare_outputs(const void *a, const void *b)
{
    const Entry *x = &((const Output *)a)->place, *y = &((const Output *)b)->place;
    return compare_places(&x, &y);
}

/* The entries of the result in the order of spec 9.1; returns their number. */
static uint64_t plan_outputs(const Container *file, Output **result)
{
    Output *out = *result = allocate(file->entry_count + file->tensor_count, sizeof *out);
    uint64_t i, count;
    int ok = 1;
    for (i = 0; i < file->entry_count; i++)
        if (!file->entries[i].taken) {
            out->place = file->entries[i];
            out->source = file->entries + i;
            out++;
        }
    for (i = 0; i < file->tensor_count; i++, out++) {
        Tensor *t = file->tensors + i;
        out->tensor = t;
        out->place.name = t->name;
        out->place.name_length = t->name_length;
        out->place.dtype = t->dtype;
        out->place.shape = t->shape;
        out->place.size = checked_product(t->rows, t->cols, &ok);
        out->place.size = checked_product(out->place.size, dtypes[t->dtype].size, &ok);
        if (!ok)
            fail("CapacityError", "a decoded tensor would be too large");
    }
    count = (uint64_t)(out - *result);
    if (count > 1)
        qsort(*result, (size_t)count, sizeof **result, compare_outputs);
    return count;
}

static Json *new_json(int type, const char *text, size_t length)
{
    Json *value = allocate(1, sizeof *value);
    value->type = type;
    value->text = allocate((uint64_t)length + 1, 1);
    if (length)
        memcpy(value->text, text, length);
    value->length = length;
    return value;
}

/* Put a value in front of a list or object. */
static void push(Json *owner, const char *key, size_t key_length, Json *value)
{
    if (key) {
        value->key = allocate((uint64_t)key_length + 1, 1);
        memcpy(value->key, key, key_length);
        value->key_length = key_length;
    }
    value->next = owner->first;
    owner->first = value;
    owner->count++;
}

static Json *number_json(uint64_t value)
{
    Text digits = { 0, 0, 0 };
    text_add_u64(&digits, value);
    return new_json(J_NUMBER, digits.data, digits.length);
}

static Json *entry_json(const Output *out, uint64_t begin)
{
    Json *entry = new_json(J_OBJECT, NULL, 0), *offsets = new_json(J_LIST, NULL, 0);
    Json *shape = new_json(J_LIST, NULL, 0);
    const char *dtype = dtypes[out->place.dtype].name;
    shape->first = out->place.shape->first;
    push(offsets, NULL, 0, number_json(begin + out->place.size));
    push(offsets, NULL, 0, number_json(begin));
    push(entry, "shape", 5, shape);
    push(entry, "dtype", 5, new_json(J_STRING, dtype, strlen(dtype)));
    push(entry, "data_offsets", 12, offsets);
    return entry;
}

/* The header of the result, in the canonical form of spec 9.1, with its length before it. */
static void write_header(const Container *file, const Output *out, uint64_t count, Text *text)
{
    static const Parser unused = { NULL, NULL, "HeaderError" };
    Json *header = new_json(J_OBJECT, NULL, 0), *source = member(file->pvq, "source_metadata");
    Json *metadata = new_json(J_OBJECT, NULL, 0);
    uint64_t i, begin = 0;
    for (i = 0; i < count; begin += out[i++].place.size)
        push(header, out[i].place.name, out[i].place.name_length, entry_json(out + i, begin));
    metadata->first = source->first;
    if (!metadata->first)
        push(metadata, "format", 6, new_json(J_STRING, "pt", 2));
    push(header, "__metadata__", 12, metadata);
    sort_object(&unused, header);
    text_put(text, "\0\0\0\0\0\0\0\0", 8);
    write_json(text, header);
    while (text->length % 8)
        text_add_char(text, ' ');
    write_little((uint8_t *)text->data, text->length - 8, 8);
}

/* The bytes of a file, from malloc. */
static uint8_t *read_file(const char *path, uint64_t *length)
{
    FILE *stream = fopen(path, "rb");
    size_t room = 1 << 20, got;
    uint8_t *data;
    *length = 0;
    if (!stream)
        fail("ModelError", "the input can't be read");
    data = malloc(room);
    while (data && (got = fread(data + *length, 1, room - (size_t)*length, stream)) > 0) {
        *length += got;
        if (*length == room) {
            uint8_t *grown = room > SIZE_MAX / 2 ? NULL : realloc(data, room *= 2);
            if (!grown)
                free(data);
            data = grown;
        }
    }
    if (!data || ferror(stream)) {
        fclose(stream);
        free(data);
        fail(data ? "ModelError" : "CapacityError", "the input can't be read");
    }
    fclose(stream);
    return data;
}

/* Write everything to a stream. */
static void write_model(Container *file, FILE *stream)
{
    Output *out;
    uint64_t count = plan_outputs(file, &out), i;
    Text header = { 0, 0, 0 };
    Sink sink;
    sink.stream = stream;
    sink.text = NULL;
    write_header(file, out, count, &header);
    put_bytes(&sink, header.data, header.length);
    for (i = 0; i < count; i++)
        if (out[i].tensor)
            decode_tensor(out[i].tensor, &sink);
        else
            put_bytes(&sink, out[i].source->data, (size_t)out[i].source->size);
}

static uint8_t *input_bytes;       /* what decode_path must clean up after an error */
static FILE *output_stream;
static char *output_partial;

static void decode_path(const char *input, const char *output)
{
    Container file;
    uint64_t length;
    FILE *existing = fopen(output, "rb");
    if (existing) {
        fclose(existing);
        fail("OutputError", "the output exists");
    }
    input_bytes = read_file(input, &length);
    read_container(&file, input_bytes, length);
    output_partial = allocate((uint64_t)strlen(output) + 9, 1);
    strcpy(output_partial, output);
    strcat(output_partial, ".partial");
    output_stream = fopen(output_partial, "wb");
    if (!output_stream)
        fail("OutputError", "the output can't be written");
    write_model(&file, output_stream);
    existing = output_stream;
    output_stream = NULL;
    if (fclose(existing) || rename(output_partial, output)) {
        remove(output_partial);
        fail("OutputError", "the output can't be written");
    }
}

/* Run a job; returns 1 if it failed. The pointer is volatile so that no compiler puts the job into
 * this function, where setjmp would forbid it registers. */
static int protect(void (*job)(void *), void *context)
{
    void (*volatile call)(void *) = job;
    if (setjmp(failure_target))
        return 1;
    call(context);
    return 0;
}

static void file_job(void *context)
{
    char **paths = context;
    decode_path(paths[0], paths[1]);
}

/* pvq_decode IN OUT; returns the exit code. */
static int run_file(char **paths)
{
    int failed = protect(file_job, paths);
    if (failed) {
        fprintf(stderr, "%s: %s\n", failure_name, failure_text);
        if (output_stream) {
            fclose(output_stream);
            remove(output_partial);
        }
    }
    release_all();
    free(input_bytes);
    return failed;
}

/* ---- 11 The port --------------------------------------------------------------------------- */

/* ../conform.md: one question a line. Each op_... function adds its result to out. */

static const Json *argument(const Json *args, const char *key, int type)
{
    const Json *value = member(args, key);
    if (!value || value->type != type)
        fail("DomainError", "an argument that is missing or of a wrong type");
    return value;
}

static uint64_t argument_u64(const Json *args, const char *key)
{
    uint64_t value;
    if (!get_u64(argument(args, key, J_NUMBER), &value))
        fail("DomainError", "an argument outside its domain");
    return value;
}

/* A big integer, a string of decimal digits; a negative one is the given error. */
static Limb *get_big(const Json *value, size_t *length, const char *error)
{
    size_t i;
    Limb *big;
    if (value->type != J_STRING || value->length == 0)
        fail("DomainError", "not a big integer");
    if (value->text[0] == '-')
        fail(error, "a negative integer");
    *length = value->length / 9 + 2;
    big = allocate(*length, sizeof *big);
    for (i = 0; i < value->length; i++) {
        if (value->text[i] < '0' || value->text[i] > '9')
            fail("DomainError", "not a big integer");
        big_multiply_small(big, *length, 10, (Limb)(value->text[i] - '0'));
    }
    return big;
}

/* A big integer below 2^64. */
static uint64_t argument_word(const Json *args, const char *key)
{
    size_t length;
    Limb *big = get_big(argument(args, key, J_STRING), &length, "DomainError");
    if (big_trim(big, length) > 2)
        fail("DomainError", "an argument that isn't below 2^64");
    return (uint64_t)big[1] << 32 | big[0];
}

static double get_double(const Json *value)
{
    char *end;
    double number;
    if (value->type != J_STRING || value->length == 0)
        fail("DomainError", "not a number");
    number = strtod(value->text, &end);
    if (end != value->text + value->length)
        fail("DomainError", "not a number");
    return number;
}

static double *argument_doubles(const Json *args, const char *key, uint64_t *count)
{
    const Json *list = argument(args, key, J_LIST), *item;
    double *numbers = allocate(list->count, sizeof *numbers), *out = numbers;
    for (item = list->first; item; item = item->next)
        *out++ = get_double(item);
    *count = list->count;
    return numbers;
}

static int hex_digit(char c)
{
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    const char *found = c ? strchr(digits, c) : NULL;
    if (!found)
        fail("DomainError", "not hexadecimal digits");
    return (int)(found - digits) & 15;
}

static uint8_t *argument_bytes(const Json *args, const char *key, uint64_t *length)
{
    const Json *value = argument(args, key, J_STRING);
    uint8_t *bytes = allocate((uint64_t)value->length / 2, 1);
    uint64_t i;
    if (value->length % 2)
        fail("DomainError", "an odd number of hexadecimal digits");
    *length = value->length / 2;
    for (i = 0; i < *length; i++)
        bytes[i] = (uint8_t)(hex_digit(value->text[2 * i]) << 4
                             | hex_digit(value->text[2 * i + 1]));
    return bytes;
}

static void add_double(Text *out, double value)
{
    char text[40];
    if (value != value)
        strcpy(text, "\"nan\"");
    else
        sprintf(text, "\"%a\"", value);
    text_add(out, text);
}

static void add_doubles(Text *out, const double *values, uint64_t count)
{
    uint64_t i;
    text_add_char(out, '[');
    for (i = 0; i < count; i++) {
        if (i)
            text_add_char(out, ',');
        add_double(out, values[i]);
    }
    text_add_char(out, ']');
}

static void add_hex(Text *out, const uint8_t *bytes, uint64_t length)
{
    static const char digits[] = "0123456789abcdef";
    uint64_t i;
    text_add_char(out, '"');
    for (i = 0; i < length; i++) {
        text_add_char(out, digits[bytes[i] >> 4]);
        text_add_char(out, digits[bytes[i] & 15]);
    }
    text_add_char(out, '"');
}

/* A big integer as a string; it is used up. */
static void add_big(Text *out, Limb *big, size_t length)
{
    text_add_char(out, '"');
    text_add_big(out, big, length);
    text_add_char(out, '"');
}

static void add_word(Text *out, uint64_t word)
{
    text_add_char(out, '"');
    text_add_u64(out, word);
    text_add_char(out, '"');
}

static void op_count(const Json *args, Text *out)
{
    Limb *count;
    size_t length = count_vectors(&count, argument_u64(args, "n"), argument_u64(args, "k"));
    add_big(out, count, length);
}

static void op_half_count(const Json *args, Text *out)
{
    Limb *count;
    size_t length = count_half(&count, argument_u64(args, "n"), argument_u64(args, "k"));
    add_big(out, count, length);
}

static int argument_order(const Json *args)
{
    const Json *order = argument(args, "order", J_STRING);
    if (!is_text(order, "fischer") && !is_text(order, "opus") && !is_text(order, "blocked"))
        fail("DomainError", "an unknown order");
    return is_text(order, "fischer") ? FISCHER : is_text(order, "opus") ? OPUS : BLOCKED;
}

static void op_unrank(const Json *args, Text *out)
{
    uint64_t n = argument_u64(args, "n"), k = argument_u64(args, "k"), block = 1, i;
    int order = argument_order(args);
    Ranker *t;
    size_t length;
    Limb *index, *x;
    int32_t *y;
    if (order == BLOCKED && (block = argument_u64(args, "block")) == 0)
        fail("DomainError", "a block size of 0");
    index = get_big(argument(args, "index", J_STRING), &length, "IndexRangeError");
    if (n > 1 << 20 || k > INT32_MAX - 1)
        fail("CapacityError", "n or k is too large for this program");
    t = find_ranker((uint32_t)n, (uint32_t)k, order, (uint32_t)(block > n ? n + 1 : block));
    x = allocate(t->limbs + 1, sizeof *x);
    y = allocate(n, sizeof *y);
    length = big_trim(index, length);
    if (length > t->limbs)
        fail("IndexRangeError", "an index that isn't below V(n,k)");
    memcpy(x, index, length * sizeof *x);
    if (!unrank(t, x, y))
        fail("IndexRangeError", "an index that isn't below V(n,k)");
    text_add_char(out, '[');
    for (i = 0; i < n; i++) {
        if (i)
            text_add_char(out, ',');
        if (y[i] < 0)
            text_add_char(out, '-');
        text_add_u64(out, (uint64_t)(y[i] < 0 ? -(int64_t)y[i] : y[i]));
    }
    text_add_char(out, ']');
}

/* Spec 3.4. */
static void op_words(const Json *args, Text *out)
{
    uint64_t n = argument_u64(args, "n"), k = argument_u64(args, "k"), words, i;
    Limb *count, *index;
    size_t count_length = count_vectors(&count, n, k), length;
    index = get_big(argument(args, "index", J_STRING), &length, "IndexRangeError");
    if (big_compare(index, length, count, count_length) >= 0)
        fail("IndexRangeError", "an index that isn't below V(n,k)");
    words = (index_width(n, k) + 63) / 64;
    text_add_char(out, '[');
    for (i = 0; i == 0 || i < words; i++) {
        uint64_t low = 2 * i < length ? index[2 * i] : 0;
        uint64_t high = 2 * i + 1 < length ? index[2 * i + 1] : 0;
        if (i)
            text_add_char(out, ',');
        add_word(out, high << 32 | low);
    }
    text_add_char(out, ']');
}

static void op_splitmix64(const Json *args, Text *out)
{
    uint64_t state = argument_word(args, "state"), length = argument_u64(args, "length"), i;
    text_add_char(out, '[');
    for (i = 0; i < length; i++) {
        if (i)
            text_add_char(out, ',');
        add_word(out, splitmix64(&state));
    }
    text_add_char(out, ']');
}

static void op_signs(const Json *args, Text *out)
{
    uint64_t seed = argument_word(args, "seed"), cols = argument_u64(args, "cols"), i;
    int8_t *signs;
    if (cols < 1 || cols > INT32_MAX)
        fail("DomainError", "a number of columns outside its domain");
    signs = allocate(cols, 1);
    make_signs(seed, cols, signs);
    for (i = 0; i < cols; i++) {
        text_add(out, i ? "," : "[");
        text_add(out, signs[i] ? "-1" : "1");
    }
    text_add_char(out, ']');
}

static void op_matrix(const Json *args, Text *out)
{
    uint64_t paley = argument_u64(args, "paley"), q = argument_u64(args, "q");
    unsigned order = base_order(paley, q), i, j;
    int8_t *h;
    if (!order)
        fail("DomainError", "there is no such matrix");
    h = make_base((unsigned)paley, (unsigned)q);
    for (i = 0; i < order; i++) {
        text_add(out, i ? ",\"" : "[\"");
        for (j = 0; j < order; j++)
            text_add_char(out, h[i * order + j] < 0 ? '-' : '+');
        text_add_char(out, '"');
    }
    text_add_char(out, ']');
}

static void rotate_argument(const Json *args, Text *out, int inverse)
{
    Rotation rotation;
    uint64_t cols, i;
    double *row = argument_doubles(args, "row", &cols);
    for (i = 0; i < cols; i++)
        if (!(row[i] - row[i] == 0))
            fail("NonFiniteError", "a number of the row isn't finite");
    memset(&rotation, 0, sizeof rotation);
    read_rotation(&rotation, argument(args, "seed", J_STRING), argument(args, "blocks", J_LIST),
                  cols, "DomainError");
    prepare_rotation(&rotation);
    rotate(&rotation, row, inverse);
    add_doubles(out, row, cols);
}

static void op_forward(const Json *args, Text *out)
{
    rotate_argument(args, out, 0);
}

static void op_inverse(const Json *args, Text *out)
{
    rotate_argument(args, out, 1);
}

/* Spec 8.4. */
static void op_pack(const Json *args, Text *out)
{
    const Json *fields = argument(args, "fields", J_LIST), *field;
    uint64_t width = argument_u64(args, "width"), at = 0, bits, j;
    int ok = 1;
    uint8_t *bytes;
    bits = checked_product(width, fields->count, &ok);
    if (!ok || bits > UINT64_MAX - 7)
        fail("CapacityError", "too many bits");
    bytes = allocate((bits + 7) / 8, 1);
    for (field = fields->first; field; field = field->next, at += width) {
        size_t length;
        Limb *big = get_big(field, &length, "DomainError");
        if (big_bit_length(big, length) > width)
            fail("DomainError", "a field that is too large for its width");
        for (j = 0; j < width && j / 32 < length; j++)
            bytes[(at + j) / 8] |= (uint8_t)((big[j / 32] >> j % 32 & 1) << (at + j) % 8);
        release(big);
    }
    add_hex(out, bytes, (bits + 7) / 8);
}

static void op_unpack(const Json *args, Text *out)
{
    uint64_t length, width = argument_u64(args, "width"), count = argument_u64(args, "count"), i;
    uint8_t *bytes = argument_bytes(args, "bytes", &length);
    uint64_t bits;
    int ok = 1;
    Limb *big;
    bits = checked_product(width, count, &ok);
    if (!ok || (bits + 7) / 8 != length || bits > UINT64_MAX - 7)
        fail("ShapeError", "the number of bytes doesn't follow from width and count");
    if (!padding_is_zero(bytes, length, bits))
        fail("PayloadError", "padding bits that are set");
    text_add_char(out, '[');
    for (i = 0; i < count; i++) {
        if (i)
            text_add_char(out, ',');
        big = allocate(width / 32 + 1, sizeof *big);
        read_field(bytes, i * width, width, big);
        add_big(out, big, (size_t)(width / 32 + 1));
        release(big);
    }
    text_add_char(out, ']');
}

static void op_round(const Json *args, Text *out)
{
    uint64_t count, i;
    double *values = argument_doubles(args, "values", &count);
    int dtype = find_dtype(argument(args, "dtype", J_STRING));
    uint8_t *bytes;
    if (dtype < F16 || dtype > F64)
        fail("DomainError", "a type that isn't F16, BF16, F32 or F64");
    bytes = allocate(count, dtypes[dtype].size);
    for (i = 0; i < count; i++)
        round_to(dtype, values[i], bytes + i * dtypes[dtype].size);
    add_hex(out, bytes, count * dtypes[dtype].size);
}

/* Spec 5.5. */
static void op_nearest_level(const Json *args, Text *out)
{
    uint64_t count, i, number = 0;
    double *levels = argument_doubles(args, "levels", &count);
    double g = get_double(argument(args, "g", J_STRING));
    if (!(g - g == 0))
        fail("NonFiniteError", "a gain that isn't finite");
    for (i = 1; i < count; i++)
        number += g >= (levels[i - 1] + levels[i]) / 2;
    text_add_u64(out, number);
}

/* The numbers of 8.5 before the rounding to the type. */
static void op_decode_tensor(const Json *args, Text *out)
{
    const Json *metadata = argument(args, "metadata", J_OBJECT);
    Tensor t;
    Decoder d;
    uint64_t norms, levels, index, gain, row;
    memset(&t, 0, sizeof t);
    check_tensor_types(metadata);
    read_tensor(&t, metadata);
    t.index = argument_bytes(args, "index", &index);
    t.gain = argument_bytes(args, "gain", &gain);
    t.row_norm = argument_bytes(args, "row_norm", &norms);
    t.levels = argument_bytes(args, "levels", &levels);
    if (!sequence_sizes(&t) || index != t.index_size || gain != t.gain_size || norms % 2
        || norms / 2 != t.rows || levels != (uint64_t)(t.tail ? 8 : 4) << t.gain_bits)
        metadata_error("an entry of a compressed tensor has a wrong size");   /* spec 9.3 */
    start_decoder(&d, &t);
    for (row = 0; row < t.rows; row++) {
        text_add_char(out, row ? ',' : '[');
        decode_row(&d, row);
        add_doubles(out, d.row, t.cols);
    }
    text_add_char(out, ']');
}

static void op_decode_file(const Json *args, Text *out)
{
    uint64_t length, count, i;
    uint8_t *bytes = argument_bytes(args, "bytes", &length);
    Container file;
    Output *outputs;
    read_container(&file, bytes, length);
    count = plan_outputs(&file, &outputs);
    text_add_char(out, '{');
    for (i = 0; i < count; i++) {
        Text data = { 0, 0, 0 };
        Sink sink;
        const Entry *place = &outputs[i].place;
        sink.stream = NULL;
        sink.text = &data;
        if (outputs[i].tensor)
            decode_tensor(outputs[i].tensor, &sink);
        else
            put_bytes(&sink, outputs[i].source->data, (size_t)place->size);
        if (i)
            text_add_char(out, ',');
        write_string(out, place->name, place->name_length);
        text_add(out, ":{\"dtype\":\"");
        text_add(out, dtypes[place->dtype].name);
        text_add(out, "\",\"shape\":");
        write_json(out, place->shape);
        text_add(out, ",\"bytes\":");
        add_hex(out, (const uint8_t *)data.data, data.length);
        text_add_char(out, '}');
    }
    text_add_char(out, '}');
}

static const struct {
    const char *name;
    void (*run)(const Json *args, Text *out);
} operations[] = {
    { "count", op_count }, { "half_count", op_half_count }, { "unrank", op_unrank },
    { "words", op_words }, { "nearest_level", op_nearest_level }, { "splitmix64", op_splitmix64 },
    { "signs", op_signs }, { "matrix", op_matrix }, { "forward", op_forward },
    { "inverse", op_inverse }, { "pack", op_pack }, { "unpack", op_unpack }, { "round", op_round },
    { "decode_tensor", op_decode_tensor }, { "decode_file", op_decode_file }
};

/* A question on its way. */
typedef struct {
    const Json *id, *request;
    Text line, result;
} Question;

static void parse_job(void *context)
{
    Question *question = context;
    question->request = parse_json(question->line.data, question->line.length, "DomainError");
    question->id = member(question->request, "id");
    if (!question->id)
        fail("DomainError", "a question without an id");
}

static void answer_job(void *context)
{
    Question *question = context;
    const Json *op = member(question->request, "op");
    size_t i;
    for (i = 0; i < sizeof operations / sizeof *operations; i++)
        if (is_text(op, operations[i].name)) {
            text_add(&question->result, "\"result\":");
            operations[i].run(member(question->request, "args"), &question->result);
            return;
        }
    text_add(&question->result, "\"unsupported\":true");
}

static void read_line_job(void *context)
{
    Text *line = context;
    int c;
    while ((c = getchar()) != EOF && c != '\n')
        text_add_char(line, (char)c);
}

/* pvq_decode --port; returns the exit code. */
static int run_port(void)
{
    static Question question;
    static const Question fresh;
    for (;;) {
        static Text answer;
        int failed;
        question = fresh;
        rankers = NULL;
        if (protect(read_line_job, &question.line)
            || (question.line.length && protect(parse_job, &question))) {
            fprintf(stderr, "pvq_decode: %s\n", failure_text);
            release_all();
            return 1;
        }
        if (question.line.length == 0) {
            release_all();
            if (feof(stdin))
                return 0;
            continue;
        }
        failed = protect(answer_job, &question);
        memset(&answer, 0, sizeof answer);
        text_add(&answer, "{\"id\":");
        write_json(&answer, question.id);
        text_add(&answer, ",");
        if (failed) {
            text_add(&answer, "\"error\":\"");
            text_add(&answer, failure_name);
            text_add(&answer, "\"");
        } else {
            text_put(&answer, question.result.data, question.result.length);
        }
        text_add(&answer, "}\n");
        fwrite(answer.data, 1, answer.length, stdout);
        fflush(stdout);
        release_all();
    }
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--port") == 0)
        return run_port();
    if (argc == 3)
        return run_file(argv + 1);
    fprintf(stderr, "usage: pvq_decode IN.safetensors OUT.safetensors\n       pvq_decode --port\n");
    return 2;
}
