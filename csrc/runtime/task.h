#pragma once

#include <functional>

namespace attnedit {

// What a kernel returns: the call itself checks shapes on the host, at once; the task computes, later, on a stream.
// (Ascend's two-call idiom: GetWorkspaceSize checks and plans, the second call runs.) Tests run it by calling it.
struct [[nodiscard]] Task : std::function<void()> {
  using std::function<void()>::function;
};

}  // namespace attnedit
