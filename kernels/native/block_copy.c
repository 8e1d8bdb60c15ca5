// Copies scattered blocks between two mappings, on a thread of its own.
//
// What is copied will not be read soon, and is more than the caches hold: stores go past the
// caches, which spares memory reading what is about to be overwritten. Every block begins on pages
// that nobody touched lately, where the processor's own prefetching has to start anew: so the next
// block is fetched ahead while one is copied.
//
// A job is one message; a lane is one sender. Lanes take turns, slice by slice; within a lane jobs
// go in order. Whoever submits owns the job's memory until it is told that the job is over.

#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define SLICE (512l << 10)
#define AHEAD 4096
#define LINE 64

struct rows {
  char *base;
  int64_t stride, width, count;
  const uint32_t *indexes;
};

// How far a side has come: a row, and a byte in it.
struct place {
  int64_t row, byte;
};

struct job {
  struct job *next;
  struct rows from, to;
  int64_t left;
  struct place source, target;
  uint64_t number;
  int32_t stopped;
};

struct lane {
  struct lane *next;
  struct job *first, *last;
};

struct copier {
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t work, idle;
  struct lane *lanes;  // a ring; the lane whose turn it was
  struct job *running, *done_first, *done_last;
  int64_t waiting;
  int event_fd, stop;
};

#if defined(__AVX512F__)
typedef __m512i vector;
#define LOAD(p) _mm512_loadu_si512(p)
#define STREAM(p, v) _mm512_stream_si512((void *)(p), v)
#elif defined(__AVX__)
typedef __m256i vector;
#define LOAD(p) _mm256_loadu_si256((const void *)(p))
#define STREAM(p, v) _mm256_stream_si256((void *)(p), v)
#elif defined(__SSE2__)
typedef __m128i vector;
#define LOAD(p) _mm_loadu_si128((const void *)(p))
#define STREAM(p, v) _mm_stream_si128((void *)(p), v)
#endif

// `then`: where the next copy will read, or NULL.
static void copy_span(char *to, const char *from, int64_t size, const char *then) {
#if defined(__SSE2__)
  if (size >= 4 * LINE) {
    int64_t head = -(intptr_t)to & (LINE - 1);
    memcpy(to, from, head);
    to += head, from += head, size -= head;
    int64_t whole = size & ~(int64_t)(LINE - 1);
    for (int64_t at = 0; at < whole; at += LINE) {
      int64_t ahead = at + AHEAD;
      if (ahead < size)
        _mm_prefetch(from + ahead, _MM_HINT_T0);
      else if (then)
        _mm_prefetch(then + (ahead - size), _MM_HINT_T0);
      for (int64_t part = 0; part < LINE; part += (int64_t)sizeof(vector))
        STREAM(to + at + part, LOAD(from + at + part));
    }
    to += whole, from += whole, size -= whole;
  }
#endif
  memcpy(to, from, size);
}

static char *address(const struct rows *rows, int64_t row) {
  return rows->base + rows->indexes[row] * rows->stride;
}

static void advance(struct place *place, const struct rows *rows, int64_t size) {
  place->byte += size;
  if (place->byte == rows->width) place->byte = 0, place->row++;
}

static void copy_slice(struct job *job) {
  int64_t budget = SLICE;
  while (job->left && budget > 0) {
    int64_t size = job->left < budget ? job->left : budget;
    int64_t source = job->from.width - job->source.byte, target = job->to.width - job->target.byte;
    if (source < size) size = source;
    if (target < size) size = target;
    const char *from = address(&job->from, job->source.row) + job->source.byte;
    char *to = address(&job->to, job->target.row) + job->target.byte;
    advance(&job->source, &job->from, size);
    advance(&job->target, &job->to, size);
    job->left -= size, budget -= size;
    const char *then = NULL;
    if (job->left) then = address(&job->from, job->source.row) + job->source.byte;
    copy_span(to, from, size, then);
  }
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// The next lane with work; called with the lock held.
static struct lane *next_turn(struct copier *c) {
  if (!c->lanes) return NULL;
  struct lane *start = c->lanes;
  do {
    c->lanes = c->lanes->next;
    if (c->lanes->first) return c->lanes;
  } while (c->lanes != start);
  return NULL;
}

static void end_job(struct copier *c, struct job *job) {
  job->next = NULL;
  if (c->done_last) c->done_last->next = job;
  else c->done_first = job;
  c->done_last = job;
  uint64_t one = 1;
  (void)!write(c->event_fd, &one, sizeof one);
}

static void *run(void *argument) {
  struct copier *c = argument;
  pthread_mutex_lock(&c->lock);
  while (!c->stop) {
    struct lane *lane = next_turn(c);
    if (!lane) {
      pthread_cond_wait(&c->work, &c->lock);
      continue;
    }
    struct job *job = c->running = lane->first;
    pthread_mutex_unlock(&c->lock);
    copy_slice(job);
    pthread_mutex_lock(&c->lock);
    c->running = NULL;
    if (c->waiting) pthread_cond_broadcast(&c->idle);
    if (job->stopped) continue;  // unlinked by whoever stopped it
    if (!job->left) {
      lane->first = job->next;
      if (!lane->first) lane->last = NULL;
      end_job(c, job);
    }
  }
  pthread_mutex_unlock(&c->lock);
  return NULL;
}

// NULL when there is no thread to be had. `event_fd` is written to whenever a job is over.
struct copier *copier_start(int event_fd) {
  struct copier *c = calloc(1, sizeof *c);
  if (!c) return NULL;
  c->event_fd = event_fd;
  pthread_mutex_init(&c->lock, NULL);
  pthread_cond_init(&c->work, NULL);
  pthread_cond_init(&c->idle, NULL);
  if (pthread_create(&c->thread, NULL, run, c)) {
    free(c);
    return NULL;
  }
  return c;
}

struct lane *copier_lane(struct copier *c) {
  struct lane *lane = calloc(1, sizeof *lane);
  if (!lane) return NULL;
  pthread_mutex_lock(&c->lock);
  if (c->lanes) lane->next = c->lanes->next, c->lanes->next = lane;
  else c->lanes = lane->next = lane;
  pthread_mutex_unlock(&c->lock);
  return lane;
}

void copier_submit(struct copier *c, struct lane *lane, struct job *job) {
  pthread_mutex_lock(&c->lock);
  job->next = NULL;
  if (lane->last) lane->last->next = job;
  else lane->first = job;
  lane->last = job;
  pthread_cond_signal(&c->work);
  pthread_mutex_unlock(&c->lock);
}

// The numbers of jobs that are over; at most `room` of them.
int copier_take(struct copier *c, uint64_t *numbers, int room) {
  int count = 0;
  pthread_mutex_lock(&c->lock);
  while (count < room && c->done_first) {
    numbers[count++] = c->done_first->number;
    c->done_first = c->done_first->next;
  }
  if (!c->done_first) c->done_last = NULL;
  pthread_mutex_unlock(&c->lock);
  return count;
}

// 1: nothing of it is copied any more, and it is not told of. 0: it is over, and told of or about
// to be. Waits for the slice that is being copied.
int copier_cancel(struct copier *c, struct lane *lane, struct job *job) {
  int found = 0;
  pthread_mutex_lock(&c->lock);
  for (struct job **at = &lane->first, *before = NULL; *at; before = *at, at = &(*at)->next)
    if (*at == job) {
      *at = job->next;
      if (lane->last == job) lane->last = before;
      job->stopped = found = 1;
      break;
    }
  c->waiting++;
  while (c->running == job) pthread_cond_wait(&c->idle, &c->lock);
  c->waiting--;
  pthread_mutex_unlock(&c->lock);
  return found;
}

// The lane must be empty.
void copier_end_lane(struct copier *c, struct lane *lane) {
  pthread_mutex_lock(&c->lock);
  struct lane *before = lane;
  while (before->next != lane) before = before->next;
  before->next = lane->next;
  if (c->lanes == lane) c->lanes = before == lane ? NULL : before;
  pthread_mutex_unlock(&c->lock);
  free(lane);
}

// Nothing is copied any more once it returns. Lanes are not to be used again.
void copier_stop(struct copier *c) {
  pthread_mutex_lock(&c->lock);
  c->stop = 1;
  pthread_cond_signal(&c->work);
  pthread_mutex_unlock(&c->lock);
  pthread_join(c->thread, NULL);
  while (c->lanes) {
    struct lane *lane = c->lanes->next;
    if (lane == c->lanes) c->lanes = NULL;
    else c->lanes->next = lane->next;
    free(lane);
  }
  free(c);
}
