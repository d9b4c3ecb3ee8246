// The embedded backend: simulated devices whose streams are threads of this process.
#include <sys/mman.h>
#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/backend.h"
#include "runtime/stream_cpu.h"
#include "simd/isa.h"

namespace {

using attnedit::cpu::Clock;
using attnedit::cpu::Mark;

constexpr size_t kHugePage = size_t{2} << 20;

thread_local std::string reason;

int fail(std::string why) {
  reason = std::move(why);
  return 1;
}

// Exceptions must not cross the plain-C table.
template <class F>
int guarded(const F& f) noexcept {
  try {
    return f();
  } catch (const std::exception& e) {
    return fail(e.what());
  }
}

constexpr int kMaxDevices = 64;

// 0 if the environment asks for something that is not a number of devices.
int configured_devices() {
  static const int count = [] {
    const char* value = std::getenv("ATTNEDIT_DEVICE_COUNT");
    if (!value || !*value) return 1;
    char* end = nullptr;
    const long wanted = std::strtol(value, &end, 10);
    return *end || wanted < 1 || wanted > kMaxDevices ? 0 : static_cast<int>(wanted);
  }();
  return count;
}

int device_count(int32_t* count) {
  *count = configured_devices();
  return *count ? 0 : fail("ATTNEDIT_DEVICE_COUNT must be a whole number from 1 to 64");
}

std::string processor_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  utsname system{};
  return uname(&system) == 0 ? system.machine : "unknown processor";
}

const char* device_name(int32_t device) {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> made;
    for (int i = 0; i < kMaxDevices; ++i)
      made.push_back("simulated accelerator " + std::to_string(i) + " (" + processor_name() + ", " +
                     attnedit::simd::name(attnedit::simd::isa()) + ")");
    return made;
  }();
  return names[device].c_str();
}

size_t round_up(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

// From one huge page on, whole pages come from the kernel, aligned so that it can back them with huge ones.
int allocate(int32_t, size_t bytes, void** block) {
  *block = nullptr;
  if (bytes < kHugePage) {
    *block = std::aligned_alloc(64, round_up(std::max<size_t>(bytes, 1), 64));
    return *block ? 0 : fail("the machine has no memory left");
  }
  const size_t size = round_up(bytes, 4096), mapped = size + kHugePage;
  if (mapped < bytes) return fail("more bytes than an address can count");
  void* map = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) return fail("the machine has no memory left");
  char* first = static_cast<char*>(map);
  char* aligned = reinterpret_cast<char*>(round_up(reinterpret_cast<size_t>(first), kHugePage));
  if (aligned > first) munmap(first, aligned - first);
  munmap(aligned + size, first + mapped - (aligned + size));
  madvise(aligned, size, MADV_HUGEPAGE);
  *block = aligned;
  return 0;
}

int deallocate(int32_t, void* block, size_t bytes) {
  if (bytes < kHugePage)
    std::free(block);
  else
    munmap(block, round_up(bytes, 4096));
  return 0;
}

int memory_info(int32_t, size_t* available, size_t* total) {
  *available = *total = 0;
  std::ifstream info("/proc/meminfo");
  std::string name, unit;
  for (size_t kib = 0; info >> name >> kib; std::getline(info, unit)) {
    if (name == "MemTotal:") *total = kib << 10;
    if (name == "MemAvailable:") *available = kib << 10;
  }
  return *total ? 0 : fail("/proc/meminfo cannot be read");
}

int copy(void* to, const void* from, size_t bytes) {
  std::memcpy(to, from, bytes);
  return 0;
}

int stream_create(int32_t device, attnedit_stream** stream) {
  static std::array<std::mutex, kMaxDevices>& cores = *new std::array<std::mutex, kMaxDevices>;
  return guarded([&] {
    *stream = new attnedit_stream(cores[device]);
    return 0;
  });
}

int stream_destroy(attnedit_stream* stream) {
  delete stream;
  return 0;
}

int stream_synchronize(attnedit_stream* stream) {
  stream->synchronize();
  return 0;
}

int stream_query(attnedit_stream* stream) { return stream->idle(); }

int stream_launch(attnedit_stream* stream, void (*run)(void*), void* argument) {
  stream->push({.run = run, .argument = argument, .mark = nullptr});
  return 0;
}

int stream_wait_event(attnedit_stream* stream, attnedit_event* event) {
  stream->push({.mark = event->mark, .record = event->mark->last_recorded(), .waits = true});
  return 0;
}

int event_create(int32_t, attnedit_event** event) {
  return guarded([&] {
    *event = new attnedit_event;
    return 0;
  });
}

int event_record(attnedit_event* event, attnedit_stream* stream) {
  uint64_t record;
  {
    std::lock_guard lock(event->mark->mutex);
    record = ++event->mark->recorded;
  }
  stream->push({.mark = event->mark, .record = record});
  return 0;
}

int event_query(attnedit_event* event) {
  std::lock_guard lock(event->mark->mutex);
  return event->mark->done == event->mark->recorded;
}

int event_synchronize(attnedit_event* event) {
  event->mark->wait(event->mark->last_recorded());
  return 0;
}

int event_elapsed_ms(attnedit_event* since, attnedit_event* until, double* milliseconds) {
  Clock::time_point times[2];
  for (int i = 0; i < 2; ++i) {
    Mark& mark = *(i ? until : since)->mark;
    std::lock_guard lock(mark.mutex);
    if (!mark.recorded || mark.done < mark.recorded) return fail("both events must have been recorded and be done");
    times[i] = mark.time;
  }
  *milliseconds = std::chrono::duration<double, std::milli>(times[1] - times[0]).count();
  return 0;
}

int event_destroy(attnedit_event* event) {
  delete event;
  return 0;
}

}  // namespace

const AttneditBackend& attnedit::cpu_backend() {
  static const AttneditBackend table = {.abi_major = ATTNEDIT_BACKEND_ABI_MAJOR,
                                        .abi_minor = ATTNEDIT_BACKEND_ABI_MINOR,
                                        .struct_size = sizeof(AttneditBackend),
                                        .name = "cpu",
                                        .is_simulated = 1,
                                        .host_addressable = 1,
                                        .score = [] { return 1; },
                                        .last_error = [] { return reason.c_str(); },
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
                                        .event_destroy = event_destroy,
                                        .reserved = {}};
  return table;
}
