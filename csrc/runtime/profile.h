#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace attnedit {

// One task as it ran. Times are seconds since start_profile().
struct Span {
  std::string name, shapes, dtypes;
  int device;
  uint64_t stream;
  double begin, end, flops, bytes;
};

bool profiling();
// Forgets what was recorded before. Only tasks that run from now on are recorded.
void start_profile();
// What was recorded, in the order of its end.
std::vector<Span> stop_profile();

// For streams: seconds since start_profile(), and one finished task.
double profile_time();
void record_span(Span span);

}  // namespace attnedit
