/* A backend in plain C, the smallest there is: every launch runs at once, so streams and events have nothing to wait
 * for. Built twice: ATTNEDIT_TEST_ABI_MAJOR=0 makes the library of an older age. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/backend.h"

#ifndef ATTNEDIT_TEST_ABI_MAJOR
#define ATTNEDIT_TEST_ABI_MAJOR ATTNEDIT_BACKEND_ABI_MAJOR
#endif

struct attnedit_stream {
  int32_t device;
};
struct attnedit_event {
  double milliseconds;
};

static int score(void) { return 2; }
static const char* last_error(void) { return "the other backend is out of order"; }
static int device_count(int32_t* count) {
  *count = 3;
  return 0;
}
static const char* device_name(int32_t device) { return device == 2 ? "other 2" : "other"; }
static int allocate(int32_t device, size_t bytes, void** block) {
  (void)device;
  *block = aligned_alloc(64, (bytes + 63) / 64 * 64);
  return *block == NULL;
}
static int deallocate(int32_t device, void* block, size_t bytes) {
  (void)device, (void)bytes;
  free(block);
  return 0;
}
static int memory_info(int32_t device, size_t* available, size_t* total) {
  (void)device;
  *available = 1, *total = 2;
  return 0;
}
static int copy(void* to, const void* from, size_t bytes) { return memcpy(to, from, bytes) != to; }

static int stream_create(int32_t device, attnedit_stream** stream) {
  *stream = malloc(sizeof **stream);
  (*stream)->device = device;
  return 0;
}
static int stream_destroy(attnedit_stream* stream) {
  free(stream);
  return 0;
}
static int stream_synchronize(attnedit_stream* stream) { return stream->device == 2; }
static int stream_query(attnedit_stream* stream) {
  (void)stream;
  return 1;
}
static int stream_launch(attnedit_stream* stream, void (*run)(void*), void* argument) {
  (void)stream;
  run(argument);
  return 0;
}
static int stream_wait_event(attnedit_stream* stream, attnedit_event* event) {
  (void)stream, (void)event;
  return 0;
}

static int event_create(int32_t device, attnedit_event** event) {
  (void)device;
  *event = calloc(1, sizeof **event);
  return 0;
}
static int event_record(attnedit_event* event, attnedit_stream* stream) {
  struct timespec now;
  (void)stream;
  timespec_get(&now, TIME_UTC);
  event->milliseconds = 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
  return 0;
}
static int event_query(attnedit_event* event) {
  (void)event;
  return 1;
}
static int event_synchronize(attnedit_event* event) {
  (void)event;
  return 0;
}
static int event_elapsed_ms(attnedit_event* since, attnedit_event* until, double* milliseconds) {
  *milliseconds = until->milliseconds - since->milliseconds;
  return 0;
}
static int event_destroy(attnedit_event* event) {
  free(event);
  return 0;
}

__attribute__((visibility("default"))) const AttneditBackend* attnedit_backend_entry(uint32_t abi_major) {
  static const AttneditBackend table = {.abi_major = ATTNEDIT_TEST_ABI_MAJOR,
                                        .abi_minor = 7,
                                        .struct_size = sizeof(AttneditBackend),
                                        .name = "other",
                                        .host_addressable = 1,
                                        .score = score,
                                        .last_error = last_error,
                                        .device_count = device_count,
                                        .device_name = device_name,
                                        .malloc = allocate,
                                        .free = deallocate,
                                        .memory_info = memory_info,
                                        .memcpy = copy,
                                        .stream_create = stream_create,
                                        .stream_destroy = stream_destroy,
                                        .stream_synchronize = stream_synchronize,
                                        .stream_query = stream_query,
                                        .stream_launch = stream_launch,
                                        .stream_wait_event = stream_wait_event,
                                        .event_create = event_create,
                                        .event_record = event_record,
                                        .event_query = event_query,
                                        .event_synchronize = event_synchronize,
                                        .event_elapsed_ms = event_elapsed_ms,
                                        .event_destroy = event_destroy};
  (void)abi_major;
  return &table;
}
