#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <new>
#include <string>

#include "runtime/stream.h"

namespace attnedit {

// Python sees MemoryError.
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(std::string text) : text_(std::move(text)) {}
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string text_;
};

// A block of the current device for work on the current stream: 64-byte aligned, its values undefined (NaN with
// ATTNEDIT_POISON=1). Released blocks are kept for reuse.
void* allocate(size_t bytes);
// The block may serve later work of its stream at once, although queued work still uses it, and other streams once that
// work is done. So the host must not write to fresh memory before its stream is idle: it launches a copy instead.
void release(void* block) noexcept;
// Another stream uses the block too: after its release nobody gets it before that stream has passed this use.
void record_stream(void* block, Stream& stream);

struct MemoryStats {
  size_t allocated = 0, allocated_peak = 0;  // bytes of blocks in use, in steps of 512
  size_t reserved = 0, reserved_peak = 0;    // bytes taken from the device, kept blocks included
  uint64_t allocations = 0, out_of_memory = 0;
};
MemoryStats memory_stats(int device = current_device());
void reset_peak_memory_stats(int device = current_device());

constexpr size_t kNoMemoryLimit = std::numeric_limits<size_t>::max();
// Of the bytes reserved. Going beyond raises OutOfMemory, after kept blocks were given back in vain.
void set_memory_limit(size_t bytes, int device = current_device());
// Gives kept blocks back to the device, once queued work has passed them, and free memory of the heap to the system.
void empty_cache(int device = current_device());

}  // namespace attnedit
