/* The operations for one element type T; included by baton_kernels.c. Strides are in elements. */

/* What is fixed for one attention layer and its cache; filled once, by Python. */
#ifndef LAYER_DEFINED
#define LAYER_DEFINED
struct layer {
    void *keys;
    void *values;
    int64_t stride_block, stride_head, stride_token; /* the stride of dim is 1 */
    int64_t block_size;
    int64_t heads, kv_heads, dim; /* dim is a multiple of 16 */
    int64_t window; /* 0: the whole context */
    float scale;
};
#endif

/* rows of `size` elements; row r starts at (r / inner) * row_stride + (r % inner) * inner_stride
 * of x. With a residual (contiguous), x + residual goes there first. out is contiguous. */
void FN(rms_norm)(const T *x, T *residual, const T *weight, T *out, int64_t rows, int64_t inner,
                  int64_t row_stride, int64_t inner_stride, int64_t size, float eps, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * size > 16384)
    for (int64_t row = 0; row < rows; row++) {
        const T *source = x + row / inner * row_stride + row % inner * inner_stride;
        T *target = out + row * size;
        float sum = 0.0f;
        if (residual) {
            T *total = residual + row * size;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < size; i++) {
                T stored = STORE(LOAD(source[i]) + LOAD(total[i]));
                float value = LOAD(stored);
                total[i] = stored;
                sum += value * value;
            }
            source = total;
        } else {
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < size; i++) {
                float value = LOAD(source[i]);
                sum += value * value;
            }
        }
        float scale = 1.0f / sqrtf(sum / (float)size + eps);
#pragma omp simd
        for (int64_t i = 0; i < size; i++) {
            T normed = STORE(LOAD(source[i]) * scale);
            target[i] = STORE(LOAD(normed) * LOAD(weight[i]));
        }
    }
}

/* [rows, 2 * size] to [rows, size]. */
void FN(silu_and_mul)(const T *gate_up, T *out, int64_t rows, int64_t size, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * size > 8192)
    for (int64_t row = 0; row < rows; row++) {
        const T *gate = gate_up + row * 2 * size, *up = gate + size;
        T *target = out + row * size;
#pragma omp simd
        for (int64_t i = 0; i < size; i++) {
            float value = LOAD(gate[i]);
            T activated = STORE(value / (1.0f + fast_exp(-value)));
            target[i] = STORE(LOAD(activated) * LOAD(up[i]));
        }
    }
}

INLINE void FN(rotate)(const T *source, T *target, const float *cos, const float *sin,
                       int64_t half) {
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        float a = LOAD(source[i]), b = LOAD(source[half + i]);
        target[i] = STORE(a * cos[i] - b * sin[i]);
        target[half + i] = STORE(b * cos[i] + a * sin[i]);
    }
}

/* Rotate q of one token in place; rotate its k into the cache; copy its v there. */
INLINE void FN(rotate_write)(const struct layer *l, T *qkv, const float *cos, const float *sin,
                             int64_t slot) {
    int64_t dim = l->dim, half = dim / 2;
    int64_t place = slot / l->block_size * l->stride_block + slot % l->block_size * l->stride_token;
    for (int64_t head = 0; head < l->heads; head++)
        FN(rotate)(qkv + head * dim, qkv + head * dim, cos, sin, half);
    T *k = qkv + l->heads * dim, *v = k + l->kv_heads * dim;
    for (int64_t head = 0; head < l->kv_heads; head++) {
        FN(rotate)(k + head * dim, (T *)l->keys + place + head * l->stride_head, cos, sin, half);
        T *target = (T *)l->values + place + head * l->stride_head;
        for (int64_t i = 0; i < dim; i++) target[i] = v[head * dim + i];
    }
}

/* Scores of `count` keys against n <= 4 queries of `dim` floats, a multiple of 16. */
INLINE void FN(score)(const T *keys, const int64_t *places, int64_t count, const float *query,
                      float *scores, int64_t dim, const int n) {
    for (int64_t t = 0; t < count; t++) {
        const T *key = keys + places[t];
        v16 dots[4] = {0};
        for (int64_t i = 0; i < dim; i += 16) {
            v16 part = LOAD16(key + i);
            for (int g = 0; g < n; g++) dots[g] += part * load16_float32(query + g * dim + i);
        }
        for (int g = 0; g < n; g++) scores[g * TILE + t] = sum_of(dots[g]);
    }
}

/* result[g] += sum over keys of weight * value, for n <= 4 queries and `width` dimensions (16 or
 * 64), with all sums in registers. */
INLINE void FN(accumulate)(const T *values, const int64_t *places, int64_t count,
                           const float *weights, float *result, int64_t dim, const int n,
                           const int width) {
    v16 sums[4][4];
    for (int g = 0; g < n; g++)
        for (int c = 0; c < width / 16; c++) sums[g][c] = load16_float32(result + g * dim + c * 16);
    for (int64_t t = 0; t < count; t++) {
        const T *value = values + places[t];
        for (int c = 0; c < width / 16; c++) {
            v16 part = LOAD16(value + c * 16);
            for (int g = 0; g < n; g++) sums[g][c] += part * weights[g * TILE + t];
        }
    }
    for (int g = 0; g < n; g++)
        for (int c = 0; c < width / 16; c++) memcpy(result + g * dim + c * 16, &sums[g][c], 64);
}

/* One tile of keys for n <= 4 queries that share them; n is a constant at each call. */
INLINE void FN(tile)(const T *keys, const T *values, const int64_t *places, int64_t count,
                     const float *query, float *result, float *largest, float *total, int64_t dim,
                     const int n) {
    float scores[4 * TILE];
    FN(score)(keys, places, count, query, scores, dim, n);
    for (int g = 0; g < n; g++) {
        float *own = scores + g * TILE, most = largest[g], sum = 0.0f;
#pragma omp simd reduction(max : most)
        for (int64_t t = 0; t < count; t++) most = MAX(most, own[t]);
        float shrink = fast_exp(largest[g] - most);
#pragma omp simd reduction(+ : sum)
        for (int64_t t = 0; t < count; t++) {
            own[t] = fast_exp(own[t] - most);
            sum += own[t];
        }
        total[g] = total[g] * shrink + sum;
        largest[g] = most;
        for (int64_t i = 0; i < dim; i++) result[g * dim + i] *= shrink;
    }
    int64_t i = 0;
    for (; i + 64 <= dim; i += 64)
        FN(accumulate)(values + i, places, count, scores, result + i, dim, n, 64);
    for (; i < dim; i += 16)
        FN(accumulate)(values + i, places, count, scores, result + i, dim, n, 16);
}

/* One sequence and KV head: the `group` query heads that share it. Softmax in one pass over the
 * context, TILE keys at a time, with a running maximum. */
static void FN(attend)(const struct layer *l, const T *q, T *out, const int32_t *table,
                       int64_t kv_head, int64_t context) {
    int64_t dim = l->dim, group = l->heads / l->kv_heads;
    float query[group * dim], result[group * dim], largest[group], total[group];
    for (int64_t i = 0; i < group * dim; i++) {
        query[i] = LOAD(q[i]) * l->scale;
        result[i] = 0.0f;
    }
    for (int64_t g = 0; g < group; g++) {
        largest[g] = -INFINITY;
        total[g] = 0.0f;
    }
    const T *keys = (const T *)l->keys + kv_head * l->stride_head;
    const T *values = (const T *)l->values + kv_head * l->stride_head;
    int64_t first = l->window ? MAX(context - l->window, 0) : 0;
    for (int64_t start = first; start < context; start += TILE) {
        int64_t count = MIN(TILE, context - start), places[TILE];
        for (int64_t t = 0; t < count; t++) {
            int64_t position = start + t;
            places[t] = table[position / l->block_size] * l->stride_block +
                        position % l->block_size * l->stride_token;
        }
#define QUERIES(n)                                                                                 \
    FN(tile)(keys, values, places, count, query + g * dim, result + g * dim, largest + g,          \
             total + g, dim, n)
        for (int64_t g = 0; g < group; g += 4) {
            switch (MIN(group - g, 4)) {
                case 1: QUERIES(1); break;
                case 2: QUERIES(2); break;
                case 3: QUERIES(3); break;
                default: QUERIES(4);
            }
        }
#undef QUERIES
    }
    for (int64_t g = 0; g < group; g++)
        for (int64_t i = 0; i < dim; i++)
            out[g * dim + i] = STORE(result[g * dim + i] / total[g]);
}

/* All T tokens are rotated and written; the first `decodes` of them attend as well.
 * qkv: [tokens, qkv_stride]; cos, sin: [tokens, dim / 2]; tables: [decodes, table_stride];
 * out: [tokens, heads * dim]. */
void FN(attention)(const struct layer *l, T *qkv, const float *cos, const float *sin,
                   const int64_t *slots, const int32_t *tables, const int32_t *lens, T *out,
                   int64_t tokens, int64_t decodes, int64_t qkv_stride, int64_t table_stride,
                   int threads) {
    int64_t half = l->dim / 2, group = l->heads / l->kv_heads;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t token = 0; token < tokens; token++)
            FN(rotate_write)(l, qkv + token * qkv_stride, cos + token * half, sin + token * half,
                             slots[token]);
        /* The barrier here lets every row see what any thread wrote. */
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < decodes * l->kv_heads; task++) {
            int64_t row = task / l->kv_heads, head = task % l->kv_heads;
            const T *q = qkv + row * qkv_stride + head * group * l->dim;
            T *target = out + row * l->heads * l->dim + head * group * l->dim;
            const int32_t *table = tables + row * table_stride;
            FN(attend)(l, q, target, table, head, lens[row]);
        }
    }
}
