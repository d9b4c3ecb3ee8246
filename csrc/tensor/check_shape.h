#pragma once

#include "runtime/check.h"
#include "tensor/view.h"

namespace attnedit {

template <class AnyView>
void check_shape(const char* op, const char* what, const AnyView& view, decltype(view.shape) want) {
  ATTNEDIT_CHECK(view.shape == want, op, what, " must have shape ", to_string(want), ", got ", to_string(view.shape));
}

}  // namespace attnedit
