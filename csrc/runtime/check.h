#pragma once

#include <sstream>
#include <stdexcept>

// The caller's mistake becomes std::invalid_argument, which Python sees as ValueError:
//   ATTNEDIT_CHECK(w.dim(0) == D, "rms_norm", "weight must have shape (", D, ",), got ", shape_of(w));
#define ATTNEDIT_CHECK(condition, op, ...)                           \
  do {                                                               \
    if (!(condition)) ::attnedit::invalid_argument(op, __VA_ARGS__); \
  } while (false)

namespace attnedit {

template <class... Parts>
[[noreturn]] void invalid_argument(const char* op, const Parts&... parts) {
  std::ostringstream message;
  message << '[' << op << "] ";
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

}  // namespace attnedit
