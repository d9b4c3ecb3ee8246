#pragma once

#include <stddef.h>
#include <stdint.h>

/* What a device library offers the runtime: memory, streams and events. Kernels are not in it: ours run on the streams
 * as host functions, so device memory must be host-addressable. The embedded backend is `cpu` (backend_cpu.cc); one
 * more comes from the library that the environment's ATTNEDIT_BACKEND_PATH names, through its one symbol,
 * attnedit_backend_entry. Plain C, so that the library's compiler does not matter.
 *
 * Functions return 0, or another number after noting the reason for last_error(). They may be called by any thread. */

#define ATTNEDIT_BACKEND_ABI_MAJOR 1u /* another major number is refused */
#define ATTNEDIT_BACKEND_ABI_MINOR 0u /* a higher minor number took over reserved[] */

#ifdef __cplusplus
extern "C" {
#endif

typedef struct attnedit_stream attnedit_stream;
typedef struct attnedit_event attnedit_event;

typedef struct AttneditBackend {
  uint32_t abi_major, abi_minor;
  size_t struct_size;
  const char* name;
  int32_t is_simulated;     /* 1: no device of its own, the host computes */
  int32_t host_addressable; /* 1: the host may read and write device memory */

  int (*score)(void); /* 0: cannot run here; without ATTNEDIT_BACKEND=name the highest wins */
  const char* (*last_error)(void);
  int (*device_count)(int32_t* count);
  const char* (*device_name)(int32_t device);

  int (*malloc)(int32_t device, size_t bytes, void** block); /* 64-byte aligned, not initialised */
  int (*free)(int32_t device, void* block, size_t bytes);
  int (*memory_info)(int32_t device, size_t* available, size_t* total);
  int (*memcpy)(void* to, const void* from, size_t bytes); /* done when it returns */

  int (*stream_create)(int32_t device, attnedit_stream** stream);
  int (*stream_destroy)(attnedit_stream* stream); /* after its work is done */
  int (*stream_synchronize)(attnedit_stream* stream);
  int (*stream_query)(attnedit_stream* stream); /* 1: nothing left to do, 0: busy */
  int (*stream_launch)(attnedit_stream* stream, void (*run)(void*), void* argument); /* in order; run never throws */
  int (*stream_wait_event)(attnedit_stream* stream, attnedit_event* event); /* the stream waits, not the host */

  /* An event that was never recorded counts as done. Waiting means for the last record made before the wait. */
  int (*event_create)(int32_t device, attnedit_event** event);
  int (*event_record)(attnedit_event* event, attnedit_stream* stream);
  int (*event_query)(attnedit_event* event); /* 1: done, 0: not yet */
  int (*event_synchronize)(attnedit_event* event);
  int (*event_elapsed_ms)(attnedit_event* since, attnedit_event* until, double* milliseconds); /* of two done events */
  int (*event_destroy)(attnedit_event* event);

  void* reserved[8];
} AttneditBackend;

/* Null means: this library does not speak that major number. */
typedef const AttneditBackend* (*AttneditBackendEntry)(uint32_t abi_major);

#ifdef __cplusplus
}  // extern "C"

namespace attnedit {

// The backend of this process, chosen at first use.
const AttneditBackend& backend();
const AttneditBackend& cpu_backend();

// ATTNEDIT_LAUNCH_BLOCKING=1 in the environment: every launch waits for its task.
bool launch_blocking();

// Raises std::runtime_error with the backend's reason unless status is 0.
void check_backend(int status, const char* call);

}  // namespace attnedit
#endif
