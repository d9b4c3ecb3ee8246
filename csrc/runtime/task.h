#pragma once

#include <functional>
#include <optional>
#include <string>

namespace attnedit {

// What a kernel returns: the call itself checks shapes on the host, at once; the task computes, later, on a stream.
// (Ascend's two-call idiom: GetWorkspaceSize checks and plans, the second call runs.) Tests run it by calling it.
struct [[nodiscard]] Task : std::function<void()> {
  using std::function<void()>::function;

  // What a profile says of it: the arithmetic that its formula needs (0: next to none), the bytes that it must read and
  // write (absent: those of its arguments, each once), and the shapes and types of its arguments.
  double flops = 0;
  std::optional<double> bytes;
  std::string shapes, dtypes;

  Task needing(double flops) && {
    this->flops = flops;
    return std::move(*this);
  }
  Task moving(double bytes) && {
    this->bytes = bytes;
    return std::move(*this);
  }
};

}  // namespace attnedit
