/* What stands between Python and the indices and the search of libopus: loops over rows, and an
   entropy coder that keeps what it is given instead of writing it into a stream. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint32_t index, total;
} Coder;

/* libopus, celt/cwrs.h and celt/vq.h; its float build. The coder is passed on unseen. */
void encode_pulses(const int *y, int n, int k, Coder *coder);
float decode_pulses(int *y, int n, int k, Coder *coder);
float op_pvq_search_c(float *x, int *y, int k, int n, int arch);
float op_pvq_search_sse2(float *x, int *y, int k, int n, int arch);
int log2_frac(uint32_t value, int fraction) __attribute__((weak));

void ec_enc_uint(Coder *coder, uint32_t index, uint32_t total)
{
    coder->index = index;
    coder->total = total;
}

uint32_t ec_dec_uint(Coder *coder, uint32_t total)
{
    coder->total = total;
    return coder->index;
}

void celt_fatal(const char *message, const char *file, int line)
{
    (void)message, (void)file, (void)line;
    abort();
}

/* The function stands beside the indices where libopus has tables for custom modes. */
int peer_has_custom_modes(void)
{
    return log2_frac != NULL;
}

void peer_encode(const int *y, int rows, int n, int k, uint32_t *index, uint32_t *total)
{
    Coder coder;
    for (int row = 0; row < rows; row++) {
        encode_pulses(y + (long)row * n, n, k, &coder);
        index[row] = coder.index;
        total[row] = coder.total;
    }
}

void peer_decode(const uint32_t *index, int rows, int n, int k, int *y, uint32_t *total)
{
    Coder coder;
    for (int row = 0; row < rows; row++) {
        coder.index = index[row];
        decode_pulses(y + (long)row * n, n, k, &coder);
        total[row] = coder.total;
    }
}

/* The search overwrites what it searches for, so it gets a copy, with room for SSE2 to write 3
   numbers past the end. */
#define LONGEST 256
typedef float Search(float *, int *, int, int, int);

static void search_rows(Search *search, const float *x, int rows, int n, int k, int *y)
{
    float copy[LONGEST + 3];
    int found[LONGEST + 3];
    if (n > LONGEST)
        celt_fatal("rows are too long", __FILE__, __LINE__);
    for (int row = 0; row < rows; row++) {
        memcpy(copy, x + (long)row * n, n * sizeof *copy);
        search(copy, found, k, n, 0);
        memcpy(y + (long)row * n, found, n * sizeof *found);
    }
}

void peer_search(const float *x, int rows, int n, int k, int *y)
{
    search_rows(op_pvq_search_c, x, rows, n, k, y);
}

#ifdef PEER_SSE2
int peer_has_sse2(void)
{
    return 1;
}

void peer_search_sse2(const float *x, int rows, int n, int k, int *y)
{
    search_rows(op_pvq_search_sse2, x, rows, n, k, y);
}
#else
int peer_has_sse2(void)
{
    return 0;
}
#endif
